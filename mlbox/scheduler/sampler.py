"""What running jobs use, sampled and kept with their runs; and jobs that hold a GPU and leave it idle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from mlbox.clock import Clock
from mlbox.loop import Loop
from mlbox.records import Job, Metric
from mlbox.scheduler.executors import Executor
from mlbox.scheduler.launcher import ref_of
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.tracking.tracking import Tracker

IDLE_PERCENT = 5.0
"""A GPU that is used less is idle."""
_USE = re.compile(r"system/gpu_(\d+)_utilization_percentage")


class Sampler:
    """Looks at every running job, again and again, in a thread of its own. `running` are the jobs to look at."""

    def __init__(
        self,
        executor: Executor,
        tracker: Tracker,
        jobs: Jobs,
        running: Callable[[], Sequence[Job]],
        clock: Clock,
        *,
        every: float,
        idle: timedelta,
    ) -> None:
        self._executor = executor
        self._tracker = tracker
        self._jobs = jobs
        self._running = running
        self._clock = clock
        self._every = every
        self._idle = idle
        self._idle_since: dict[tuple[str, int, int], tuple[datetime, bool]] = {}
        """By job, attempt and GPU, and whether it was told."""
        self._loop = Loop(self._sample, name="mlbox-sampler", failed="What jobs use could not be sampled", again=every)

    def start(self) -> None:
        """Begin, if there is anything to do."""
        if self._every:
            self._loop.start()

    def close(self) -> None:
        """Stop."""
        self._loop.close()

    def _sample(self) -> float:
        self.sample()
        return self._every

    def sample(self) -> None:
        """Look at each job once."""
        jobs = [job for job in self._running() if job.state == "running"]
        now = self._clock.real()
        for job in jobs:
            measured = self._executor.measure(ref_of(job), job.attempts[-1].devices)
            if measured and job.run_id:
                step = int((now - job.attempts[0].started_at).total_seconds())
                points = [Metric(key=key, value=value, step=step, at=now) for key, value in measured.items()]
                self._tracker.log(job.run_id, metrics=points)
            self._look_for_idle(job, measured, now)
        alive = {(job.id, job.attempts[-1].number) for job in jobs}
        self._idle_since = {key: since for key, since in self._idle_since.items() if key[:2] in alive}

    def _look_for_idle(self, job: Job, measured: Mapping[str, float], now: datetime) -> None:
        """Tell once of each GPU that a job has left idle for so long; again when it was used in between."""
        for name, percent in measured.items():
            match = _USE.fullmatch(name)
            if match is None or not self._idle:
                continue
            key = (job.id, job.attempts[-1].number, int(match[1]))
            if percent >= IDLE_PERCENT:
                self._idle_since.pop(key, None)
                continue
            since, told = self._idle_since.setdefault(key, (now, False))
            if not told and now - since >= self._idle:
                self._idle_since[key] = (since, True)
                minutes = round((now - since).total_seconds() / 60)
                self._jobs.note_idle(job, gpu=int(match[1]), minutes=minutes)
