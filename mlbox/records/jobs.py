"""Jobs, what they ask for, and what comes again."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mlbox.records.base import Record

Priority = Literal["low", "normal", "high", "urgent"]


JobState = Literal[
    "queued", "starting", "running", "stopping", "preempted", "succeeded", "failed", "stopped", "timed_out", "lost"
]


JobPhase = Literal["pending", "running", "succeeded", "failed"]


PHASES: dict[JobState, JobPhase] = {
    "queued": "pending",
    "preempted": "pending",
    "starting": "running",
    "running": "running",
    "stopping": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "stopped": "failed",
    "timed_out": "failed",
    "lost": "failed",
}
"""What a state comes down to, for those who only want to know whether to wait, look or mend."""


WAITS = "waits"
"""The reason of a job that was only queued: what for, its `Outlook` says."""

StopCause = Literal["user", "preempted", "diverged"]
"""Why a job is being ended before its time."""


class DivergenceRule(Record, frozen=True, kw_only=True):
    """A condition on a metric that a run logs, and what follows."""

    kind: Literal["nonfinite", "no_better", "above"]
    metric: str = ""
    """Empty for every metric, which only `nonfinite` allows."""
    steps: int = 0
    """`no_better`: for how many steps there was no better value."""
    bound: float = 0.0
    """`above`: the largest value that is still well."""
    higher_is_better: bool = False
    action: Literal["notify", "stop"] = "notify"


class JobSpec(Record, frozen=True, kw_only=True):
    """What a user asks for."""

    command: tuple[str, ...]
    name: str = ""
    team: str = "everyone"
    """Whose job it is: its members see it, and its quota pays for it."""
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    """By environment variable, the secret that it gets: NAME or TEAM/NAME, never a value."""
    snapshot: str | None = None
    """SHA-256 of the uploaded tar.gz of the code: unpacked into the attempt's working directory."""
    workdir: str = ""
    """The folder below the snapshot's root that the command runs in."""
    gpus: float | None = None
    """Whole GPUs, or a share of one such as 0.5. What is not said here, or of CPUs and memory, the box decides at submit."""
    gpu_memory_gb: float = 0
    """GPU memory that it asks for instead of a share; beside `gpus`, the least on each of them."""
    cpus: float | None = None
    memory_gb: float | None = None
    image: str = ""
    """A container image to run in, where the box has podman or docker."""
    procs: int = 1
    """Ranks on the box, as torchrun counts them; a dead one ends the attempt."""
    environment: str = ""
    """The SHA-256 of the lock or requirements that its Python environment is built from; empty for the box's own."""
    queue: str = ""
    """Empty for the default one."""
    priority: Priority = "normal"
    retries: int | None = None
    retry_exit_codes: tuple[int, ...] = ()
    """The exit codes after which it is tried again; empty for every one but 0."""
    timeout_seconds: float | None = None
    grace_seconds: float | None = None
    """Seconds between SIGTERM and SIGKILL; the box's own when not given."""
    checkpoints: bool = False
    """It saves its progress to MLBOX_CHECKPOINT_DIR and resumes from there: cheap to preempt, and fit for a time-sliced queue."""
    hyperparameters: dict[str, str] = {}
    datasets: tuple[str, ...] = ()
    experiment: str = ""
    tags: dict[str, str] = {}
    notify: tuple[str, ...] = ()
    """Addresses that are told of its end, failure, divergence and preemption."""
    rules: tuple[DivergenceRule, ...] | None = None
    """When its metrics say that it is of no use; None for the default, which notifies of a NaN or infinite value."""
    seed: int | None = None
    """Of its random numbers, in MLBOX_SEED; drawn at submit where it was not said, so that it can be repeated."""
    git_commit: str | None = None
    git_diff: str | None = None
    """SHA-256 of what differs from the commit, as a patch."""


class Secret(Record, frozen=True, kw_only=True):
    """A secret for jobs; its value is never shown."""

    team: str
    name: str
    set_by: str
    set_at: datetime
    used_at: datetime | None = None
    """When a job last got it."""
    usable: bool = True
    """False when the key that it was encrypted with is lost: then it must be set again."""


class LogMatch(Record, frozen=True, kw_only=True):
    """A line of a log that has a text: where it begins, in bytes, and what it says around the text."""

    offset: int
    text: str


