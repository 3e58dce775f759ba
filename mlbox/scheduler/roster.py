"""The jobs that wait or are active, as the store has them: read once, and then only what has changed."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from mlbox.records import Job
from mlbox.scheduler.executors import Ref
from mlbox.scheduler.policy import Box, Waiting
from mlbox.scheduler.views import waiting
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.jobs.states import ACTIVE, WAITING


class Build(NamedTuple):
    """What is to be built before a job can start."""

    environment: str
    attempt: int
    """The number that its next attempt will have."""


class Roster:
    """A picture of the queue that costs nothing to look at, however long the queue is. Only one thread reads it.

    Anyone may say that something has changed. The store is right in any case: what is in doubt is read again.
    """

    def __init__(self, jobs: Jobs, box: Box) -> None:
        self._jobs = jobs
        self.box = box
        self._lock = threading.Lock()
        self._changed_jobs: set[str] = set()
        self._changed_attempts: set[Ref] = set()
        self._everything = True
        self.waiting: dict[str, Waiting] = {}
        self.builds: dict[str, Build] = {}
        """Of those that wait and have an environment of their own."""
        self.active: dict[str, Job] = {}

    def job_changed(self, job_id: str) -> None:
        """The store has another state of a job."""
        with self._lock:
            self._changed_jobs.add(job_id)

    def attempt_changed(self, ref: Ref) -> None:
        """The executor may have another state of an attempt."""
        with self._lock:
            self._changed_attempts.add(ref)

    def doubt(self) -> None:
        """All may be otherwise."""
        with self._lock:
            self._everything = True

    def read(self) -> list[Job]:
        """Bring the picture up to date; the active jobs whose attempts are to be looked at."""
        with self._lock:
            everything, self._everything = self._everything, False
            jobs, self._changed_jobs = self._changed_jobs, set()
            attempts, self._changed_attempts = self._changed_attempts, set()
        try:
            if everything:
                self.waiting, self.active, self.builds = {}, {}, {}
                self.put(self._jobs.in_states((*WAITING, *ACTIVE)))
                return list(self.active.values())
            if jobs:
                self.put(self._jobs.some(jobs))
        except Exception:
            self.doubt()
            raise
        changed = jobs | {ref.job_id for ref in attempts}
        return [job for job in self.active.values() if job.id in changed or job.state == "stopping"]

    def put(self, jobs: Iterable[Job]) -> None:
        """Jobs as they are now."""
        for job in jobs:
            self.waiting.pop(job.id, None)
            self.active.pop(job.id, None)
            self.builds.pop(job.id, None)
            if job.state in WAITING:
                self.waiting[job.id] = waiting(job, self.box)
                if job.spec.environment:
                    self.builds[job.id] = Build(job.spec.environment, len(job.attempts) + 1)
            elif job.state in ACTIVE:
                self.active[job.id] = job
