"""Live performance: what the labels that are known so far say of the predictions, with how many they are beside each figure.

Metrics are scikit-learn's. Which ones follows from the label: of two classes (BOOL, or two named ones, the second of which is
the positive) AUC, log loss, Brier score and accuracy at 0.5; of more classes that are numbers, accuracy of the rounded score; of
a measure MAE, RMSE and R². A score that is no number, or a label that is none, is in none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import EstimatedMetric, LabelLag, LabelSet, LivePerformance, ModelVersion, ServeRole
from mlbox.serve.monitoring.business import ROUND
from mlbox.serve.monitoring.estimate import estimate
from mlbox.serve.monitoring.outcomes import Joined, Outcomes
from mlbox.serve.predictions.cuts import MISSING, OTHERS, SEGMENTS, segmented
from mlbox.store.asking import asking
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.labels.history import LabelHistory
from mlbox.store.labels.labels import allowed
from mlbox.store.offline.offline import Offline, one, quote
from mlbox.store.offline.views import literal
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

LAGS = tuple(
    timedelta(**lag).total_seconds() for lag in ({"hours": 1}, {"days": 1}, {"days": 7}, {"days": 30}, {"days": 90})
)
MEASURED = 1_000_000
"""Labelled predictions of a group that its metrics are over at most: the newest."""
MAX_SPANS = 1000
SPANS = 60
"""Spans that a picture has at most, where nobody says how long they are."""
ESTIMATED = 2000
"""Scores of a span that its expected metrics are over at most: the newest."""
REMEMBERED = 4096
Measured = tuple[dict[str, float | None], int]
"""Metrics, and over how many predictions."""
TAG = "label_set"
"""The tag of a model that names its label set, where its dataset does not."""


class _Group(NamedTuple):
    """Predictions of one version in one role, and of one span of time where those are asked for, with their counts."""

    version: int
    role: ServeRole
    span: int | None
    segment: str | None
    predictions: int
    labelled: int
    tied: int
    sample: float
    content: int
    """The same as long as its scores and labels are."""
    lags: tuple[tuple[int, int], ...]
    """For each lag: how many are so old, and how many of those had a label by then."""


class _Figures(NamedTuple):
    """What is measured of a group, and what is expected of a span's."""

    measured: Measured
    estimated: dict[str, EstimatedMetric] = {}


class _By(NamedTuple):
    """What predictions are cut by: an expression, and the rows that it takes from elsewhere."""

    sql: str
    join: str = ""
    rows: pa.Table | None = None

    def on(self, cursor: Cursor) -> Cursor:
        """The same cursor, which has those rows now."""
        return cursor if self.rows is None else cursor.register("segmented", self.rows)


