"""Traffic by segment: which rows are of which, which segments are compared, and what counts for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.records import Promotion, PromotionPolicy, Samples, ServeRole, ShadowFigures, Side
from mlbox.serve.predictions.batches import NOTHING, Batch, Given
from mlbox.serve.predictions.routing import Beside
from mlbox.serve.rollout.evidence import Evidence
from mlbox.serve.rollout.segments import MOST_TOLD, WARM_ROWS, labels_of
from mlbox.serve.rollout.shadow import GROWTH, figures_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("flights@v1:hour", "weather@v1:rain")
POLICY = PromotionPolicy(segments=("carrier",), largest_segments=2)
CANARY = Promotion(
    id="p",
    model="delay",
    version=2,
    champion=1,
    state="canary",
    requested_by="ann",
    created_at=NOW,
    state_since=NOW,
    policy=POLICY,
    step=0,
)
SHADOW = msgspec.structs.replace(CANARY, state="shadow", step=-1)


def batch(carriers: Sequence[str], *, version: int = 1, role: ServeRole = "champion", **given: Any) -> Batch:
    """A request with a row for each carrier."""
    rows = len(carriers)
    more = {"latency_ms": 1.0, "scores": [0.5] * rows, **given}
    entities = [{"carrier": carrier} for carrier in carriers]
    return Batch("delay", version, role, NOW, NOW, "carl", ids=[""] * rows, entities=entities, **more)


def watching(promotion: Promotion, kept: Samples | None = None) -> Evidence:
    evidence = Evidence(lambda: None)
    evidence.watch({"delay": promotion}, lambda _: kept)
    return evidence


def warmed() -> Evidence:
    """After as many rows as choose the segments: most are of AA, fewer of BB, few of CC."""
    evidence = watching(CANARY)
    for carrier, share in (("AA", 0.6), ("CC", 0.1), ("BB", 0.3)):
        evidence.answered(batch([carrier] * int(WARM_ROWS * share)))
    return evidence


def test_a_row_is_of_the_segments_of_its_ids_and_else_of_its_features() -> None:
    values = np.array([[7, np.nan], [8.5, 1]])
    found = labels_of(Given(2, NAMES, values, [{"carrier": "AA"}, {}]), 2, ("carrier", "hour", "weather@v1:rain"))
    assert found == [("carrier=AA", "hour=7"), ("hour=8.5", "weather@v1:rain=1")]
    assert labels_of(Given(1, NAMES, [[None, 2.0]]), 1, ("hour", "rain", "snow")) == [("rain=2",)]
    alike = (*NAMES, "other@v1:hour")
    assert labels_of(Given(1, alike, [[1.0, 2.0, 3.0]]), 1, ("hour",)) == [()]  # which one is not said
    assert labels_of(NOTHING, 0, ("carrier",)) == []


def test_the_largest_segments_are_chosen_once_and_counted_from_then_on() -> None:
    evidence = warmed()
    assert [(one.name, one.champion.runs) for one in evidence.samples(CANARY).segments] == [
        ("carrier=AA", 0),
        ("carrier=BB", 0),
    ]
    evidence.answered(batch(["CC"] * 5000))
    evidence.answered(batch(["AA", "BB", "AA", "CC"], version=2, role="canary", scores=[0.1, None, 0.3, 0.4]))
    evidence.answered(batch(["AA", "BB"], role="control", latency_ms=[1.0, 2.0], scores=[0.1, 0.2]))
    evidence.failed("delay", 2, "canary", batch(["BB"]).given)
    evidence.failed("delay", 2, "canary")  # before its rows were known
    first, second = evidence.samples(CANARY).segments
    assert (first.candidate.runs, first.candidate.rows, first.candidate.invalid) == (1, 2, 0)
    assert (second.candidate.runs, second.candidate.errors, second.candidate.invalid) == (2, 1, 1)
    assert (first.control.runs, first.control.rows, first.champion.runs) == (1, 1, 1)
    assert np.frombuffer(first.candidate.scores).tolist() == [0.1, 0.3]
    assert evidence.samples(CANARY).candidate.errors == 2


def test_a_restart_goes_on_with_the_same_segments() -> None:
    evidence = warmed()
    evidence.answered(batch(["BB"] * 3, role="control"))
    read = msgspec.json.decode(evidence.samples(CANARY).to_json(), type=Samples)
    again = watching(CANARY, read)
    again.answered(batch(["BB", "CC"], role="control"))
    assert [(one.name, one.control.rows) for one in again.samples(CANARY).segments] == [
        ("carrier=AA", 0),
        ("carrier=BB", 4),
    ]


def test_a_policy_without_segments_counts_none() -> None:
    plain = msgspec.structs.replace(CANARY, policy=PromotionPolicy())
    evidence = watching(plain)
    evidence.answered(batch(["AA"] * 5000))
    assert evidence.samples(plain).segments == ()


def of(samples: Samples) -> tuple[ShadowFigures, ...]:
    return figures_of(samples.paired, samples.paired_in)


def beside(carriers: Sequence[str], shadow: Sequence[float | None] | None, *, took: float = 1.0) -> Beside:
    return Beside(batch(carriers).given, [0.5] * len(carriers), 1.0, shadow, took)


def test_a_shadow_is_compared_by_segment_and_what_it_failed_on_is_counted_apart() -> None:
    evidence = watching(SHADOW)
    evidence.paired("delay", 2, beside(["AA", "BB"], [0.6, 0.2], took=3.0))
    evidence.paired("delay", 2, beside(["AA"], None))
    evidence.paired("delay", 3, beside(["AA"], [0.0]))  # of another version
    every, first, second = of(evidence.samples(SHADOW))
    assert (every.rows, every.failed, every.requests, first.segment, second.segment) == (
        2,
        1,
        1,
        "carrier=AA",
        "carrier=BB",
    )
    assert (first.rows, first.failed, first.failed_share, first.leaning) == (1, 1, 0.5, pytest.approx(0.1))
    assert (second.agreed_share, second.leaning) == (0.0, pytest.approx(-0.3))
    assert every.slower_p50_ms == pytest.approx(2.0, rel=GROWTH - 1)


def test_segments_of_a_shadow_beyond_those_that_are_told_are_others() -> None:
    evidence = watching(SHADOW)
    for n in range(MOST_TOLD + 5):
        evidence.paired("delay", 2, beside([f"C{n}"], [0.5]))
    samples = evidence.samples(SHADOW)
    assert len(samples.paired_in) == MOST_TOLD + 1
    assert samples.paired_in["carrier=others"].rows == 5
    read = msgspec.json.decode(samples.to_json(), type=Samples)
    assert of(watching(SHADOW, read).samples(SHADOW)) == of(samples)


times = st.lists(st.tuples(st.floats(0.01, 500), st.floats(0.01, 500)), min_size=1, max_size=60)


@given(times)
@settings(max_examples=40, deadline=None)
def test_how_much_slower_it_is_has_numpy_s_quantiles_within_a_bucket(pairs: list[tuple[float, float]]) -> None:
    evidence = watching(SHADOW)
    for champion, shadow in pairs:
        evidence.paired("delay", 2, Beside(batch(["AA"]).given, [0.5], champion, [0.5], shadow))
    found = of(evidence.samples(SHADOW))[0]
    later = [shadow - champion for champion, shadow in pairs]
    for q, got in ((50, found.slower_p50_ms), (95, found.slower_p95_ms), (99, found.slower_p99_ms)):
        assert got == pytest.approx(np.percentile(later, q, method="inverted_cdf"), rel=GROWTH - 1, abs=0.002)


def test_nothing_seen_is_nothing_said() -> None:
    (found,) = of(Samples(state="shadow", since=NOW, candidate=Side()))
    assert (found.rows, found.agreed_share, found.slower_p95_ms, found.failed_share) == (0, None, None, None)


def test_that_neither_gives_a_score_is_no_agreement() -> None:
    evidence = watching(SHADOW)
    evidence.paired("delay", 2, Beside(batch(["AA", "AA"]).given, [None, None], 1.0, [None, None], 1.0))
    (every, _) = of(evidence.samples(SHADOW))
    assert (every.rows, every.invalid, every.agreed_share) == (2, 0, None)
    assert every.words == "neither gives a score to compare on 2 rows"
    evidence.paired("delay", 2, Beside(batch(["AA", "AA"]).given, [None, 0.9], 1.0, [0.2, 0.8], 1.0))
    (every, _) = of(evidence.samples(SHADOW))
    assert (every.rows, every.agreed_share) == (4, 0.5)  # of two: one has a score on one side only
