"""What Prometheus reads: every family, in both formats, behind a token, bounded, and with a store down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from mlbox import __version__
from mlbox.records import Column, Gpu, JobQueue, LabelSet, PredictionSampling
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.store.registry.registry import NewVersion
from mlbox.web import metrics, metrics_box
from mlbox.web.box import Box
from mlbox.web.metrics import FAMILIES, OTHER, SCORE_BUCKETS, Histogram, Metrics, bounded
from mlbox.web.metrics_inference import CRASHES
from mlbox.web.metrics_values import NAME as VALUE
from mlbox.web.observability import FILES, PANELS, RECORDS, RULES, dashboard, rules
from tests.conftest import Server, wait_for
from tests.web.monitored import FEATURES, in_production, served, with_history
from tests.web.site import Site, open_box

UNITS = {"bytes", "ops", "percentunit", "reqps", "s", "short"}
"""Those of Grafana that are used here."""
FUNCTIONS = {"bottomk", "histogram_quantile", "increase", "max", "rate", "sum", "topk"}
"""Those of PromQL."""
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    opened = open_box(tmp_path / "data")
    yield opened
    opened.close()


def scrape(found: Metrics) -> Samples:
    page = found.render("")[0].decode()
    return {(s.name, frozenset(s.labels.items())): s.value for family in read_text(page) for s in family.samples}


def value(found: Metrics, name: str, /, **labels: str) -> float | None:
    return scrape(found).get((name, frozenset(labels.items())))


def test_predictions_scores_and_latencies_are_counted_as_they_are_logged(box: Box) -> None:
    found = Metrics(box)
    served(box, [0.0, 1.0], score=0.42)
    served(box, [2.0], score=0.9, role="canary", version=2)
    served(box, [2.0], score=0.9, role="shadow", version=3)
    box.predictions.record_error("delay", 2, "canary")
    champion, canary = {"model_name": "delay", "model_version": "1"}, {"model_name": "delay", "model_version": "2"}
    assert value(found, "ml_prediction_outcomes_total", **champion, role="champion", outcome="ok") == 2
    assert value(found, "ml_prediction_outcomes_total", **canary, role="canary", outcome="error") == 1
    assert (
        value(found, "ml_prediction_outcomes_total", model_name="delay", model_version="3", role="shadow", outcome="ok")
        == 1
    )
    assert value(found, "ml_predictions_total", **champion) == 2
    assert value(found, "ml_prediction_score_count", **champion) == 2
    assert value(found, "ml_prediction_score_sum", **champion) == pytest.approx(0.84)
    assert value(found, "ml_prediction_score_bucket", **champion, le="0.4") == 0
    assert value(found, "ml_prediction_score_bucket", **champion, le="0.5") == 2
    assert value(found, "ml_prediction_score_count", **canary) == 1
    assert value(found, "ml_prediction_score_count", model_name="delay", model_version="3") is None, (
        "users saw no shadow"
    )
    assert value(found, "ml_prediction_latency_seconds_bucket", **champion, le="0.002") == 0
    assert value(found, "ml_prediction_latency_seconds_bucket", **champion, le="0.005") == 2


def test_the_names_that_dashboards_are_built_on_do_not_change() -> None:
    assert SCORE_BUCKETS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    told = {name: (family.kind, family.labels) for name, family in FAMILIES.items()}
    assert told["ml_prediction_score"] == ("histogram", ("model_name", "model_version"))
    assert told["ml_predictions_total"] == ("counter", ("model_name", "model_version"))
    assert told["ml_feature_drift_ks_statistic"] == ("gauge", ("model_name", "feature_name"))


def test_the_series_of_a_version_that_was_retired_go(box: Box) -> None:
    found = Metrics(box)
    version = box.registry.register(NewVersion(model="delay", features=FEATURES, trained_by="ann", submitted_by="ann"))
    served(box, [0.0, 1.0])
    labels = {"model_name": "delay", "model_version": "1"}
    assert value(found, "ml_predictions_total", **labels) == value(found, "ml_prediction_score_count", **labels) == 2
    box.registry.archive("delay", version.version, actor="ann")
    assert not [name for name, of in scrape(found) if ("model_version", "1") in of and name.startswith("ml_")]


def test_drift_and_alerts_are_those_of_the_last_check(box: Box) -> None:
    found = Metrics(box)
    in_production(box)
    labels = {"model_name": "delay", "feature_name": FEATURES[0]}
    assert value(found, "ml_feature_drift_ks_statistic", **labels) is None
    served(box, [None] * 50 + [50.0] * 150)
    box.monitor.check("delay")
    assert value(found, "ml_feature_drift_ks_statistic", **labels) == 1
    assert value(found, "ml_feature_missing_ratio", **labels) == 0.25
    assert value(found, "mlbox_alerts_firing", name="feature_drift") == 1


def test_what_checks_found_is_rendered_once_until_the_next_check(box: Box) -> None:
    found = Metrics(box)
    in_production(box)
    served(box, np.full(200, 50.0))
    box.monitor.check("delay")
    labels = {"model_name": "delay", "feature_name": FEATURES[0]}
    for _ in range(5):
        assert value(found, "ml_feature_drift_ks_statistic", **labels) == 1
    assert found.rendered == {"drift": 1, "skew": 1}
    served(box, np.random.default_rng(0).normal(size=5000))
    box.monitor.check("delay")
    known = value(found, "ml_feature_drift_ks_statistic", **labels)
    assert known is not None
    assert known < 1
    assert found.rendered == {"drift": 2, "skew": 1}
    list(read_openmetrics(found.render(OPENMETRICS)[0].decode()))
    assert found.rendered == {"drift": 3, "skew": 2}, "another format is another page"


def test_the_loop_goes_on_while_a_scrape_waits(box: Box) -> None:
    """With no thread free a scrape waits, and the loop answers others meanwhile: nothing of it is rendered on the loop."""
    free = threading.Event()
    site = Site(box, user="")
    headers = {"Authorization": f"Bearer {box.access.create_token('admin', 'test', actor='admin')[1]}"}

    async def both() -> tuple[int, bool, int]:
        transport = httpx.ASGITransport(app=site.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            for _ in range(box.settings.threads):
                box.pool.submit(free.wait)
            scrape = asyncio.create_task(client.get("/metrics"))
            alive = [(await client.get("/livez")).status_code for _ in range(20)]
            ended = scrape.done()
            free.set()
            return max(alive), ended, (await scrape).status_code

    try:
        assert asyncio.run(both()) == (200, False, 200)
    finally:
        free.set()


def test_scores_beyond_0_to_1_have_buckets_of_their_training(box: Box) -> None:
    found = Metrics(box)
    in_production(box)
    training = pa.table({name: np.arange(1000.0) for name in FEATURES})
    content = make_reference(training, FEATURES, scorer=lambda rows: rows[:, 0] * 10)
    new = NewVersion(
        model="delay",
        features=FEATURES,
        reference=store_reference(box.artifacts, content),
        trained_by="ann",
        submitted_by="ann",
    )
    assert box.registry.register(new).version == 2
    labels = {"model_name": "delay", "model_version": "2"}
    for score in (5.0, 2500.0, 1e6, math.nan):
        served(box, [0.0], version=2, score=score)
    served(box, [0.0], version=1, score=5.0)
    wait_for(lambda: value(found, "ml_prediction_value_count", **labels) == 3, what="the scores to be counted")
    bounds = sorted(float(dict(of)["le"]) for name, of in scrape(found) if name == "ml_prediction_value_bucket")
    assert bounds == [pytest.approx(999 * tenth) for tenth in range(1, 10)] + [math.inf]
    assert value(found, "ml_prediction_value_bucket", **labels, le=repr(bounds[0])) == 1
    assert value(found, "ml_prediction_value_bucket", **labels, le=repr(bounds[2])) == 2
    assert value(found, "ml_prediction_value_sum", **labels) == 1_002_505
    assert value(found, "ml_prediction_value_count", model_name="delay", model_version="1") is None


def test_few_rows_give_no_statistic_to_alert_on(box: Box) -> None:
    found = Metrics(box)
    in_production(box)
    served(box, [50.0] * 3)
    box.monitor.check("delay")
    assert not [name for name, _ in scrape(found) if name == "ml_feature_drift_ks_statistic"]


def test_the_box_itself_is_shown(box: Box) -> None:
    found = Metrics(box)
    assert value(found, "mlbox_build_info", version=__version__) == 1
    assert value(found, "mlbox_jobs", state="queued") == 0
    assert value(found, "mlbox_prediction_log_dropped_total") == 0
    resident = value(found, "process_resident_memory_bytes")
    assert resident is not None
    assert resident > 1e6
    assert value(found, "process_open_fds") is not None


def test_the_table_of_the_docs_is_what_a_scrape_gives(box: Box) -> None:
    cells = [
        re.split(r"\s*\|\s*", row)[1:-1] for row in PAGE.read_text().splitlines() if row.startswith(("| `ml", "| `nv"))
    ]
    told = {name.strip("`"): (kind, tuple(re.findall(r"`(\w+)`", labels)), what) for name, kind, labels, what in cells}
    assert told == FAMILIES
    found = Metrics(box)
    in_production(box)
    served(box, np.full(200, 50.0))
    box.monitor.check("delay")
    with_history(box)
    served(box, np.full(50, 7.0), entity={"place": "JFK"})
    box.skew.check("delay")
    box.models.statistics.executed("delay", 1, rows=1, infer_ns=1000)
    box.models.statistics.failed("delay", 1, reason="model")
    labelled(box)
    box.keeping.sample("delay", PredictionSampling(share=0), actor="ann")
    box.sharing.set_queue(JobQueue(name="night"), actor="ann")
    box.http_requests["2xx"] += 1
    served(box, [1.0])
    box.predictions.flush()
    kinds: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for family in read_text(found.render("")[0].decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        kinds[name] = family.type
        labels[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    ours = {name for name in kinds if not name.startswith("process_")}
    assert ours == set(FAMILIES)
    assert all(kinds[name] == FAMILIES[name].kind for name in ours)
    ours -= {CRASHES, VALUE}  # no version has ended a worker, and none scores beyond 0 to 1
    ours -= {name for name in ours if name.startswith(("mlbox_gpu_", "nv_gpu_"))}  # there is none here
    assert all(labels[name] == set(FAMILIES[name].labels) for name in ours)


def labelled(box: Box) -> None:
    """Two predictions, of which one has a label."""
    who, late = Column(name="who", dtype="STRING"), Column(name="late", dtype="BOOL")
    box.labels.apply(LabelSet(name="late", keys=(who,), value=late), actor="ann")
    box.curation.set_model_tag("delay", "label_set", "late", actor="ann")
    rows = [served(box, [1.0], score=0.9, entity={"who": who})[0] for who in ("a", "b")]
    item = {"who": "a", "event_time": rows[0].domain_at.isoformat(), "late": True}
    box.labels.append_rows("late", [item], actor="ann")
    box.health.of("delay")


def test_what_labels_say_is_there_while_the_version_serves(box: Box) -> None:
    found = Metrics(box)
    in_production(box)
    labelled(box)
    assert value(found, "ml_label_coverage_ratio", model_name="delay", model_version="1") == 0.5
    assert value(found, "ml_live_metric", model_name="delay", model_version="1", metric="accuracy") == 1
    assert value(found, "ml_live_metric", model_name="delay", model_version="1", metric="auc") is None, "of one class"
    box.health.live["gone"] = msgspec.structs.replace(box.health.live["delay"], model="gone")
    assert not [labels for name, labels in scrape(found) if labels and ("model_name", "gone") in labels]


def test_the_machine_is_shown(box: Box) -> None:
    found = Metrics(box)
    box.sharing.set_queue(JobQueue(name="night"), actor="ann")
    assert value(found, "mlbox_queue_jobs", queue="night", state="waiting") == 0
    assert (value(found, "mlbox_store_bytes", store="registry") or 0) > 10_000
    gpu = Gpu(uuid="GPU-1", index=0, utilization_percentage=25.0, memory_gb=8, memory_used_gb=2.0, power_watts=60.0)
    virtual = Gpu(uuid="V", index=2, memory_gb=8, virtual=True)
    families = metrics_box.gpus([gpu, Gpu(uuid="GPU-2", index=1), virtual])
    (busy,), (taken,) = (family.samples for family in families[:2])
    assert (busy.labels, busy.value) == ({"gpu": "0"}, 0.25), "what the driver does not say has no series"
    assert taken.value == 2 * 2**30
    assert {one.name: (one.labels["gpu_uuid"], one.value) for family in families[2:] for one in family.samples} == {
        "nv_gpu_utilization": ("GPU-1", 0.25),
        "nv_gpu_memory_total_bytes": ("GPU-1", 8 * 2**30),
        "nv_gpu_memory_used_bytes": ("GPU-1", 2 * 2**30),
        "nv_gpu_power_usage": ("GPU-1", 60.0),
    }


def test_requests_are_counted_by_what_became_of_them(server: Server) -> None:
    def of(status: str) -> float:
        samples = [one for family in read_text(server.http.get("/metrics").text) for one in family.samples]
        wanted = ("mlbox_http_requests_total", {"status": status})
        return sum(one.value for one in samples if (one.name, one.labels) == wanted)

    before = of("4xx")
    for _ in range(3):
        assert server.http.get("/api/v1/models/nobody").status_code == 404
    assert of("4xx") == before + 3
    assert of("2xx") >= 1


def test_dashboard_and_rules_name_metrics_that_there_are() -> None:
    recorded = {record.name for record in RECORDS}
    told = [*(panel.expr for panel in PANELS), *(record.expr for record in RECORDS), *(rule.expr for rule in RULES)]
    named = {
        name for expr in told for name in re.findall(r"[a-z][\w:]*_[\w:]*", re.sub(r"by \(.*?\)|\{.*?\}", "", expr))
    }
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} - {"histogram_quantile"}
    assert len(bare) > 10
    assert bare - recorded - {"process_resident_memory_bytes"} <= set(FAMILIES)
    assert recorded <= bare, "what is recorded is looked at"
    labels = {label for expr in told for group in re.findall(r"by \((.*?)\)", expr) for label in group.split(", ")}
    assert labels <= {label for family in FAMILIES.values() for label in family.labels} | {"le"}


def test_dashboard_and_rules_are_shipped_as_they_are_defined() -> None:
    for name, made in FILES.items():
        assert (PAGE.parent / name).read_text() == made(), "Run `python -m docs.generate`."
    (group,) = yaml.safe_load(rules())["groups"]
    assert [rule.get("alert") for rule in group["rules"] if "alert" in rule] == [rule.alert for rule in RULES]


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    """As its JSON model has it: ids and places of their own, and data from what is asked for at the import."""
    found = json.loads(dashboard())
    assert (found["uid"], found["title"], found["schemaVersion"]) == ("mlbox", "mlbox", 39)
    (asked,) = found["__inputs"]
    assert (asked["type"], asked["pluginId"]) == ("datasource", "prometheus")
    source = {"type": "prometheus", "uid": f"${{{asked['name']}}}"}
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, "a dashboard is 24 columns wide"
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        assert panel["type"] == "timeseries"
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None
        for target in panel["targets"]:
            assert panel["datasource"] == target["datasource"] == source
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= {label for family in FAMILIES.values() for label in family.labels}
            assert target["expr"].count("(") == target["expr"].count(")")
            assert set(re.findall(r"([a-z_]+)\(", target["expr"])) <= FUNCTIONS
    ids = [panel["id"] for panel in found["panels"]]
    assert sorted(ids) == list(range(1, len(PANELS) + 1))


def test_a_store_that_is_down_takes_its_own_families_only(box: Box) -> None:
    found = Metrics(box)
    served(box, [0.0])
    drop_the_jobs(box)
    names = {name for name, _ in scrape(found)}
    assert "mlbox_jobs" not in names
    assert {"ml_predictions_total", "ml_prediction_score_count", "mlbox_build_info"} <= names
    assert value(found, "mlbox_metrics_source_up", source="jobs") == 0
    assert value(found, "mlbox_metrics_source_up", source="drift") == 1


def drop_the_jobs(box: Box) -> None:
    """As a person with the SQLite shell could."""
    with contextlib.closing(sqlite3.connect(box.data_dir.root / "jobs.sqlite")) as shell:
        shell.execute("DROP TABLE job")


# -- bounds -------------------------------------------------------------------------------------------------------------


def test_the_number_of_series_has_a_bound(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_VERSIONS", 2)
    found = Metrics(box)
    for version in range(1, 6):
        served(box, [0.0], version=version)
    served(box, [0.0], version=1)
    series = {labels for name, labels in scrape(found) if name == "ml_prediction_score_count"}
    assert len(series) == 3
    assert value(found, "ml_prediction_score_count", model_name="delay", model_version="1") == 2
    assert value(found, "ml_prediction_score_count", model_name=OTHER, model_version=OTHER) == 3
    assert (
        value(
            found, "ml_prediction_outcomes_total", model_name=OTHER, model_version=OTHER, role="champion", outcome="ok"
        )
        == 3
    )


def test_of_many_features_the_worst_are_shown(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_FEATURES", 1)
    found = Metrics(box)
    in_production(box)
    served(box, np.full(200, 50.0))
    box.monitor.check("delay")
    (shown,) = [dict(labels) for name, labels in scrape(found) if name == "ml_feature_drift_ks_statistic"]
    assert shown["feature_name"] == FEATURES[0]


@given(st.lists(st.integers(0, 9)))
def test_a_series_that_began_goes_on(versions: list[int]) -> None:
    """Counters never shrink: what has labels of its own keeps them, whatever comes later."""
    known: dict[tuple[str, str], int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MOST_VERSIONS", 3)
        for version in versions:
            before = set(known)
            key = bounded(("m", str(version)), known)
            assert key == ("m", str(version)) or (key == (OTHER, OTHER) and len(before) >= 3)
            known[key] = known.get(key, 0) + 1
    assert len(known) <= 4


@given(st.lists(st.floats(width=32)))
def test_a_histogram_counts_each_finite_score_once(scores: list[float]) -> None:
    histogram = Histogram(SCORE_BUCKETS)
    histogram.observe("m", "1", scores)
    found = {(s.name, s.labels.get("le", "")): s.value for s in histogram.family("ml_prediction_score").samples}
    finite = [score for score in scores if math.isfinite(score)]
    assert found["ml_prediction_score_count", ""] == len(finite)
    assert found["ml_prediction_score_sum", ""] == pytest.approx(sum(finite))
    for bound in SCORE_BUCKETS:
        assert found["ml_prediction_score_bucket", repr(bound)] == sum(score <= bound for score in finite)


# -- over HTTP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "kind", "read"),
    [("", "text/plain", read_text), ("text/plain", "text/plain", read_text), (OPENMETRICS, "openmetrics", None)],
)
def test_the_format_is_the_one_that_was_asked_for(box: Box, accept: str, kind: str, read: Any) -> None:
    site = Site(box)
    served(box, [0.0])
    answer = site.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert kind in answer.headers["content-type"]
    names = {family.name for family in (read or read_openmetrics)(answer.text)}
    assert {"ml_predictions", "ml_prediction_score", "mlbox_build_info"} <= names or kind == "openmetrics"
    assert {"ml_predictions", "ml_prediction_score", "mlbox_jobs"} <= names


def test_prometheus_sends_a_bearer_token(server: Server) -> None:
    answer = server.http.get("/metrics", headers={"Accept": OPENMETRICS})
    assert answer.status_code == 200
    assert answer.text.endswith("# EOF\n")
    assert httpx.get(f"{server.url}/metrics").status_code == 401
