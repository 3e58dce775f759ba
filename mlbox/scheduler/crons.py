"""Crons at work: one thread that submits jobs when their time has come, or when something happened that asks for them.

Other stores' events are followed by their places, which are kept: what happened while the server was down is seen by the next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Protocol

import msgspec

from mlbox.clock import Clock
from mlbox.errors import AlreadyExists, MlboxError, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.loop import Loop
from mlbox.records import Cron, CronSpec, Firing, Job, JobSpec
from mlbox.store.cron_times import next_times
from mlbox.store.db import Database
from mlbox.store.jobs.crons import STORES, Crons, Due

LONGEST_SECONDS = 60.0
CLOSE_SECONDS = 5.0
AT_ONCE = 1000
_log = logging.getLogger(__name__)


class Submit(Protocol):
    """Queues a job in a user's name; raises MlboxError where it is refused."""

    def __call__(self, user: str, spec: JobSpec, *, job_id: str) -> Job: ...


class Sees(Protocol):
    """Whether a user may know of a `dataset` or `model` of this name."""

    def __call__(self, user: str, kind: str, name: str) -> bool: ...


class JobControl(Protocol):
    """What is asked of the scheduler about jobs that were submitted."""

    def job(self, job_id: str) -> Job: ...

    def stop(self, job_id: str, *, actor: str) -> Job: ...


class CronRunner:
    """All crons of one box, and the thread that follows them."""

    def __init__(
        self,
        crons: Crons,
        stores: Mapping[str, Database],
        submit: Submit,
        control: JobControl,
        sees: Sees,
        clock: Clock,
        bus: EventBus,
    ) -> None:
        self.crons = crons
        self._stores = {store: stores[store] for store, _ in STORES.values()}
        self._submit = submit
        self._control = control
        self._sees = sees
        self._clock = clock
        self._turn = threading.RLock()  # what is due becomes a job once, whoever looks
        self._loop = Loop(
            self._submit_due, name="mlbox-crons", failed="Crons could not be followed", again=LONGEST_SECONDS
        )
        self._loop.wake_on(bus, ("cron.", *(type for _, type in STORES.values())))

    def add(self, spec: CronSpec, *, owner: str) -> Cron:
        """A new cron; see `Crons.add`."""
        return self.crons.add(spec, owner=owner, now=self._clock.real())

    def change(self, name: str, spec: CronSpec, *, actor: str) -> Cron:
        """Put another spec in a cron's place."""
        return self.crons.change(name, spec, actor=actor, now=self._clock.real())

    def pause(self, name: str, paused: bool, *, actor: str) -> Cron:
        """Let a cron rest, or go on."""
        return self.crons.pause(name, paused, actor=actor, now=self._clock.real())

    def fire(self, name: str, *, actor: str) -> Firing:
        """Ask for a cron's job now, and what came of it."""
        with self._turn:
            self.crons.fire(name, actor=actor, now=self._clock.real())
            self.run()
            return self.crons.firings(name, limit=1)[0]

    def preview(self, schedule: str, timezone: str, count: int) -> list[str]:
        """The next times that a schedule asks for, ISO 8601 in UTC; raises InvalidInput."""
        return [at.isoformat() for at in next_times(schedule, self._clock.real(), count, timezone=timezone)]

    # -- the thread -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, with what a former server left."""
        self._loop.start()

    def close(self) -> None:
        """Stop; what is due is submitted by the next server."""
        self._loop.close(CLOSE_SECONDS)

    def _submit_due(self) -> float:
        self.run()
        at = self.crons.next_at()
        until = LONGEST_SECONDS if at is None else (at - self._clock.real()).total_seconds()
        return min(LONGEST_SECONDS, max(0.05, until))

    def run(self) -> None:
        """Submit what is asked for by now."""
        with self._turn:
            self.crons.fire_due(self._clock.real())
            for name, store in self._stores.items():
                try:
                    self._follow(name, store)
                except Unavailable as err:  # it is followed from where it was once it is back
                    _log.warning("The events of the %s store could not be followed: %s", name, err)
            for due in self.crons.due():
                self._become_job(due)

    def _follow(self, name: str, store: Database) -> None:
        seen = self.crons.followed(name)
        if seen is None:
            self.crons.follow(name, store.last_event(), [], self._sees)
            return
        while events := store.events_after(seen, limit=AT_ONCE):
            seen = events[-1][0]
            self.crons.follow(name, seen, [event for _, event in events], self._sees)

    def _become_job(self, due: Due) -> None:
        if self._job(due.job_id) is not None:  # a former server was killed right after it submitted it
            self.crons.settle(due, "submitted")
            return
        running = [job for own in self.crons.last_jobs(due.cron, but=due.job_id) if (job := self._open(own))]
        overlap = due.cron.spec.overlap
        if running and overlap == "skip":
            self.crons.settle(due, "skipped", f"the job {running[0].id} had not ended")
            return
        try:
            for job in running if overlap == "replace" else ():
                self._control.stop(job.id, actor=due.cron.owner)
            self._submit_named(due, _job_of(due))
        except Unavailable:
            raise  # the store will be back, and the firing is still due
        except MlboxError as err:
            self.crons.settle(due, "refused", str(err))
            return
        self.crons.settle(due, "submitted")

    def _submit_named(self, due: Due, spec: JobSpec) -> None:
        """Submit under its name, or where a job that has not ended has that one, under a name made of it."""
        try:
            self._submit(due.cron.owner, spec, job_id=due.job_id)
        except AlreadyExists:
            name = f"{spec.name[:240]}-{due.job_id[-8:]}"
            self._submit(due.cron.owner, msgspec.structs.replace(spec, name=name), job_id=due.job_id)

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._control.job(job_id)
        except NotFound:
            return None

    def _open(self, job_id: str) -> Job | None:
        job = self._job(job_id)
        return job if job is not None and job.ended_at is None else None


def _job_of(due: Due) -> JobSpec:
    """The job that a firing asks for: it says by its tags what it comes from."""
    spec = due.cron.spec.job
    tags = {**spec.tags, "mlbox.cron": due.cron.spec.name, "mlbox.cause": due.cause}
    return msgspec.structs.replace(spec, name=spec.name or due.cron.spec.name, tags=tags)
