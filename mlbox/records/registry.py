"""Models, versions, policies and promotions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from mlbox.records.base import Record
from mlbox.records.fairness import FairnessSpec
from mlbox.records.gates import GateCommand
from mlbox.records.replay import ReplayRule
from mlbox.records.rollout import CanaryHold, Finding, Guard
from mlbox.records.shadow import ShadowFigures

Stage = Literal["None", "Staging", "Production", "Archived"]


ModelFormat = Literal["onnx", "other"]


Lineage = Literal["recorded", "declared"]
"""Recorded: a job of this box trained it, and mlbox saw its code, data and environment. Declared: a client says so."""


class TensorSpec(Record, frozen=True, kw_only=True):
    """A named tensor; -1 is a free dimension, dtype is one of the Open Inference Protocol's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()
    """The names of its dimensions, where the model has any; what has the same name has the same size in all tensors."""


class Model(Record, frozen=True, kw_only=True):
    """A named line of versions."""

    id: str
    name: str
    owner: str
    purpose: str = ""
    created_at: datetime
    updated_at: datetime | None = None
    expires_at: datetime | None = None
    """When someone must look at it again; by default its policy's lifetime after the first approval."""
    tags: dict[str, str] = {}
    aliases: dict[str, int] = {}
    stages: dict[str, int] = {}
    """Latest version in each stage."""


class ModelVersion(Record, frozen=True, kw_only=True):
    """A trained artifact and where it came from."""

    id: str
    model: str
    version: int
    stage: Stage
    format: ModelFormat = "onnx"
    run_id: str | None
    job_id: str | None = None
    dataset: str | None = None
    """`NAME@vN` of the dataset version that it was trained on."""
    dataset_hash: str | None = None
    """Its content hash: an approval is for this data and no other."""
    feature_service: str | None = None
    features: tuple[str, ...] = ()
    """Feature references in the order of the input tensor's columns."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    artifact: str | None = None
    """SHA-256 of the ONNX file in the artifact store."""
    size: int = 0
    reference: str | None = None
    """SHA-256 of the training sample that drift is measured against."""
    sample: str | None = None
    """SHA-256 of an .npz with `inputs` and `outputs` of the source model: what parity is measured on."""
    metrics: dict[str, float] = {}
    git_commit: str | None = None
    trained_by: str
    submitted_by: str
    description: str = ""
    tags: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    created_at: datetime
    updated_at: datetime | None = None
    source: str | None = None
    """Where its files came from, as whoever registered it wrote it."""
    run_link: str = ""
    logged_model: str | None = None
    """MLflow's id of the logged model that it was registered from."""
    lineage: Lineage = "recorded"
    unservable: str = ""
    """Why it cannot be served, in words; empty for what can."""

    @property
    def ref(self) -> str:
        """`model/N`."""
        return f"{self.model}/{self.version}"

    @property
    def servable(self) -> bool:
        """True for what mlbox can serve: an ONNX file whose columns have names."""
        return self.format == "onnx"

    @property
    def flags(self) -> tuple[str, ...]:
        """What does not fit together, in words."""
        claimed = self.tags.get("dataset_version")
        if claimed is None or claimed == self.dataset:
            return ()
        if self.dataset is None:
            return (f"The tag dataset_version says {claimed!r:.80}, which names no dataset version of this box.",)
        return (f"The tag dataset_version says {claimed!r:.80}, and the run trained on {self.dataset}.",)


class Tenure(Record, frozen=True, kw_only=True):
    """How long a version was in a stage or under an alias, who put it there and why, and who approved."""

    kind: Literal["stage", "alias"]
    name: str
    """Of the stage or the alias."""
    version: int
    since: datetime
    until: datetime | None = None
    """None for what still holds."""
    by: str
    reason: str = ""
    approved_by: tuple[str, ...] = ()
    promotion: str | None = None


class GateResult(Record, frozen=True, kw_only=True):
    """What one automatic gate required and measured."""

    gate: str
    passed: bool
    required: str
    measured: str
    at: datetime
    job: str | None = None
    """That ran the gate's command, where it has one."""


PromotionState = Literal[
    "testing",
    "waiting_traffic",
    "rejected",
    "integration",
    "shadow",
    "waiting_approval",
    "canary",
    "completed",
    "rolled_back",
    "withdrawn",
    "expired",
]


