"""Views in free Python: their jobs, submitted when somebody or a schedule asks, in the name of whoever asked or defined them."""

from __future__ import annotations

import logging
from typing import Protocol

from mlbox.errors import Conflict, MlboxError, NotFound
from mlbox.ids import new_id
from mlbox.records import FeatureView, Job, JobSpec
from mlbox.store.features.functions import Functions, ViewRuns

COMMAND = ("python", "-P", "-m", "mlbox.sdk.view_job")
_log = logging.getLogger(__name__)


class Submit(Protocol):
    """Queues a job in a user's name; raises MlboxError where it is refused."""

    def __call__(self, user: str, spec: JobSpec, *, job_id: str) -> Job: ...


class FindJob(Protocol):
    """A job by its id; raises NotFound."""

    def __call__(self, job_id: str) -> Job: ...


class ViewJobs:
    """Begins the runs of views."""

    def __init__(self, features: Functions, runs: ViewRuns, submit: Submit, find: FindJob) -> None:
        self._features = features
        self._runs = runs
        self._submit = submit
        self._find = find

    def run(self, ref: str, *, user: str) -> Job:
        """Have a view computed by a job; raises Conflict while one is at it, InvalidInput for a view in SQL."""
        view = self._features.view(ref)
        at_work = self._job_of(view)
        if at_work is not None and at_work.ended_at is None:
            raise Conflict(
                f"{view.ref} is being computed by the job {at_work.id}.",
                hint=f"`mlbox wait {at_work.id}` waits for it, `mlbox stop {at_work.id}` ends it.",
                field="view",
            )
        job_id = new_id()
        self._runs.begin(view, job_id, actor=user)
        try:
            return self._submit(user, _spec(view), job_id=job_id)
        except MlboxError:
            self._runs.forget(job_id)
            raise

    def look(self) -> None:
        """Begin what schedules ask for, and say of runs that ended with nothing that they did."""
        for view in self._features.views():
            if view.function is not None and view.schedule:
                self._note_failure(view)
        for view in self._runs.due():
            try:
                self.run(view.ref, user=view.created_by)
            except Conflict:
                continue  # it is being computed: the next look asks again
            except MlboxError as err:
                _log.warning("%s could not be computed: %s", view.ref, err)
                self._features.note_failed(view.ref, str(err))

    def _job_of(self, view: FeatureView) -> Job | None:
        last = self._runs.last(view.ref)
        if last is None:
            return None
        try:
            return self._find(last.job_id)
        except NotFound:
            return None

    def _note_failure(self, view: FeatureView) -> None:
        last, job = self._runs.last(view.ref), self._job_of(view)
        if last is not None and last.rows is None and job is not None and job.ended_at is not None:
            self._features.note_failed(view.ref, f"The job {job.id} ended as {job.state} and brought no rows.")


def _spec(view: FeatureView) -> JobSpec:
    function = view.function
    assert function is not None
    return JobSpec(
        command=COMMAND,
        name=f"view-{view.name}-v{view.version}",
        team=function.team,
        snapshot=function.snapshot,
        gpus=function.gpus,
        cpus=function.cpus,
        memory_gb=function.memory_gb,
        timeout_seconds=function.timeout_seconds,
        tags={"mlbox.view": view.ref},
    )
