"""Each gate: what passes, what fails, and what it tells a person."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.records import (
    BenchFigure,
    CardParts,
    DatasetVersion,
    Fairness,
    FairnessColumn,
    FairnessSpec,
    GateResult,
    Metric,
    Model,
    ModelVersion,
    PromotionPolicy,
    Replay,
    ReplayRule,
    ReplaySpec,
    Run,
    ShadowFigures,
    TensorSpec,
)
from mlbox.serve.promotion.gates import GATES, Evidence, evaluate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VERSION = ModelVersion(
    id="v",
    model="delay",
    version=2,
    stage="None",
    run_id="r" * 32,
    dataset="flights@v1",
    features=("weather@v1:temp", "plane@v1:year"),
    inputs=(TensorSpec(name="input", dtype="FP32", shape=(-1, 2)),),
    artifact="a" * 64,
    size=1000,
    metrics={"auc": 0.7},
    git_commit="c" * 40,
    trained_by="ann",
    submitted_by="ann",
    created_at=NOW,
)
RUN = Run(
    id="r" * 32,
    experiment_id="e",
    name="mlp",
    user="ann",
    status="FINISHED",
    started_at=NOW,
    metrics={"auc": Metric(key="auc", value=0.7, step=1, at=NOW)},
)
DATASET = DatasetVersion(
    id="d",
    name="flights",
    version=1,
    hash="h",
    files=(),
    columns=(),
    rows=1,
    query="SELECT 1",
    created_by="ann",
    created_at=NOW,
)
QUICK = BenchFigure(rows=1, concurrency=1, p50_ms=0.5, p95_ms=1.0, p99_ms=2.0, rows_per_second=1e3, requests=1000)
ALIKE = ShadowFigures(
    rows=500,
    failed=0,
    failed_share=0.0,
    agreed_share=0.97,
    mean_difference=0.02,
    leaning=0.01,
    most=0.4,
    bins=(0,) * 7,
    requests=500,
    champion_p95_ms=1.0,
    shadow_p95_ms=1.0,
    slower_p50_ms=0.0,
    slower_p95_ms=0.0,
    slower_p99_ms=0.0,
)
REPLAYED = Replay(
    model="delay",
    version=2,
    spec=ReplaySpec(against=1, last=1000),
    state="done",
    at=NOW,
    against=1,
    source="logged traffic",
    rows=500,
    replayed=500,
    figures=(ALIKE,),
)
GOOD = Evidence(
    version=VERSION,
    policy=PromotionPolicy(),
    run=RUN,
    dataset=DATASET,
    model=Model(id="m", name="delay", owner="ann", purpose="to warn passengers", created_at=NOW),
    now=NOW,
    latency=QUICK,
    card=CardParts(intended_use="to warn passengers", limitations="of no airport but New York's"),
    parity=1e-6,
    scores=(0.1, 0.9),
    replay=REPLAYED,
)


def evidence(**changes: Any) -> Evidence:
    """The good evidence with changes; `version_…` and `policy_…` change the record within."""
    inner = {"version": VERSION, "policy": GOOD.policy, "model": GOOD.model}
    for name in [name for name in changes if name.startswith(("version_", "policy_", "model_"))]:
        record, _, field = name.partition("_")
        inner[record] = msgspec.structs.replace(inner[record], **{field: changes.pop(name)})
    return msgspec.structs.replace(GOOD, **inner | changes)


def test_a_good_version_passes_every_gate_and_each_says_what_it_measured() -> None:
    results = evaluate(GOOD, NOW)
    assert [result.gate for result in results] == [*GATES, "replay"]
    assert all(result.passed for result in results), results
    assert all(result.required and result.measured for result in results)


@pytest.mark.parametrize(
    ("gate", "changes", "measured"),
    [
        ("lineage", {"run": msgspec.structs.replace(RUN, status="FAILED")}, "no run"),
        ("lineage", {"dataset": None}, "no dataset version"),
        ("lineage", {"version_git_commit": None}, "no git commit"),
        ("signature", {"version_features": (), "version_outputs": ()}, "no outputs"),
        ("signature", {"version_features": ("a", "b", "c")}, "input FP32[-1, 2]"),
        ("signature", {"version_inputs": ()}, "no inputs"),
        ("size", {"policy_max_artifact_bytes": 999}, "1,000 B"),
        ("size", {"version_size": 0}, "0 B"),
        ("metric", {"version_metrics": {}}, "no auc"),
        ("metric", {"version_metrics": {"auc": math.nan}}, "no auc"),
        ("metric", {"version_metrics": {"auc": 0.99}}, "but the run logged 0.7"),
        ("metric", {"policy_minimum": 0.71}, "0.7000"),
        ("latency", {"policy_max_latency_ms_p95": 0.9}, "p50 0.500, p95 1.000, p99 2.000 ms over 1,000 requests"),
        ("latency", {"policy_max_latency_ms_p50": 0.4}, "p50 0.500"),
        ("latency", {"policy_max_latency_ms_p99": 1.9}, "p99 2.000"),
        ("latency", {"latency": None, "problems": {"latency": "the model died"}}, "the model died"),
        ("card", {"card": CardParts(intended_use="x")}, "nothing of limitations: `mlbox model card delay/2 --set"),
        ("card", {"card": CardParts(intended_use=" ", limitations="x")}, "nothing of intended use"),
        ("card", {"card": None, "problems": {"card": "the registry is down"}}, "the registry is down"),
        ("card", {"policy_card": ("license",)}, "nothing of license"),
        ("parity", {"parity": 0.01}, "0.01"),
        ("parity", {"parity": math.nan}, "nan"),
        ("parity", {"parity": None}, "no sample was registered"),
        ("sanity", {"scores": None}, "not measured"),
        ("sanity", {"scores": (0.5, 0.5)}, "0.5000 to 0.5000"),
        ("sanity", {"scores": (math.nan, math.nan)}, "nan to nan"),
        ("facts", {"model_purpose": ""}, "no purpose"),
        ("facts", {"model_owner": ""}, "no owner"),
        ("facts", {"model_expires_at": NOW}, "expired on 2026-01-01"),
        ("facts", {"model": None, "problems": {"facts": "the registry is down"}}, "the registry is down"),
    ],
)
def test_what_fails_a_gate_fails_that_gate_alone_and_is_named(
    gate: str, changes: dict[str, Any], measured: str
) -> None:
    failed = [result for result in evaluate(evidence(**changes), NOW) if not result.passed]
    assert [result.gate for result in failed] == [gate]
    assert measured in failed[0].measured


def test_the_latency_gate_says_what_it_asks_with_how_many_rows_and_at_a_time() -> None:
    found = GATES["latency"](
        evidence(policy_latency_rows=8, policy_latency_concurrency=4, policy_max_latency_ms_p99=80.0)
    )
    assert (found.passed, found.required) == (
        True,
        "p95 at most 50.0 ms, p99 at most 80.0 ms, with 8 rows and 4 at a time",
    )


def test_a_policy_may_ask_for_no_part_of_the_card() -> None:
    assert GATES["card"](evidence(policy_card=(), card=CardParts())).passed


def replayed(rule: ReplayRule, **changes: Any) -> GateResult:
    """What the gate says of a replay with changes."""
    found = evidence(
        policy_replay=rule,
        champion=msgspec.structs.replace(VERSION, version=1),
        replay=msgspec.structs.replace(REPLAYED, **changes),
    )
    return next(result for result in evaluate(found, NOW) if result.gate == "replay")


@pytest.mark.parametrize(
    ("rule", "changes", "passed", "measured"),
    [
        (ReplayRule(), {}, True, "agrees on 97.0% of 500 rows, scores 0.02 apart in the mean"),
        (ReplayRule(), {"failed": 1, "error": "no such index"}, False, "1 failed, 0 invalid; no such index"),
        (ReplayRule(), {"invalid": 1}, False, "0 failed, 1 invalid"),
        (ReplayRule(max_failed=0.01), {"failed": 3, "invalid": 2}, True, "3 failed, 2 invalid"),
        (ReplayRule(max_failed=0.01), {"failed": 3, "invalid": 3}, False, "3 failed, 3 invalid"),
        (ReplayRule(max_disagreement=0.031), {}, True, "97.0%"),
        (ReplayRule(max_disagreement=0.029), {}, False, "97.0%"),
        (ReplayRule(max_difference=0.02), {}, True, "0.02 apart"),
        (ReplayRule(max_difference=0.019), {}, False, "0.02 apart"),
        (ReplayRule(), {"state": "too_few", "reason": "3 are logged", "replayed": 0}, True, "skipped: 3 are logged"),
        (ReplayRule(), {"state": "failed", "reason": "it ended its process"}, False, "it ended its process"),
        (ReplayRule(), {"replayed": 99, "reason": "60 s were enough for 99 of them"}, False, "too slow: 99 of 500"),
        (ReplayRule(), {"rows": 60, "replayed": 60, "figures": ()}, True, "60 of 60 requests"),
    ],
)
def test_logged_requests_are_answered_validly_and_as_alike_as_the_policy_asks(
    rule: ReplayRule, changes: dict[str, Any], passed: bool, measured: str
) -> None:
    found = replayed(rule, **changes)
    assert found.passed == passed
    assert measured in found.measured


def test_the_replay_gate_says_what_it_asks_and_of_what_cannot_be_asked_again_it_is_none() -> None:
    rule = ReplayRule(max_failed=0.01, max_disagreement=0.05, max_difference=0.1)
    assert replayed(rule).required == (
        "the last 1,000 logged requests asked again, 100 or more: at most 1.0% of the answers fail or are invalid,"
        " at most 5.0% decided otherwise than by the champion, scores at most 0.1 apart in the mean"
    )
    none = [evidence(policy_replay=ReplayRule(last=0)), evidence(version_features=())]
    assert not any(result.gate == "replay" for found in none for result in evaluate(found, NOW))
    broken = evidence(replay=None, problems={"replay": "the log is down"})
    assert [r.measured for r in evaluate(broken, NOW) if not r.passed] == ["the log is down"]


JUDGED = FairnessSpec(dataset="held-out@v1", label="late", sensitive=("sex",))


def test_fairness_is_judged_or_the_approver_reads_why_it_is_not() -> None:
    silent = GATES["fairness"](evidence())
    assert (silent.passed, silent.required) == (True, "nothing: the approver decides")
    assert silent.measured == "no sensitive columns are named, and no reason why there are none"
    told = GATES["fairness"](evidence(policy_not_sensitive="planes, not people"))
    assert told.measured == "no sensitive columns: planes, not people"
    column = FairnessColumn(column="sex", groups=(), parity_ratio=0.9)
    found = Fairness(
        model="delay", version=2, spec=JUDGED, columns=(column,), notes=("delay/2 was trained on these rows.",)
    )
    passed = GATES["fairness"](evidence(policy_fairness=JUDGED, fairness=found))
    assert passed.passed
    assert passed.measured == "sex: selection rates within a ratio of 0.90 delay/2 was trained on these rows."
    unlike = msgspec.structs.replace(found, breaches=("sex: demographic parity ratio 0.5, at least 0.8 is asked for",))
    failed = GATES["fairness"](evidence(policy_fairness=JUDGED, fairness=unlike))
    assert (failed.passed, failed.measured.partition(",")[0]) == (False, "sex: demographic parity ratio 0.5")


def test_the_copy_of_its_code_that_the_box_has_stands_for_a_commit() -> None:
    found = GATES["lineage"](evidence(version_git_commit=None, code="b" * 64))
    assert found.passed
    assert "code bbbbbbbbbbbb" in found.measured


def test_nothing_passes_for_want_of_evidence() -> None:
    bare = Evidence(
        version=msgspec.structs.replace(VERSION, metrics={}, features=(), inputs=(), size=0),
        policy=PromotionPolicy(fairness=JUDGED),
    )
    assert not any(result.passed for result in evaluate(bare, NOW))


@given(
    champion=st.floats(0.5, 1.0),
    candidate=st.floats(0.5, 1.0),
    margin=st.floats(0, 0.2),
    higher=st.booleans(),
)
def test_a_candidate_may_be_worse_than_the_champion_by_the_margin_and_no_more(
    champion: float, candidate: float, margin: float, higher: bool
) -> None:
    found = evidence(
        version_metrics={"auc": candidate},
        run=msgspec.structs.replace(RUN, metrics={"auc": Metric(key="auc", value=candidate, step=1, at=NOW)}),
        champion=msgspec.structs.replace(VERSION, version=1, metrics={"auc": champion}),
        policy_margin=margin,
        policy_higher_is_better=higher,
    )
    allowed = candidate >= champion - margin if higher else candidate <= champion + margin
    assert GATES["metric"](found).passed == allowed


LOADED = {"version_format": "other", "version_unservable": "it has no ONNX file.", "version_dataset": None}


def test_a_version_that_cannot_be_served_is_for_the_approver_and_says_how_to_convert_it() -> None:
    results = {r.gate: r for r in evaluate(evidence(**LOADED, version_lineage="declared", latency=None), NOW)}
    assert list(results) == ["lineage", "size", "facts", "card", "serving", "fairness"]
    assert all(result.passed for result in results.values())
    assert "(declared), no dataset version" in results["lineage"].measured
    assert "not servable: it has no ONNX file." in results["serving"].measured
    assert "mlbox.export_onnx" in results["serving"].measured


def test_a_policy_may_hold_it_to_lineage_facts_and_metric_too() -> None:
    bare = {**LOADED, "model_purpose": "", "version_metrics": {}, "dataset": None, "card": CardParts()}
    assert all(result.passed for result in evaluate(evidence(**bare), NOW))
    failed = [result.gate for result in evaluate(evidence(**bare, policy_unserved="gates"), NOW) if not result.passed]
    assert failed == ["lineage", "facts", "card", "metric"]


def test_an_expiry_that_is_past_blocks_it_too() -> None:
    past = {"model_expires_at": NOW - timedelta(seconds=1), "model_purpose": "for clients"}
    for served in ({}, LOADED):
        (failed,) = [result for result in evaluate(evidence(**served, **past), NOW) if not result.passed]
        assert failed.gate == "facts"
        assert "expired on" in failed.measured
        assert "`mlbox model describe delay`" in failed.measured
        ahead = {**past, "model_expires_at": NOW + timedelta(seconds=1)}
        assert all(result.passed for result in evaluate(evidence(**served, **ahead), NOW))


def test_without_a_file_it_does_not_pass() -> None:
    failed = [result.gate for result in evaluate(evidence(**LOADED, version_size=0), NOW) if not result.passed]
    assert failed == ["size"]
