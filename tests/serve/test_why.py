"""Why a model drifts, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mlbox.records import DatasetVersion, DriftMeasures, DriftResult, Verdict
from mlbox.serve.monitoring.why import explain


def at(year: int, month: int, day: int = 1) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def drifted(feature: str, statistic: float, verdict: Verdict = "alert", **measures: Any) -> DriftResult:
    return DriftResult(
        model="delay",
        version=1,
        feature=feature,
        statistic=statistic,
        p_value=0.0,
        verdict=verdict,
        reference_rows=1000,
        current_rows=1000,
        reference_missing=0,
        current_missing=0,
        at=at(2013, 12, 31),
        start=at(2013, 12),
        measures=DriftMeasures(psi=0.1, jensen_shannon=0.1, wasserstein=1.0, **measures) if measures else None,
    )


def data(first: datetime, last: datetime) -> DatasetVersion:
    return DatasetVersion(
        id="d",
        name="flights",
        version=1,
        hash="",
        files=(),
        columns=(),
        rows=0,
        query="",
        event_from=first,
        event_to=last,
        created_by="ada",
        created_at=last,
    )


def test_it_names_the_months_that_training_did_not_see_and_where_values_went() -> None:
    found = explain(
        [drifted("temp", 0.74, median=37.0, reference_median=50.0, out_of_range=0.06), drifted("wind", 0.05, "ok")],
        data(at(2013, 1, 8), at(2013, 7)),
    )
    assert found == [
        "flights@v1 has rows of 2013-01-08 to 2013-07-01; what is served is of 2013-12-01 to 2013-12-31.",
        "It never saw December: where the values go by the season, these are new to it.",
        "temp is lower: half of its values are above 37, 50 in training; 6% are beyond all of training (D = 0.74).",
    ]


@pytest.mark.parametrize(
    ("first", "last", "unseen"),
    [
        (at(2012, 12), at(2013, 12), False),  # a year has all months
        (at(2012, 11, 30), at(2013, 1), False),
        (at(2013, 1), at(2013, 12), True),  # to before December
    ],
)
def test_months_are_those_from_a_moment_to_before_another(first: datetime, last: datetime, unseen: bool) -> None:
    words = explain([drifted("temp", 0.3)], data(first, last))
    assert any("never saw December" in sentence for sentence in words) is unseen


def test_the_worst_are_told_of_and_nothing_where_nothing_drifts() -> None:
    assert explain([drifted("temp", 0.05, "ok")], None) == []
    many = [drifted(f"f{n}", 0.3 + n / 100, median=1.0, reference_median=1.0) for n in range(9)]
    many.append(drifted("less", 0.15, "investigate", median=2.0, reference_median=1.0))
    told = explain(many, None)
    assert [sentence.split()[0] for sentence in told] == ["f8", "f7", "f6"]
    assert "is spread otherwise" in told[0]
