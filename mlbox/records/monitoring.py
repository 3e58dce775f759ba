"""Predictions, drift, alerts and live performance."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from mlbox.records.base import Record

ServeRole = Literal["champion", "canary", "control", "shadow"]


class Prediction(Record, frozen=True, kw_only=True):
    """One served row, as the prediction log keeps it."""

    id: str
    model: str
    version: int
    role: ServeRole
    at: datetime
    domain_at: datetime
    caller: str
    entity: dict[str, Any]
    features: dict[str, float | None]
    score: float | None
    """None over the API when it is no finite number, which JSON does not have."""
    latency_ms: float


Verdict = Literal["not_enough_data", "ok", "investigate", "alert"]


class DriftShape(Record, frozen=True, kw_only=True):
    """Both sides as a picture: how many values lie in each of equal bins; what is outside counts in the first or the last."""

    low: float
    high: float
    before: tuple[int, ...]
    now: tuple[int, ...]


class DriftMeasures(Record, frozen=True, kw_only=True):
    """What is said of a feature beside D. None of it decides a verdict."""

    psi: float
    """Population stability index over tenths of the reference, or over categories."""
    jensen_shannon: float
    """Distance over the same bins, 0 to 1."""
    wasserstein: float | None
    """In the feature's own unit, of the finite values."""
    chi_square_p: float | None = None
    """Of categories only: a reference of at most 20 whole numbers."""
    new_share: float = 0.0
    """Of categories: the share of served values that training did not have."""
    new_values: tuple[float, ...] = ()
    """The first few of them."""
    out_of_range: float = 0.0
    """Share of served values below the least or above the greatest of training."""
    constant_share: float = 0.0
    """Share of the value that was served most often: 1 where a sensor is stuck or a default is sent."""
    reference_constant_share: float = 0.0
    """The same in training."""
    median: float | None = None
    """Of what is served; None in a check of an earlier release."""
    reference_median: float | None = None
    type_changed: bool = False
    """Training had whole numbers only, and others are served."""
    shape: DriftShape | None = None


class DriftResult(Record, frozen=True, kw_only=True):
    """Two-sample Kolmogorov-Smirnov test of one feature, served against training."""

    model: str
    version: int
    feature: str
    statistic: float | None
    """D in 0..1; None when there is not enough data."""
    p_value: float | None
    verdict: Verdict
    reference_rows: int
    current_rows: int
    reference_missing: int
    current_missing: int
    missing_risen: bool = False
    """True when the share of missing values is more than 0.1 above that of the reference."""
    at: datetime
    start: datetime | None = None
    """Of the window, in domain time: its oldest row."""
    reference: Literal["usable", "absent", "empty", "constant", "infinite"] = "usable"
    """What is odd about the training values: none of this feature, all missing, all the same, some infinite."""
    p_adjusted: float | None = None
    """The p-value after Benjamini's and Hochberg's correction for the number of features."""
    confirmed: bool = False
    """Whether a D to investigate is told to people: it survives the correction, or lasts for two windows."""
    measures: DriftMeasures | None = None
    """None without enough data."""
    segment: str = ""
    """`FEATURE=VALUE` where only rows with that value are compared, on both sides."""
    sample: float = 1.0
    """Share of the window's predictions that the log kept, and that were compared, as the model's sampling says."""


class DriftSummary(Record, frozen=True, kw_only=True):
    """The last drift check of a model that serves; without one, `checked_at` is None."""

    model: str
    version: int
    """The one in Production now; the check may have been of a former one."""
    checked_at: datetime | None = None
    features: int = 0
    drifting: int = 0
    """Features whose verdict is alert."""
    missing_risen: int = 0
    worst_feature: str | None = None
    worst_statistic: float | None = None


class LabelLag(Record, frozen=True, kw_only=True):
    """How many predictions had their label within a lag, of those that are at least so old."""

    lag_seconds: float
    predictions: int
    labelled: int
    share: float | None
    """None while no prediction is so old."""


class EstimatedMetric(Record, frozen=True, kw_only=True):
    """A metric that is expected, before the labels are there."""

    value: float
    low: float
    """Of the interval that holds 95 of 100 figures of labels drawn from the scores."""
    high: float


