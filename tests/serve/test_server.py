"""The model server: who answers, from which features, and what is written down."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from mlbox.errors import InvalidInput, MlboxError, NotFound, Refused, Unavailable
from mlbox.events import EventBus
from mlbox.records import ServingConfig
from mlbox.serve.inference import background
from mlbox.serve.inference.background import Background
from mlbox.serve.inference.devices import Devices
from mlbox.serve.inference.execution import Ask
from mlbox.serve.inference.server import ModelServer, PredictRow
from mlbox.serve.inference.singles import Singles
from mlbox.serve.inference.tab import MOST, MOST_BYTES
from mlbox.serve.inference.targets import Target
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.warmup import Speed
from mlbox.serve.predictions.batches import Batch
from mlbox.store.registry.curation import Curation
from mlbox.store.registry.registry import NewVersion
from mlbox.store.registry.reinstate import Reinstatement
from mlbox.web.v2 import dataplane, wire
from tests.conftest import wait_for
from tests.models import linear
from tests.serve.house import FEATURES, POLICY, House


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
    with pytest.raises(NotFound, match="in Production; there is score/1 in stage None"):
        serving.ask(given(amount=1, visits=1))
    with pytest.raises(Refused, match="is in stage None and may not serve"):
        serving.ask(given(amount=1, visits=1), version=1)


def test_a_shadow_sees_every_request_after_the_answer_and_never_answers(serving: House) -> None:
    serving.serve_one(1.0, 0.0)
    serving.promote(serving.register(-1.0, 0.0))
    found = serving.ask(*[given(str(n), amount=1.0, visits=0) for n in range(20)])
    assert {p.version for p in found} == {1}
    wait_for(lambda: serving.log.traffic("score", 2, "shadow").count == 20, what="the shadow")
    shadows = [p for p in serving.log.recent("score") if p.role == "shadow"]
    assert {round(p.score, 4) for p in shadows} == {round(sigmoid(-1), 4)}
    (promotion,) = serving.promotions.open("score")
    words = "agrees on 0.0% of 20 rows, scores 0.462 apart in the mean, 0.462 at most"
    wait_for(lambda: words in serving.rollouts.standing(promotion).reason, what="the pairs")


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
        serving.ask(given(amount=1.0, visits=0), given(amount=2.0, visits=0))
    assert serving.log.traffic("score", 1, "champion").errors == 2, "a row each, as answers are counted"
    assert serving.log.recent("score") == []


def test_a_version_without_a_usable_file_says_so(serving: House) -> None:
    digest, size = serving.artifacts.put([b"no model"])
    bad = NewVersion(model="score", features=FEATURES, artifact=digest, size=size, trained_by="a", submitted_by="a")
    serving.approve(serving.promote(serving.registry.register(bad)))
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be loaded: The file is not an ONNX model"):
            serving.ask(given(amount=1.0, visits=0))
    assert serving.log.traffic("score", 1, "champion").errors == 2, "a candidate that cannot be loaded is rolled back"
    assert serving.server.loaded() == []


def test_an_error_names_the_row_as_the_caller_counts_whoever_answers_it(serving: House) -> None:
    serving.with_view()
    serving.serve_one(1.0, 0.0)
    promotion = serving.promote(serving.register(-1.0, 0.0))
    serving.promotions.shadow_done(promotion, "seen")
    serving.approve(promotion)
    rows = [PredictRow(key=str(n), entity={"who": "a"}) for n in range(20)]
    assert {p.version for p in serving.ask(*rows)} == {1, 2}
    for place in range(20):
        odd = [*rows[:place], PredictRow(key=str(place), entity={"who": 7}), *rows[place + 1 :]]
        with pytest.raises(InvalidInput) as caught:
            serving.ask(*odd)
        assert caught.value.field == f"entities.{place}.who"
        unknown = [*rows[:place], PredictRow(key=str(place), entity={"who": "zoe"}), *rows[place + 1 :]]
        with pytest.raises(NotFound, match=r"it is not in spend@v1") as missed:
            serving.ask(*unknown)
        assert missed.value.field == f"entities.{place}"


def test_rows_by_ids_and_rows_by_features_do_not_mix(serving: House) -> None:
    serving.with_view()
    serving.serve_one()
    with pytest.raises(InvalidInput, match="Some rows have features"):
        serving.ask(given(amount=1, visits=1), PredictRow(key="a", entity={"who": "a"}))


def test_a_shadow_sees_the_very_features_that_the_champion_saw(serving: House) -> None:
    serving.with_view()
    serving.serve_one(1.0, 0.0)
    serving.promote(serving.register(-1.0, 0.0))
    (answer,) = serving.ask(PredictRow(key="a", entity={"who": "a"}))
    wait_for(lambda: serving.log.traffic("score", 2, "shadow").count == 1, what="the shadow")
    shadow, champion = serving.log.recent("score", 2)
    assert (shadow.role, champion.id) == ("shadow", answer.id)
    assert (shadow.features, shadow.entity) == (champion.features, champion.entity)


def test_a_shadow_is_told_by_segment_with_its_time_beside_the_champion_s(serving: House) -> None:
    serving.registry.policies.set("score", replace(POLICY, segments=("who", "visits")), actor="admin")
    serving.with_view()
    serving.serve_one(1.0, 0.0)
    serving.promote(serving.register(-1.0, 0.0))
    serving.ask(*[PredictRow(key=who, entity={"who": who}) for who in "aab"])
    serving.ask(PredictRow(key="a", entity={"who": "a"}))
    (promotion,) = serving.promotions.open("score")
    wait_for(lambda: serving.rollouts.shadow(promotion)[0].requests == 2, what="both requests")
    found = {one.segment: one for one in serving.rollouts.shadow(promotion)}
    assert {name: one.rows for name, one in found.items()} == {
        "": 4,
        "who=a": 3,
        "who=b": 1,
        "visits=2": 3,
        "visits=3": 1,
    }
    assert (found["who=a"].requests, found["who=b"].requests) == (2, 1)
    alike = sigmoid(-1.0) - sigmoid(1.0)
    assert found["who=a"].leaning == pytest.approx(alike, abs=1e-6)
    assert found["who=a"].mean_difference == pytest.approx(-alike, abs=1e-6)
    times = (found[""].champion_p95_ms, found[""].shadow_p95_ms, found[""].slower_p50_ms, found[""].slower_p99_ms)
    assert None not in times


def test_a_shadow_that_cannot_answer_what_the_champion_can_has_failed(serving: House) -> None:
    serving.serve_one(1.0, 0.0)
    digest, size = serving.artifacts.put([linear([1.0]).SerializeToString()])
    other = NewVersion(
        model="score", features=("x@v1:other",), artifact=digest, size=size, trained_by="a", submitted_by="a"
    )
    serving.promote(serving.registry.register(other))
    assert serving.ask(*[given(amount=1.0, visits=0)] * 3)[0].version == 1
    wait_for(lambda: serving.log.traffic("score", 2, "shadow").errors == 3, what="the shadow's failures")
    (promotion,) = serving.promotions.open("score")
    wait_for(lambda: serving.rollouts.shadow(promotion)[0].failed == 3, what="the request's comparison")
    assert [(one.segment, one.rows, one.failed_share) for one in serving.rollouts.shadow(promotion)] == [("", 0, 1.0)]


@pytest.mark.parametrize("features", [(), FEATURES])
def test_a_version_that_does_not_say_what_it_takes_is_loaded_to_find_out(
    serving: House, features: tuple[str, ...]
) -> None:
    """It is asked before anything had it loaded, as after a start of the server."""
    digest, size = serving.artifacts.put([linear([1.0, 1.0]).SerializeToString()])
    new = NewVersion(model="plain", artifact=digest, size=size, features=features, trained_by="ann", submitted_by="ann")
    serving.approve(serving.promote(serving.registry.register(new)))
    assert not serving.server.loaded()
    tensors = [Tensor("input", "FP32", np.array([[1.0, 2.0]], np.float32))]
    found = dataplane.infer(serving.server, "plain", None, wire.Request([]), tensors, "carl")
    assert found.outputs[0].data.tolist() == [[pytest.approx(1 / (1 + np.exp(-3.0)))]]


def test_what_a_version_takes_is_shown_without_loading_it_as_far_as_it_is_known(serving: House) -> None:
    digest, size = serving.artifacts.put([linear([1.0, 1.0]).SerializeToString()])
    new = NewVersion(model="plain", artifact=digest, size=size, trained_by="ann", submitted_by="ann")
    serving.approve(serving.promote(serving.registry.register(new)))
    assert serving.server.known_inputs("plain") == ()
    assert (serving.server.metadata("plain").inputs, serving.server.metadata("plain", 1).outputs) == ((), ())
    assert not serving.server.loaded()
    (spec,) = serving.server.inputs("plain")
    assert (spec.name, len(serving.server.loaded()), serving.server.known_inputs("plain")) == ("input", 1, (spec,))
    for version in (None, 1):
        shown = serving.server.metadata("plain", version)
        assert (shown.inputs, [output.name for output in shown.outputs]) == ((spec,), ["score"])


def test_a_version_that_cannot_be_loaded_to_say_what_it_takes_has_failed(serving: House) -> None:
    digest, size = serving.artifacts.put([b"no model"])
    new = NewVersion(model="plain", artifact=digest, size=size, trained_by="ann", submitted_by="ann")
    serving.approve(serving.promote(serving.registry.register(new)))
    tensors = [Tensor("input", "FP32", np.array([[1.0, 2.0]], np.float32))]
    with pytest.raises(Unavailable):
        dataplane.infer(serving.server, "plain", None, wire.Request([]), tensors, "carl")
    with pytest.raises(Unavailable):
        serving.server.infer("plain", tensors, caller="carl")
    assert serving.log.traffic("plain", 1, "champion").errors == 2


def test_the_longest_unused_version_gives_way(serving: House) -> None:
    server = ModelServer(
        serving.registry,
        serving.artifacts,
        serving.features,
        serving.rollouts,
        serving.log,
        serving.clock,
        most_loaded=1,
    )
    first = serving.serve_one(1.0, 0.0)
    second = serving.register(2.0, 0.0)
    server.load(first)
    server.load(second)
    assert [v.version for v in server.loaded()] == [2]
    server.load(first)
    assert [v.version for v in server.loaded()] == [1]
    server.close()


def test_models_are_spread_over_devices(serving: House) -> None:
    """Where there are none, as here, they are on the processor in truth."""
    server = ModelServer(
        serving.registry,
        serving.artifacts,
        serving.features,
        serving.rollouts,
        serving.log,
        serving.clock,
        devices=Devices((0, 1)),
    )
    versions = [serving.serve_one(1.0, 0.0), *(serving.register(weight, 0.0) for weight in (2.0, 3.0))]
    for version in versions:
        server.load(version)
    assert [server.held(version).device for version in versions] == [0, 1, 0]
    server.unload("score", 1)
    server.unload("score", 3)
    server.load(versions[2])
    assert server.held(versions[2]).device == 0, "where nothing is"
    server.close()


def test_with_a_bus_what_serves_is_loaded_ahead_and_what_is_retired_is_dropped(serving: House, bus: EventBus) -> None:
    server = ModelServer(
        serving.registry,
        serving.artifacts,
        serving.features,
        serving.rollouts,
        serving.log,
        serving.clock,
        bus=bus,
    )
    serving.serve_one(1.0, 0.0)
    wait_for(lambda: [v.version for v in server.loaded()] == [1], what="the champion to be loaded")
    promotion = serving.promote(serving.register(-1.0, 0.0))
    wait_for(lambda: {v.version for v in server.loaded()} == {1, 2}, what="the candidate to be loaded")
    serving.promotions.roll_back(promotion, "bad")
    assert [v.version for v in server.loaded()] == [1]
    server.close()
    again = ModelServer(
        serving.registry, serving.artifacts, serving.features, serving.rollouts, serving.log, serving.clock
    )
    again.warm()
    wait_for(lambda: [v.version for v in again.loaded()] == [1], what="what serves to be loaded at the start")
    again.close()


def test_the_version_that_was_replaced_stays_for_a_rollback_and_is_the_first_to_give_way(
    serving: House, bus: EventBus
) -> None:
    stores = (serving.registry, serving.artifacts, serving.features, serving.rollouts, serving.log, serving.clock)
    server = ModelServer(*stores, bus=bus, most_loaded=3)

    def held() -> list[str]:
        every = [one for model in ("other", "score") for one in serving.registry.versions(model)]
        return sorted(one.ref for one in every if server.held(one).size)

    def swap(weight: float, *there: str) -> None:
        promotion = serving.promote(serving.register(weight, 0.0))
        wait_for(lambda: held() == list(there), what="the candidate to be loaded")
        serving.promotions.shadow_done(promotion, "seen")
        serving.approve(promotion)
        while serving.promotions.get(promotion).state == "canary":
            serving.promotions.next_step(promotion, "held")

    serving.approve(serving.promote(serving.register(1.0, 0.0, model="other")))
    serving.serve_one(1.0, 0.0)
    wait_for(lambda: held() == ["other/1", "score/1"], what="both to be loaded")
    swap(-1.0, "other/1", "score/1", "score/2")
    assert held() == ["other/1", "score/1", "score/2"]
    assert [one.ref for one in server.loaded() if one.model == "score"] == ["score/2"], "the other may not be asked"
    back = Reinstatement(serving.dbs["registry"], serving.registry, serving.promotions)
    back.to("score", 1, actor="carl")
    assert held() == ["other/1", "score/1", "score/2"]
    assert server.predict("score", rows=[given(visits=0, amount=1)], caller="carl")[0].version == 1
    swap(2.0, "other/1", "score/1", "score/3")  # of which other/1 was not asked for the longest
    assert held() == ["other/1", "score/1", "score/3"], "the one that was replaced now"
    Curation(serving.dbs["registry"], serving.registry).delete_version("score", 1, actor="ann")
    assert held() == ["other/1", "score/3"]
    server.close()


def test_many_threads_that_want_a_version_load_it_once_and_get_their_own_answers(serving: House) -> None:
    serving.serve_one(1.0, 0.0)
    wrong: list[float] = []

    def work(n: int) -> None:
        for _ in range(20):
            (found,) = serving.ask(given(str(n), amount=n / 8, visits=0))
            if found.score != pytest.approx(sigmoid(n / 8), rel=1e-5):
                wrong.append(found.score)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert serving.log.traffic("score", 1, "champion").count == 160


def test_a_queue_of_shadows_that_is_full_drops_and_counts_and_does_not_wait() -> None:
    gate, busy = threading.Event(), threading.Event()
    queue = Background("test", room=2)
    done: list[int] = []

    def hold() -> None:
        busy.set()
        gate.wait()

    assert queue.offer(hold)
    busy.wait()
    assert [queue.offer(lambda n=n: done.append(n)) for n in range(4)] == [True, True, False, False]
    gate.set()
    wait_for(lambda: done == [0, 1], what="what found room")
    queue.close()
    assert not queue.offer(hold)


def test_work_that_comes_while_its_thread_goes_to_sleep_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LINGER_SECONDS", 0)  # so that it goes to sleep after each
    queue = Background("test", room=100)

    def offer(times: int) -> bool:
        for _ in range(times):
            done = threading.Event()
            if not queue.offer(done.set) or not done.wait(60):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(offer, [300] * 4))
    queue.close()


def test_requests_that_are_run_at_once_are_answered_and_logged_as_alone(serving: House) -> None:
    serving.serve_one(1.0, 10.0)
    serving.server.load(serving.registry.version("score", 1))
    target = serving.server.targets.find("score")
    matrices = [[[-4.0, 0.5]], [[1.0, 0.0], [0.0, 0.1]], [[2.0, 0.0]], [[math.nan, 0.0]]]
    begun = [
        serving.server.begin(Ask(target, [Tensor("input", "FP32", np.array(rows, np.float32))], caller))
        for rows, caller in zip(matrices, ("ann", "ann", "bea", "ann"), strict=True)
    ]
    found = serving.server.run(begun)
    answers = [one.outputs[0].data.ravel().tolist() for one in found if not isinstance(one, MlboxError)]
    wanted = [[sigmoid(1)], [sigmoid(1)] * 2, [sigmoid(2)], [math.nan]]
    for answer, scores in zip(answers, wanted, strict=True):
        assert answer == pytest.approx(scores, rel=1e-5, nan_ok=True)
    ids = [one.ids for one in found if not isinstance(one, MlboxError)]
    assert [len(some) for some in ids] == [1, 2, 1, 1]
    logged = {row.id: row for row in serving.log.recent("score")}
    assert [[logged[own].caller for own in some] for some in ids] == [["ann"], ["ann"] * 2, ["bea"], ["ann"]]
    first, last = logged[ids[0][0]], logged[ids[3][0]]
    assert (first.features, last.features[FEATURES[0]]) == ({FEATURES[0]: -4.0, FEATURES[1]: 0.5}, None)
    assert logged[ids[1][1]].features[FEATURES[1]] == pytest.approx(0.1)
    assert serving.server.statistics.of("score", 1).success.count == 4
    assert serving.log.traffic("score", 1, "champion").count == 5


def test_entities_of_requests_at_once_are_looked_up_for_each_as_alone(serving: House) -> None:
    serving.with_view()
    serving.serve_one(1.0, 1.0)
    entities: list[list[dict[str, Any]]] = [[{"who": "a"}], [{"who": "b"}, {"who": "a"}], [{"who": "zoe"}], [{}]]
    asked = [
        serving.server.ask_rows("score", [PredictRow(key="k", entity=one) for one in some], "carl") for some in entities
    ]
    asked.append(serving.server.ask_rows("score", [given(amount=-4.0, visits=4.0)], "carl"))
    first, second, unknown, odd, own = serving.server.run(asked)
    assert not isinstance(first, MlboxError)
    assert not isinstance(second, MlboxError)
    assert not isinstance(own, MlboxError)
    assert first.outputs[0].data.tolist() == pytest.approx([sigmoid(3)], rel=1e-5)
    assert second.outputs[0].data.tolist() == pytest.approx([math.nan, sigmoid(3)], rel=1e-5, nan_ok=True)
    assert own.outputs[0].data.tolist() == pytest.approx([0.5], rel=1e-5)
    assert isinstance(unknown, NotFound)
    assert isinstance(odd, InvalidInput)
    assert (unknown.field, odd.field) == ("entities.0", "entities.0.who")
    logged = {row.id: row for row in serving.log.recent("score")}
    assert [logged[own].entity for own in (*first.ids, *second.ids)] == [{"who": "a"}, {"who": "b"}, {"who": "a"}]
    assert logged[second.ids[0]].features == {FEATURES[0]: None, FEATURES[1]: 3.0}
    assert logged[own.ids[0]].features == {FEATURES[0]: -4.0, FEATURES[1]: 4.0}
    assert len(logged) == 4


def in_memory(serving: House) -> Target:
    """The one version that answers, known to be quick however slow this machine is; it was asked twice."""
    for _ in range(2):
        serving.ask(given(amount=0.0, visits=0.0))
    target = serving.server.targets.find("score")
    assert target.alone is not None
    target.alone[1].lane.speed = Speed(1e-6, 1e-9)
    return target


def test_rows_that_are_requests_of_their_own_are_logged_and_counted_as_such(serving: House) -> None:
    serving.with_view()
    serving.serve_one(1.0, 1.0)
    assert serving.server.crowd("score") is None, "not in memory"
    target = in_memory(serving)
    assert serving.server.crowd("score") is target
    data = np.array([[-4.0, 0.5], [1.0, 1.0]], np.float32)
    first = serving.server.answer_rows(Singles(target, "ann", "input", "FP32"), data)
    rows = [PredictRow(key=name, entity={"who": name}) for name in ("a", "b", "z")]
    second = serving.server.answer_singles(serving.server.singles(target, rows[:2], "ann"))
    with pytest.raises(NotFound):
        serving.server.answer_singles(serving.server.singles(target, rows, "ann"))
    assert first.outputs[0].data.ravel().tolist() == pytest.approx([sigmoid(-3.5), sigmoid(2)], rel=1e-5)
    logged = {row.id: row for row in serving.log.recent("score")}
    assert [logged[own].features[FEATURES[0]] for own in (*first.ids, *second.ids)] == [-4.0, 1.0, 1.0, None]
    assert [logged[own].entity for own in second.ids] == [{"who": "a"}, {"who": "b"}]
    assert serving.server.statistics.of("score", 1).success.count == 6
    assert (serving.log.traffic("score", 1, "champion").count, len(logged)) == (6, 6)


def answering_later(serving: House) -> tuple[ModelServer, Singles, list[Callable[[], None]], list[Batch]]:
    """A server of single rows, whose calls for later and logged batches are kept here."""
    singles, later, told = (
        Singles(in_memory(serving), "ann", "input", "FP32"),
        list[Callable[[], None]](),
        list[Batch](),
    )
    serving.server.tab.soon = later.append
    serving.log.on_prediction(told.append)
    return serving.server, singles, later, told


def test_what_was_answered_is_counted_and_logged_together_before_anybody_reads_of_it(serving: House) -> None:
    serving.serve_one(1.0, 1.0)
    server, singles, later, told = answering_later(serving)
    answered = serving.clock.now()
    ids = [server.answer_rows(singles, np.full((1, 2), n, np.float32)).ids[0] for n in range(3)]
    assert (told, len(later)) == ([], 1), "they wait, for one call"
    serving.clock.advance(answered + timedelta(hours=1))
    assert server.statistics.of("score", 1).success.count == 5, "with the two that had it in memory"
    assert [(list(batch.ids), batch.domain_at, len(batch.by_request)) for batch in told] == [(ids, answered, 3)]
    logged = {row.id: row.features[FEATURES[0]] for row in serving.log.recent("score")}
    assert [logged[own] for own in ids] == [0.0, 1.0, 2.0]
    for _ in range(MOST + 1):
        server.answer_rows(singles, np.ones((1, 2), np.float32))
    assert (len(told), len(told[1].ids)) == (2, MOST), "as many as may wait, and no more"
    for call in later:
        call()
    assert [len(batch.ids) for batch in told] == [3, MOST, 1]
    server.answer_rows(singles, np.ones((1, 2), np.float32))
    server.close()
    assert len(told) == 4


def test_answers_to_large_requests_wait_for_few_others(serving: House) -> None:
    """What they were asked with is kept as long as they wait."""
    serving.serve_one(1.0, 1.0)
    server, singles, later, told = answering_later(serving)
    half = MOST_BYTES // 2
    for size in (half - 8, half, 8):
        entry = singles.run(np.ones((1, 2), np.float32))
        assert entry.size == 8
        server.tab.add(entry._replace(size=size))
    assert ([len(batch.ids) for batch in told], len(later)) == ([3], 1)


def test_requests_that_are_each_asked_about_do_not_run_as_one(serving: House) -> None:
    serving.serve_one(1.0, 1.0)
    in_memory(serving)
    assert serving.server.crowd("score") is not None
    for config in (ServingConfig(rate_limit=5.0), ServingConfig(cache_bytes=1000)):
        serving.server.configure("score", config)
        assert serving.server.crowd("score") is None
    serving.server.configure("score", ServingConfig())
    serving.promote(serving.register(-1.0, 0.0))
    serving.ask(given(amount=0.0, visits=0.0))
    target = serving.server.crowd("score")
    assert target is not None
    assert target.alone is not None
    assert target.alone[0].shadow == 2, "it watches, whoever answers"
