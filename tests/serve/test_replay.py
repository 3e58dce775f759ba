"""Logged traffic, asked again offline: what a shadow would have said, what breaks, what is lacking, and what a restart leaves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import InvalidInput
from mlbox.events import EventBus
from mlbox.records import ModelVersion, Promotion, PromotionPolicy, Replay, ReplayRule, ReplaySpec
from mlbox.serve.inference.rows import PredictRow
from mlbox.serve.inference.runtime import Session
from mlbox.serve.inference.tensor_sample import MOST, MOST_BYTES, TensorSample
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.warmup import RECORDED_BYTES
from mlbox.serve.promotion.logged import Logged
from mlbox.serve.promotion.replay import Requests
from mlbox.serve.promotion.replayer import Replayer
from mlbox.serve.promotion.replays import Replays
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.features.ondemand import Transforms
from mlbox.store.registry.registry import NewVersion
from mlbox.store.registry.replays import MOST_KEPT, MOST_STARTS
from mlbox.store.registry.replays import Replays as Kept
from tests.conftest import wait_for
from tests.models import counting, linear, mixed, picky
from tests.serve.house import FEATURES, POLICY, House

BROKEN = -(2.0**63)
"""Ends the process of the picky model."""
X = ("x",)


class Yard:
    """A house with one thing more: replays, of which each is waited for."""

    def __init__(self, house: House, seconds: float = 600) -> None:
        self.house, self.registry = house, house.registry
        self.kept = Kept(house.dbs["registry"])
        self.open(seconds)

    def open(self, seconds: float = 600) -> None:
        house = self.house
        features = Transforms(house.dbs["features"], house.offline, house.online, house.clock)
        datasets: Any = Datasets
        requests = Requests(house.registry, house.log, datasets, house.artifacts, house.server.sample.feeds)
        logged = Logged(house.registry, house.log, features)
        replayer = Replayer(house.registry, house.artifacts, seconds=seconds)
        self.replays = Replays(house.registry, self.kept, logged, house.server.sample, requests, replayer, house.clock)

    def register(self, model: onnx.ModelProto, features: tuple[str, ...] = X) -> ModelVersion:
        digest, size = self.house.artifacts.put([model.SerializeToString()])
        session = Session(model.SerializeToString())
        return self.registry.register(
            NewVersion(
                model="score",
                features=features,
                artifact=digest,
                size=size,
                inputs=session.inputs,
                outputs=session.outputs,
                trained_by="ann",
                submitted_by="ann",
            )
        )

    def serve(self, *weights: float, features: tuple[str, ...] = X) -> ModelVersion:
        version = self.register(linear(weights or (1.0,)), features)
        self.house.approve(self.house.promote(version))
        return version

    def ask(self, *values: float | None, entity: dict[str, Any] | None = None) -> None:
        """Each by itself, as requests come."""
        for value in values:
            self.house.ask(PredictRow(key="k", features={"x": value}, entity=entity or {}))

    def replay(self, version: ModelVersion, **spec: Any) -> Replay:
        asked = self.replays.ask("score", version.version, ReplaySpec(**spec), actor="ann")
        assert asked.state == "waiting"
        return self.ended(asked)

    def ended(self, asked: Replay) -> Replay:
        def there() -> Replay | None:
            found = self.replays.get("score", asked.version, asked.id)
            return found if found.state in ("done", "too_few", "failed") else None

        return wait_for(there, what="the replay")


@pytest.fixture
def yard(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Yard]:
    house = House(tmp_path, clock, bus)
    made = Yard(house)
    yield made
    made.replays.close()
    house.close()


def test_a_replay_says_of_the_same_requests_what_the_shadow_said(yard: Yard) -> None:
    yard.registry.policies.set("score", msgspec.structs.replace(POLICY, segments=("who", "x")), actor="admin")
    yard.serve(1.0)
    candidate = yard.register(linear([-0.5], bias=0.25))
    promotion = yard.house.promotions.get(yard.house.promote(candidate))
    assert promotion.state == "shadow"
    for who, value in (("a", 2.0), ("b", -1.0), ("a", 0.25), ("c", None)):
        yard.ask(value, entity={"who": who})
    shadow = wait_for(lambda: (f := yard.house.rollouts.shadow(promotion)) and f[0].rows == 4 and f, what="the shadow")
    replay = yard.replay(candidate)
    assert (replay.state, replay.replayed, replay.logged, replay.against) == ("done", 4, 4, 1)
    assert replay.reproduced_share == 1.0
    assert [untimed(one) for one in replay.figures] == [untimed(one) for one in shadow]
    assert {one.segment for one in replay.figures} == {"", "who=a", "who=b", "who=c", "x=2", "x=-1", "x=0.25"}
    assert all(one.slower_p99_ms is not None for one in replay.figures)


def untimed(figures: Any) -> dict[str, Any]:
    """Without times, and with rounded sums: they come in another order."""
    return {
        name: round(value, 9) if isinstance(value, float) else value
        for name, value in msgspec.to_builtins(figures).items()
        if not name.endswith("_ms")
    }


def test_what_it_fails_on_and_answers_invalidly_is_counted_and_the_first_failure_told(yard: Yard) -> None:
    yard.serve()
    yard.ask(0.0, 1.0, 2.0, 7.0, 1.0)
    found = yard.replay(yard.register(picky()))
    assert (found.state, found.replayed, found.failed, found.invalid) == ("done", 5, 1, 1)
    every = found.figures[0]
    assert (every.rows, every.failed, every.invalid) == (4, 1, 1)
    assert "indices element out of da" in found.error
    assert "1 failed, 1 invalid" in found.words


def test_a_version_that_ends_its_process_leaves_what_it_answered_and_the_request_is_named(yard: Yard) -> None:
    yard.serve()
    yard.ask(1.0, BROKEN, 0.0, 1.0)
    found = yard.replay(yard.register(picky()))
    assert (found.state, found.replayed, found.figures[0].rows) == ("failed", 2, 2)
    assert "SIGFPE" in found.reason
    assert found.reason.endswith("score/2 was asked request 3 of 4, the newest first.")


def test_only_so_many_requests_of_such_a_time_are_asked_again_and_none_is_a_state(yard: Yard) -> None:
    candidate = yard.register(linear([2.0]))
    found = yard.replay(candidate)
    assert (found.state, found.reason) == ("too_few", "0 requests of score are logged, and 1 or more are asked again")
    yard.serve()
    yard.ask(1.0, 2.0)
    yard.house.later(hours=2)
    yard.ask(3.0)
    assert yard.replay(candidate).replayed == 3
    assert yard.replay(candidate, last=2).replayed == 2
    assert yard.replay(candidate, window_seconds=3600).replayed == 1
    yard.house.later(days=2)
    late = yard.replay(candidate, window_seconds=86_400)
    assert (late.state, late.reason) == (
        "too_few",
        "0 requests of score of the last 1 d are logged, and 1 or more are asked again",
    )


def test_beside_a_version_that_did_not_answer_then_that_one_is_asked_again_too(yard: Yard) -> None:
    yard.serve(1.0)
    yard.ask(1.0, -1.0)
    second, third = yard.register(linear([3.0])), yard.register(linear([3.0]))
    found = yard.replay(third, against=second.version)
    assert (found.against, found.logged, found.reproduced_share) == (2, 0, None)
    assert (found.figures[0].rows, found.figures[0].most) == (2, 0.0)
    assert yard.replay(third).figures[0].most > 0


def test_features_that_the_log_lacks_are_those_that_the_history_knows_for_the_moment(yard: Yard) -> None:
    yard.house.with_view()
    yard.serve(1.0, features=FEATURES[:1])
    for who in ("a", "b", "a"):
        yard.house.ask(PredictRow(key="k", entity={"who": who}))
    yard.house.ask(PredictRow(key="k", features={FEATURES[0]: 9.0}))
    candidate = yard.register(linear([0.0, 1.0]), FEATURES)
    found = yard.replay(candidate)
    assert (found.state, found.replayed, found.computed) == ("done", 3, FEATURES[1:])
    assert found.reason == f"1 more name no entity to look {FEATURES[1]} up by"
    assert found.invalid == 0  # visits are 2 and 3, and of nobody missing
    assert found.figures[0].rows == 3


def test_a_feature_that_nothing_knows_is_said(yard: Yard) -> None:
    yard.serve()
    yard.ask(1.0)
    found = yard.replay(yard.register(linear([1.0, 1.0]), ("x", "spend@v1:visits")))
    assert found.state == "failed"
    assert found.reason.startswith("The log has no 'spend@v1:visits', and it cannot be computed: ")
    yard.house.with_view()
    found = yard.replay(yard.register(linear([1.0, 1.0]), ("x", "spend@v1:visits")))
    assert found.reason == ("The log has no 'spend@v1:visits', and its requests name no entity to look it up by.")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"last": 0}, "last"),
        ({"last": 2**62}, "last"),
        ({"window_seconds": -1.0}, "window_seconds"),
        ({"window_seconds": 1e300}, "window_seconds"),
    ],
)
def test_an_odd_request_is_refused(yard: Yard, spec: dict[str, Any], field: str) -> None:
    version = yard.register(linear([1.0]))
    with pytest.raises(InvalidInput) as refused:
        yard.replays.ask("score", version.version, ReplaySpec(**spec), actor="ann")
    assert refused.value.field == field


# -- models of tensors --------------------------------------------------------------------------------------------------------


def infer(yard: Yard, *requests: list[float]) -> None:
    """Each a request of so many rows."""
    for values in requests:
        tensor = Tensor("input", "FP32", np.array(values, np.float32).reshape(-1, 1))
        yard.house.server.infer("score", [tensor], caller="carl")


def test_of_tensors_a_sample_is_replayed_and_says_what_the_shadow_said(yard: Yard) -> None:
    first = yard.register(linear([1.0]), ())
    yard.house.approve(yard.house.promote(first))
    infer(yard, [0.5])
    assert yard.replay(first).figures[0].most == 0  # beside itself
    yard.house.server.sample.forget("score")
    candidate = yard.register(linear([-0.5], bias=0.25), ())
    promotion = yard.house.promotions.get(yard.house.promote(candidate))
    assert promotion.state == "shadow"
    infer(yard, [2.0], [-1.0, 0.25, 3.0], [1.0])
    shadow = wait_for(lambda: (f := yard.house.rollouts.shadow(promotion)) and f[0].rows == 5 and f, what="the shadow")
    found = yard.replay(candidate)
    assert (found.state, found.rows, found.replayed, found.logged, found.alike) == ("done", 3, 3, 0, 0)
    assert [untimed(one) for one in found.figures] == [untimed(one) for one in shadow]  # what it ran itself is not kept
    assert "of 3 requests since the server started 3 are kept" in found.reason
    assert found.source == "the model's requests that are kept in memory"
    assert yard.replay(candidate, last=2).replayed == 2
    yard.house.later(days=2)
    assert yard.replay(candidate, window_seconds=3600.0).state == "too_few"


def test_what_gives_no_scores_is_compared_by_its_outputs_and_what_does_not_fit_fails(yard: Yard) -> None:
    words = [
        Tensor("word", "BYTES", np.array(["a", "bé\x00"], object)),
        Tensor("number", "INT64", np.ones((2, 2), np.int64)),
    ]
    yard.house.server.sample.note("score", words, 2)
    first = yard.register(mixed(), ())
    alone = yard.replay(first)
    assert (alone.state, alone.replayed, alone.invalid, alone.alike) == ("done", 1, 0, None)
    beside = yard.replay(yard.register(mixed(), ()), against=first.version)
    assert (beside.figures, beside.alike, beside.invalid) == ((), 1, 0)
    assert "the very same outputs on 1" in beside.words
    odd = yard.replay(yard.register(linear([1.0]), ()), against=first.version)
    assert (odd.failed, odd.alike) == (1, 0)
    assert "unexpected inference input 'word'" in odd.error
    yard.house.server.sample.forget("score")
    none = yard.replay(first)
    assert none.state == "too_few"
    assert none.reason.startswith("0 requests of score are there, and 1 or more are asked again: of 0 requests since")


def test_versions_of_other_requests_are_not_compared(yard: Yard) -> None:
    yard.serve()
    yard.ask(1.0)
    tensors = yard.register(linear([1.0]), ())
    with pytest.raises(InvalidInput, match="score/2 takes tensors, and score/1 takes features") as refused:
        yard.replays.ask("score", tensors.version, ReplaySpec(against=1), actor="ann")
    assert refused.value.field == "against"
    yard.house.server.sample.note("score", [Tensor("input", "FP32", np.ones((1, 1), np.float32))], 1)
    found = yard.replay(tensors)
    assert (found.state, found.replayed, found.against, found.figures) == ("done", 1, None, ())


@pytest.mark.hypothesis
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.tuples(st.integers(1, 900), st.booleans(), st.integers(1, 4000)), max_size=6))
def test_a_sample_is_bounded_and_even(clock: ManualClock, counts: list[tuple[int, bool, int]]) -> None:
    sample, number = TensorSample(clock), 0
    for count, together, width in counts:
        data = np.repeat(np.arange(number, number + count, dtype=np.float32)[:, None], width, axis=1)
        tensors = [Tensor("x", "FP32", data)]
        if together:
            sample.note_each("m", tensors, count)
        else:
            for place in range(count):
                sample.note("m", [Tensor("x", "FP32", data[place : place + 1])], 1)
        number += count
    found = sample.of("m", last=10**6)
    kept = [int(one.tensors[0].data[0, 0]) for one in found.requests]
    assert len(kept) <= MOST
    assert sum(one.tensors[0].data.nbytes for one in found.requests) <= MOST_BYTES
    assert kept == sorted(set(kept))
    assert f"of {number:,} requests since the server started {len(kept):,} are kept" in found.note
    if number:
        assert kept
        widest = max((after - before for before, after in itertools.pairwise([0, *kept, number])), default=0)
        assert widest <= 4 * number / len(kept)  # none of it is left out


def test_a_large_request_is_not_kept(clock: ManualClock) -> None:
    sample = TensorSample(clock)
    sample.note("m", [Tensor("x", "BYTES", np.array(["é" * (RECORDED_BYTES + 1)], object))], 1)
    sample.note("m", [Tensor("x", "FP32", np.zeros((1, RECORDED_BYTES // 4 + 1), np.float32))], 1)
    assert sample.of("m", last=10).total == 0


# -- restarts -----------------------------------------------------------------------------------------------------------------


def test_a_server_that_ends_in_the_middle_leaves_it_to_the_next_which_begins_it_anew(yard: Yard) -> None:
    yard.serve()
    yard.ask(*[200_000.0] * 50)
    slow = yard.register(counting())
    asked = yard.replays.ask("score", slow.version, ReplaySpec(), actor="ann")
    wait_for(lambda: yard.replays.get("score", 2, asked.id).state == "running", what="it to run")
    yard.replays.close()
    assert yard.replays.get("score", 2, asked.id).state == "waiting"
    yard.open(seconds=0)
    yard.replays.resume()
    found = yard.ended(asked)
    assert (found.state, found.replayed, found.reason) == ("done", 1, "0 s were enough for 1 of them")


def test_one_that_a_crash_cut_off_is_begun_anew_and_not_for_ever(yard: Yard) -> None:
    yard.serve()
    yard.ask(1.0)
    version = yard.register(linear([1.0]))
    waiting = [
        yard.kept.add(
            version, Replay(model="score", version=2, spec=ReplaySpec(), state="waiting", at=yard.house.clock.real())
        )
        for _ in range(2)
    ]
    assert yard.kept.begin(waiting[0]).state == "running"
    for _ in range(MOST_STARTS):
        yard.kept.begin(waiting[1])
    yard.replays.resume()
    assert yard.ended(waiting[0]).state == "done"
    failed = yard.ended(waiting[1])
    assert (failed.state, failed.reason) == ("failed", "the server ended 2 times while it ran: it is not begun again")


def test_of_a_version_the_newest_are_kept(yard: Yard) -> None:
    version = yard.register(linear([1.0]))
    last = [yard.replay(version) for _ in range(MOST_KEPT + 2)][-1]
    found = yard.replays.of("score", version.version)
    assert len(found) == MOST_KEPT
    assert found[0] == last


# -- for a policy -------------------------------------------------------------------------------------------------------------


def proposed(yard: Yard, version: ModelVersion, **rule: Any) -> Promotion:
    policy = msgspec.structs.replace(POLICY, replay=ReplayRule(**rule))
    yard.registry.policies.set("score", policy, actor="admin")
    return yard.house.promotions.propose(version, actor="ann")


def test_a_policy_may_wait_for_traffic_and_a_first_version_waits_for_none(yard: Yard) -> None:
    first = proposed(yard, yard.register(linear([1.0])), min_rows=3, too_few="wait")
    assert yard.replays.missing(first) == ""
    yard.house.promotions.withdraw(first.id, actor="ann")
    yard.serve()
    yard.ask(1.0, 2.0)
    candidate = yard.register(linear([1.5]))
    promotion = proposed(yard, candidate, min_rows=3, too_few="wait", window_days=1.0)
    assert yard.replays.missing(promotion) == "2 of 3 requests are logged to be replayed"
    assert yard.replays.judge(promotion, candidate).state == "too_few"  # type: ignore[union-attr]
    yard.ask(3.0)
    assert yard.replays.missing(promotion) == ""
    found = yard.replays.judge(promotion, candidate)
    assert found is not None
    assert (found.state, found.replayed, found.by) == ("done", 3, "ann")
    yard.house.clock.advance(yard.house.clock.now() + timedelta(days=2))
    assert yard.replays.missing(promotion) == "0 of 3 requests are logged to be replayed"


def test_a_policy_without_a_rule_replays_nothing(yard: Yard) -> None:
    version = yard.register(linear([1.0]))
    yard.registry.policies.set("score", PromotionPolicy(replay=ReplayRule(last=0)), actor="admin")
    promotion = yard.house.promotions.propose(version, actor="ann")
    assert yard.replays.judge(promotion, version) is None
    assert yard.replays.missing(promotion) == ""