class LivePerformance(Record, frozen=True, kw_only=True):
    """How one version in one role did, by the labels that are known so far; a prediction without one says nothing."""

    model: str
    version: int
    role: ServeRole
    label_set: str
    segment: str = ""
    """`KEY=VALUE` of those predictions; empty: of all."""
    start: datetime | None = None
    """Of the span of domain time that the predictions are of; None: since the first."""
    end: datetime | None = None
    predictions: int
    labelled: int
    coverage: float
    """Share of the predictions that have a label."""
    sample: float = 1.0
    """Share of the predictions that the log kept, as the model's sampling says: all else here is of those."""
    tied: int = 0
    """Predictions whose label waits for a review."""
    maturity: tuple[LabelLag, ...] = ()
    metrics: dict[str, float | None] = {}
    """By the kind of label: auc, log_loss, brier, accuracy; mae, rmse, r2. None where there is none, as the AUC of one class."""
    measured: int = 0
    """Labelled predictions that the metrics are over: the newest, where there are very many."""
    training: dict[str, float] = {}
    """The same metrics as the version's run measured them."""
    estimated: dict[str, EstimatedMetric] = {}
    """Of a span of a classifier: the same metrics as its scores, labelled or not, let expect; empty below 100 of them."""


class EstimatedPerformance(Record, frozen=True, kw_only=True):
    """How well a classifier does by how sure it is of itself; right as long as its scores are probabilities."""

    model: str
    version: int
    predictions: int
    """Scored rows that it is over: the window of drift."""
    metrics: dict[str, EstimatedMetric] = {}
    """accuracy, auc, log_loss, brier; empty below 100 predictions."""
    training: dict[str, float] = {}
    """The same metrics as the version's run measured them."""
    at: datetime


class SkewResult(Record, frozen=True, kw_only=True):
    """How much of what a model was served of one feature is what the offline history says of the same moments."""

    model: str
    feature: str
    rows: int
    """Served values that could be computed anew."""
    equal: int
    share: float | None
    """Of equal values, 0 to 1; None when there are too few to say."""
    verdict: Literal["not_enough_data", "ok", "alert"]
    entity: dict[str, Any] | None = None
    """The latest that differs, with its moment, what was served and what the history says; numbers that JSON lacks as null."""
    moment: datetime | None = None
    served: float | None = None
    recomputed: float | None = None
    at: datetime


AlertState = Literal["pending", "firing", "resolved"]


class Alert(Record, frozen=True, kw_only=True):
    """A condition that a person should know of."""

    id: str
    name: str
    labels: dict[str, str]
    state: AlertState
    summary: str
    value: float | None
    fired_at: datetime
    """Of one that is pending: since when its condition holds."""
    resolved_at: datetime | None = None


class Silence(Record, frozen=True, kw_only=True):
    """Alerts that nobody is told of for a while."""

    id: str
    labels: dict[str, str]
    """Those that an alert must have; `alertname` is its name."""
    author: str
    reason: str
    created_at: datetime
    expires_at: datetime
    """Domain time, as the beginning is."""


class AlertGroup(Record, frozen=True, kw_only=True):
    """The alerts of one model, or of one view, that fire: what a person reads first."""

    kind: Literal["model", "view", "other"]
    name: str
    """The model's, or the view's."""
    firing: int
    counts: dict[str, int]
    """How many there are of each alert, the worst kind first."""
    worst: Alert
    since: datetime
    """When the oldest of them fired, in domain time."""
    alerts: tuple[Alert, ...]
    """All of them, the worst first."""


HealthState = Literal["bad", "warn", "unknown", "ok"]
"""From worst to best; unknown where nothing could be said yet."""
HealthName = Literal["drift", "data quality", "skew", "performance", "concept", "alerts"]


class HealthArea(Record, frozen=True, kw_only=True):
    """One thing that is watched of a model."""

    name: HealthName
    state: HealthState
    words: str


class ModelHealth(Record, frozen=True, kw_only=True):
    """How a model in Production does, in one place."""

    model: str
    version: int
    state: HealthState
    """The worst of its areas."""
    checked_at: datetime | None
    """When it was checked for drift, in domain time."""
    measured_at: datetime | None = None
    """When performance and concept were measured, in real time."""
    firing: int
    worst_feature: str | None = None
    worst_statistic: float | None = None
    areas: tuple[HealthArea, ...]


