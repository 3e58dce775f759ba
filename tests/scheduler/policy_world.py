"""Boxes, queues and loads for the policy's tests: states by hypothesis, and a box that goes on in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from mlbox.scheduler.policy import (
    RANKS,
    Box,
    Capacity,
    Decision,
    Device,
    Need,
    Queue,
    Quota,
    Rules,
    Running,
    State,
    Usage,
    Waiting,
    charge,
    decide,
    gpus,
    holding,
)

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
BOX = Box(tuple(Device(f"G{at}", at, memory_gb=16) for at in range(4)), cpus=8, memory_gb=32)
QUEUES = {
    "default": Queue("default"),
    "small": Queue("small", weight=2, max_gpus=2, max_running=2),
    "turns": Queue("turns", quantum_seconds=600),
}
TEAMS = ("red", "blue", "green")


def job(name: str, need: Need | None = None, **more: Any) -> Waiting:
    """A waiting job; one CPU where nothing else is said."""
    return Waiting(name, need or Need(cpus=1), more.pop("submitted_at", NOW), **more)


def busy(name: str, need: Need, *devices: str, **more: Any) -> Running:
    """A running job, for an hour where nothing else is said."""
    return Running(name, need, more.pop("started_at", NOW - timedelta(hours=1)), devices, **more)


def ago(**of: float) -> datetime:
    """A moment before now."""
    return NOW - timedelta(**of)


# -- states -----------------------------------------------------------------------------------------------------------

needs = st.builds(
    Need,
    gpus=st.sampled_from([0, 0.25, 0.5, 1, 1, 2, 4]),
    cpus=st.sampled_from([0, 1, 2, 6]),
    memory_gb=st.sampled_from([0, 4, 20]),
    gpu_memory_gb=st.sampled_from([0, 0, 0, 4, 12]),
)
boxes = st.builds(
    lambda kinds, cpus: Box(
        tuple(Device(f"G{at}", at, memory, taken, reserved) for at, (memory, taken, reserved) in enumerate(kinds)),
        cpus,
        32,
    ),
    st.lists(
        st.sampled_from([(16, False, 0), (16, False, 0), (16, False, 2), (0, False, 0), (16, True, 0)]), max_size=4
    ),
    st.sampled_from([4, 8]),
)
_facts = st.fixed_dictionaries(
    {
        "priority": st.sampled_from(sorted(RANKS)),
        "team": st.sampled_from(TEAMS),
        "queue": st.sampled_from(sorted(QUEUES)),
        "checkpoints": st.booleans(),
        "preemptible": st.sampled_from([True, True, False]),
        "attained": st.sampled_from([0.0, 700.0, 5000.0]),
    }
)
_waits = st.fixed_dictionaries(
    {
        "hours": st.integers(0, 60),
        "front": st.sampled_from([False, False, True]),
        "not_before": st.sampled_from([None, None, None, NOW - timedelta(1), NOW + timedelta(seconds=5)]),
        "limit_seconds": st.sampled_from([None, None, 60, 7200]),
    }
)
_runs = st.fixed_dictionaries(
    {
        "minutes": st.integers(0, 300),
        "progressed": st.sampled_from([True, True, False]),
        "expected_end": st.sampled_from([None, None, NOW + timedelta(minutes=5), NOW + timedelta(hours=1)]),
        "stopping": st.sampled_from([False, False, False, True]),
        "yields": st.sampled_from([False, False, True]),
    }
)
quotas = st.lists(
    st.builds(Quota, st.sampled_from(TEAMS), gpus=st.sampled_from([0, 1, 2.5]), borrowable=st.booleans()), max_size=3
).map(tuple)


@st.composite
def states(draw: st.DrawFn) -> State:
    """A box with jobs that fit, others that wait, quotas, usage."""
    return _state(draw, draw(boxes), st.lists(st.tuples(needs, _facts, _waits), max_size=7), _facts)


@st.composite
def contended(draw: st.DrawFn) -> State:
    """A box that is full of jobs which may be stopped, with an urgent one at hand."""
    box = Box(BOX.devices[: draw(st.integers(1, 4))], 8, 32)
    wants = st.builds(Need, gpus=st.sampled_from([0.5, 1, 1, 2]), cpus=st.sampled_from([0, 1]))
    lines = st.lists(st.tuples(wants, _facts, _waits), min_size=1, max_size=5)
    state = _state(draw, box, lines, _facts.map(lambda facts: facts | {"preemptible": True, "priority": "low"}), wants)
    first = replace(state.waiting[0], priority="urgent", not_before=None, submitted_at=NOW)
    return replace(state, waiting=(first, *state.waiting[1:]))


def _state(draw: st.DrawFn, box: Box, lines: Any, facts_of_running: Any, wants: Any = needs) -> State:
    waiting = tuple(
        job(f"w{number:02}", need, submitted_at=ago(hours=when.pop("hours"), seconds=number), **facts, **when)
        for number, (need, facts, when) in enumerate(draw(lines))
    )
    free, running = Capacity(box), []
    few = 0 if wants is needs else 3
    rows = draw(st.lists(st.tuples(wants, facts_of_running, _runs), min_size=few, max_size=6))
    for number, (need, facts, when) in enumerate(rows):
        devices = free.place(need)
        if devices is None:
            continue
        free.take(need, devices)
        yields = tuple(one.id for one in waiting[:2]) if when.pop("yields") and facts["preemptible"] else ()
        stop_by = NOW + timedelta(seconds=8) if when["stopping"] else None
        started = ago(minutes=when.pop("minutes"))
        running.append(
            Running(f"r{number}", need, started, devices, **facts, **when, stop_by=stop_by, yields_to=yields)
        )
    used = draw(st.dictionaries(st.sampled_from(TEAMS), st.floats(0, 1e6)))
    return State(box, waiting, tuple(running), QUEUES, draw(quotas), teams=Usage(ago(hours=2), used))


def after(state: State, decision: Decision, *, stopped: bool = True) -> State:
    """The same box a moment later: what was to start runs, and what was to stop has gone (if `stopped`)."""
    gone = {stop.job_id for stop in decision.preemptions} | {job.id for job in state.running if job.stopping}
    promised = {stop.for_job for stop in decision.preemptions}
    starts = {start.job_id: start for start in decision.starts}
    running = [job for job in state.running if not stopped or job.id not in gone]
    for one in state.waiting:
        if one.id in starts:
            start = starts[one.id]
            running.append(
                Running(
                    one.id,
                    one.need,
                    NOW,
                    start.devices,
                    one.priority,
                    one.team,
                    one.user,
                    one.queue,
                    attained=one.attained,
                    preemptible=one.preemptible,
                    checkpoints=one.checkpoints,
                    yields_to=start.yields_to,
                )
            )
    waiting = tuple(replace(one, promised=one.id in promised) for one in state.waiting if one.id not in starts)
    return replace(state, waiting=waiting, running=tuple(running))


# -- time -------------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A box on which what the policy says comes true; its invariants are checked at every decision."""

    box: Box = BOX
    quotas: tuple[Quota, ...] = ()
    rules: Rules = field(default_factory=Rules)
    now: datetime = NOW
    waiting: dict[str, Waiting] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    started: dict[str, datetime] = field(default_factory=dict)
    preempted: dict[str, int] = field(default_factory=dict)
    usage: Usage = field(default_factory=lambda: Usage(NOW))
    last: Decision = field(default_factory=Decision)

    def submit(self, one: Waiting) -> None:
        """A new job."""
        self.waiting[one.id] = replace(one, submitted_at=self.now)

    def state(self) -> State:
        """What the policy sees."""
        return State(
            self.box,
            tuple(self.waiting.values()),
            tuple(self.running.values()),
            QUEUES,
            self.quotas,
            teams=self.usage,
            rules=self.rules,
        )

    def settle(self) -> None:
        """Decide until nothing changes: that comes to an end, since nobody is stopped who only just started."""
        there = set(self.running)
        for _ in range(2 * (len(self.waiting) + len(self.running)) + 1):
            self.decide()
            assert {stop.job_id for stop in self.last.preemptions} <= there
            if self.last.starts == self.last.preemptions == ():
                return
        raise AssertionError("it does not come to an end")

    def decide(self) -> None:
        """One decision, checked and done."""
        state = self.state()
        self.last = decide(state, self.now)
        check(state, self.last, self.now)
        for stop in self.last.preemptions:
            victim = self.running[stop.job_id]
            assert victim.progressed, "stopped again before it got further"
            ends = self.now + timedelta(seconds=victim.grace_seconds)
            self.running[stop.job_id] = replace(victim, stopping=True, stop_by=ends)
            if stop.for_job in self.waiting:
                self.waiting[stop.for_job] = replace(self.waiting[stop.for_job], promised=True)
        for start in self.last.starts:
            self._start(self.waiting.pop(start.job_id), start.devices, start.yields_to)

    def _start(self, one: Waiting, devices: tuple[str, ...], yields_to: tuple[str, ...]) -> None:
        self.started.setdefault(one.id, self.now)
        self.running[one.id] = Running(
            one.id,
            one.need,
            self.now,
            devices,
            one.priority,
            one.team,
            queue=one.queue,
            attained=one.attained,
            preemptible=one.preemptible,
            checkpoints=one.checkpoints,
            progressed=one.id not in self.preempted,
            yields_to=yields_to,
        )

    def advance(self, seconds: float) -> None:
        """Time goes by; what is out of its grace is queued again."""
        later = self.now + timedelta(seconds=seconds)
        held = holding(self.running.values(), self.box, "team")
        self.usage = charge(self.usage, held, later, self.rules.half_life_seconds)
        self.now = later
        for one in [one for one in self.running.values() if one.stopping and one.stop_by and one.stop_by <= later]:
            del self.running[one.id]
            self.preempted[one.id] = self.preempted.get(one.id, 0) + 1
            self.waiting[one.id] = job(
                one.id,
                one.need,
                submitted_at=self.started[one.id],
                priority=one.priority,
                team=one.team,
                queue=one.queue,
                queued_at=later,
                front=True,
                attained=one.attained + gpus(one.need, self.box) * (later - one.started_at).total_seconds(),
                checkpoints=one.checkpoints,
            )

    def end(self, name: str) -> None:
        """A job ends by itself."""
        del self.running[name]

    def checkpoint(self, name: str) -> None:
        """A job saves how far it is."""
        self.running[name] = replace(self.running[name], checkpoint_at=self.now, progressed=True)


