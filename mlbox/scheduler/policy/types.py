"""What the policy sees and what it says: frozen values, no I/O.

Times are aware datetimes; GPUs count in devices, so 0.5 is half of one; memory is in GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Literal

from mlbox.records import Priority

RANKS: dict[Priority, int] = {"urgent": 3, "high": 2, "normal": 1, "low": 0}
EPSILON = 1e-9
DEFAULT_QUEUE = "default"
MOST_DELAY_SECONDS = 3600.0
"""No job is told to wait longer for its next try: what says so was written by a clock that was ahead."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a job takes. GPUs are whole ones, a share of one (0.5), or one by memory (`gpus` 0 and `gpu_memory_gb`)."""

    gpus: float = 0.0
    cpus: float = 0.0
    memory_gb: float = 0.0
    gpu_memory_gb: float = 0.0
    """On each GPU that it gets; a share without it takes the same share of the memory."""

    @property
    def wants_gpu(self) -> bool:
        """Whether it runs on a GPU at all."""
        return self.gpus > 0 or self.gpu_memory_gb > 0

    @property
    def count(self) -> int:
        """On how many GPUs."""
        return max(1, round(self.gpus)) if self.wants_gpu else 0

    @property
    def whole(self) -> bool:
        """Whether it has its GPUs to itself."""
        return self.gpus >= 1


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a MIG device."""

    id: str
    """Its UUID: what a job is bound to."""
    index: int
    memory_gb: float = 0.0
    """0: not known, so nothing can be asked by memory."""
    taken: bool = False
    """Another process uses it: left alone."""
    reserved_gb: float = 0.0
    """Memory of served models."""
    virtual: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """All that there is to give."""

    devices: tuple[Device, ...] = ()
    cpus: float = 0.0
    memory_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job."""

    id: str
    need: Need
    submitted_at: datetime
    priority: Priority = "normal"
    team: str = "everyone"
    user: str = ""
    queue: str = DEFAULT_QUEUE
    queued_at: datetime | None = None
    """Since when it waits, where that is not since its submission: what it rises by."""
    not_before: datetime | None = None
    front: bool = False
    """Requeued after a preemption: at the front of its class."""
    promised: bool = False
    """Others were stopped for it (`Preemption.for_job`), and it has not started yet: the first of all."""
    attained: float = 0.0
    """GPU-seconds that its attempts have had; on a box without GPUs, CPU-seconds."""
    limit_seconds: float | None = None
    """Its time limit: it has ended by then."""
    checkpoints: bool = False
    """It saves its progress and goes on from there: it may take turns, and fill a gap until whoever waits for it can start."""
    preemptible: bool = True

    def due(self, now: datetime) -> bool:
        """Whether it may start, as far as the time goes."""
        if self.not_before is None:
            return True
        return not 0 < (self.not_before - now).total_seconds() <= MOST_DELAY_SECONDS


@dataclass(frozen=True, slots=True)
class Running:
    """A job that holds part of the box."""

    id: str
    need: Need
    started_at: datetime
    devices: tuple[str, ...] = ()
    priority: Priority = "normal"
    team: str = "everyone"
    user: str = ""
    queue: str = DEFAULT_QUEUE
    checkpoint_at: datetime | None = None
    """Its last checkpoint in this attempt: what came after it is lost when it is stopped."""
    attained: float = 0.0
    """GPU-seconds of its earlier attempts; on a box without GPUs, CPU-seconds."""
    grace_seconds: float = 10.0
    expected_end: datetime | None = None
    """When its time limit ends it; None where nobody knows."""
    preemptible: bool = True
    checkpoints: bool = False
    progressed: bool = True
    """False from the start of an attempt that follows a preemption until its first checkpoint: it is left alone so long."""
    yields_to: tuple[str, ...] = ()
    """As its `Start` said."""
    stopping: bool = False
    """Told to end: what it holds is free within its grace."""
    stop_by: datetime | None = None
    """When its grace is over."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A line of jobs of one kind."""

    name: str
    weight: float = 1.0
    max_gpus: float | None = None
    max_running: int | None = None
    quantum_seconds: float | None = None
    """Jobs that checkpoint take turns of at least this long, those that had least so far first; None: each runs to its end."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the week by the clock on the wall of a zone, [start, end); past midnight where the end is not after the start."""

    days: frozenset[int] = frozenset(range(7))
    """On which it begins: 0 is Monday."""
    start: time = time(0)
    end: time = time(0)
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Quota:
    """How many GPUs a team may hold in some windows, or always where there is none."""

    team: str
    gpus: float | None = None
    share: float | None = None
    """Of the box's GPUs, where `gpus` is not said."""
    windows: tuple[Window, ...] = ()
    borrowable: bool = False
    """May be passed while nobody else waits for the GPUs; what passes it is the first to be stopped when somebody does."""