class ConceptResult(Record, frozen=True, kw_only=True):
    """Whether a version errs otherwise on its newest labelled predictions than on those before, and whether inputs explain it."""

    model: str
    version: int
    label_set: str
    before_rows: int
    now_rows: int
    before_error: float | None
    """Mean squared error of the score against the label: Brier's score where that is 0 or 1."""
    now_error: float | None
    z: float | None
    """Of the difference, by Welch; None without enough labels."""
    inputs: Literal["moved", "same", "unknown"]
    """By the last check for drift."""
    verdict: Literal["not_enough_data", "ok", "improved", "concept_drift", "inputs_moved"]


class BusinessNumber(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came of a prediction, or of a time: revenue, minutes saved, complaints."""

    name: str
    value: float
    prediction_id: str | None = None
    at: str | None = None
    """A moment of domain time with its zone; by default now. A prediction has its own."""
    version: int | None = None
    """Of a number by time; by default the version that was in Production then."""


class PostedNumbers(Record, frozen=True, kw_only=True):
    """What became of the numbers that were sent."""

    rows: int
    """Kept; one that was sent before for the same prediction, or the same version and time, is replaced."""
    unknown: int
    """Not kept, because the prediction log has no such prediction: it was dropped, or is gone."""
    unknown_ids: tuple[str, ...] = ()
    """The first of them."""


class BusinessPoint(Record, frozen=True, kw_only=True):
    """A span of a series."""

    start: datetime
    count: int
    mean: float
    total: float


class BusinessSeries(Record, frozen=True, kw_only=True):
    """One number of one version, over all and by span of domain time."""

    model: str
    name: str
    version: int
    count: int
    total: float
    mean: float
    low: float | None
    """Of the interval that the true mean is in, 95 of 100 times; None of one number."""
    high: float | None
    first: datetime
    last: datetime
    every_seconds: float
    points: tuple[BusinessPoint, ...] = ()


class DomainFeature(Record, frozen=True, kw_only=True):
    """By how much worse the sides are told apart where this feature's values are shuffled."""

    feature: str
    importance: float


class DomainResult(Record, frozen=True, kw_only=True):
    """How well a classifier tells what was served from what was learned from, all features together."""

    model: str
    version: int
    rows: int
    """Of either side."""
    auc: float
    """Of rows that it did not learn from: 0.5 where nothing tells them apart."""
    low: float
    """Of the interval of 95 %."""
    high: float
    verdict: Literal["same", "apart"]
    """Apart where `low` is above 0.55."""
    features: tuple[DomainFeature, ...]
    """Those that tell most."""
    since: datetime | None
    at: datetime


class MonitorReport(Record, frozen=True, kw_only=True):
    """All that is known of a model over a window of domain time."""

    model: str
    version: int
    since: datetime
    until: datetime
    health: ModelHealth
    drift: tuple[DriftResult, ...]
    """Of the window, the largest statistic first."""
    performance: tuple[LivePerformance, ...]
    concept: ConceptResult | None = None
    estimated: EstimatedPerformance | None = None
    skew: tuple[SkewResult, ...]
    business: tuple[BusinessSeries, ...]
    alerts: tuple[Alert, ...]


class WrittenRules(Record, frozen=True, kw_only=True):
    """The rules of alerts as they are written on the page, over those of the file."""

    text: str
    """TOML."""
    revision: int
    """0 where nothing was written yet."""
    by: str
    at: datetime | None
    file: str
    """That the setting alert_rules names; empty for none."""
    error: str
    """What is wrong with what is written, while the rules before it stay in force; empty where all is right."""


class ServedSpan(Record, frozen=True, kw_only=True):
    """What a version in one role was asked in a span of domain time."""

    model: str
    version: int
    role: ServeRole
    start: datetime
    predictions: int
    mean_score: float | None
    mean_latency_ms: float
    max_latency_ms: float
    sample: float = 1.0
    """Share of the predictions that the log kept, as the model's sampling says, and that are counted here."""
