"""The line: priority that rises with waiting, then the queue and the team that had least of their share, then submission."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from mlbox.scheduler.policy.capacity import cost
from mlbox.scheduler.policy.fairness import charge, holding
from mlbox.scheduler.policy.slices import quantum, tier
from mlbox.scheduler.policy.types import RANKS, Rules, State, Usage, Waiting

OVERDUE = max(RANKS.values()) + 1
"""Above urgent: here only the order of submission counts."""
AHEAD_SECONDS = 3600.0
"""A GPU that is held counts as this long of use to come, so that what gets free at once does not all go to one team."""


def level(job: Waiting, now: datetime, rules: Rules) -> int:
    """Its priority, and one more for each while that it waited: up to high, and then, past urgent, overdue."""
    waited = (now - (job.queued_at or job.submitted_at)).total_seconds()
    return _risen(RANKS[job.priority], int(waited // rules.ageing_seconds))


def _risen(rank: int, rises: int) -> int:
    if rises <= 0 or rank + rises < RANKS["urgent"]:
        return rank + max(0, rises)
    return OVERDUE if rank + rises >= OVERDUE else max(rank, RANKS["high"])


class _Group(NamedTuple):
    level: int
    promised: bool
    queue: str
    team: str


class Line:
    """Waiting jobs, first first. It changes as jobs start, because their team and queue then have more."""

    def __init__(self, state: State, now: datetime) -> None:
        self._state = state
        self._teams = _Scores(state, state.teams, "team", now)
        self._queues = _Scores(state, state.queued, "queue", now)
        self.next_change: datetime | None = None
        """When a retry is due, or a job rises."""
        self.queues = {job.queue for job in state.waiting}
        self._jobs = self._grouped(now)
        self._next = dict.fromkeys(self._jobs, 0)
        self._started = 0
        """How many have started, and (by group) had when its place in the heap was found: until then that is right."""
        self._placed = dict.fromkeys(self._jobs, 0)
        self._heap = [(self._key(group), group) for group in self._jobs]
        heapq.heapify(self._heap)

    def _grouped(self, now: datetime) -> dict[_Group, list[Waiting]]:
        found: dict[tuple[int, bool, str, str], list[Waiting]] = {}
        """By what a group is, as plain tuples: one for each job, and they are made sooner."""
        sliced = {name for name in self.queues if quantum(self._state, name) is not None}
        due, age = [], self._state.rules.ageing_seconds
        rise = age
        for job in self._state.waiting:
            if job.not_before is not None and not job.due(now):
                due.append(job.not_before)
                continue
            rises, rest = divmod((now - (job.queued_at or job.submitted_at)).total_seconds(), age)
            at = _risen(RANKS[job.priority], int(rises))
            if at < OVERDUE and age - rest < rise:
                rise = age - rest
            free = at == OVERDUE or job.promised
            key = at, job.promised, "" if free else job.queue, "" if free or job.queue in sliced else job.team
            if key in found:
                found[key].append(job)
            else:
                found[key] = [job]
        if found:
            due.append(now + timedelta(seconds=max(rise, 0.001)))
        self.next_change = min(due, default=None)
        groups = {_Group(*key): jobs for key, jobs in found.items()}
        for group, jobs in groups.items():
            overdue = group.level == OVERDUE
            jobs.sort(key=_by_age if overdue else self._by_service if group.queue in sliced else _by_submission)
        return groups

    def _by_service(self, job: Waiting) -> tuple[Any, ...]:
        return tier(job.attained, quantum(self._state, job.queue) or 1.0), not job.front, job.submitted_at, job.id

    def _key(self, group: _Group) -> tuple[Any, ...]:
        job = self._jobs[group][self._next[group]]
        shared = bool(group.queue)
        return (
            not group.promised,
            -group.level,
            self._queues.of(group.queue) if shared else 0.0,
            self._teams.of(group.team) if group.team else 0.0,
            job.submitted_at,
            job.id,
        )

    def pop(self, skip: Callable[[Waiting], bool]) -> Waiting | None:
        """The next job that `skip`, which is asked in the order of the line, does not leave out; None at the end."""
        while self._heap:
            key, group = self._heap[0]
            if self._placed[group] != self._started:
                self._placed[group] = self._started
                current = self._key(group)
                if current > key:  # somebody of its team or queue started
                    heapq.heapreplace(self._heap, (current, group))
                    continue
            job = self._advance(group, key, skip)
            jobs, at = self._jobs[group], self._next[group]
            if at < len(jobs):
                heapq.heapreplace(self._heap, ((*key[:4], jobs[at].submitted_at, jobs[at].id), group))
            else:
                heapq.heappop(self._heap)
            if job is not None:
                return job
        return None

    def _advance(self, group: _Group, key: tuple[Any, ...], skip: Callable[[Waiting], bool]) -> Waiting | None:
        """The first of a group that is not left out, as far as the group is in front of all others."""
        jobs, at = self._jobs[group], self._next[group]
        other = min(self._heap[1:3], default=None)
        bound = None if other is None or key[:4] < other[0][:4] else other[0][4:]
        while at < len(jobs):
            job = jobs[at]
            if bound is not None and (job.submitted_at, job.id) > bound:
                break
            at += 1
            if not skip(job):
                self._next[group] = at
                return job
        self._next[group] = at
        return None

    def started(self, job: Waiting) -> None:
        """A job has got its part."""
        self._started += 1
        part = cost(job.need, self._state.box)
        self._teams.add(job.team, part)
        self._queues.add(job.queue, part)


def _by_submission(job: Waiting) -> tuple[Any, ...]:
    return not job.front, job.submitted_at, job.id


def _by_age(job: Waiting) -> tuple[Any, ...]:
    return job.submitted_at, job.id


class _Scores:
    """How much of its share each name has had: the lowest goes first."""

    def __init__(self, state: State, usage: Usage | None, by: Literal["team", "queue"], now: datetime) -> None:
        held = holding(state.running, state.box, by)
        used = charge(usage or Usage(now), held, now, state.rules.half_life_seconds)
        # What fills a gap gives it back: were it counted, others could come to the head by it, and stop it at once.
        self._held = holding([job for job in state.running if not job.yields_to], state.box, by)
        self._used: Mapping[str, float] = used.seconds
        self._weights = state.shares if by == "team" else {name: queue.weight for name, queue in state.queues.items()}

    def of(self, name: str) -> float:
        return (self._used.get(name, 0.0) + self._held.get(name, 0.0) * AHEAD_SECONDS) / self._weights.get(name, 1.0)

    def add(self, name: str, part: float) -> None:
        self._held[name] = self._held.get(name, 0.0) + part
