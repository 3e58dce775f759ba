"""Fairness by groups: the figures of fairlearn and numpy on random data, small and odd groups, and what a policy asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from fairlearn import metrics
from sklearn.metrics import precision_score, roc_auc_score

from mlbox.errors import Conflict, InvalidInput
from mlbox.records import FairnessColumn, FairnessSpec, ModelVersion, PromotionPolicy
from mlbox.serve.promotion.fairness import breaches
from mlbox.serve.promotion.fairness_worker import column
from mlbox.store.datasets.rows import DatasetFrom
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.models import linear
from tests.web.site import open_box

FEATURES = ("spend@v1:amount", "spend@v1:visits")
SPEC = FairnessSpec(dataset="held-out@v1", label="left", sensitive=("city",))


def people(seed: int, n: int = 600, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and groups of three sizes, the first of which is scored higher by a shift."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(3, n, p=(0.6, 0.36, 0.04))
    labels = (rng.random(n) < 0.4).astype(float)
    scores = np.clip(0.3 * labels + 0.7 * rng.random(n) + shift * (groups == 0), 0, 1)
    return labels, scores, groups


@pytest.mark.parametrize("seed", range(8))
def test_every_figure_is_that_of_fairlearn_and_scikit_learn(seed: int) -> None:
    labels, scores, groups = people(seed, shift=0.05 * seed)
    found = column("city", labels, scores, groups, ["Rome", "Oslo", "Ulm"], 0.5)
    names = np.array(["Rome", "Oslo", "Ulm"])[groups]
    kept = np.isin(names, [group.group for group in found.groups if group.judged])
    truth, selected, of = labels[kept] == 1, scores[kept] >= 0.5, names[kept]
    frame = metrics.MetricFrame(
        metrics={
            "rows": metrics.count,
            "selection_rate": metrics.selection_rate,
            "true_positive_rate": metrics.true_positive_rate,
            "false_positive_rate": metrics.false_positive_rate,
            "precision": precision_score,
        },
        y_true=truth,
        y_pred=selected,
        sensitive_features=of,
    )
    for group in (group for group in found.groups if group.judged):
        assert group.rows == frame.by_group["rows"][group.group]
        for name in ("selection_rate", "true_positive_rate", "false_positive_rate", "precision"):
            rate = getattr(group, name)
            assert rate.value == pytest.approx(frame.by_group[name][group.group])
            assert 0 <= rate.low <= rate.value <= rate.high <= 1
        here = of == group.group
        assert group.auc.value == pytest.approx(roc_auc_score(truth[here], scores[kept][here]))
        assert group.auc.low < group.auc.value < group.auc.high
    rates = frame.by_group["selection_rate"]
    assert found.parity_difference == pytest.approx(rates.max() - rates.min())
    assert found.parity_ratio == pytest.approx(rates.min() / rates.max())
    spread = {name: frame.by_group[name].max() - frame.by_group[name].min() for name in frame.by_group}
    assert found.equal_opportunity_difference == pytest.approx(spread["true_positive_rate"])
    odds = max(spread["true_positive_rate"], spread["false_positive_rate"])
    assert found.equalized_odds_difference == pytest.approx(odds)


def test_the_interval_of_a_rate_is_wilsons_and_covers_it() -> None:
    from statsmodels.stats.proportion import proportion_confint

    labels, scores, groups = people(1)
    rate = column("city", labels, scores, groups, ["a", "b", "c"], 0.5).groups[0].selection_rate
    rows = int((groups == 0).sum())
    low, high = proportion_confint(round(rate.value * rows), rows, method="wilson")
    assert (rate.low, rate.high) == pytest.approx((low, high))


def test_a_small_group_is_counted_and_not_judged() -> None:
    labels, scores, groups = people(2, n=400)
    found = column("city", labels, scores, groups, ["Rome", "Oslo", "Ulm"], 0.5)
    small = found.groups[-1]
    assert (small.group, small.judged, small.selection_rate) == ("Ulm", False, None)
    assert 0 < small.rows < 30
    without = groups != 2
    alone = column("city", labels[without], scores[without], groups[without], ["Rome", "Oslo"], 0.5)
    assert alone.parity_ratio == found.parity_ratio


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "note"),
    [
        ([0, 1] * 20, [0.9] * 40, [0] * 40, "1 group has 30 rows or more, and it takes two to compare"),
        ([0, 1] * 10, [0.9] * 20, [0, 1] * 10, "no group has 30 rows or more, and it takes two to compare"),
        ([0, 0, 1, 0] * 20, [0.1] * 80, [0, 1] * 40, "nobody is selected; 1 has no positives"),
    ],
)
def test_what_cannot_be_said_is_not_said(labels: list[int], scores: list[float], groups: list[int], note: str) -> None:
    swapped = [1 - g for g in groups] if "positives" in note else groups
    found = column("city", np.array(labels, float), np.array(scores), np.array(swapped), ["0", "1"], 0.5)
    assert note.split("; ")[0] in found.note
    assert found.parity_ratio is None
    asked = breaches(found, SPEC)
    assert len(asked) == 1
    assert "no demographic parity ratio" in asked[0]


def test_each_threshold_is_held_and_named() -> None:
    found = FairnessColumn(
        column="city",
        groups=(),
        parity_difference=0.2,
        parity_ratio=0.7,
        equalized_odds_difference=0.3,
        equal_opportunity_difference=0.1,
    )
    assert breaches(found, SPEC) == ["city: demographic parity ratio 0.700, at least 0.8 is asked for"]
    strict = msgspec.structs.replace(
        SPEC,
        min_parity_ratio=0.7,
        max_parity_difference=0.1,
        max_equalized_odds_difference=0.3,
        max_equal_opportunity_difference=0.05,
    )
    assert breaches(found, strict) == [
        "city: demographic parity difference 0.200, at most 0.1 is asked for",
        "city: equal opportunity difference 0.100, at most 0.05 is asked for",
    ]


# -- in a box -------------------------------------------------------------------------------------------------------------


def register(box: Box, *weights: float) -> ModelVersion:
    digest, size = box.artifacts.put([linear(weights).SerializeToString()])
    return box.registry.register(
        NewVersion(model="churn", features=FEATURES, artifact=digest, size=size, trained_by="ada", submitted_by="ada")
    )


def rows(n: int = 400) -> pa.Table:
    """Amounts are lower in Oslo; visits are alike everywhere."""
    rng = np.random.default_rng(0)
    city = np.where(np.arange(n) % 2 == 0, "Rome", "Oslo")
    amount, visits = rng.normal(size=n) + np.where(city == "Rome", 1.0, -1.0), rng.normal(size=n)
    left = (rng.random(n) < 0.5).astype(int)
    return pa.table({FEATURES[0]: amount, FEATURES[1]: visits, "left": left, "city": city, "id": np.arange(n)})


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Version 1 looks at visits alone, version 2 at amounts."""
    box = open_box(Path(tmp_path_factory.mktemp("box") / "data"))
    box.datasets.keep_rows("held-out", rows(), DatasetFrom(), actor="ada")
    register(box, 0.0, 1.0)
    register(box, 1.0, 0.0)
    yield box
    box.close()