class LogMatches(Record, frozen=True, kw_only=True):
    """Some lines of a log, and the offset to go on from; None at its end."""

    matches: tuple[LogMatch, ...]
    next: int | None


class Attempt(Record, frozen=True, kw_only=True):
    """One execution of a job's command."""

    number: int
    started_at: datetime
    ended_at: datetime | None = None
    exit_code: int | None = None
    pid: int | None = None
    gpus: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    """The UUIDs of its GPUs."""
    gpu_count: float = 0.0
    """How many GPUs it is charged for: 0.5 for half of one."""
    yields_to: tuple[str, ...] = ()
    """It fills a gap until one of these jobs, which wait for its GPUs, can start."""
    outcome: JobState | None = None
    """How it ended: as the job did, or `failed` or `preempted` where the job goes on."""
    ran_on: dict[str, str] = {}
    """The machine and the Python that it ran on."""
    reason: str = ""


class Job(Record, frozen=True, kw_only=True):
    """A submitted command, its place in the queue and its attempts."""

    id: str
    user: str
    spec: JobSpec
    state: JobState
    created_at: datetime
    run_id: str | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""
    """Why it waits or how it ended, in words."""
    not_before: datetime | None = None
    queued_at: datetime | None = None
    """Since when it waits, if that is not since it was submitted."""
    promised: bool = False
    """Others give way to it, and it has not started yet."""
    stop_cause: StopCause | None = None
    """Why it is `stopping`, or was ended."""
    stopping_at: datetime | None = None
    """Since when it is to end, or was at the last time: what it still holds is free within its grace."""
    attempts: tuple[Attempt, ...] = ()

    @property
    def phase(self) -> JobPhase:
        """What its state comes down to."""
        return PHASES[self.state]


class CronTrigger(Record, frozen=True, kw_only=True):
    """What happens on the box that asks for a job: a new version of a dataset, or an alert of a model."""

    kind: Literal["dataset", "alert"]
    name: str
    """The dataset's, or the model's."""

    @property
    def ref(self) -> str:
        """As `mlbox cron add --on` takes it."""
        return f"{self.kind}:{self.name}"


class CronSpec(Record, frozen=True, kw_only=True):
    """A job that is submitted again and again: by time, or when something happens."""

    name: str
    job: JobSpec
    schedule: str = ""
    """A cron expression of five fields; empty for one that only `on` asks for."""
    timezone: str = "UTC"
    on: CronTrigger | None = None
    misfire: Literal["once", "skip"] = "once"
    """Of times that nobody was there for: submit one job for all of them, or none."""
    misfire_seconds: int = 86_400
    """What is later than this is not made up for."""
    overlap: Literal["skip", "queue", "replace"] = "skip"
    """While its last job has not ended: do nothing, submit another all the same, or stop the last one first."""


class Cron(Record, frozen=True, kw_only=True):
    """A cron, and what became of it so far."""

    id: str
    owner: str
    """In whose name its jobs are submitted."""
    spec: CronSpec
    created_at: datetime
    paused: bool = False
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_job: str | None = None
    last_outcome: str = ""
    """What the last time came to, in words."""


class Firing(Record, frozen=True, kw_only=True):
    """One time that a cron asked for its job."""

    cause: str
    at: datetime
    job_id: str | None = None
    outcome: Literal["due", "submitted", "skipped", "refused"]
    reason: str = ""


class JobPlan(Record, frozen=True, kw_only=True):
    """What would come of submitting a job now; nothing has."""

    spec: JobSpec
    """With what was not said filled in."""
    starts_now: bool
    gpus: tuple[int, ...] = ()
    """On which it would start."""
    expected_at: datetime | None = None
    """When it starts at the latest; None where nobody knows."""
    words: str = ""
    """Why it would wait."""


class Rerun(Record, frozen=True, kw_only=True):
    """A job that was submitted again as it was."""

    job: Job
    differs: tuple[str, ...] = ()
    """What is not as it was when it last ran, in words."""


class Outlook(Record, frozen=True, kw_only=True):
    """How a job stands to the others."""

    words: str = ""
    """What it waits for."""
    expected_at: datetime | None = None
    """When it starts at the latest; None where nobody knows."""
    held_up: tuple[str, ...] = ()
    """The jobs that wait for what it holds, first in line first: those that may be known."""
    names: dict[str, str] = {}
    """What those of them are called, by id, that have a name."""
    held_up_in_all: int = 0


