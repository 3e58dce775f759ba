"""What a canary is compared in, what was seen of it, and what was decided about it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from mlbox.records.base import Record
from mlbox.records.shadow import Paired

CanaryHold = Literal["", "paused", "undecided", "frozen"]
"""Why a canary does not go on by itself: someone paused it, its evidence asks for a person, or it is kept without traffic."""


GuardKind = Literal["errors", "invalid", "latency", "scores", "labels"]
LabelMetric = Literal["errors", "brier", "absolute"]
"""What a prediction costs once its label is known: wrong at 0.5, its squared distance, or its distance in parts of a scale."""


class Guard(Record, frozen=True, kw_only=True):
    """One thing in which a canary is compared with the champion, more being worse.

    | kind | compared | `stop` | `margin` |
    |---|---|---|---|
    | errors | share of runs that failed, with all of the champion's at the time | ratio | difference |
    | invalid | share of scores that are null or not finite, with the control group | ratio | difference |
    | latency | the quantile of the runs' time, with the control group | ratio | ratio |
    | scores | the Kolmogorov-Smirnov distance of the scores, to the control group | distance | distance |
    | labels | the mean loss of predictions whose labels are known, with the control group | ratio | difference |
    """

    kind: GuardKind
    stop: float
    """Shown to be worse than this, at any time, it ends the canary."""
    margin: float | None = None
    """Before a step ends it must be shown to be no worse than this; None asks for nothing to be shown."""
    quantile: float = 0.95
    metric: LabelMetric = "errors"
    """Of labels: the loss."""
    scale: float = 1.0
    """Of labels, in `absolute`: the distance that costs 1, and further away as much."""
    then: Literal["roll_back", "ask", "watch"] = "roll_back"
    """What follows when it is worse: back at once, a person is asked, or it is only told."""

    @property
    def name(self) -> str:
        """As people call it."""
        if self.kind == "labels":
            return f"labels {self.metric}"
        return f"latency p{self.quantile * 100:g}" if self.kind == "latency" else self.kind


class Finding(Record, frozen=True, kw_only=True):
    """What one guard says at one look. Numbers that are not there yet are None."""

    guard: str
    segment: str = ""
    """`column=value`; empty for all traffic."""
    state: Literal["worse", "holds", "undecided", "too_little"]
    statistic: float | None = None
    """In the units of the guard's `stop`."""
    bound: float | None = None
    """What the evidence must pass for the guard to be worse; an evidence or a lower end."""
    evidence: float | None = None
    low: float | None = None
    high: float | None = None
    """The always-valid interval, in the units of the guard's `margin`."""
    words: str = ""


class Side(Record, frozen=True, kw_only=True):
    """What one group of keys saw since a step began."""

    runs: int = 0
    """Of the model, answered or failed."""
    errors: int = 0
    """Runs that failed."""
    rows: int = 0
    invalid: int = 0
    """Rows whose score is null or not finite."""
    latency: dict[int, int] = {}
    """Runs by bucket of their time (see `sequential`)."""
    scores: bytes = b""
    """The first finite scores, as float64."""
    last: str = ""
    """How the last runs ended, oldest first: `.` well, `x` not."""


class Segment(Record, frozen=True, kw_only=True):
    """What the groups saw in one of the largest segments, since it was chosen."""

    name: str
    """`column=value`."""
    candidate: Side = msgspec.field(default_factory=Side)
    control: Side = msgspec.field(default_factory=Side)
    champion: Side = msgspec.field(default_factory=Side)


class LabelledLoss(Record, frozen=True, kw_only=True):
    """Predictions of a canary and of its control group whose labels are known, with the sum of their losses, each of 0 to 1."""

    candidate: int = 0
    candidate_loss: float = 0.0
    control: int = 0
    control_loss: float = 0.0
    note: str = ""
    """Why there are none, where there can be none."""


class Samples(Record, frozen=True, kw_only=True):
    """All that a verdict looks at beside the policy and the time."""

    state: Literal["shadow", "canary"]
    step: int = -1
    since: datetime
    hold: CanaryHold = ""
    candidate: Side = msgspec.field(default_factory=Side)
    control: Side = msgspec.field(default_factory=Side)
    champion: Side = msgspec.field(default_factory=Side)
    """All of the champion's, the control group among it."""
    paired: Paired = msgspec.field(default_factory=Paired)
    """What a shadow answered beside the champion, row by row."""
    paired_in: dict[str, Paired] = {}
    """The same by segment."""
    segments: tuple[Segment, ...] = ()
    """The largest ones, in a canary."""
    labels: dict[str, LabelledLoss] = {}
    """By guard of labels."""


class RolloutDecision(Record, frozen=True, kw_only=True):
    """One decision about a candidate's traffic, with all that it was made from, so that it can be made again."""

    id: str = ""
    promotion: str = ""
    at: datetime
    """Domain time, as the verdict saw it."""
    actor: str = "mlbox"
    rule: int
    """Version of the rule."""
    action: Literal["wait", "advance", "roll_back", "ask"]
    reason: str
    findings: tuple[Finding, ...] = ()
    samples: Samples
    done: str = ""
    """What was then done: the action itself, or what a person chose."""
    comment: str = ""
    """Of the person who decided."""


class CoursePoint(Record, frozen=True, kw_only=True):
    """What the guards of a canary said once its present step had seen so much."""

    step: int
    predictions: int
    """Rows that the candidate answered since the step began."""
    at: datetime
    """Domain time."""
    findings: tuple[Finding, ...]
    """Over all traffic."""


class Recomputed(Record, frozen=True, kw_only=True):
    """A decision, and what the rule says of the same inputs now."""

    decision: RolloutDecision
    same: bool
    action: str
    reason: str
