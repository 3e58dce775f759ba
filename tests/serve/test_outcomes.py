"""Predictions meet labels whenever those arrive; the join against a plain loop, and what the figures say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import Column, LabelSet, LabelSource, LivePerformance, Prediction, ServeRole
from mlbox.serve.monitoring.outcomes import Outcomes
from mlbox.serve.monitoring.performance import LAGS, Performance, metrics_of
from mlbox.serve.predictions.files import MERGE_AT
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.labels.history import resolved_table
from mlbox.store.registry.registry import NewVersion, Registry
from tests.serve.batches import batches
from tests.store.test_datasets import START, USER, moment
from tests.store.test_datasets import House as DataHouse

SOURCES = (
    LabelSource(name="vet", kind="annotation"),
    LabelSource(name="owner"),
    LabelSource(name="bot", kind="suggestion"),
)
SET = LabelSet(
    name="gone",
    keys=(USER,),
    value=Column(name="gone", dtype="INT64"),
    classes=(0, 1),
    sources=SOURCES,
    policy="majority",
)


class House(DataHouse):
    def more(self, folder: Path) -> None:
        self.dbs.append(Database(folder / "registry.sqlite", migrations.registry, self.clock, self.bus))
        self.registry = Registry(self.dbs[-1])
        self.log = PredictionLog(folder / "predictions", flush_seconds=3600)
        self.outcomes = Outcomes(self.offline, self.labels, self.log)
        self.performance = Performance(
            self.outcomes, self.offline, self.registry, self.datasets, self.labels, self.clock
        )

    def predict(
        self,
        model: str,
        who: Any,
        *,
        version: int = 1,
        role: ServeRole = "champion",
        score: float | None = 0.5,
        **ids: Any,
    ) -> str:
        row = Prediction(
            id=new_id(),
            model=model,
            version=version,
            role=role,
            at=self.clock.real(),
            domain_at=self.clock.now(),
            caller="carl",
            entity={"who": who, **ids},
            features={"spend@v1:amount": 1.0},
            score=score,
            latency_ms=1.0,
        )
        self.log.put(batches([row]))
        return row.id

    def say(self, name: str, who: str, event: datetime, value: Any, source: str = "owner", **more: Any) -> None:
        row = {"who": who, "event_time": event.isoformat(), self.labels.declared(name).value.name: value, **more}
        self.labels.append_rows(name, [row], source=source, actor="ann")

    def close(self) -> None:
        self.log.close()
        super().close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    built = House(tmp_path_factory.mktemp("shared"))
    yield built
    built.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    built.labels.apply(SET, actor="ann")
    built.registry.create_model("churn", actor="ann")
    built.clock.advance(moment(1000))
    yield built
    built.close()


# -- the join -------------------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    who: str
    said: int | None
    """The event that it says it is about, seconds from now."""
    version: int


class Told(NamedTuple):
    who: str
    event: int
    """Seconds from now, and not above 0."""
    value: int
    source: str
    id: str | None
    names: int | None
    """Which prediction it names."""
    claimed: int | None
    """Of a backfill."""


asked = st.builds(Asked, st.sampled_from("abc"), st.sampled_from([None, None, -3, 0, 2]), st.integers(1, 2))
told = st.builds(
    Told,
    who=st.sampled_from("abc"),
    event=st.integers(-8, 0),
    value=st.integers(0, 1),
    source=st.sampled_from(["vet", "owner", "owner", "bot"]),
    id=st.sampled_from([None, None, "1", "2"]),
    names=st.one_of(st.none(), st.none(), st.integers(0, 5)),
    claimed=st.sampled_from([None, None, None, -1]),
)
OTHER = st.sampled_from(["look", "flush", "merge", "latest", "horizon"])
steps = st.lists(st.tuples(st.integers(0, 3), st.one_of(asked, told, OTHER)), min_size=1, max_size=16)


def by_hand(house: House, labels: LabelSet, rows: list[Prediction]) -> dict[str, tuple[Any, bool]]:
    """By prediction: the label that it has and whether that is tied, by the rule of `outcomes` in a plain loop."""
    kept = house.offline.rows(
        f'SELECT who, event_time, _source, _id, _prediction, _seq FROM "label:{labels.name}" ORDER BY _seq'
    )
    last = {(row[2], row[3]): row for row in kept}
    naming = {row[4]: (row[0], row[1]) for row in sorted(last.values(), key=lambda r: r[5]) if row[2] != "bot"}
    resolved = house.offline.read(
        lambda c: c.execute(house.labels.resolved_sql(c, labels, house.clock.now())).fetchall()
    )
    items = {(who, event): (None if tied else value, tied) for who, event, value, _, tied in resolved}
    found = {}
    for row in rows:
        item: Any = naming.get(row.id)
        who, at, said = row.entity["who"], row.domain_at.replace(tzinfo=None), row.entity.get("event_time")
        if item is None and said is not None:
            item = (who, datetime.fromisoformat(said).replace(tzinfo=None))
        elif item is None:
            later = [event for name, event in items if name == who and event >= at]
            item = (who, min(later)) if later else None
            horizon = labels.horizon_seconds
            if item is not None and horizon is not None and item[1] - at > timedelta(seconds=horizon):
                item = None
        if item in items:
            found[row.id] = items[item]
    return found


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_the_join_is_what_a_plain_loop_says(shared: House, steps: list[tuple[int, Any]]) -> None:
    """In whatever order predictions, labels, corrections, ties, backfills and looks come, and however files are merged."""
    number = len(shared.labels.sets())
    model = name = f"m{number}"
    shared.labels.apply(msgspec.structs.replace(SET, name=name), actor="ann")
    shared.clock.advance(shared.clock.now() + timedelta(seconds=20))
    ids: list[str] = []
    for wait, what in steps:
        now = shared.clock.now() + timedelta(seconds=wait)
        shared.clock.advance(now)
        if isinstance(what, Asked):
            more = {} if what.said is None else {"event_time": (now + timedelta(seconds=what.said)).isoformat()}
            ids.append(shared.predict(model, what.who, version=what.version, **more))
        elif isinstance(what, Told):
            _tell(shared, name, what, now, ids)
        else:
            _do(shared, model, what)
    labels = shared.labels.declared(name)
    tables = shared.outcomes.join(model, labels)
    rows = shared.log.recent(model, 1000)
    met = shared.offline.rows(f"SELECT _id, _value, _tied FROM {tables.met}")
    assert sorted(r[0] for r in shared.offline.rows(f"SELECT _id FROM {tables.asked}")) == sorted(ids)
    assert {key: (value, tied) for key, value, tied in met} == by_hand(shared, labels, rows)
    assert len(met) == len({row[0] for row in met})


def _tell(house: House, name: str, what: Told, now: datetime, ids: list[str]) -> None:
    event = now + timedelta(seconds=what.event)
    row: dict[str, Any] = {"who": what.who, "event_time": event.isoformat(), "gone": what.value, "id": what.id}
    if what.names is not None and what.names < len(ids):
        row["prediction_id"] = ids[what.names]
    if what.claimed is None or what.event > what.claimed:
        house.labels.append_rows(name, [row], source=what.source, actor="ann")
        return
    import pyarrow as pa

    row["known_at"] = (now + timedelta(seconds=what.claimed)).isoformat()
    for column in ("event_time", "known_at"):
        row[column] = datetime.fromisoformat(row[column])
    table = pa.table({column: [value] for column, value in row.items()})
    house.labels.append(name, table, source=what.source, backfill=True, actor="ann")


def _do(house: House, model: str, what: str) -> None:
    labels = house.labels.declared(model)
    if what == "look":
        house.outcomes.join(model, labels)
    elif what == "flush":
        house.log.flush()
    elif what == "merge":
        for _ in range(MERGE_AT):
            house.log.flush()
    else:
        change = {"policy": "latest"} if what == "latest" else {"horizon_seconds": 2.0}
        house.labels.apply(msgspec.structs.replace(labels, **change), actor="ann")  # type: ignore[arg-type]


def test_files_that_are_merged_between_looks_bring_no_row_twice(house: House) -> None:
    labels = house.labels.declared("gone")
    for number in range(3 * MERGE_AT):
        house.predict("churn", f"p{number}", version=1 + number % 2)
        house.log.flush()
        if number % 10 == 0:
            house.outcomes.join("churn", labels)
    tables = house.outcomes.join("churn", labels)
    assert house.offline.rows(f"SELECT count(*), count(DISTINCT _id) FROM {tables.asked}") == [(96, 96)]


def test_looking_again_reads_nothing_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = house.labels.declared("gone")
    house.predict("churn", "a")
    house.outcomes.join("churn", labels)
    before = house.offline.rows('SELECT * FROM "state:outcome"')
    taken: list[int] = []
    monkeypatch.setattr(house.outcomes, "_take", lambda *_, **more: taken.append(more["state"].number))
    house.outcomes.join("churn", labels)
    assert (taken, house.offline.rows('SELECT * FROM "state:outcome"')) == ([], before)


def test_a_row_that_names_no_key_or_an_odd_one_meets_nothing(house: House) -> None:
    house.predict("churn", None)
    house.predict("churn", 7)
    house.predict("churn", "a", event_time="soon")
    house.say("gone", "a", house.clock.now(), 1)
    (found,) = house.performance.measure("churn", labels="gone")
    assert (found.predictions, found.labelled) == (3, 1), "what says nothing of its event means the next one"


# -- the figures ----------------------------------------------------------------------------------------------------------------


def test_an_unlabelled_prediction_is_not_a_negative_one(house: House) -> None:
    for number in range(10):
        house.predict("churn", f"p{number}", score=number / 10)
    for number, value in ((0, 0), (3, 0), (5, 1), (9, 1)):
        house.say("gone", f"p{number}", house.clock.now(), value)
    house.say("gone", "p1", house.clock.now(), 0)
    house.say("gone", "p1", house.clock.now(), 1, source="vet")
    (found,) = house.performance.measure("churn", labels="gone")
    assert (found.predictions, found.labelled, found.coverage, found.tied, found.measured) == (10, 4, 0.4, 1, 4)
    truth, score = [0, 0, 1, 1], [0.0, 0.3, 0.5, 0.9]
    assert found.metrics == pytest.approx(
        {
            "auc": metrics.roc_auc_score(truth, score),
            "log_loss": metrics.log_loss(truth, score),
            "brier": metrics.brier_score_loss(truth, score),
            "accuracy": 0.75,
        }
    )


def test_a_label_may_come_years_later_and_may_be_corrected(house: House) -> None:
    named = house.predict("churn", "zoe", score=0.9)
    assert _only(house).labelled == 0
    event = house.clock.now()
    house.clock.advance(event + timedelta(days=900))
    house.say("gone", "someone-else", event, 0, id="7", prediction_id=named)
    assert (_only(house).labelled, _only(house).metrics["accuracy"]) == (1, 0.0)
    house.say("gone", "someone-else", event, 1, id="7", prediction_id=named)
    assert _only(house).metrics["accuracy"] == 1.0
    house.say("gone", "someone-else", event, 1, id="7")
    assert _only(house).labelled == 0, "it does not name the prediction any more"


def _only(house: House) -> LivePerformance:
    (found,) = house.performance.measure("churn", labels="gone")
    return found


def test_maturity_counts_only_what_is_old_enough(house: House) -> None:
    begin = house.clock.now()
    for number in range(4):
        house.predict("churn", f"p{number}")
    house.say("gone", "p0", begin, 1)
    house.clock.advance(begin + timedelta(hours=2))
    house.say("gone", "p1", begin, 1)
    house.clock.advance(begin + timedelta(days=3))
    house.say("gone", "p2", begin, 1)
    house.predict("churn", "p9")
    found = _only(house)
    assert [lag.lag_seconds for lag in found.maturity] == list(LAGS)
    assert [(lag.predictions, lag.labelled) for lag in found.maturity] == [(4, 1), (4, 2), (0, 0), (0, 0), (0, 0)]
    assert [lag.share for lag in found.maturity] == [0.25, 0.5, None, None, None]


def test_versions_roles_and_spans_are_apart(house: House) -> None:
    begin = house.clock.now()
    for day in range(3):
        house.clock.advance(begin + timedelta(days=day))
        house.predict("churn", f"a{day}", version=1, score=0.2)
        house.predict("churn", f"a{day}", version=2, role="shadow", score=0.8)
        house.say("gone", f"a{day}", house.clock.now(), 1)
    found = house.performance.measure("churn", labels="gone")
    assert [(f.version, f.role, f.predictions, f.metrics["accuracy"]) for f in found] == [
        *((2, "shadow", 3, 1.0), (1, "champion", 3, 0.0))
    ]
    days = house.performance.measure("churn", labels="gone", every=timedelta(days=1), since=begin + timedelta(days=1))
    assert [(f.version, f.start, f.predictions) for f in days] == [
        (version, START + timedelta(days=day), 1) for version in (2, 1) for day in (1, 2)
    ]
    assert all(f.end == f.start + timedelta(days=1) for f in days if f.start)
    with pytest.raises(InvalidInput, match="shorter than a second"):
        house.performance.measure("churn", labels="gone", every=timedelta(milliseconds=1))


def test_the_label_set_is_that_of_the_data_or_is_named(house: House) -> None:
    with pytest.raises(NotFound, match="No label set of churn"):
        house.performance.measure("churn")
    house.fill(until=2000)
    made = house.datasets.create(_spec(), actor="ann")
    house.registry.register(
        NewVersion(
            model="churn",
            dataset=made.ref,
            features=("spend@v1:amount",),
            trained_by="ann",
            submitted_by="ann",
            metrics={"auc": 0.7, "epochs": 3.0},
        )
    )
    assert house.performance.label_set("churn") == "left"
    house.predict("churn", "a")
    (found,) = house.performance.measure("churn")
    assert (found.label_set, found.training) == ("left", {}), "`left` has no two classes: the metrics are a measure's"
    (found,) = house.performance.measure("churn", labels="gone")
    assert found.training == {"auc": 0.7}
    with pytest.raises(NotFound, match="no label set"):
        house.performance.measure("churn", labels="nothing")


def _spec() -> Any:
    from tests.store.test_datasets import SPEC

    return SPEC


@pytest.mark.parametrize(
    ("value", "classes", "scores", "truths", "expected"),
    [
        ("BOOL", (), [0.1, 0.9], [False, True], {"auc": 1.0, "accuracy": 1.0}),
        ("STRING", ("no", "yes"), [0.1, 0.9, 0.4], ["yes", "yes", "no"], {"auc": 0.5}),
        ("STRING", ("a", "b", "c"), [0.1], ["a"], {}),
        ("INT64", (0, 1, 2), [0.2, 1.1, 1.0], [0, 1, 2], {"accuracy": 2 / 3}),
        ("FP64", (), [1.0, 2.0], [1.5, 2.5], {"mae": 0.5, "rmse": 0.5, "r2": 0.0}),
        ("FP64", (), [1.0], [1.0], {"mae": 0.0, "r2": None}),
        ("BOOL", (), [0.5, 0.7], [True, True], {"auc": None, "accuracy": 0.5}),
        ("BOOL", (), [-3.0, 4.0], [False, True], {"auc": 1.0, "log_loss": None, "accuracy": None}),
        ("BOOL", (), [], [], {"auc": None, "log_loss": None, "brier": None, "accuracy": None}),
        ("FP64", (), [], [], {"mae": None, "rmse": None, "r2": None}),
    ],
)
def test_metrics_follow_from_the_label(value: Any, classes: Any, scores: Any, truths: Any, expected: Any) -> None:
    labels = LabelSet(name="x", keys=(USER,), value=Column(name="v", dtype=value), classes=classes)
    found, _ = metrics_of(labels, np.array(scores), np.array(truths))
    assert found.keys() >= expected.keys()
    assert bool(found) == bool(expected)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_score_that_is_no_number_is_in_no_metric(house: House) -> None:
    for number, score in enumerate((0.9, math.nan, None)):
        house.predict("churn", f"p{number}", score=score)
        house.say("gone", f"p{number}", house.clock.now(), 1)
    found = _only(house)
    assert (found.labelled, found.measured, found.metrics["accuracy"]) == (3, 1, 1.0)


def test_a_table_of_what_counted_is_there_before_the_first_label(house: House) -> None:
    house.predict("churn", "a")
    assert _only(house).labelled == 0
    assert house.offline.rows(f"SELECT count(*) FROM {resolved_table('gone')}") == [(0,)]
