"""Why a job waits, and who waits for one that runs: asked of one job at a time, from the same pass that decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property

from mlbox.scheduler.policy.backfill import ends_by
from mlbox.scheduler.policy.capacity import Capacity
from mlbox.scheduler.policy.decision import Outcome, Pass
from mlbox.scheduler.policy.ordering import Line
from mlbox.scheduler.policy.quotas import Limits
from mlbox.scheduler.policy.types import (
    EPSILON,
    Decision,
    Explanation,
    Need,
    Reason,
    ReasonKind,
    Running,
    State,
    Waiting,
)

_NAMED = 3
"""So many jobs are named; of more, their number is told."""


def explain(
    state: State, job_id: str, now: datetime, *, zone: tzinfo = UTC, names: Mapping[str, str] | None = None
) -> Explanation:
    """What a waiting job waits for; raises KeyError where it does not wait. Times in words are those of `zone`."""
    return Explainer(state, now).explain(job_id, zone=zone, names=names)


def waiting_for(state: State, job_id: str, now: datetime) -> tuple[str, ...]:
    """The jobs that wait for something that a running one holds, in the order of the line; raises KeyError."""
    return Explainer(state, now).waiting_for(job_id)


def _holds(job: Running, other: Waiting, kind: ReasonKind) -> bool:
    """Whether a running job holds some of what another is short of."""
    if kind == "team_quota":
        return job.need.wants_gpu and job.team == other.team
    if kind in ("queue_gpus", "queue_running"):
        return job.queue == other.queue and (job.need.wants_gpu or kind == "queue_running")
    if kind in ("gpus", "gpu_memory"):
        return job.need.wants_gpu
    return (kind == "cpus" and job.need.cpus > 0) or (kind == "memory" and job.need.memory_gb > 0)


class Explainer:
    """A decision that can be asked for its reasons, of any job in its state. To make one costs as much as to decide."""

    def __init__(self, state: State, now: datetime) -> None:
        self.state = state
        self.now = now
        decided = Pass(state, now)
        self.decision: Decision = decided.run()
        self.outcome: Callable[[Waiting], Outcome | None] = decided.outcome
        self.limits: Limits = decided.limits
        self.first: Sequence[Waiting] = decided.first()
        """In line, of those that go on waiting."""

    @cached_property
    def waiting(self) -> Mapping[str, Waiting]:
        """The jobs that wait, by id."""
        return {job.id: job for job in self.state.waiting}

    @cached_property
    def free(self) -> Capacity:
        """What is free once those have started that it starts."""
        free = Capacity(self.state.box, self.state.running)
        for start in self.decision.starts:
            free.take(self.waiting[start.job_id].need, start.devices)
        return free

    @cached_property
    def line(self) -> tuple[Waiting, ...]:
        """The jobs that are due, first first."""
        line = Line(self.state, self.now)
        return tuple(iter(lambda: line.pop(lambda _: False), None))

    def waiting_for(self, job_id: str) -> tuple[str, ...]:
        """The jobs that wait for something that a running one holds, in the order of the line; raises KeyError."""
        job = next((job for job in self.state.running if job.id == job_id), None)
        if job is None:
            raise KeyError(job_id)
        return tuple(other.id for other in self.line if any(_holds(job, other, kind) for kind in self.kinds(other)))

    def explain(self, job_id: str, *, zone: tzinfo = UTC, names: Mapping[str, str] | None = None) -> Explanation:
        """What a waiting job waits for; `names` is what to call others. Raises KeyError where it does not wait."""
        return _Telling(self, zone, names or {}).explain(self.waiting[job_id])

    def kinds(self, job: Waiting) -> list[ReasonKind]:
        """What a job is short of, or which limit keeps it; nothing for one that starts, or waits only for its turn."""
        outcome = self.outcome(job)
        if outcome is None or outcome.kind is None:
            return []
        limits: list[ReasonKind] = (
            [outcome.kind] if outcome.kind in ("team_quota", "queue_gpus", "queue_running") else []
        )
        return [*_shortages(job.need, self.free), *limits]


class _Telling:
    """What an explainer found, in words, for one asker."""

    def __init__(self, found: Explainer, zone: tzinfo, names: Mapping[str, str]) -> None:
        self._state = found.state
        self._now = found.now
        self._decision = found.decision
        self._outcome = found.outcome
        self._limits = found.limits
        self._free = found.free
        self._zone = zone
        self._names = names

    def explain(self, job: Waiting) -> Explanation:
        outcome = self._outcome(job)
        if outcome is None:
            at = job.not_before or self._now
            words = f"tried again at {self._clock(at)}"
            return Explanation(job.id, (Reason("time", words, until=at),), None, words)
        if outcome.kind is None:
            return Explanation(job.id, (), self._now, "starts now")
        reasons = tuple(self._reasons(job, outcome))
        known = [reason.until for reason in reasons if reason.until is not None]
        sure = len(known) == len(reasons) and not outcome.ahead
        words = "; ".join(reason.words for reason in reasons)
        return Explanation(job.id, reasons, max(known) if sure else None, words)

    def _reasons(self, job: Waiting, outcome: Outcome) -> Iterator[Reason]:
        if outcome.kind == "room":
            yield self._room(job)
            return
        short = _shortages(job.need, self._free)
        for kind in short:
            yield self._short(kind, job, last=kind == short[-1])
        if outcome.kind in ("team_quota", "queue_gpus", "queue_running"):
            yield self._limits.reason(outcome.kind, job, self._until(job, borrows=outcome.borrows))
        if outcome.ahead:
            yield self._ahead(outcome.ahead, kept=not short)
        elif not short and outcome.kind not in ("team_quota", "queue_gpus", "queue_running"):
            yield Reason("room", "what it needs is kept for a job that room is being made for")

    def _until(self, job: Waiting, *, borrows: bool) -> str:
        cap = (self._limits.soft if borrows else self._limits.hard).get(job.team)
        when = f" until {self._clock(cap.until)}" if cap is not None and cap.until is not None else ""
        return f"{when}, and others wait for more" if borrows else when

    def _room(self, job: Waiting) -> Reason:
        told = {stop.job_id: stop.for_job for stop in self._decision.preemptions}
        stopping = [other for other in self._state.running if other.stopping or other.id in told]
        own = [other for other in stopping if told.get(other.id) == job.id] or stopping
        until = max(self._stops_by(other) for other in own)
        ids = tuple(other.id for other in own)
        words = f"room is being made: {self._named(ids, 'is', 'are')} stopped by {self._clock(until)}"
        return Reason("room", words, until=until, jobs=ids)

    def _stops_by(self, job: Running) -> datetime:
        return job.stop_by or self._now + timedelta(seconds=job.grace_seconds)

    def _ahead(self, ahead: Sequence[str], *, kept: bool) -> Reason:
        words = (
            f"what is free is kept for {self._named(ahead)}" if kept else f"{self._named(ahead, 'goes', 'go')} first"
        )
        return Reason("ahead", words, jobs=tuple(ahead))

    def _short(self, kind: ReasonKind, job: Waiting, *, last: bool) -> Reason:
        words, asked, free = _shortage(kind, job.need, self._free)
        until, enough = self._frees(job.need)
        if last and until is not None:
            words += f"; frees about {self._clock(until)} when {self._named(enough, 'ends', 'end')}"
        holders = tuple(other.id for other in self._state.running if _holds(other, job, kind))
        if last and until is None and holders:
            words += f"; held by {self._named(holders)}, and nobody knows until when"
        return Reason(kind, words, asked, free, until, enough or holders)

    def _frees(self, need: Need) -> tuple[datetime | None, tuple[str, ...]]:
        """When a job fits at the latest by the time limits, and by whose ends."""
        room = self._free.copy()
        ends = [
            (end, other.id, other) for other in self._state.running if (end := ends_by(other, self._now)) is not None
        ]
        given: list[Running] = []
        for moment, _, other in sorted(ends, key=lambda end: end[:2]):
            room.give(other.need, other.devices)
            given.append(other)
            if room.place(need) is not None:
                return moment, self._needed(need, given)
        return None, ()

    def _needed(self, need: Need, given: Sequence[Running]) -> tuple[str, ...]:
        """Those of the ended ones without which it would not fit."""
        needed = list(given)
        for one in given:
            room = self._free.copy()
            for other in needed:
                if other is not one:
                    room.give(other.need, other.devices)
            if room.place(need) is not None:
                needed.remove(one)
        return tuple(job.id for job in needed)

    def _named(self, ids: Sequence[str], one: str = "", many: str = "") -> str:
        """Jobs, and the form of a verb that goes with their number."""
        if len(ids) > _NAMED:
            return f"{len(ids)} jobs {many}".rstrip()
        names = [self._names.get(job, job) for job in ids]
        if len(names) == 1:
            return f"job {names[0]} {one}".rstrip()
        listed = f"jobs {', '.join(names[:-1])} and {names[-1]}"
        return f"{listed} {many}".rstrip()

    def _clock(self, at: datetime) -> str:
        local, today = at.astimezone(self._zone), self._now.astimezone(self._zone)
        if local.date() == today.date():
            return f"{local:%H:%M}"
        return f"{local:%a %H:%M}" if at - self._now < timedelta(days=6) else f"{local:%d %b %H:%M}"


def _shortages(need: Need, free: Capacity) -> list[ReasonKind]:
    short: list[ReasonKind] = []
    if free.gpus(need) is None:
        short.append("gpu_memory" if need.gpu_memory_gb and not need.gpus else "gpus")
    if need.cpus > free.cpus + EPSILON:
        short.append("cpus")
    if need.memory_gb > free.memory_gb + EPSILON:
        short.append("memory")
    return short


def _shortage(kind: ReasonKind, need: Need, free: Capacity) -> tuple[str, float, float]:
    """A shortage in words, what is asked and what is free."""
    if kind == "cpus":
        return f"{_number(free.cpus)} CPUs free, you ask {need.cpus:g}", need.cpus, free.cpus
    if kind == "memory":
        words = f"{_number(free.memory_gb)} GiB of memory free, you ask {need.memory_gb:g}"
        return words, need.memory_gb, free.memory_gb
    if kind == "gpu_memory":
        most = max((room for room, share in zip(free.memory, free.share, strict=True) if share > EPSILON), default=0.0)
        words = f"no GPU has {need.gpu_memory_gb:g} GiB free, the most is {_number(most)}"
        return words, need.gpu_memory_gb, most
    if not need.whole:
        most = max(free.share, default=0.0)
        return f"no GPU has {need.gpus:g} of it free, the most is {_number(most)}", need.gpus, most
    whole = len(free.whole(need))
    sized = f" of {need.gpu_memory_gb:g} GiB" if need.gpu_memory_gb else ""
    return f"{whole} GPU{'' if whole == 1 else 's'}{sized} free, you ask {need.count}", need.count, whole


def _number(value: float) -> str:
    return f"{round(max(0.0, value), 2):g}"
