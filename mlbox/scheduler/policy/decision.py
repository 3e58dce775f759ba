"""The decision: one pass over the line, in which each job starts, has room made for it, waits at the head, or passes the head."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import get_args

from mlbox.scheduler.policy.backfill import Heads, ends_by, yields
from mlbox.scheduler.policy.capacity import Capacity
from mlbox.scheduler.policy.ordering import OVERDUE, Line, level
from mlbox.scheduler.policy.preemption import Victim, choose, victims
from mlbox.scheduler.policy.quotas import Limits, next_window
from mlbox.scheduler.policy.slices import attained, had_its_turn, next_turn, quantum, tier
from mlbox.scheduler.policy.types import (
    RANKS,
    Decision,
    Preemption,
    PreemptionCause,
    ReasonKind,
    Running,
    Start,
    State,
    Waiting,
)

LOOKED_AT = 100
TRIES = 250
"""To bound a decision, past the head only the first so many kinds of job are looked at that turn out to have to wait."""


def decide(state: State, now: datetime) -> Decision:
    """What to start and what to stop now; the order of `state.waiting` does not matter, that of submission is the fastest."""
    return Pass(state, now).run()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass said of one waiting job: it starts, a limit, `room` is made for it, or it waits for its turn or for more."""

    kind: ReasonKind | None
    ahead: tuple[str, ...] = ()
    """Jobs that it must not delay."""
    borrows: bool = False


_STARTS = Outcome(None)
_REFUSED = {kind: Outcome(kind) for kind in get_args(ReasonKind)}


