"""How the gates of promotions reach the scheduler, of which they know nothing."""

from __future__ import annotations

from collections.abc import Callable

from mlbox.records import Job, JobSpec, Principal
from mlbox.scheduler.admission import Admission
from mlbox.scheduler.scheduler import Scheduler

LINES = 500


class JobsOfGates:
    """Jobs as `serve/gate_jobs` asks for them."""

    def __init__(self, admission: Admission, scheduler: Scheduler, team_of: Callable[[str], str]) -> None:
        self._admission = admission
        self._scheduler = scheduler
        self.team_of = team_of

    def submit(self, user: str, spec: JobSpec, *, job_id: str) -> Job:
        """Queue one in a user's name, and with what that user may do."""
        return self._admission.submit_as(user, spec, job_id=job_id)

    def check(self, spec: JobSpec, principal: Principal) -> None:
        """Raise where it could never run."""
        self._admission.check(spec, principal)

    def find(self, job_id: str) -> Job:
        """One by its id."""
        return self._scheduler.job(job_id)

    def tail(self, job_id: str, most: int) -> str:
        """The last lines that it printed."""
        start = self._scheduler.log_start(job_id, lines=LINES)
        return self._scheduler.log(job_id, offset=start)[-most:].decode(errors="replace")

    def stop(self, job_id: str, reason: str) -> None:
        """End it."""
        self._scheduler.stop(job_id, actor="mlbox", reason=reason)
