"""Two versions on the same frozen rows: over HTTP, as a gate, and by segment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.records import CompareSpec, Comparison, ModelVersion, Promotion, PromotionPolicy
from mlbox.store.datasets.rows import DatasetFrom
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.models import linear
from tests.web.site import Site, open_box

FEATURES = ("spend@v1:amount", "spend@v1:visits")
SPEC = CompareSpec(dataset="held-out@v1", label="left", margin=0.02)


def register(box: Box, *weights: float) -> ModelVersion:
    digest, size = box.artifacts.put([linear(weights).SerializeToString()])
    return box.registry.register(
        NewVersion(model="churn", features=FEATURES, artifact=digest, size=size, trained_by="ada", submitted_by="ada")
    )


def rows(n: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    amount, visits = rng.normal(size=n), rng.normal(size=n)
    left = (rng.random(n) < 1 / (1 + np.exp(-2 * amount - visits))).astype(int)
    city = np.where(np.arange(n) % 40 == 0, "Ulm", np.where(rng.random(n) < 0.5, "Rome", "Oslo"))
    return pa.table(
        {FEATURES[0]: amount, FEATURES[1]: visits, "left": left, "city": city, "who": [f"p{i // 2}" for i in range(n)]}
    )


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Version 1 knows one feature, 2 knows both, 3 has it the wrong way round, 4 is as 2."""
    box = open_box(Path(tmp_path_factory.mktemp("box") / "data"))
    box.access.create_user("grace", "approver", actor="admin")
    box.datasets.keep_rows("held-out", rows(1000), DatasetFrom(), actor="ada")
    for weights in ((1.0, 0.0), (2.0, 1.0), (-1.0, 0.0), (2.0, 1.0)):
        register(box, *weights)
    yield box
    box.close()


def test_a_better_model_is_better_and_a_worse_one_worse(box: Box) -> None:
    better = box.comparer.compare("churn", 1, 2, SPEC)
    assert better.found[0].outcome == "better"
    assert better.words.startswith("better: auc 0.")
    assert better.spec.hash
    assert box.comparer.compare("churn", 2, 3, SPEC).found[0].outcome == "worse"
    assert box.comparer.compare("churn", 2, 4, SPEC).found[0].outcome == "non_inferior"


def test_by_segment_and_by_entity_too(box: Box) -> None:
    found = box.comparer.compare("churn", 1, 2, msgspec.structs.replace(SPEC, segments=("city",), entity=("who",)))
    by_name = {part.segment: part for part in found.found}
    assert set(by_name) == {"", "city=Rome", "city=Oslo", "city=Ulm"}
    assert by_name[""].method == "paired bootstrap of 500 entities"
    assert by_name["city=Ulm"].note == "25 entities, and of fewer than 30 nothing is said"
    assert by_name["city=Rome"].outcome == "better"


def test_other_rows_are_refused(box: Box) -> None:
    with pytest.raises(Conflict, match="and the comparison is on"):
        box.comparer.compare("churn", 1, 2, msgspec.structs.replace(SPEC, hash="0" * 64))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "gone"}, "has no column 'gone'"),
        ({"label": "city"}, "has no numbers"),
        ({"segments": ("x",)}, "has no column 'x'"),
        ({"label": "spend@v1:amount"}, "takes labels 0 and 1"),
    ],
)
def test_rows_of_which_nothing_can_be_said_are_refused(box: Box, change: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        box.comparer.compare("churn", 1, 2, msgspec.structs.replace(SPEC, **change))
    with pytest.raises(NotFound):
        box.comparer.compare("churn", 1, 99, SPEC)


def test_over_http_and_a_policy_that_names_its_rows_by_hash(box: Box) -> None:
    site = Site(box, "")
    token = box.access.create_token("admin", "test", actor="admin")[1]
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    body = {"first": 1, "second": 2, "spec": msgspec.to_builtins(SPEC)}
    answer = site.request("POST", "/api/v1/models/churn/compare", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert msgspec.json.decode(answer.content, type=Comparison).found[0].outcome == "better"
    policy = msgspec.to_builtins(PromotionPolicy(compare=SPEC))
    answer = site.request("PUT", "/api/v1/models/churn/policy", json=policy, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["compare"]["hash"] == box.datasets.version("held-out@v1").hash
    policy["compare"]["label"] = "gone"
    assert site.request("PUT", "/api/v1/models/churn/policy", json=policy, headers=headers).status_code == 400


def test_as_a_gate_before_any_traffic(box: Box) -> None:
    box.registry.policies.set("churn", box.comparer.freeze(PromotionPolicy(compare=SPEC)), actor="admin")
    first = gates(box, 1)
    assert first["comparison"] == (True, "there is no champion to be compared with")
    to_production(box, 1)
    passed, words = gates(box, 3)["comparison"]
    assert not passed
    assert words.startswith("worse: auc 0.")
    assert gates(box, 2)["comparison"][0]


def test_rows_without_a_positive_a_segment_of_one_row_and_scores_that_are_none_each_say_so(box: Box) -> None:
    if box.registry.by_stage("churn", "Production") is None:
        to_production(box, 1)
    table = rows(200)
    place = table.column_names.index("left")
    nobody = table.set_column(place, "left", pa.array(np.zeros(200, int)))
    box.datasets.keep_rows("nobody-left", nobody, DatasetFrom(), actor="ada")
    spec = msgspec.structs.replace(SPEC, dataset="nobody-left@v1")
    box.registry.policies.set("churn", box.comparer.freeze(PromotionPolicy(compare=spec)), actor="admin")
    passed, words = gates(box, 2)["comparison"]
    assert (passed, "no positive among the 200 rows" in words) == (False, True)

    alone = table.set_column(table.column_names.index("city"), "city", pa.array(["Ulm", *["Oslo"] * 199]))
    box.datasets.keep_rows("one-from-ulm", alone, DatasetFrom(), actor="ada")
    spec = msgspec.structs.replace(SPEC, dataset="one-from-ulm@v1", segments=("city",))
    by_name = {part.segment: part for part in box.comparer.compare("churn", 1, 2, spec).found}
    assert by_name["city=Ulm"].outcome == "undecided"
    assert by_name["city=Ulm"].note == "1 rows, and of fewer than 30 nothing is said"
    assert by_name["city=Oslo"].outcome == "better"

    number = register(box, math.nan, 0.0).version
    with pytest.raises(InvalidInput, match="must be finite"):
        box.comparer.compare("churn", 1, number, SPEC)


def gates(box: Box, number: int) -> dict[str, tuple[bool, str]]:
    promotion = box.promotions.propose(box.registry.version("churn", number), actor="ada")
    found = box.promoter.results(promotion)
    box.promotions.withdraw(promotion.id, actor="ada")
    return {result.gate: (result.passed, result.measured) for result in found}


def to_production(box: Box, number: int) -> Promotion:
    promotion = box.promotions.propose(box.registry.version("churn", number), actor="ada")
    passed = [
        msgspec.structs.replace(result, passed=True) for result in box.promoter.results(promotion)
    ]  # of what this model lacks beside the comparison
    promotion = box.promotions.record_gates(promotion.id, passed)
    return box.promotions.decide(promotion.id, approver="grace", decision="approve")