class QueueEntry(Record, frozen=True, kw_only=True):
    """A job that waits or runs: of another team's only team, state, GPUs and expected end."""

    place: int = 0
    """Where it comes in the order of submission: `after` this is the next page."""
    team: str
    state: JobState
    gpus: float
    expected_end: datetime | None = None
    """When its time limit ends it at the latest; None for a job without one, or that waits."""
    id: str | None = None
    user: str | None = None
    name: str | None = None
    reason: str | None = None


class Gpu(Record, frozen=True, kw_only=True):
    """A GPU or a MIG device that jobs may be bound to, and what it does now."""

    uuid: str
    """What a job is bound to, whatever the order in which drivers count."""
    index: int
    """The driver's number of it; a MIG device has its GPU's."""
    mig: int | None = None
    """The number of a MIG device on its GPU."""
    name: str = ""
    memory_gb: float = 0.0
    """GiB, as all memory here; 0 where it is not known."""
    virtual: bool = False
    """Declared in the settings to try a policy: there is no such device."""
    taken_by: str = ""
    """Who else uses it, in words: it is left alone until it is free."""
    reserved_gb: float = 0.0
    """Memory that served models hold."""
    held: float = 0.0
    """How much of it jobs hold, of 1."""
    jobs: tuple[str, ...] = ()
    """The jobs that hold it or a part, as far as whoever asks may know of them."""
    utilization_percentage: float | None = None
    memory_used_gb: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None

    @property
    def label(self) -> str:
        """What people call it: 0, MIG device 1 of GPU 0 is 0:1, and a virtual one says that it is."""
        number = f"{self.index}" if self.mig is None else f"{self.index}:{self.mig}"
        return f"{number} (virtual)" if self.virtual else number

    @property
    def state(self) -> str:
        """Who has it, in words."""
        if self.taken_by:
            return f"taken: {self.taken_by}"
        return "in use" if self.jobs or self.held else "free"


class JobQueue(Record, frozen=True, kw_only=True):
    """A line of jobs of one kind."""

    name: str
    weight: float = 1.0
    """Of two queues that are full, one of weight 3 gets three times the GPU time of one of weight 1."""
    max_gpus: float | None = None
    """Most GPUs that its jobs hold together."""
    max_running: int | None = None
    """Most jobs of it that run at a time."""
    slice_minutes: float | None = None
    """Time-sliced: jobs that checkpoint take turns of at least so long; None where each runs to its end."""
    waiting: int = 0
    running: int = 0


class TeamQuota(Record, frozen=True, kw_only=True):
    """How many GPUs a team may hold, always or in some windows of the week."""

    team: str
    name: str = "default"
    """A team may have several, for different windows."""
    gpus: float | None = None
    share: float | None = None
    """Of the box's GPUs, 0 to 1, where `gpus` is not said."""
    windows: tuple[str, ...] = ()
    """Such as `mon-fri 09:00-18:00`; none means always."""
    zone: str = "UTC"
    """The time zone of the windows, such as Europe/Berlin."""
    borrowable: bool = False
    """May be passed while nobody else waits for the GPUs; what passes it is the first to give way."""
    open_until: datetime | None = None
    """Until when it counts, if it counts now and not always."""
    counts: bool = True
    """Whether it counts now."""


class TeamWeight(Record, frozen=True, kw_only=True):
    """How much of the box a team gets beside others, where all of them have work."""

    team: str
    weight: float = 1.0


class UsageRow(Record, frozen=True, kw_only=True):
    """What someone's jobs have used in a period; without a user, all of a team whose members' jobs whoever asks may not see."""

    team: str
    user: str | None = None
    gpu_hours: float
    cpu_hours: float
    jobs: int
    """How many of them had a part of it."""


class AttemptSpan(Record, frozen=True, kw_only=True):
    """One attempt as the timeline shows it; of another team's job only that it was there."""

    job: str | None
    name: str
    user: str
    team: str
    number: int
    started_at: datetime
    ended_at: datetime | None
    devices: tuple[str, ...]
    """The UUIDs of the GPUs that it held."""
    outcome: JobState
