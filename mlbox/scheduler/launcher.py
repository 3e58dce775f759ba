"""What an attempt needs to run, put together: its environment, token, secrets, code and datasets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from mlbox.errors import NotFound
from mlbox.records import DatasetVersion, Job, JobSpec
from mlbox.scheduler.environments import Environments
from mlbox.scheduler.executors import Launch, Mount, Ref
from mlbox.store.access.access import Access
from mlbox.store.access.secrets import Given, Secrets
from mlbox.store.artifacts import Artifacts

TOKEN_DAYS = 30


def ref_of(job: Job) -> Ref:
    """A job's present attempt."""
    return Ref(job.id, job.attempts[-1].number)


class Launcher:
    """Makes launches of jobs whose attempt has its row."""

    def __init__(
        self,
        access: Access,
        artifacts: Artifacts,
        *,
        url: str,
        grace_seconds: float,
        secrets: Secrets | None = None,
        datasets: Callable[[str], DatasetVersion] | None = None,
        environments: Environments | None = None,
    ) -> None:
        self._access = access
        self._artifacts = artifacts
        self._url = url
        self.grace_seconds = grace_seconds
        self._secrets = secrets
        self._datasets = datasets
        self._environments = environments

    def open(self, changed: Callable[[str], None], in_use: Callable[[], Collection[str]]) -> None:
        """From then on `changed` is called for a job that waits for its environment no more.

        `in_use` are the environments of the jobs that have not ended.
        """
        if self._environments is not None:
            self._environments.open(changed, in_use)

    def is_built(self, environment: str) -> bool:
        """Whether an environment is there, and need not be built."""
        return self._environments is not None and self._environments.is_ready(environment)

    def build(self, environment: str, job_ids: Collection[str]) -> set[str]:
        """Have an environment built, where it is not there; those of these jobs that wait for it."""
        return self._environments.ask(environment, job_ids) if self._environments is not None else set()

    def prepare(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Launch | Exception]]:
        """The present attempts of jobs, each as a launch, or with what makes it impossible."""
        tokens = self._access.create_job_tokens({job.id: job.user for job in jobs}, timedelta(days=TOKEN_DAYS))
        for job in jobs:
            try:
                yield job, self._launch(job, tokens.get(job.id))
            except Exception as err:  # whatever is wrong with one job must not hold up the others
                yield job, err

    def _launch(self, job: Job, token: str | None) -> Launch:
        spec = job.spec
        if token is None:
            raise NotFound(f"There is no user {job.user!r} any more.", hint="Submit it as another user.")
        given = self._secrets.of_job(job) if self._secrets else Given()
        return Launch(
            ref=ref_of(job),
            spec=spec,
            grace_seconds=self.grace_seconds if spec.grace_seconds is None else spec.grace_seconds,
            devices=job.attempts[-1].devices,
            env={
                "MLBOX_URL": self._url,
                "MLBOX_JOB_ID": job.id,
                "MLBOX_RUN_ID": job.run_id or "",
                "MLFLOW_TRACKING_URI": self._url,  # an mlflow in the job logs to the job's run
                "MLFLOW_RUN_ID": job.run_id or "",
                "MLBOX_SEED": str(spec.seed or 0),
            },
            private={**given.env, "MLBOX_TOKEN": token, "MLFLOW_TRACKING_TOKEN": token},
            mask=given.masking(token),
            snapshot=self._artifacts.path(spec.snapshot) if spec.snapshot else None,
            mounts=self._mounts(spec),
            environment=self._environment(job),
        )

    def _environment(self, job: Job) -> Path | None:
        if not job.spec.environment or self._environments is None:
            return None
        return self._environments.take(job.spec.environment, job.id)

    def _mounts(self, spec: JobSpec) -> list[Mount]:
        """The datasets that a job named, kept from removal until the executor has its own names for their files."""
        if self._datasets is None:
            return []
        found = []
        for version in map(self._datasets, dict.fromkeys(spec.datasets)):
            try:
                self._artifacts.keep(file.sha256 for file in version.files)
                sources = tuple(self._artifacts.path(file.sha256) for file in version.files)
            except NotFound as err:
                raise NotFound(
                    f"A file of {version.ref} is missing: {err.message}", hint="Restore it from a backup."
                ) from err
            found.append(Mount(version, sources))
        return found
