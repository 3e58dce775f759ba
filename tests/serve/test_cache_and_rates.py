"""Answers that are remembered, and how often one token may ask."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import TooMany
from mlbox.records import Principal, ServingConfig
from mlbox.serve.inference.cache import ENTRY_BYTES, Answers, key_of
from mlbox.serve.inference.rates import Rates
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.work import Ran
from mlbox.store.asking import asking
from tests.serve.house import House


def rows(*values: float) -> list[Tensor]:
    return [Tensor("input", "FP32", np.array([values], np.float32))]


def ask(house: House, *values: float) -> tuple[float, str, int]:
    found = house.server.infer("score", rows(*values), caller="carl")
    return float(found.outputs[0].data[0, 0]), found.ids[0], found.versions[0]


def test_nothing_is_remembered_by_default_and_what_is_is_logged_like_any_other(serving: House) -> None:
    serving.serve_one(1.0, -1.0)
    ask(serving, 1.0, 2.0)
    ask(serving, 1.0, 2.0)
    assert serving.server.statistics.of("score", 1).executions == 2
    serving.server.configure("score", ServingConfig(cache_bytes=1 << 20))
    first, again, other = ask(serving, 3.0, 2.0), ask(serving, 3.0, 2.0), ask(serving, 3.0, 2.5)
    totals = serving.server.statistics.of("score", 1)
    assert (totals.executions, totals.cache_hit.count, totals.cache_miss.count) == (4, 1, 2)
    assert first[0] == again[0] != other[0]
    assert first[1] != again[1]
    assert serving.log.traffic("score", 1, "champion").count == 5
    assert totals.success.count == 5


def test_another_version_answers_by_itself_and_a_smaller_cache_forgets(serving: House) -> None:
    serving.server.configure("score", ServingConfig(cache_bytes=1 << 20))
    serving.serve_one(1.0, 0.0)
    before = ask(serving, 1.0, 1.0)
    second = serving.register(-1.0, 0.0)
    serving.promote(second)
    found = serving.server.infer("score", rows(1.0, 1.0), caller="carl", version=2)
    assert float(found.outputs[0].data[0, 0]) == pytest.approx(1 - before[0])
    serving.server.configure("score", ServingConfig())
    hits = serving.server.statistics.of("score", 1).cache_hit.count
    ask(serving, 1.0, 1.0)
    assert serving.server.statistics.of("score", 1).cache_hit.count == hits


@given(sizes=st.lists(st.integers(0, 300), max_size=20), most=st.integers(0, 4 * ENTRY_BYTES))
def test_a_cache_is_never_larger_than_it_may_be_and_keeps_the_latest(sizes: list[int], most: int) -> None:
    answers = Answers()
    for number, size in enumerate(sizes):
        answers.put("m", bytes([number]), Ran(None, [np.zeros(size, np.int8)]), most=most)
        assert answers.size("m") <= most
        kept = answers.get("m", bytes([number]))
        assert (kept is not None) == (size + ENTRY_BYTES <= most)
    answers.shrink("m", 0)
    assert answers.size("m") == 0


@given(
    a=st.lists(st.text(max_size=3), min_size=1, max_size=3),
    b=st.lists(st.text(max_size=3), min_size=1, max_size=3),
)
def test_other_inputs_outputs_and_versions_have_other_keys(a: list[str], b: list[str]) -> None:
    def key(texts: list[str], wanted: tuple[str, ...] = ("y",), version: str = "v") -> bytes:
        return key_of(version, [Tensor("x", "BYTES", np.array(texts, object))], wanted)

    assert (key(a) == key(b)) == (a == b)
    assert len({key(a), key(a, ("y", "z")), key(a, ("yz",)), key(a, version="w")}) == 4


def test_the_key_is_of_the_values_whatever_their_layout_and_order() -> None:
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    x, y = Tensor("x", "FP32", data), Tensor("y", "FP32", data.T)
    moved = Tensor("x", "FP32", np.asfortranarray(data))
    assert key_of("v", [x, y], ()) == key_of("v", [y, moved], ())
    assert key_of("v", [x], ()) != key_of("v", [x._replace(data=-data)], ())
    assert key_of("v", [x], ()) != key_of("v", [x._replace(data=data.reshape(3, 2))], ())


def test_a_bucket_gives_its_burst_then_its_rate_and_says_when() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    for _ in range(3):
        rates.take("m", "t", rate=0.5, burst=3)
    with pytest.raises(TooMany, match=r"'m' 0.5 times a second") as refused:
        rates.take("m", "t", rate=0.5, burst=3)
    assert refused.value.retry_seconds == 2
    rates.take("m", "other", rate=0.5, burst=3)
    rates.take("n", "t", rate=0.5, burst=3)
    now = 2.0
    rates.take("m", "t", rate=0.5, burst=3)
    with pytest.raises(TooMany):
        rates.take("m", "t", rate=0.5, burst=3)


def test_each_token_of_a_model_is_limited_for_itself(serving: House) -> None:
    serving.serve_one(1.0, 0.0)
    serving.server.configure("score", ServingConfig(rate_limit=0.001, rate_burst=2))
    ann = Principal(name="ann", role="member", token_id="t1")
    for principal in (ann, msgspec.structs.replace(ann, token_id="t2")):
        with asking(principal):
            ask(serving, 1.0, 1.0)
            ask(serving, 1.0, 1.0)
            with pytest.raises(TooMany):
                ask(serving, 1.0, 1.0)
    assert serving.server.statistics.of("score", 1).reasons == {"rate_limit": 2}
    assert serving.log.traffic("score", 1, "champion").errors == 0
