"""What the heatmap and the parallel coordinates are given: nothing is made up, nothing is drawn of too little."""

from __future__ import annotations

import json
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from mlbox.records import DriftResult, Metric, Run
from mlbox.web.pages import heatmap
from mlbox.web.pages.run_compare import MOST_AXES, parcoords
from tests.web.site import START

values = st.one_of(st.none(), st.floats(0, 1))


def result(feature: str, hour: int, statistic: float | None, *, version: int = 1, segment: str = "") -> DriftResult:
    return DriftResult(
        model="m",
        version=version,
        feature=feature,
        statistic=statistic,
        p_value=None,
        verdict="not_enough_data" if statistic is None else "ok",
        reference_rows=1,
        current_rows=1,
        reference_missing=0,
        current_missing=0,
        at=START + timedelta(hours=hour),
        segment=segment,
    )


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), values, min_size=1), min_size=2, max_size=8))
def test_each_cell_is_what_its_check_said(checks: list[dict[str, float | None]]) -> None:
    found = [[result(name, hour, value) for name, value in check.items()] for hour, check in enumerate(checks)]
    drawn = heatmap.spec("m", found)
    assert drawn is not None
    json.dumps(drawn)
    assert len(drawn["times"]) == len(drawn["versions"]) == len(checks)
    assert {row["name"] for row in drawn["rows"]} == {name for check in checks for name in check}
    for row in drawn["rows"]:
        for check, cell in zip(checks, row["cells"], strict=True):
            assert (cell is not None) == (row["name"] in check)
            if cell is not None and check[row["name"]] is not None:
                assert abs(cell[0] - (check[row["name"]] or 0)) < 1e-4


def test_the_worst_now_come_first_and_segments_are_left_out() -> None:
    first = [result("calm", 0, 0.9), result("wild", 0, 0.1)]
    last = [result("calm", 1, 0.1), result("wild", 1, 0.8, version=2), result("wild", 1, 1.0, segment="x=1")]
    drawn = heatmap.spec("m", [first, last])
    assert drawn is not None
    assert [row["name"] for row in drawn["rows"]] == ["wild", "calm"]
    assert drawn["rows"][0]["cells"] == [(0.1, "ok"), (0.8, "ok")]
    assert heatmap.spec("m", [last]) is None


def test_of_too_many_features_the_worst_are_drawn_and_the_others_counted() -> None:
    checks = [[result(f"f{n:03}", hour, n / 100) for n in range(90)] for hour in range(2)]
    drawn = heatmap.spec("m", checks)
    assert drawn is not None
    assert (len(drawn["rows"]), drawn["rows"][0]["name"], drawn["left_out"]) == (heatmap.MOST_FEATURES, "f089", 50)


def a_run(number: int, params: dict[str, str], metrics: dict[str, float]) -> Run:
    logged = {key: Metric(key=key, value=value, step=0, at=START) for key, value in metrics.items()}
    return Run(
        id=f"{number:032}",
        experiment_id="1",
        name=f"r{number}",
        user="ada",
        status="FINISHED",
        started_at=START,
        params=params,
        metrics=logged,
    )


def test_axes_are_what_differs_and_what_was_measured() -> None:
    runs = [
        a_run(1, {"lr": "0.1", "net": "wide", "same": "1"}, {"auc": 0.7, "loss": float("nan")}),
        a_run(2, {"lr": "1e-3", "net": "deep", "same": "1"}, {"auc": 0.8}),
    ]
    drawn = parcoords(runs)
    assert drawn is not None
    json.dumps(drawn, allow_nan=False)
    assert [axis["name"] for axis in drawn["axes"]] == ["lr", "net", "auc"]
    assert [axis["values"] for axis in drawn["axes"]] == [[0.1, 0.001], ["wide", "deep"], [0.7, 0.8]]
    assert parcoords([a_run(1, {}, {"auc": 0.7}), a_run(2, {}, {"auc": 0.8})]) is None


def test_axes_leave_room_for_both_kinds() -> None:
    many = {f"p{n}": "1" for n in range(50)}
    others = {f"p{n}": "2" for n in range(50)}
    metrics = {f"m{n}": float(n) for n in range(50)}
    drawn = parcoords([a_run(1, many, metrics), a_run(2, others, metrics)])
    assert drawn is not None
    kinds = [axis["name"][0] for axis in drawn["axes"]]
    assert kinds == ["p"] * (MOST_AXES // 2) + ["m"] * (MOST_AXES // 2)
