"""Drift over any time and by segment, exact p-values, the domain classifier, and reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from mlbox.clock import parse_time
from mlbox.ids import new_id
from mlbox.records import Column, GateResult, LabelSet, MonitorReport
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.serve.predictions.batches import Batch
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.web.site import Site, open_box

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("spans") / "data")
    yield opened
    opened.close()


def asked(box: Box, path: str) -> httpx.Response:
    secret = box.access.create_token("admin", "test", actor="admin")[1]
    return Site(box, user="").request("GET", f"/api/v1/{path}", headers={"Authorization": f"Bearer {secret}"})


def learned(box: Box, model: str, columns: Columns) -> None:
    """A version in Production that learned from these columns."""
    reference = store_reference(box.artifacts, make_reference(pa.table(columns), list(columns)))
    version = box.registry.register(
        NewVersion(model=model, features=tuple(columns), reference=reference, trained_by="ann", submitted_by="ann")
    )
    gate = GateResult(gate="size", passed=True, required="x", measured="x", at=box.clock.real())
    promotion = box.promotions.record_gates(box.promotions.propose(version, actor="ann").id, [gate])
    box.promotions.decide(promotion.id, approver="bea", decision="approve")


def served(box: Box, model: str, columns: Columns, entities: list[dict[str, Any]] | None = None) -> list[str]:
    rows = len(next(iter(columns.values())))
    ids = [new_id() for _ in range(rows)]
    batch = Batch(
        model=model,
        version=1,
        role="champion",
        at=box.clock.real(),
        domain_at=box.clock.now(),
        caller="carl",
        latency_ms=1.0,
        ids=ids,
        scores=np.linspace(0.1, 0.9, rows).tolist(),
        names=tuple(columns),
        values=np.stack(list(columns.values()), axis=1),
        entities=entities or (),
    )
    box.predictions.put([batch])
    return ids


@pytest.fixture(scope="module")
def seasons(box: Box) -> Columns:
    """A model whose first 200 rows are ten days old and far off, and whose next 300 are like its training."""
    rng = np.random.default_rng(0)
    training = {"v@v1:a": rng.normal(size=600), "v@v1:kind": rng.integers(0, 3, 600).astype(float)}
    learned(box, "seasons", training)
    served(box, "seasons", {"v@v1:a": np.full(200, 9.0), "v@v1:kind": np.zeros(200)})
    box.advance(box.clock.now() + timedelta(days=10), actor="admin")
    recent = {"v@v1:a": rng.normal(size=300), "v@v1:kind": rng.integers(0, 3, 300).astype(float)}
    served(box, "seasons", recent)
    return training | {f"recent {name}": values for name, values in recent.items()}


def test_a_window_by_time_holds_what_was_served_in_it(box: Box, seasons: Columns) -> None:
    def verdicts(query: str) -> dict[str, tuple[str, int]]:
        found = asked(box, f"monitoring/seasons/drift?{query}").json()
        return {one["feature"]: (one["verdict"], one["current_rows"]) for one in found}

    assert verdicts("window_seconds=86400")["v@v1:a"] == ("ok", 300)
    assert verdicts("window_seconds=2000000")["v@v1:a"] == ("alert", 500)
    before = parse_time("2026-01-05T00:00Z").isoformat().replace("+00:00", "Z")
    assert verdicts(f"window_seconds=2000000&until={before}&feature=v@v1:a") == {"v@v1:a": ("alert", 200)}
    assert box.monitor.latest("seasons") == [], "nothing is kept of it"
    assert box.monitor.alerts() == []


def test_the_p_value_is_scipys_exact_one_where_that_is_asked_for(box: Box, seasons: Columns) -> None:
    query = "monitoring/seasons/drift?window_seconds=86400"
    found = {one["feature"]: one for one in asked(box, f"{query}&exact=true").json()}
    for name in ("v@v1:a", "v@v1:kind"):
        theirs = stats.ks_2samp(seasons[name], seasons[f"recent {name}"], method="exact")
        assert found[name]["statistic"] == pytest.approx(theirs.statistic, abs=1e-12)
        assert found[name]["p_value"] == pytest.approx(theirs.pvalue, rel=1e-9)
    usual = {one["feature"]: one for one in asked(box, query).json()}
    assert usual["v@v1:a"]["p_value"] != found["v@v1:a"]["p_value"]
    assert usual["v@v1:a"]["statistic"] == found["v@v1:a"]["statistic"]


def test_a_segment_is_compared_with_the_same_segment_of_training(box: Box) -> None:
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 4, 2000).astype(float)
    learned(box, "segments", {"v@v1:kind": kind, "v@v1:x": kind * 10 + rng.normal(size=2000)})
    now = rng.integers(0, 4, 2000).astype(float)
    moved = now * 10 + rng.normal(size=2000) + np.where(now == 2, 1.0, 0.0)
    served(box, "segments", {"v@v1:kind": now, "v@v1:x": moved})
    query = "monitoring/segments/drift?window_seconds=60&feature=v@v1:x"
    (whole,) = asked(box, query).json()
    assert whole["verdict"] in ("ok", "investigate"), "a quarter of the rows moved"
    by_segment = {one["segment"]: one["verdict"] for one in asked(box, f"{query}&segment=v@v1:kind").json()}
    assert by_segment == {f"v@v1:kind={n}": "alert" if n == 2 else "ok" for n in range(4)}


def test_a_classifier_sees_what_no_feature_by_itself_shows(box: Box) -> None:
    rng = np.random.default_rng(2)
    a, noise = rng.normal(size=1500), rng.normal(size=1500) / 10
    learned(box, "pairs", {"v@v1:a": a, "v@v1:b": a + noise})
    served(box, "pairs", {"v@v1:a": a, "v@v1:b": -a + noise})
    drift = asked(box, "monitoring/pairs/drift?window_seconds=60").json()
    assert {one["verdict"] for one in drift} == {"ok"}
    found = asked(box, "monitoring/pairs/domain?window_seconds=60").json()
    assert (found["verdict"], found["rows"]) == ("apart", 1500)
    assert found["low"] > 0.9
    assert {one["feature"] for one in found["features"]} == {"v@v1:a", "v@v1:b"}
    rng = np.random.default_rng(3)
    learned(box, "alike", {"v@v1:a": rng.normal(size=800), "v@v1:b": np.full(800, np.nan)})
    served(box, "alike", {"v@v1:a": np.append(rng.normal(size=799), np.inf), "v@v1:b": np.full(800, np.nan)})
    same = asked(box, "monitoring/alike/domain?window_seconds=60").json()
    assert same["verdict"] == "same"
    assert same["low"] < 0.5 + 0.05


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("drift?window_seconds=0", 400, "window_seconds"),
        ("drift?window_seconds=60&feature=none", 404, "feature"),
        ("drift?window_seconds=60&segment=none", 404, "segment"),
        ("drift?window_seconds=60&until=later", 400, "until"),
        ("report?window_seconds=60&format=pdf", 400, "format"),
    ],
)
def test_bad_input_names_its_field(box: Box, seasons: Columns, path: str, status: int, field: str) -> None:
    answer = asked(box, f"monitoring/seasons/{path}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert asked(box, f"monitoring/none/{path.partition('?')[0]}?window_seconds=60").status_code == 404


def test_too_few_rows_for_a_classifier_say_so(box: Box) -> None:
    learned(box, "few", {"v@v1:a": np.zeros(200)})
    answer = asked(box, "monitoring/few/domain?window_seconds=60")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "window_seconds")


def test_a_report_of_300_features_is_one_small_file(box: Box) -> None:
    rng = np.random.default_rng(4)
    names = [f"a_view_with_a_name@v1:feature_{n}<b>" for n in range(300)]
    learned(box, "wide", {name: rng.normal(size=300) for name in names})
    served(box, "wide", {name: rng.normal(size=200) + n / 100 for n, name in enumerate(names)})
    answer = asked(box, "monitoring/wide/report?window_seconds=604800&format=html")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert len(answer.content) < 1_000_000
    text = answer.text
    assert text.count("<svg ") == 300
    assert not re.search(r"(src|href)=|url\(|<script|@import", text), "it needs no other file"
    assert "<b>" not in text
    assert text.index("feature_299") < text.index("feature_0&lt;"), "the largest statistic first"


def test_a_report_as_json_has_all_of_it(box: Box, seasons: Columns) -> None:
    answer = asked(box, "monitoring/seasons/report?window_seconds=86400")
    found = msgspec.json.decode(answer.content, type=MonitorReport)
    assert (found.model, found.until - found.since, found.version) == ("seasons", timedelta(days=1), 1)
    assert {result.feature for result in found.drift} == {"v@v1:a", "v@v1:kind"}
    assert {area.name for area in found.health.areas} >= {"drift", "performance", "alerts"}
    assert asked(box, "monitoring/seasons/report?window_seconds=86400&format=html").status_code == 200


def test_live_metrics_by_a_key_of_the_labels(box: Box) -> None:
    keys = (Column(name="who", dtype="STRING"), Column(name="town", dtype="STRING"))
    box.labels.apply(LabelSet(name="late", keys=keys, value=Column(name="late", dtype="BOOL")), actor="ann")
    learned(box, "towns", {"v@v1:a": np.zeros(100)})
    box.curation.set_model_tag("towns", "label_set", "late", actor="ann")
    towns = [f"t{n % 25:02}" for n in range(50)] + ["big"] * 10
    entities = [{"who": f"p{n}", "town": town} for n, town in enumerate(towns)]
    ids = served(box, "towns", {"v@v1:a": np.zeros(60)}, entities)
    given = [{"prediction_id": own, "late": town == "big"} for own, town in zip(ids, towns, strict=True)]
    box.labels.append_rows("late", box.outcomes.complete(box.labels.declared("late"), given), source=None, actor="ann")
    found = asked(box, "monitoring/towns/performance?segment=town").json()
    by_segment = {one["segment"]: one for one in found}
    assert found[0]["segment"] in ("town=others", "town=big")
    assert len(found) == 21
    assert (by_segment["town=big"]["labelled"], by_segment["town=big"]["metrics"]["accuracy"]) == (10, 1.0)
    assert by_segment["town=others"]["predictions"] == 2 * (25 - 19)
    assert sum(one["predictions"] for one in found) == 60
    refused = asked(box, "monitoring/towns/performance?segment=colour")
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "segment")
    (whole,) = asked(box, "monitoring/towns/performance").json()
    assert (whole["segment"], whole["predictions"]) == ("", 60)


def test_what_was_served_is_counted_by_version_role_and_span(box: Box) -> None:
    learned(box, "traffic", {"v@v1:a": np.zeros(100)})
    served(box, "traffic", {"v@v1:a": np.zeros(3)})
    box.advance(box.clock.now() + timedelta(days=2), actor="admin")
    served(box, "traffic", {"v@v1:a": np.zeros(5)})
    box.predictions.flush()
    found = asked(box, "monitoring/traffic/served?window_seconds=604800").json()
    assert [(one["version"], one["role"], one["predictions"]) for one in found] == [
        (1, "champion", 3),
        (1, "champion", 5),
    ]
    assert [one["mean_score"] for one in found] == [pytest.approx(0.5), pytest.approx(0.5)]
    assert (found[0]["mean_latency_ms"], found[0]["max_latency_ms"]) == (1.0, 1.0)
    (last,) = asked(box, "monitoring/traffic/served?window_seconds=3600&every_seconds=604800").json()
    assert last["predictions"] == 5
    assert asked(box, "monitoring/none/served").status_code == 404
    many = asked(box, "monitoring/traffic/served?window_seconds=604800&every_seconds=1")
    assert (many.status_code, many.json()["error"]["field"]) == (400, "every")


def test_numbers_are_cut_into_tenths_of_training(box: Box) -> None:
    rng = np.random.default_rng(3)
    heat = rng.normal(size=3000)
    learned(box, "tenths", {"v@v1:heat": heat, "v@v1:x": heat + rng.normal(size=3000)})
    now = rng.normal(size=3000)
    moved = now + rng.normal(size=3000) + np.where(now > np.quantile(heat, 0.9), 2.0, 0.0)
    served(box, "tenths", {"v@v1:heat": now, "v@v1:x": moved})
    found = asked(box, "monitoring/tenths/drift?window_seconds=60&feature=v@v1:x&segment=v@v1:heat").json()
    verdicts = {one["segment"].removeprefix("v@v1:heat="): one["verdict"] for one in found}
    assert len(verdicts) == 10
    (hot,) = (name for name in verdicts if name.startswith("above"))
    assert verdicts.pop(hot) == "alert"
    assert set(verdicts.values()) <= {"ok", "investigate"}


def test_live_metrics_by_a_feature_and_by_a_key_that_no_label_has(box: Box) -> None:
    labels = LabelSet(name="cold", keys=(Column(name="who", dtype="STRING"),), value=Column(name="cold", dtype="BOOL"))
    box.labels.apply(labels, actor="ann")
    heat, kind = np.linspace(-1, 1, 1000), np.arange(1000) % 3.0
    learned(box, "weather", {"v@v1:heat": heat, "v@v1:kind": kind})
    box.curation.set_model_tag("weather", "label_set", "cold", actor="ann")
    entities = [{"who": f"p{n}", "town": "big" if n % 4 else f"t{n}"} for n in range(1000)]
    ids = served(box, "weather", {"v@v1:heat": np.where(kind == 2, np.nan, heat), "v@v1:kind": kind}, entities)
    given = [{"prediction_id": own, "cold": bool(n % 3 == 1)} for n, own in enumerate(ids)]
    box.labels.append_rows("cold", box.outcomes.complete(labels, given), source=None, actor="ann")

    def by(segment: str) -> dict[str, dict[str, Any]]:
        found = asked(box, f"monitoring/weather/performance?segment={segment}").json()
        assert sum(one["predictions"] for one in found) == sum(one["labelled"] for one in found) == 1000
        return {one["segment"].removeprefix(f"{segment}="): one for one in found}

    kinds = by("v@v1:kind")
    assert {name: one["predictions"] for name, one in kinds.items()} == {"0": 334, "1": 333, "2": 333}
    above = np.linspace(0.1, 0.9, 1000) > 0.5
    assert kinds["1"]["metrics"]["accuracy"] == pytest.approx(above[kind == 1].mean())
    assert kinds["0"]["metrics"]["accuracy"] == pytest.approx(1 - above[kind == 0].mean())
    tenths = by("v@v1:heat")
    assert len(tenths) == 11
    assert tenths["missing"]["predictions"] == 333
    towns = by("town")
    assert (towns["big"]["predictions"], towns["others"]["predictions"], len(towns)) == (750, 231, 21)
    refused = asked(box, "monitoring/weather/performance?segment=colour").json()["error"]
    assert "v@v1:heat" in refused["hint"]
    assert "town" in refused["hint"]