@dataclass(frozen=True, slots=True)
class Usage:
    """GPU-seconds by name (of a team, or a queue), each halved with every half-life that went by, as of a moment."""

    at: datetime
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the policy."""

    ageing_seconds: float = 12 * 3600.0
    """After each such wait a job rises by one priority, up to high; a last time to overdue: those go first, as they came."""
    half_life_seconds: float = 7 * 86400.0
    """Of the usage that fair share compares."""
    fill: bool = True
    """Jobs that checkpoint may run on GPUs that are too few for whoever waits for them, until there are enough."""


@dataclass(frozen=True, slots=True)
class State:
    """All that a decision depends on, but for the moment."""

    box: Box
    waiting: tuple[Waiting, ...] = ()
    running: tuple[Running, ...] = ()
    queues: Mapping[str, Queue] = field(default_factory=dict)
    """A queue that is not here has weight 1 and no limit."""
    quotas: tuple[Quota, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
    """The weight of a team in fair share, 1 where it is not here."""
    teams: Usage | None = None
    """What each team has used."""
    queued: Usage | None = None
    """What the jobs of each queue have used."""
    rules: Rules = Rules()


@dataclass(frozen=True, slots=True)
class Start:
    """Start this job on these devices (their ids)."""

    job_id: str
    devices: tuple[str, ...] = ()
    yields_to: tuple[str, ...] = ()
    """Of a job that fills a gap: those that wait for what it takes, and stop it as soon as one can start in its place.

    To be kept with the attempt."""


PreemptionCause = Literal["priority", "quota", "filling", "turn"]


@dataclass(frozen=True, slots=True)
class Preemption:
    """Stop this job, so that the other can start; at once, where it gets what is kept for a third, who gets this one's."""

    job_id: str
    for_job: str
    cause: PreemptionCause
    """An urgent job; a quota that it is over; it filled a gap; its turn is over."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now."""

    starts: tuple[Start, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    look_at: datetime | None = None
    """When the same jobs may mean another decision by the clock alone: a retry is due, a window or a turn ends."""


ReasonKind = Literal[
    "time",
    "gpus",
    "gpu_memory",
    "cpus",
    "memory",
    "team_quota",
    "queue_gpus",
    "queue_running",
    "turns",
    "room",
    "ahead",
]
"""What a job waits for, or why it can never run.

`room` is being made for it; those `ahead` go first; a queue of `turns` takes only jobs that checkpoint.
"""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that a job waits for."""

    kind: ReasonKind
    words: str
    asked: float = 0.0
    free: float = 0.0
    until: datetime | None = None
    """When it is over at the latest; None where nobody knows."""
    jobs: tuple[str, ...] = ()
    """Those that hold it, or go first."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job waits: an empty tuple of reasons says that it starts now."""

    job_id: str
    reasons: tuple[Reason, ...]
    expected_at: datetime | None
    """When it starts at the latest, where the time limits of those before it say so."""
    words: str