class Pass:
    """One decision, and what it said of each job."""

    def __init__(self, state: State, now: datetime) -> None:
        self._state = state
        self._now = now
        self.line = Line(state, now)
        self.limits = Limits(state, now)
        self.free = Capacity(state.box, state.running)
        self._later = self.free.copy()
        """What is free when all that are told to stop have stopped."""
        for job in state.running:
            if job.stopping:
                self._later.give(job.need, job.devices)
        self.heads = Heads(state.running, now)
        self._starts: list[Start] = []
        self._preemptions: list[Preemption] = []
        self._stopped: set[str] = set()
        self._stuck: set[Hashable] = set()
        self._borrowers: list[Waiting] = []
        self._outcomes: dict[str, Outcome] = {}
        """Of those that start, that room is made for, or that a limit keeps; the others all wait for the same."""
        self._first: list[Waiting] = []

    def outcome(self, job: Waiting) -> Outcome | None:
        """What it said of a job, once it has run; None for one that is not due."""
        found = self._outcomes.get(job.id)
        if found is not None or not job.due(self._now):
            return found
        return Outcome("gpus", self.heads.before(job.id))

    def first(self) -> list[Waiting]:
        """Once it has run, the first in line of those that go on waiting, as many as people look at."""
        return [job for job in self._first if self._outcomes.get(job.id) is not _STARTS]

    def run(self) -> Decision:
        """Go down the line."""
        while (job := self.line.pop(self._is_stuck)) is not None:
            self._remember(job)
            refusal = self.limits.refusal(job)
            if refusal is not None:
                self._outcomes[job.id] = _REFUSED[refusal]
            elif self.limits.borrows(job):
                self._borrowers.append(job)
            elif self.heads:
                self._pass_heads(job)
            else:
                self._at_the_head(job)
        for job in self._borrowers:
            self._borrow(job)
        return Decision(tuple(self._starts), tuple(self._preemptions), self._look_at())

    # -- one job ----------------------------------------------------------------------------------------------------

    def _at_the_head(self, job: Waiting) -> None:
        devices = self.free.place(job.need)
        if devices is not None:
            self._start(job, devices)
        elif self._make_room(job):
            self._outcomes[job.id] = Outcome("room")
        else:
            self.heads.add(job, self.free)

    def _place_past_heads(self, job: Waiting) -> tuple[str, ...] | None:
        """Where a job fits, if those at the head stay within their limits with it; else they would wait for their own."""
        devices = self.free.place(job.need)
        return None if devices is None or self.limits.keeps_out(job, self.heads.jobs) else devices

    def _pass_heads(self, job: Waiting) -> None:
        devices = self._place_past_heads(job)
        delayed = None if devices is None else self.heads.delayed_by(job, devices)
        if devices is not None and delayed is None:
            self._start(job, devices)
        elif devices is not None and self._fills(job):
            self._start(job, devices, yields_to=self.heads.ids)
        elif not self._take_over(job):
            self._stuck.add(self._kind(job))
            self.heads.add(job, self.free)

    def _borrow(self, job: Waiting) -> None:
        """Above its quota a job takes what nobody else waits for, as long as nobody does: so it must let itself be stopped."""
        devices = self._place_past_heads(job) if job.preemptible else None
        if devices is None or self.limits.refusal(job) is not None:
            self._outcomes[job.id] = Outcome("team_quota", borrows=True)
        elif self.heads.delayed_by(job, devices) is None:
            self._start(job, devices)
        elif self._fills(job):
            self._start(job, devices, yields_to=self.heads.ids)
        else:
            self._outcomes[job.id] = Outcome("team_quota", self.heads.ids, borrows=True)

    def _fills(self, job: Waiting) -> bool:
        return self._state.rules.fill and job.checkpoints and job.preemptible and not job.front

    def _kind(self, job: Waiting) -> Hashable:
        """All that can tell one job from another once somebody waits at the head: what fails for one fails for its likes."""
        length = quantum(self._state, job.queue)
        turn = None if length is None else (job.queue, self._tier(job, length))
        return job.need, job.limit_seconds, self._fills(job), job.priority == "urgent", turn, self.limits.kind(job)

    def _is_stuck(self, job: Waiting) -> bool:
        """Whether it is plain that a job cannot start in this pass: the box is too full, or one of its kind could not."""
        if not self.heads.ids:
            return False
        plain = self.free.too_full(job.need) or len(self._stuck) >= TRIES
        if not (plain and not self._may_take_over(job)) and self._kind(job) not in self._stuck:
            return False
        self._remember(job)
        self.heads.add(job, self.free)
        return True

    def _remember(self, job: Waiting) -> None:
        if len(self._first) < LOOKED_AT:
            self._first.append(job)

    def _may_take_over(self, job: Waiting) -> bool:
        """Whether it may at all get its place from others past the head: as an urgent one, or because it is its turn."""
        if job.priority == "urgent" and self.heads.rank < RANKS["urgent"]:
            return True
        return job.queue not in self.heads.queues and quantum(self._state, job.queue) is not None

    def _start(self, job: Waiting, devices: tuple[str, ...], yields_to: tuple[str, ...] = ()) -> None:
        self._starts.append(Start(job.id, devices, yields_to))
        self.free.take(job.need, devices)
        self._later.take(job.need, devices)
        self.limits.take(job)
        if not yields_to:
            self.line.started(job)
            self.heads.started(job, devices)
        self._outcomes[job.id] = _STARTS

    # -- making room ------------------------------------------------------------------------------------------------

    def _make_room(self, job: Waiting) -> bool:
        """Whether the first in line starts once those stop that were told to, or that are now told to."""
        if self._later.place(job.need) is None:
            chosen = choose(
                job.need, self._later, victims(self._candidates(), lambda other: self._cause(other, job), self._now)
            )
            if not chosen or self._fits_as_soon(job, chosen):
                return False
            self._stop(chosen, job)
        self._promise(job)
        return True

    def _take_over(self, job: Waiting) -> bool:
        """Whether a job past the head gets its place from those that it may stop alone, so that the head loses nothing.

        An urgent one where none of its rank waits, and one whose turn it is where none of its queue does.
        """
        if not self._may_take_over(job):
            return False
        causes: set[PreemptionCause] = set()
        if RANKS[job.priority] > self.heads.rank:
            causes.add("priority")
        if job.queue not in self.heads.queues:
            causes.add("turn")

        def cause(other: Running) -> PreemptionCause | None:
            found = None if other.yields_to else self._cause(other, job)
            return found if found in causes else None

        chosen = choose(job.need, self.free.none(), victims(self._candidates(), cause, self._now))
        if not chosen:
            return False
        self._stop(chosen, job)
        devices = self.free.place(job.need)
        if devices is not None:  # at once, on what is kept for the head: the head gets theirs for it
            self._start(job, devices)
        else:
            self._promise(job)
            self._outcomes[job.id] = Outcome("room")
        return True

    def _candidates(self) -> list[Running]:
        return [job for job in self._state.running if job.id not in self._stopped]

    def _cause(self, other: Running, job: Waiting) -> PreemptionCause | None:
        """Why a waiting job may stop a running one."""
        if yields(other, job):
            return "filling"
        if other.id in self.limits.over and other.team != job.team:
            return "quota"
        if other.queue == job.queue and self._turn_of(job, other):
            return "turn"
        if job.priority == "urgent" and RANKS[other.priority] < RANKS["urgent"]:
            # One that started while the urgent one waited already had gone before it, as overdue: it is let go on.
            return "priority" if other.started_at < _ready_since(job) else None
        return None

    def _turn_of(self, job: Waiting, other: Running) -> bool:
        length = quantum(self._state, job.queue)
        if length is None or not had_its_turn(other, self._state, self._now):
            return False
        return self._tier(job, length) < tier(attained(other, self._state, self._now), length)

    def _tier(self, job: Waiting, length: float) -> int:
        return -1 if level(job, self._now, self._state.rules) == OVERDUE else tier(job.attained, length)

    def _fits_as_soon(self, job: Waiting, chosen: list[Victim]) -> bool:
        """Whether time limits make as much room within the grace of those that would be stopped."""
        by = self._now + timedelta(seconds=max(one.job.grace_seconds for one in chosen))
        room = self._later.copy()
        for other in self._candidates():
            ends = ends_by(other, self._now)
            if not other.stopping and ends is not None and ends <= by:
                room.give(other.need, other.devices)
        return room.place(job.need) is not None

    def _stop(self, chosen: list[Victim], job: Waiting) -> None:
        for one in chosen:
            self._stopped.add(one.job.id)
            self._later.give(one.job.need, one.job.devices)
            self._preemptions.append(Preemption(one.job.id, job.id, one.cause))

    def _promise(self, job: Waiting) -> None:
        """Keep its place from all behind it, also what is free of it already."""
        devices = self._later.place(job.need)
        assert devices is not None
        self._later.take(job.need, devices)
        self.free.take(job.need, devices)
        self.limits.take(job)
        self.line.started(job)

    # -- by the clock -----------------------------------------------------------------------------------------------

    def _look_at(self) -> datetime | None:
        if not self._state.waiting:
            return None
        moments = [
            self.line.next_change,
            next_window(self._state.quotas, self._now),
            next_turn(self._state, self.line.queues, self._now),
        ]
        return min((moment for moment in moments if moment is not None), default=None)


def _ready_since(job: Waiting) -> datetime:
    since = job.queued_at or job.submitted_at
    return since if job.not_before is None else max(since, job.not_before)