def check(state: State, decision: Decision, now: datetime) -> None:
    """What holds for every decision: capacity, all GPUs or none, limits, quotas, and whom it stops."""
    waiting = {one.id: one for one in state.waiting}
    running = {one.id: one for one in state.running}
    free = Capacity(state.box, state.running)
    teams: dict[str, float] = {}
    queues: dict[str, float] = {}
    counts: dict[str, int] = {}

    def hold(one: Waiting | Running) -> None:
        count = gpus(one.need, state.box)
        teams[one.team] = teams.get(one.team, 0) + count
        queues[one.queue] = queues.get(one.queue, 0) + count
        counts[one.queue] = counts.get(one.queue, 0) + 1

    for one in state.running:
        hold(one)
    assert len({start.job_id for start in decision.starts}) == len(decision.starts)
    for start in decision.starts:
        one = waiting[start.job_id]
        assert one.not_before is None or one.not_before <= now
        assert len(set(start.devices)) == len(start.devices) == one.need.count, "all GPUs or none"
        free.take(one.need, start.devices)
        hold(one)
        assert min([free.cpus, free.memory_gb, *free.share, *free.memory]) >= -1e-6, "more than there is"
        _within(one, state, teams, queues, counts)
    for stop in decision.preemptions:
        victim = running[stop.job_id]
        assert stop.for_job in waiting
        assert victim.preemptible
        assert victim.progressed
        assert not victim.stopping
        assert _may(stop.cause, victim, waiting[stop.for_job])
    assert len({stop.job_id for stop in decision.preemptions}) == len(decision.preemptions)


def _within(
    one: Waiting, state: State, teams: dict[str, float], queues: dict[str, float], counts: dict[str, int]
) -> None:
    queue = state.queues.get(one.queue, Queue(one.queue))
    assert queue.max_running is None or counts[one.queue] <= queue.max_running
    if not one.need.wants_gpu:
        return
    assert queue.max_gpus is None or queues[one.queue] <= queue.max_gpus + 1e-6
    for quota in state.quotas:
        if quota.team == one.team and quota.gpus is not None and teams[one.team] > quota.gpus + 1e-6:
            assert quota.borrowable, "above a hard quota"
            assert one.preemptible, "borrowed for good"


_CAUSES: dict[str, Callable[[Running, Waiting], bool]] = {
    "priority": lambda victim, one: (
        "urgent" == one.priority != victim.priority and victim.started_at < (one.queued_at or one.submitted_at)
    ),
    "quota": lambda victim, one: victim.team != one.team,
    "filling": lambda victim, one: one.id in victim.yields_to or RANKS[one.priority] > RANKS[victim.priority],
    "turn": lambda victim, one: victim.queue == one.queue == "turns" and victim.checkpoints,
}


def _may(cause: str, victim: Running, one: Waiting) -> bool:
    return _CAUSES[cause](victim, one)
