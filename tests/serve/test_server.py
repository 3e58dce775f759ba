"""The model server: who answers, from which features, and what is written down."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.serve.server import PredictRow
from mlbox.store.registry import NewVersion
from tests.conftest import wait_for
from tests.serve.house import FEATURES, House


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def given(key: str = "k", **features: Any) -> PredictRow:
    return PredictRow(key=key, features=features)


def test_features_are_taken_by_reference_or_by_plain_name_in_any_order(serving: House) -> None:
    serving.serve_one(1.0, 10.0)
    full = PredictRow(key="k", features={FEATURES[1]: 0.5, FEATURES[0]: -4.0})
    found = serving.ask(full, given(visits=0.5, amount=-4.0))
    assert [p.score for p in found] == pytest.approx([sigmoid(1)] * 2, rel=1e-5)
    assert found[0].features == {FEATURES[0]: -4.0, FEATURES[1]: 0.5}
    assert (found[0].caller, found[0].role, found[0].version) == ("carl", "champion", 1)


def test_an_entitys_features_are_looked_up_and_what_is_missing_is_nan(serving: House) -> None:
    serving.with_view()
    serving.serve_one(1.0, 1.0)
    known, gap = serving.ask(PredictRow(key="a", entity={"who": "a"}), PredictRow(key="b", entity={"who": "b"}))
    assert known.score == pytest.approx(sigmoid(3), rel=1e-5)
    assert math.isnan(gap.score)
    assert gap.features == {FEATURES[0]: None, FEATURES[1]: 3.0}
    assert known.entity == {"who": "a"}


def test_an_unknown_entity_is_not_found_and_an_odd_one_is_invalid(serving: House) -> None:
    serving.with_view()
    serving.serve_one()
    with pytest.raises(NotFound, match="No view knows") as caught:
        serving.ask(PredictRow(key="a", entity={"who": "a"}), PredictRow(key="z", entity={"who": "zoe"}))
    assert caught.value.field == "entities.1"
    with pytest.raises(InvalidInput, match="has no 'who'"):
        serving.ask(PredictRow(key="a", entity={"whom": "a"}))
    assert serving.log.traffic("score", 1, "champion").count == 0


@pytest.mark.parametrize(
    ("features", "field"),
    [
        ({"amount": 1.0}, f"features.0.{FEATURES[1]}"),
        ({"amount": 1.0, "visits": 1, "colour": 1}, "features.0.colour"),
        ({"amount": 1.0, FEATURES[0]: 1.0, "visits": 1}, f"features.0.{FEATURES[0]}"),
        ({"amount": math.nan, "visits": 1}, "features.0.amount"),
        ({"amount": math.inf, "visits": 1}, "features.0.amount"),
        ({"amount": "1", "visits": 1}, "features.0.amount"),
        ({"amount": [1], "visits": 1}, "features.0.amount"),
    ],
)
def test_bad_features_are_refused_by_name(serving: House, features: dict[str, Any], field: str) -> None:
    serving.serve_one()
    with pytest.raises(InvalidInput) as caught:
        serving.ask(PredictRow(key="k", features=features))
    assert caught.value.field == field


def test_no_rows_and_no_model_are_errors(serving: House) -> None:
    with pytest.raises(InvalidInput, match="0 rows"):
        serving.ask()
    serving.register()
    with pytest.raises(NotFound, match="in Production"):
        serving.ask(given(amount=1, visits=1))
    with pytest.raises(NotFound, match="does not serve"):
        serving.ask(given(amount=1, visits=1), version=1)


def test_a_shadow_sees_every_request_after_the_answer_and_never_answers(serving: House) -> None:
    serving.serve_one(1.0, 0.0)
    serving.promote(serving.register(-1.0, 0.0))
    found = serving.ask(*[given(str(n), amount=1.0, visits=0) for n in range(20)])
    assert {p.version for p in found} == {1}
    wait_for(lambda: serving.log.traffic("score", 2, "shadow").count == 20, what="the shadow")
    shadows = [p for p in serving.log.recent("score") if p.role == "shadow"]
    assert {round(p.score, 4) for p in shadows} == {round(sigmoid(-1), 4)}


def test_a_canary_answers_its_share_and_the_answers_keep_their_order(serving: House) -> None:
    serving.serve_one(1.0, 0.0)
    promotion = serving.promote(serving.register(-1.0, 0.0))
    serving.promotions.shadow_done(promotion, "seen")
    serving.approve(promotion)
    found = serving.ask(*[given(str(n), amount=float(n), visits=0) for n in range(100)])
    assert {p.version for p in found} == {1, 2}
    for n, p in enumerate(found):
        assert p.score == pytest.approx(sigmoid(n if p.version == 1 else -n), abs=1e-5)
    again = serving.ask(*[given(str(n), amount=0.0, visits=0) for n in range(100)])
    assert [p.version for p in again] == [p.version for p in found], "the same key meets the same version"
    assert serving.log.traffic("score", 2, "canary").count == 2 * sum(p.version == 2 for p in found)


def test_a_version_that_is_named_answers_and_counts_for_no_rollout(serving: House) -> None:
    serving.serve_one(1.0, 0.0)
    serving.promote(serving.register(-1.0, 0.0))
    (found,) = serving.ask(given(amount=1.0, visits=0), version=2)
    assert (found.version, found.role) == (2, "champion")
    assert serving.log.traffic("score", 2, "canary").count == 0


def test_a_model_that_fails_is_an_error_that_is_counted(serving: House) -> None:
    serving.serve_one(1.0)  # one column, and the version names two features
    with pytest.raises(Unavailable, match="score/1 failed"):
        serving.ask(given(amount=1.0, visits=0))
    assert serving.log.traffic("score", 1, "champion").errors == 1


def test_a_version_without_a_usable_file_says_so(serving: House) -> None:
    digest, size = serving.artifacts.put([b"no model"])
    bad = NewVersion(model="score", features=FEATURES, artifact=digest, size=size, trained_by="a", submitted_by="a")
    serving.approve(serving.promote(serving.registry.register(bad)))
    with pytest.raises(Unavailable, match="cannot be loaded"):
        serving.ask(given(amount=1.0, visits=0))
