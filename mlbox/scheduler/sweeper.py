"""Clears up after jobs: some time after its end, a job's work folders go, later its checkpoints, and its log last."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mlbox.clock import Clock
from mlbox.loop import Loop
from mlbox.records import Job
from mlbox.scheduler.executors import Executor
from mlbox.store.jobs.remains import Cleaning

SWEEP_SECONDS = 600.0
CLOSE_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Sweeper:
    """Looks for what may go, again and again, in a thread of its own. `job` gives a job as it is now."""

    def __init__(self, executor: Executor, cleaning: Cleaning, job: Callable[[str], Job], clock: Clock) -> None:
        self._executor = executor
        self._cleaning = cleaning
        self._job = job
        self._clock = clock
        self._loop = Loop(self._sweep, name="mlbox-sweeper", failed="What jobs left could not be removed")

    def start(self) -> None:
        """Begin, with what a former server left."""
        self._loop.start()

    def close(self) -> None:
        """Stop; the next server goes on."""
        self._loop.close(CLOSE_SECONDS)

    def _sweep(self) -> float:
        self.sweep()
        return SWEEP_SECONDS

    def sweep(self) -> None:
        """Remove what may go by now."""
        for remains in self._cleaning.due(self._clock.real()):
            if self._loop.stopping:
                return
            if self._job(remains.job_id).ended_at is None:  # it was retried in the meantime
                continue
            try:
                self._executor.discard(
                    remains.job_id, remains.attempts, checkpoints=remains.checkpoints, logs=remains.logs
                )
            except OSError as err:  # of one job; tried again at the next sweep
                _log.warning("What the job %s left could not be removed: %s", remains.job_id, err)
            else:
                self._cleaning.done(remains)
