"""What a team and a queue may hold, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mlbox.scheduler.policy.capacity import gpus
from mlbox.scheduler.policy.types import EPSILON, RANKS, Need, Quota, Reason, ReasonKind, Running, State, Waiting
from mlbox.scheduler.policy.windows import next_change, span


@dataclass(frozen=True, slots=True)
class Cap:
    """The most GPUs at a moment."""

    gpus: float
    until: datetime | None = None
    """When the window closes; None where it holds always."""


def active(quota: Quota, now: datetime) -> tuple[bool, datetime | None]:
    """Whether a quota holds now, and until when."""
    if not quota.windows:
        return True, None
    closes = [found[1] for window in quota.windows if (found := span(window, now)) is not None]
    return bool(closes), max(closes, default=None)


def most(quota: Quota, state: State) -> float:
    """How many GPUs a quota allows."""
    return quota.gpus if quota.gpus is not None else (quota.share or 0.0) * len(state.box.devices)


def next_window(quotas: Iterable[Quota], now: datetime) -> datetime | None:
    """When a quota begins or ends next."""
    changes = [next_change(window, now) for quota in quotas for window in quota.windows]
    return min((moment for moment in changes if moment is not None), default=None)


class Limits:
    """What each team and queue may hold at a moment, and holds; grows as jobs start."""

    def __init__(self, state: State, now: datetime) -> None:
        self._state = state
        self._queues = state.queues
        self.team_gpus: dict[str, float] = {}
        self.queue_gpus: dict[str, float] = {}
        self.queue_running: dict[str, int] = {}
        self._counts: dict[Need, float] = {}
        self.hard = self._caps(now, borrowable=False)
        self.soft = self._caps(now, borrowable=True)
        for job in state.running:
            self.take(job)
        self.over = self._over()
        """Running jobs that their team holds above its quota: what fills a gap, low priority, the last started."""

    def _caps(self, now: datetime, *, borrowable: bool) -> dict[str, Cap]:
        caps: dict[str, Cap] = {}
        for quota in self._state.quotas:
            if quota.borrowable != borrowable:
                continue
            holds, until = active(quota, now)
            cap = Cap(most(quota, self._state), until)
            if holds and (quota.team not in caps or cap.gpus < caps[quota.team].gpus):
                caps[quota.team] = cap
        return caps

    def count(self, need: Need) -> float:
        """How many GPUs a job counts as."""
        found = self._counts.get(need)
        if found is None:
            found = self._counts[need] = gpus(need, self._state.box)
        return found

    def take(self, job: Waiting | Running) -> None:
        """A job holds its part."""
        count = self.count(job.need)
        self.team_gpus[job.team] = self.team_gpus.get(job.team, 0.0) + count
        self.queue_gpus[job.queue] = self.queue_gpus.get(job.queue, 0.0) + count
        self.queue_running[job.queue] = self.queue_running.get(job.queue, 0) + 1

    def refusal(self, job: Waiting, beside: Waiting | None = None) -> ReasonKind | None:
        """Which limit keeps a job from starting, if any does; `beside` another that would have started."""
        queue = self._queues.get(job.queue)
        count = self.count(job.need)
        if queue is not None:
            more = int(beside is not None and beside.queue == job.queue)
            if queue.max_running is not None and self.queue_running.get(job.queue, 0) + more >= queue.max_running:
                return "queue_running"
            held = self.queue_gpus.get(job.queue, 0.0) + (self.count(beside.need) if beside and more else 0.0)
            if count and _above(held + count, queue.max_gpus):
                return "queue_gpus"
        return "team_quota" if self._passes(self.hard, job, beside) else None

    def borrows(self, job: Waiting, beside: Waiting | None = None) -> bool:
        """Whether a job would be above what its team may hold while others wait."""
        return self._passes(self.soft, job, beside)

    def _passes(self, caps: dict[str, Cap], job: Waiting, beside: Waiting | None) -> bool:
        cap, count = caps.get(job.team), self.count(job.need)
        if cap is None or not count:
            return False
        more = self.count(beside.need) if beside is not None and beside.team == job.team else 0.0
        return _above(self.team_gpus.get(job.team, 0.0) + more + count, cap.gpus)

    def keeps_out(self, job: Waiting, others: Iterable[Waiting]) -> bool:
        """Whether one of the others, that may start as far as limits go, could not beside this job."""
        return any(
            (other.team == job.team or other.queue == job.queue)
            and (self.refusal(other, job) is not None or self.borrows(other, job))
            for other in others
        )

    def kind(self, job: Waiting) -> tuple[str, str]:
        """The team and the queue of a job as far as limits tell one from another."""
        queue = self._queues.get(job.queue)
        limited = queue is not None and (queue.max_running is not None or queue.max_gpus is not None)
        return job.team if job.team in self.hard or job.team in self.soft else "", job.queue if limited else ""

    def _over(self) -> frozenset[str]:
        held: dict[str, float] = {}
        over = set()
        # What fills a gap comes last: else an urgent job that does would put an older one of its team above the quota, and
        # whoever waits could then stop both at once.
        held_first = sorted(
            self._state.running, key=lambda job: (bool(job.yields_to), -RANKS[job.priority], job.started_at, job.id)
        )
        for job in held_first:
            caps = [cap.gpus for cap in (self.hard.get(job.team), self.soft.get(job.team)) if cap is not None]
            count = self.count(job.need)
            if caps and count and held.get(job.team, 0.0) + count > min(caps) + EPSILON:
                over.add(job.id)
            else:
                held[job.team] = held.get(job.team, 0.0) + count
        return frozenset(over)

    def reason(self, kind: ReasonKind, job: Waiting, when: str) -> Reason:
        """A refusal in words; `when` says the end of the team's window."""
        count = self.count(job.need)
        holders = [other for other in self._state.running if self.count(other.need) or kind == "queue_running"]
        if kind == "team_quota":
            cap = self.hard.get(job.team) or self.soft[job.team]
            held = self.team_gpus.get(job.team, 0.0)
            mine = tuple(other.id for other in holders if other.team == job.team)
            words = f"your team holds {held:g} of the {cap.gpus:g} GPUs it may have{when}"
            return Reason(kind, words, count, cap.gpus - held, cap.until, mine)
        queue = self._queues[job.queue]
        mine = tuple(other.id for other in holders if other.queue == job.queue)
        if kind == "queue_running":
            runs, limit = self.queue_running.get(job.queue, 0), queue.max_running or 0
            return Reason(
                kind, f"the queue {job.queue} runs {runs} of the {limit} jobs it may run", 1, limit - runs, None, mine
            )
        held, bound = self.queue_gpus.get(job.queue, 0.0), queue.max_gpus or 0.0
        words = f"the queue {job.queue} holds {held:g} of the {bound:g} GPUs it may have"
        return Reason(kind, words, count, bound - held, None, mine)


def _above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit + EPSILON
