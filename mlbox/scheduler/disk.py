"""Keeps jobs from filling the disk that the box itself writes to: without room there nobody could write down that they ended.

As the kubelet does under disk pressure: what is over goes first; then who holds most is ended, if that helps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from mlbox.clock import Clock
from mlbox.errors import Unavailable
from mlbox.loop import Loop
from mlbox.records import Job
from mlbox.scheduler.executors import Executor, Ref
from mlbox.scheduler.launcher import ref_of
from mlbox.store.jobs.remains import Cleaning

LOOK_SECONDS = 1.0
"""Between two looks while jobs run."""
IDLE_SECONDS = 5.0
"""While none does."""
HELPLESS_SECONDS = 3.0
"""Where there is too little room, and no job to blame: each look is at all their files."""
_log = logging.getLogger(__name__)


class DiskGuard:
    """Looks whether there is room, again and again, in a thread of its own. `active` are the jobs that hold part of the box."""

    def __init__(
        self, executor: Executor, cleaning: Cleaning, active: Callable[[], Sequence[Job]], clock: Clock
    ) -> None:
        self._executor = executor
        self._cleaning = cleaning
        self._active = active
        self._clock = clock
        self._evicted: set[Ref] = set()
        """Those whose end is awaited."""
        self._over: set[Ref] = set()
        """Those that were over at the last look already, and nobody had written it down."""
        self._helpless = self._told = False
        self._loop = Loop(self._step, name="mlbox-disk", failed="No room could be made on the disk", again=LOOK_SECONDS)

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    def close(self) -> None:
        """Stop."""
        self._loop.close()

    def _step(self) -> float:
        self.look()
        return HELPLESS_SECONDS if self._helpless else LOOK_SECONDS if self._active() else IDLE_SECONDS

    def look(self) -> None:
        """Make room, if there is too little."""
        ended = {ref for ref in self._evicted if self._executor.state(ref).ended is not None}
        self._evicted -= ended
        for ref in ended:  # also where there is room by now: that its files were removed is what it was told
            self._relieve(ref)
        if not self._executor.missing():
            self._over, self._helpless, self._told = set(), False, False
            return
        refs = [ref_of(job) for job in self._active()]
        over = {ref for ref in refs if self._executor.state(ref).ended is not None}
        for _, ref in self._by_size(over & self._over):  # who has just ended has its end written down by the next look
            if self._executor.missing():
                self._relieve(ref)
        self._over = over
        self._remove_early()
        self._helpless = False
        if not over and not self._evicted and (missing := self._executor.missing()):
            self._end_who_holds_most(refs, missing)

    def _relieve(self, ref: Ref) -> None:
        try:
            self._executor.relieve(ref)
        except OSError as err:
            _log.warning("What the job %s left could not be removed: %s", ref.job_id, err)

    def _remove_early(self) -> None:
        """Work folders of jobs that have ended, the oldest first."""
        if not self._executor.missing():
            return
        for remains in self._cleaning.due(self._clock.real(), early=True):
            try:
                self._executor.discard(
                    remains.job_id, remains.attempts, checkpoints=remains.checkpoints, logs=remains.logs
                )
                self._cleaning.done(remains)
            except (OSError, Unavailable) as err:  # where it cannot be written down, the sweeper comes by again
                _log.warning("What the job %s left: %s", remains.job_id, err)
            if not self._executor.missing():
                return

    def _end_who_holds_most(self, refs: Sequence[Ref], missing: int) -> None:
        """As few as it takes, and nobody where all of them together would not be enough: then it is not they who fill it."""
        chosen: list[Ref] = []
        freed = 0
        for held, ref in self._by_size(refs):
            if freed < missing:
                chosen.append(ref)
                freed += held
        if freed < missing:
            if not self._told:
                _log.warning("The disk of the data directory has %d MiB too little room, not for jobs.", missing >> 20)
            self._helpless = self._told = True
            return
        for ref in chosen:
            _log.warning("The job %s holds the most of a disk that is full, and is ended.", ref.job_id)
            self._executor.evict(ref)
            self._evicted.add(ref)

    def _by_size(self, refs: Sequence[Ref] | set[Ref]) -> list[tuple[int, Ref]]:
        return sorted(((self._executor.held(ref), ref) for ref in refs), reverse=True)