class Approval(Record, frozen=True, kw_only=True):
    """One person's decision about a promotion."""

    approver: str
    decision: Literal["approve", "reject"]
    comment: str
    at: datetime


class RampStep(Record, frozen=True, kw_only=True):
    """A share of traffic, how long it must hold and how many predictions it must see before the next step."""

    percent: float
    hold_seconds: float
    min_predictions: int = 0


ComparedMetric = Literal["auc", "accuracy", "precision", "recall", "f1", "log_loss", "brier", "mae", "mse", "rmse"]
ComparisonOutcome = Literal["better", "non_inferior", "worse", "undecided"]


class CompareSpec(Record, frozen=True, kw_only=True):
    """On which rows two versions are compared, and in what."""

    dataset: str
    """`NAME@vN`: rows that neither was trained on."""
    hash: str = ""
    """Its content hash, which the rows must have; a policy's is filled in when it is set."""
    label: str
    """The column with the truth: 0 and 1 for a metric of classes."""
    metric: ComparedMetric = "auc"
    margin: float = 0.0
    """How much worse is no worse."""
    entity: tuple[str, ...] = ()
    """Columns that name whom a row is about, where several rows are about the same one."""
    segments: tuple[str, ...] = ()
    """Columns by whose values it is compared as well."""


class Compared(Record, frozen=True, kw_only=True):
    """What a comparison of two versions found, on all rows or on a segment's."""

    segment: str = ""
    """`column=value`; empty for all rows."""
    rows: int
    outcome: ComparisonOutcome
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    """Of the metric, second less first."""
    low: float | None = None
    high: float | None = None
    """The difference's interval of 95 %."""
    p_value: float | None = None
    method: str = ""
    rows_to_decide: int | None = None
    """How many rows of such a difference would decide; only where it is undecided."""
    note: str = ""


class Comparison(Record, frozen=True, kw_only=True):
    """Two versions on the same rows."""

    model: str
    first: int
    second: int
    spec: CompareSpec
    found: tuple[Compared, ...]
    """All rows first, then each segment."""
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The finding over all rows, as one would say it."""
        one = self.found[0]
        if one.difference is None or one.low is None or one.high is None:
            return f"{one.outcome.replace('_', '-')}: {one.note}"
        needs = f", {one.rows_to_decide:,} rows would decide" if one.rows_to_decide else ""
        return (
            f"{one.outcome.replace('_', '-')}: {self.spec.metric} {one.second:.4f}, the champion's {one.first:.4f},"
            f" {one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f}; {one.method}, {one.rows:,} rows{needs})"
        )


CardPart = Literal["license", "intended_use", "out_of_scope", "limitations", "ethics", "contact"]


class PromotionPolicy(Record, frozen=True, kw_only=True):
    """What a model's versions must pass. The defaults are the house's; `label` marks a policy that is not for real use."""

    revision: int = 0
    """0 for the house's default."""
    label: str = ""
    metric: str = "auc"
    higher_is_better: bool = True
    minimum: float | None = None
    margin: float = 0.0
    """How much worse than the champion a candidate may be."""
    max_artifact_bytes: int = 2 * 1024**3
    max_latency_ms_p50: float | None = None
    max_latency_ms_p95: float = 50.0
    max_latency_ms_p99: float | None = None
    """Of a request, through the model's queue and batches, with so many rows and so many at a time as follows."""
    latency_rows: int = 1
    latency_concurrency: int = 1
    parity_tolerance: float = 1e-3
    shadow_seconds: float = 24 * 3600
    shadow_min_predictions: int = 1000
    shadow_max_disagreement: float | None = None
    """Share of rows on which the shadow may decide otherwise than the champion, at 0.5."""
    shadow_max_difference: float | None = None
    """How far apart the scores of both may be, in the mean."""
    steps: tuple[RampStep, ...] = (
        RampStep(percent=5, hold_seconds=24 * 3600, min_predictions=1000),
        RampStep(percent=25, hold_seconds=24 * 3600, min_predictions=1000),
        RampStep(percent=100, hold_seconds=0),
    )
    max_error_rate: float = 0.01
    """Of a shadow's runs."""
    compare: CompareSpec | None = None
    """Rows on which a candidate must be shown to be no worse than the champion before it has any traffic."""
    replay: ReplayRule = ReplayRule()
    """How it must answer logged requests before it has any traffic."""
    fairness: FairnessSpec | None = None
    """By which groups of people its answers are judged, on which rows."""
    not_sensitive: str = ""
    """Why there are no such groups, where there are none; the approver reads it."""
    guards: tuple[Guard, ...] = (
        Guard(kind="errors", stop=1.0, margin=0.01),
        Guard(kind="invalid", stop=1.0, margin=0.01),
        Guard(kind="latency", stop=1.5, margin=1.5),
        Guard(kind="scores", stop=0.1),
    )
    """What a canary is compared in; without any, time and traffic alone let it go on."""
    segments: tuple[str, ...] = ()
    """Keys of entities, or features, by whose values shadow and canary are looked at as well."""
    largest_segments: int = 3
    """In how many of these, the largest, the guards are asked too; they have half of `false_stops`."""
    false_stops: float = 0.05
    """How many of all good canaries may be stopped, over all guards and looks together."""
    patience_seconds: float = 24 * 3600
    """How long a canary may gather evidence past its hold before a person is asked."""
    lifetime_days: float = 365
    """How long after its first approval a model must be looked at again, where nobody said otherwise."""
    approvals: int = 1
    """How many people must approve, each another."""
    reviewers: tuple[str, ...] = ()
    """Who may decide, among those with the role; empty for all of them."""
    approval_days: float = 30
    """How long a request waits for its decision before it expires."""
    notify: tuple[str, ...] = ()
    """Addresses that are told when a person is awaited, reminded of it, and how a promotion ended: https URLs, or mailto:."""
    card: tuple[CardPart, ...] = ("intended_use", "limitations")
    """The parts of the model card that people must have written."""
    test: GateCommand | None = None
    """Judges a version before Staging."""
    integration: GateCommand | None = None
    """Judges it in Staging, before its shadow: against what answers there, with requests to replay."""
    unserved: Literal["approval", "gates"] = "approval"
    """What a version that mlbox cannot serve needs: an approval, or also the gates on lineage, metric, facts and card."""

    @property
    def told_segments(self) -> tuple[str, ...]:
        """The columns by which a shadow is told: its segments, or those of the comparison where it names none."""
        return self.segments or (self.compare.segments if self.compare else ())


