"""What the log keeps of a model that wants a sample only: whole requests, drawn fairly, and figures that say so."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.ids import new_id
from mlbox.records import PredictionSampling, ServeRole
from mlbox.serve.inference.rows import PredictRow
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.predictions.batches import Batch
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.routing import bucket
from mlbox.serve.predictions.sampling import parted, place
from mlbox.serve.predictions.served_spans import served_spans
from tests.conftest import wait_for
from tests.serve.house import FEATURES, House
from tests.serve.kept import NOW, SET, Kept

SHARES = st.floats(0, 1)


def batch(keys: list[str], role: ServeRole = "champion", *, array: bool = True) -> Batch:
    values = np.arange(len(keys), dtype=np.float64)[:, None]
    return Batch(
        model="churn",
        version=1,
        role=role,
        at=NOW,
        domain_at=NOW,
        caller="carl",
        latency_ms=[float(at) for at in range(len(keys))],
        ids=[new_id() for _ in keys],
        scores=[float(at) for at in range(len(keys))],
        names=("f",),
        values=values if array else values.tolist(),
        entities=[{"who": key} for key in keys],
        keys=keys,
    )


@given(keys=st.lists(st.text(max_size=4), min_size=1, max_size=30), low=SHARES, high=SHARES, array=st.booleans())
def test_rows_stay_whole_and_what_a_small_share_keeps_a_larger_one_keeps(
    keys: list[str], low: float, high: float, array: bool
) -> None:
    low, high = sorted((low, high))
    sampling = PredictionSampling(share=low, roles={"shadow": high})
    kept, left = parted(batch(keys, array=array), sampling)
    beside, _ = parted(batch(keys, "shadow", array=array), sampling)
    assert kept.scores == [float(at) for at, key in enumerate(keys) if place(key) < low or low == 1]
    assert set(kept.scores) <= set(beside.scores)
    assert [row.features["f"] for row in kept.predictions()] == kept.scores
    assert [row.latency_ms for row in kept.predictions()] == kept.scores
    assert [row.entity["who"] for row in kept.predictions()] == [keys[int(score or 0)] for score in kept.scores]
    assert parted(kept, sampling)[0].ids == kept.ids, "to do it again changes nothing"
    assert sorted([*kept.scores, *left.scores]) == [float(at) for at in range(len(keys))]
    assert [row.features["f"] for row in left.predictions()] == left.scores


def test_places_are_uniform_and_apart_from_those_that_decide_who_answers() -> None:
    keys = [f"customer-{number}" for number in range(4000)]
    places = np.array([place(key) for key in keys])
    routes = np.array([bucket(key) for key in keys])
    assert np.abs(np.histogram(places, bins=10, range=(0, 1))[0] / 4000 - 0.1).max() < 0.02
    assert abs(np.corrcoef(places, routes)[0, 1]) < 0.06


def shadowed(serving: House) -> None:
    serving.serve_one(1.0, 1.0)
    serving.promote(serving.register(-1.0, -1.0))
    serving.log.sample({"score": PredictionSampling(share=0.5)})


@pytest.mark.parametrize("by", ["keys", "features", "tensors", "keyed tensors"])
def test_a_shadow_and_what_it_watched_are_both_there_or_neither_and_all_are_counted(serving: House, by: str) -> None:
    shadowed(serving)
    seen: list[int] = []
    serving.log.on_prediction(lambda batch: seen.append(len(batch.ids)))
    requests, rows = 20, 4
    for n in range(requests):
        if by == "keys":
            wanted = [
                PredictRow(key=f"{n}-{row}", features=dict.fromkeys(FEATURES, n + row / 8)) for row in range(rows)
            ]
            serving.ask(*wanted)
        elif by == "features":
            wanted = [PredictRow(key=new_id(), features=dict.fromkeys(FEATURES, n + row / 8)) for row in range(rows)]
            serving.ask(*wanted)
        else:
            values = np.array([[n + row / 8] * 2 for row in range(rows)], np.float32)
            keys = [f"{n}-{row}" for row in range(rows)] if by == "keyed tensors" else ()
            serving.server.infer("score", [Tensor("input", "FP32", values)], caller="carl", keys=keys)
    every = requests * rows
    wait_for(lambda: serving.log.traffic("score", 2, "shadow").count == every, what="the shadow")
    kept = serving.log.recent("score", 1000)
    by_role = {
        role: sorted(row.features[FEATURES[0]] for row in kept if row.role == role) for role in ("champion", "shadow")
    }
    assert by_role["champion"] == by_role["shadow"]
    assert 20 < len(by_role["champion"]) < 60
    assert serving.log.traffic("score", 1, "champion").count == every
    assert sum(seen) == 2 * every
    assert serving.log.left_out() == {"score": 2 * every - len(kept)}


def asked(serving: House, rows: int, rng: np.random.Generator, *, shift: float = 0.0) -> None:
    values = rng.normal(shift, size=(rows, 2)).tolist()
    serving.ask(*[PredictRow(key=new_id(), features=dict(zip(FEATURES, row, strict=True))) for row in values])


def test_drift_is_of_every_prediction_and_served_spans_say_of_what_sample_they_are(serving: House) -> None:
    serving.serve_one(1.0, 1.0)
    rng = np.random.default_rng(4)
    for share in (1, 0.25, 0.25):
        serving.log.sample({"score": PredictionSampling(share=share)})
        asked(serving, 400, rng)
        (found, *_) = serving.monitor.check("score")
    assert (found.sample, found.current_rows, found.verdict) == (1, 1200, "ok")
    assert serving.log.window("score").rows < 1000
    (span,) = served_spans(
        serving.log,
        "score",
        since=NOW - timedelta(days=9000),
        until=NOW + timedelta(days=9000),
        every=timedelta(days=9000),
    )[-1:]
    assert span.sample == pytest.approx(serving.log.window("score").rows / 1200, rel=0.15)
    assert serving.monitor.estimate("score").predictions == 1200


@pytest.mark.parametrize("share", [0, 0.05, 1])
def test_a_shift_is_found_as_soon_whatever_is_kept_of_it(serving: House, share: float) -> None:
    serving.serve_one(0.0, 0.0)
    serving.log.sample({"score": PredictionSampling(share=share)})
    rng = np.random.default_rng(4)
    asked(serving, 300, rng)
    assert {result.verdict for result in serving.monitor.check("score")} == {"ok"}
    asked(serving, 300, rng, shift=2)
    assert {(result.verdict, result.current_rows) for result in serving.monitor.check("score")} == {("alert", 600)}


def test_a_window_after_a_restart_is_of_what_was_kept_and_says_so(serving: House) -> None:
    serving.serve_one(0.0, 0.0)
    serving.log.sample({"score": PredictionSampling(share=0.5)})
    rng = np.random.default_rng(4)
    asked(serving, 400, rng)
    serving.log.flush()
    serving.log.forget("score")
    (before, *_) = serving.monitor.check("score")
    assert 160 < before.current_rows < 240
    assert before.sample == 0.5
    asked(serving, 400, rng)
    (after, *_) = serving.monitor.check("score")
    assert after.current_rows == before.current_rows + 400
    assert after.sample == pytest.approx(after.current_rows / (2 * before.current_rows + 400))


def test_what_is_left_out_is_remembered_within_bounds_and_of_nobody(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, flush_seconds=3600, remembered=100)
    log.sample({"churn": PredictionSampling(share=0, roles={"canary": 1})})
    for number in range(30):
        log.put([batch([f"{number}-{row}" for row in range(7)]), batch(["s"], "shadow"), batch(["c"], "canary")])
    found = log.served("churn", limit=100)
    assert found.rows == 30 + 105, "the newest whole batches that hold a hundred, no shadow, and what is kept"
    assert set(found.shares) == {1.0}
    assert log.window("churn").rows == 30
    assert not found.entities
    log.forget("churn")
    assert log.served("churn", limit=100).rows == 30
    log.close()


def test_live_metrics_say_of_what_sample_they_are(tmp_path: Path) -> None:
    house = Kept(tmp_path)
    house.model("churn")
    house.keeping.sample("churn", PredictionSampling(share=0.4), actor="ann")
    for n in range(300):
        house.put("churn", f"u{n}")
    tables = house.outcomes.join("churn", SET)
    ((rows, asked),) = house.offline.rows(f"SELECT count(*), sum(1 / _share) FROM {tables.asked}")
    assert 80 < rows < 160
    assert asked == pytest.approx(rows / 0.4)
    house.close()


def test_rows_with_and_without_a_share_go_together_in_one_file(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, flush_seconds=3600)
    log.put([batch([f"a{n}" for n in range(50)])])
    log.flush()
    log.sample({"churn": PredictionSampling(share=0.5)})
    log.put([batch([f"b{n}" for n in range(50)])])
    found = log.window("churn")
    assert list(found.shares[:50]) == [1.0] * 50
    assert set(found.shares[50:]) == {0.5}
    log.sample({"churn": PredictionSampling(share=0)})
    log.put([batch(["c"])])
    assert log.window("churn").rows == found.rows, "a share of 0 keeps nothing"
    assert msgspec.json.decode(PredictionSampling(share=0.5).to_json(), type=PredictionSampling).share == 0.5
    log.close()
