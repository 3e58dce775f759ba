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
from mlbox.serve.batches import Batch
from mlbox.serve.predlog import PredictionLog
from mlbox.serve.routing import bucket
from mlbox.serve.rows import PredictRow
from mlbox.serve.sampling import place, thinned
from mlbox.serve.served_spans import served_spans
from mlbox.serve.tensors import Tensor
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
    kept = thinned(batch(keys, array=array), sampling)
    beside = thinned(batch(keys, "shadow", array=array), sampling)
    assert kept.scores == [float(at) for at, key in enumerate(keys) if place(key) < low or low == 1]
    assert set(kept.scores) <= set(beside.scores)
    assert [row.features["f"] for row in kept.predictions()] == kept.scores
    assert [row.latency_ms for row in kept.predictions()] == kept.scores
    assert [row.entity["who"] for row in kept.predictions()] == [keys[int(score or 0)] for score in kept.scores]
    assert thinned(kept, sampling).ids == kept.ids, "to do it again changes nothing"


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


def test_drift_and_served_spans_say_of_what_sample_they_are(serving: House) -> None:
    serving.serve_one(1.0, 1.0)
    rng = np.random.default_rng(4)

    def ask(rows: int) -> None:
        values = rng.normal(size=(rows, 2))
        serving.ask(
            *[PredictRow(key=new_id(), features=dict(zip(FEATURES, row, strict=True))) for row in values.tolist()]
        )

    ask(400)
    (before, *_) = serving.monitor.check("score")
    assert before.sample == 1
    serving.log.sample({"score": PredictionSampling(share=0.25)})
    ask(400)
    ask(400)
    (after, *_) = serving.monitor.check("score")
    assert after.sample == pytest.approx(after.current_rows / 1200, rel=0.15)
    assert after.verdict == "ok"
    (span,) = served_spans(
        serving.log,
        "score",
        since=NOW - timedelta(days=9000),
        until=NOW + timedelta(days=9000),
        every=timedelta(days=9000),
    )[-1:]
    assert span.sample == pytest.approx(after.sample)


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