class Promotion(Record, frozen=True, kw_only=True):
    """One version's way to Production: gates, shadow, approval, canary. It is the deployment that a prediction names."""

    id: str
    model: str
    version: int
    champion: int | None
    """The version in Production when it began, which it must not be worse than; None for a model's first."""
    state: PromotionState
    requested_by: str
    created_at: datetime
    state_since: datetime
    """Domain time at which the present state, or canary step, began: holds count from it."""
    policy: PromotionPolicy
    step: int = -1
    """Index of the policy's ramp step that its canary is at, or ended in; -1 before."""
    hold: CanaryHold = ""
    gates: tuple[GateResult, ...] = ()
    approvals: tuple[Approval, ...] = ()
    reason: str = ""

    @property
    def decide_by(self) -> datetime | None:
        """When a request for approval expires, in domain time; None for what does not wait for one."""
        waits = self.state == "waiting_approval"
        return self.state_since + timedelta(days=self.policy.approval_days) if waits else None

    @property
    def percent(self) -> float:
        """Share of traffic that the candidate takes now."""
        return self.policy.steps[self.step].percent if self.state == "canary" and self.hold != "frozen" else 0.0


class VersionQuarantine(Record, frozen=True, kw_only=True):
    """A version that may not run, because the processes that ran it died."""

    model: str
    version: int
    reason: str
    at: datetime


class Endpoint(Record, frozen=True, kw_only=True):
    """What serves under a model's name: the champion, and the candidate that has or shadows traffic."""

    model: str
    champion: int
    candidate: int | None = None
    promotion: str | None = None
    state: PromotionState | None = None
    percent: float = 0.0
    """Share of traffic that the candidate answers."""
    standing: str = ""
    """What the candidate waits for, in words."""
    hold: CanaryHold = ""
    findings: tuple[Finding, ...] = ()
    """What each guard of a canary says now, over all traffic first, then in each segment."""
    shadow: tuple[ShadowFigures, ...] = ()
    """What a shadow does beside the champion: on all requests, then by segment."""
    champion_predictions: int = 0
    champion_errors: int = 0
    champion_p95_ms: float | None = None
    candidate_predictions: int = 0
    candidate_errors: int = 0
    candidate_p95_ms: float | None = None