def test_a_version_that_treats_groups_alike_passes_and_one_that_does_not_is_told_why(box: Box) -> None:
    alike = box.fairness.judge(box.registry.version("churn", 1), SPEC)
    assert alike.breaches == ()
    assert alike.spec.hash
    assert alike.words.startswith("city: selection rates within a ratio of 0.87")
    unlike = box.fairness.judge(box.registry.version("churn", 2), SPEC)
    assert unlike.words.startswith("city: demographic parity ratio 0.")
    assert [group.group for group in unlike.columns[0].groups] == ["Rome", "Oslo"]


def test_as_a_gate_whose_evidence_is_kept_for_the_approver(box: Box) -> None:
    policy = box.fairness.freeze(PromotionPolicy(fairness=SPEC))
    assert policy.fairness
    assert policy.fairness.hash == box.datasets.version("held-out@v1").hash
    box.registry.policies.set("churn", policy, actor="admin")
    promotion = box.promoter.promote("churn", 2, actor="ada")
    promotion = box.promoter.tested(promotion.id, 60)
    gate = next(result for result in promotion.gates if result.gate == "fairness")
    assert not gate.passed
    assert "demographic parity ratio" in gate.measured
    kept = box.assessments.of(promotion.id)
    assert kept.fairness
    assert kept.fairness.columns[0].parity_ratio
    assert kept.fairness.breaches


def test_rows_and_columns_that_say_nothing_are_refused(box: Box) -> None:
    version = box.registry.version("churn", 1)
    for change, words in (
        ({"sensitive": ("gone",)}, "has no column 'gone'"),
        ({"sensitive": ("id",)}, "has 400 values, and 200 groups"),
        ({"label": FEATURES[0]}, "takes labels 0 and 1"),
    ):
        with pytest.raises(InvalidInput, match=words):
            box.fairness.judge(version, msgspec.structs.replace(SPEC, **change))
    with pytest.raises(Conflict, match="and the fairness is on"):
        box.fairness.judge(version, msgspec.structs.replace(SPEC, hash="0" * 64))