class Performance:
    """Live performance of models. `reference` has the training values of a model in Production; nothing where it has none."""

    def __init__(
        self,
        outcomes: Outcomes,
        offline: Offline,
        registry: Registry,
        datasets: Datasets,
        labels: LabelHistory,
        clock: Clock,
        *,
        reference: Callable[[str], Mapping[str, np.ndarray]] = lambda model: {},
    ) -> None:
        self._outcomes = outcomes
        self._reference = reference
        self._offline = offline
        self._registry = registry
        self._datasets = datasets
        self._labels = labels
        self._clock = clock
        self._measured: dict[tuple[object, ...], _Figures] = {}
        """By what they were computed from: pages ask for the same ones again and again, and the past seldom changes."""

    def label_set(self, model: str) -> str:
        """A model's label set: that of its tag, or of the dataset of the version in Production, or of the newest with one.

        Raises NotFound where there is none.
        """
        found = self._registry.model(model)
        if TAG in found.tags:
            return found.tags[TAG]
        serving = self._registry.by_stage(model, "Production")
        for version in [*([serving] if serving else []), *self._registry.versions(model)]:
            dataset = self._dataset_labels(version)
            if dataset is not None:
                return dataset
        raise NotFound(
            f"No label set of {model} is known: no version names a dataset with labels.",
            hint=f"Name one, or give the model a tag {TAG!r} that does.",
            field="labels",
        )

    def sees(self, label_set: str) -> bool:
        """Whether whoever asks may know what is measured by a label set."""
        return self._labels.visible(label_set)

    def _dataset_labels(self, version: ModelVersion) -> str | None:
        if version.dataset is None:
            return None
        try:
            with asking(None):
                return self._datasets.version(version.dataset).label_set
        except NotFound:  # it was removed since
            return None

    def measure(
        self,
        model: str,
        *,
        labels: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        every: timedelta | None = None,
        segment: str | None = None,
    ) -> list[LivePerformance]:
        """Of every version and role that predicted: counts, coverage, maturity and metrics.

        Of predictions from `since` to before `until`, in domain time; with `every`, of each span of that length by itself, from
        the oldest; with `segment`, a key or a feature, of each of its segments by itself (see `cuts`). Raises NotFound
        for a model without a label set.
        """
        self._registry.see(model)
        found = self._labels.declared(labels or self.label_set(model))
        if every is not None and every < timedelta(seconds=1):
            raise InvalidInput("A span is shorter than a second.", hint="An hour is 3600.", field="every")
        for field, moment in (("since", since), ("until", until)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInput(f"{field} has no time zone.", hint="Write it with an offset or a Z.", field=field)
        tables = self._outcomes.join(model, found)
        by = self._by(model, found, tables, segment, since, until)
        where = " AND ".join(
            [
                *([f"asked._at >= {literal(since)}"] if since else []),
                *([f"asked._at < {literal(until)}"] if until else []),
            ]
        )
        joined = (
            f"SELECT asked._version, asked._role, {_span(every)} AS _span, {by.sql} AS _segment,"
            " asked._at, asked._score, met._value, met._first, met._tied, asked._id, asked._share"
            f" FROM {tables.asked} asked LEFT JOIN {tables.met} met USING (_id){by.join} WHERE {where or 'true'}"
        )
        groups = self._offline.read(lambda cursor: self._groups(by.on(cursor), joined))
        trained = {version.version: version.metrics for version in self._registry.versions(model)}
        return [
            self._result(model, found, group, every, segment, self._figures(found, tables, joined, by, group), trained)
            for group in groups
        ]

    def over_time(self, model: str) -> list[LivePerformance]:
        """The same by spans of one round length, all that were predicted in, with what is expected of classifiers beside it."""
        self._registry.see(model)
        found = self._labels.declared(self.label_set(model))
        tables = self._outcomes.join(model, found)
        ends = f"SELECT epoch_us(min(_at)), epoch_us(max(_at)) FROM {tables.asked}"
        row = self._offline.read(lambda cursor: one(cursor, ends))
        if row is None or row[0] is None:
            return []
        width = next((width for width in ROUND if (row[1] - row[0]) / width <= SPANS), ROUND[-1])
        return self.measure(model, every=timedelta(microseconds=width))

    def _by(
        self,
        model: str,
        labels: LabelSet,
        tables: Joined,
        segment: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> _By:
        """What predictions are cut by; raises InvalidInput for what none of them has."""
        if segment is None:
            return _By("NULL::VARCHAR")
        if segment in [key.name for key in labels.keys]:
            return _by_key(tables, segment)
        rows = segmented(
            self._outcomes.predictions,
            model,
            segment,
            reference=self._reference(model),
            since=since,
            until=until,
        )
        missing = f"coalesce(segmented._segment, '{MISSING}')"
        return _By(missing, " LEFT JOIN segmented ON segmented._id = asked._id", rows)

    def _groups(self, cursor: Cursor, joined: str) -> list[_Group]:
        now = literal(self._clock.now())
        lags = ", ".join(
            f"count(*) FILTER (_at <= {now} - to_seconds({lag})), count(*) FILTER (_at <= {now} - to_seconds({lag})"
            f" AND _tied IS false AND _first <= _at + to_seconds({lag}))"
            for lag in LAGS
        )
        rows = cursor.execute(
            "SELECT _version, _role, _span, _segment, count(*), count(*) FILTER (_tied IS false), count(*) FILTER (_tied),"
            " count(*) / sum(1 / coalesce(_share, 1)), coalesce(bit_xor(hash(_id, _score, _value, _tied)), 0),"
            f" {lags} FROM ({joined})"
            " GROUP BY _version, _role, _span, _segment"
            f" ORDER BY _version DESC, _role, _span, count(*) DESC, _segment LIMIT {MAX_SPANS + 1}"
        ).fetchall()
        if len(rows) > MAX_SPANS:
            raise InvalidInput(
                f"These are more than {MAX_SPANS:,} spans.", hint="Ask for longer ones, or give `since`.", field="every"
            )
        return [_Group._make((*row[:9], tuple(zip(row[9::2], row[10::2], strict=True)))) for row in rows]

    def _figures(self, labels: LabelSet, tables: Joined, joined: str, by: _By, group: _Group) -> _Figures:
        key = (tables.asked, labels.classes, group[:4], group.content)
        known = self._measured.get(key)
        if known is None:
            known = self._offline.read(lambda cursor: _read(by.on(cursor), joined, labels, group))
            if len(self._measured) >= REMEMBERED:
                self._measured.clear()
            self._measured[key] = known
        return known

    def _result(
        self,
        model: str,
        labels: LabelSet,
        group: _Group,
        every: timedelta | None,
        segment: str | None,
        figures: _Figures,
        trained: dict[int, dict[str, float]],
    ) -> LivePerformance:
        found, rows = figures.measured
        return LivePerformance(
            model=model,
            version=group.version,
            role=group.role,
            label_set=labels.name,
            segment="" if segment is None else f"{segment}={group.segment}",
            start=None if every is None else _from(group.span, every),
            end=None if every is None else _from(group.span, every) + every,
            predictions=group.predictions,
            labelled=group.labelled,
            coverage=group.labelled / group.predictions,
            sample=group.sample,
            tied=group.tied,
            maturity=tuple(
                LabelLag(lag_seconds=lag, predictions=old, labelled=had, share=had / old if old else None)
                for lag, (old, had) in zip(LAGS, group.lags, strict=True)
            ),
            metrics=found,
            measured=rows,
            training={name: value for name, value in trained.get(group.version, {}).items() if name in found},
            estimated=figures.estimated,
        )


def _span(every: timedelta | None) -> str:
    if every is None:
        return "NULL::BIGINT"
    return f"(epoch_us(asked._at) // {every // timedelta(microseconds=1)})::BIGINT"


def _by_key(tables: Joined, key: str) -> _By:
    """By the value of a key of the label set as text, of the most frequent ones."""
    name = quote(key)
    top = (
        f"SELECT {name} FROM {tables.asked} WHERE {name} IS NOT NULL GROUP BY {name}"
        f" ORDER BY count(*) DESC, {name} LIMIT {SEGMENTS}"
    )
    return _By(f"CASE WHEN asked.{name} IN ({top}) THEN CAST(asked.{name} AS VARCHAR) ELSE '{OTHERS}' END")


def _from(span: int | None, every: timedelta) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + (span or 0) * every


def _read(cursor: Cursor, joined: str, labels: LabelSet, group: _Group) -> _Figures:
    """The metrics of a group's newest labelled predictions; of a span also what all its newest scores let expect."""
    span = "" if group.span is None else f" AND _span = {group.span}"
    given: list[object] = [group.version, group.role]
    if group.segment is not None:
        span += " AND _segment = ?"
        given.append(group.segment)
    rows = f"FROM ({joined}) WHERE _version = ? AND _role = ?{span} AND isfinite(_score)"
    measured = metrics_of(labels, (), ())
    if group.labelled:
        sql = f"SELECT _score, _value {rows} AND _tied IS false ORDER BY _at DESC, _id DESC LIMIT {MEASURED}"
        found = cursor.execute(sql, given).fetchnumpy()
        measured = metrics_of(labels, found["_score"], found["_value"])
    if group.span is None or positive_of(labels) is None:
        return _Figures(measured)
    newest = cursor.execute(f"SELECT _score {rows} ORDER BY _at DESC, _id DESC LIMIT {ESTIMATED}", given).fetchnumpy()
    scores = newest["_score"]
    probable = bool(len(scores)) and scores.min() >= 0 and scores.max() <= 1
    return _Figures(measured, estimate(scores) if probable else {})


# -- metrics --------------------------------------------------------------------------------------------------------------------


def metrics_of(labels: LabelSet, scores: Any, truths: Any) -> Measured:
    """Metrics of scores [N] against labels [N], and of how many; the names are there even where there is no value."""
    import numpy as np

    score, truth = np.asarray(scores, dtype=np.float64), np.asarray(truths)
    positive = positive_of(labels)
    if positive is not None:
        return _binary(score, truth == positive), len(score)
    if labels.value.dtype == "STRING":
        return {}, 0
    if labels.classes:
        return {"accuracy": float((np.rint(score) == truth).mean()) if len(score) else None}, len(score)
    return _measure(score, truth.astype(np.float64)), len(score)


def positive_of(labels: LabelSet) -> Any:
    """Which of two classes the score is the probability of; None where there are others than two."""
    if labels.value.dtype == "BOOL":
        return True
    return allowed(labels)[1] if len(labels.classes) == 2 else None


def _binary(score: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    from sklearn import metrics

    both = len(truth) > 0 and truth.any() and not truth.all()
    probable = len(score) > 0 and score.min() >= 0 and score.max() <= 1
    return {
        "auc": float(metrics.roc_auc_score(truth, score)) if both else None,
        "log_loss": float(metrics.log_loss(truth, score, labels=[False, True])) if probable else None,
        "brier": float(metrics.brier_score_loss(truth, score, labels=[False, True])) if probable else None,
        "accuracy": float(metrics.accuracy_score(truth, score > 0.5)) if probable else None,
    }


def _measure(score: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    from sklearn import metrics

    if not len(score):
        return {"mae": None, "rmse": None, "r2": None}
    varies = len(truth) > 1 and truth.min() < truth.max()
    return {
        "mae": float(metrics.mean_absolute_error(truth, score)),
        "rmse": float(metrics.root_mean_squared_error(truth, score)),
        "r2": float(metrics.r2_score(truth, score)) if varies else None,
    }
