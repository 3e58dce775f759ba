"""What is kept under a model's name goes with the model, whoever has the name next."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.errors import Conflict, Unavailable
from mlbox.records import BusinessNumber, HoldSpec, PredictionSampling
from mlbox.serve.registration import belongings
from mlbox.serve.registration.belongings import ByName
from mlbox.store.monitoring.alerts import Alerts
from mlbox.store.registry.curation import Curation
from mlbox.store.registry.former_names import Nothing, strays
from tests.serve.kept import Kept


class House(Kept):
    examples = 0

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        super().__init__(folder, make=make)
        self.curation = Curation(self.dbs["registry"], self.registry)
        self.by_name = ByName(self.dbs["monitoring"], self.log, self.outcomes, self.keeping)
        self.registry.belongings = self.by_name

    def remember(self, model: str) -> None:
        """Something of each kind that is kept of a model."""
        row = self.put(model, "ann")
        self.log.flush()
        number = BusinessNumber(name="revenue", value=1.0, prediction_id=row.id)
        self.business.post(model, [number], actor="ann")
        self.keeping.keep(model, 30, actor="ann")
        self.keeping.sample(model, PredictionSampling(share=0.5), actor="ann")
        self.keeping.hold(HoldSpec(model=model, reason="a case"), actor="ann")
        alerts = Alerts(self.dbs["monitoring"])
        labels = {"feature": "f", "model": model}
        self.dbs["monitoring"].write(lambda tx: alerts.apply(tx, "feature_drift", labels, "fire", summary="it drifts"))
        result = json.dumps({"model": model})
        for table in ("drift", "skew"):
            sql = f"INSERT INTO {table} (model, feature, check_id, at_us, result) VALUES (?, 'f', ?, 0, ?)"
            self.dbs["monitoring"].write(lambda tx, sql=sql: tx.run(sql, (model, row.id, result)))

    def known(self, model: str) -> dict[str, object]:
        """What there is under a name."""
        db = self.dbs["monitoring"]
        found: dict[str, object] = {
            table: [
                json.loads(row["result"])["model"] for row in db.all(f"SELECT * FROM {table} WHERE model = ?", (model,))
            ]
            for table in ("drift", "skew")
        }
        states = "SELECT state FROM alert WHERE labels ->> 'model' = ?"
        kept = self.keeping.of(model)
        return found | {
            "alerts": [row["state"] for row in db.all(states, (model,))],
            "business": [one.count for one in self.business.series(model)],
            "days": kept.days,
            "share": kept.sampling.share,
            "holds": kept.holds,
            "joined": len(self.joined(model)),
            "predictions": [row.model for row in self.log.recent(model)],
        }


NEW = {
    "drift": [],
    "skew": [],
    "alerts": [],
    "business": [],
    "days": 183,
    "share": 1.0,
    "holds": 0,
    "joined": 0,
    "predictions": [],
}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


def test_a_model_with_the_name_of_one_that_was_deleted_has_nothing_of_it(house: House) -> None:
    house.model("churn")
    house.remember("churn")
    house.put("churn", "bea")
    before = house.known("churn")
    assert before["alerts"] == ["firing"]
    first = house.registry.model("churn").id
    house.curation.delete("churn", actor="ann")
    house.model("churn")
    assert house.known("churn") == NEW
    assert house.ids(f"~{first}~churn"), "it is kept beside its model"
    own = house.put("churn", "eve")
    assert house.ids("churn") == {own.id}
    assert house.joined("churn") == {own.id}
    house.curation.delete("churn", actor="ann")
    house.curation.restore(first, "churn", actor="ann")
    assert house.known("churn") == {**before, "alerts": ["resolved"]}, "and comes back with it"


def test_what_is_kept_follows_a_new_name(house: House) -> None:
    house.model("churn")
    house.remember("churn")
    before = house.known("churn")
    house.curation.rename("churn", "leavers", actor="ann")
    renamed = {"drift": ["leavers"], "skew": ["leavers"], "predictions": ["leavers"]}
    assert house.known("leavers") == {**before, **renamed}
    house.model("churn")
    assert house.known("churn") == NEW


def test_a_move_that_a_crash_came_before_is_made_by_the_next_start(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.model("churn")
    row = house.put("churn", "ann")
    house.log.flush()
    house.registry.belongings = Nothing()
    house.curation.rename("churn", "leavers", actor="ann")
    house.close()
    house = House(tmp_path, make=False)
    assert house.ids("churn") == {row.id}
    house.by_name.settle(strays(house.dbs["registry"]))
    assert (house.ids("churn"), house.ids("leavers")) == (set(), {row.id})
    assert house.joined("leavers") == {row.id}
    house.close()


def test_while_predictions_are_removed_nobody_gets_the_name(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.model("churn")
    row = house.put("churn", "ann")
    house.curation.delete("churn", actor="ann")
    monkeypatch.setattr(belongings, "WAIT_SECONDS", 0.01)
    with house.keeping.standing_still(1), pytest.raises(Unavailable, match="being removed"):
        house.model("churn")
    assert house.ids("churn") == {row.id}
    house.model("churn")
    assert house.ids("churn") == set()


def test_rows_that_lie_on_both_sides_all_arrive(house: House) -> None:
    """As when a request that began before the name was given up ends after."""
    house.model("churn")
    house.model("leavers")
    rows = [house.put("churn", "ann"), house.put("leavers", "ann", version=2)]
    house.log.flush()
    rows.append(house.put("leavers", "bea"))
    house.log.flush()
    house.log.move("leavers", "churn")
    house.log.move("leavers", "churn")
    assert house.ids("churn") == {row.id for row in rows}
    rows.append(house.put("churn", "eve"))
    assert {row.id for row in rows} == house.ids("churn")


NAMES = ("churn", "leavers")
STEPS = st.lists(
    st.tuples(st.sampled_from(("create", "predict", "predict", "delete", "rename", "restore")), st.sampled_from(NAMES)),
    max_size=14,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    built = House(tmp_path_factory.mktemp("shared"))
    yield built
    built.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_each_model_has_its_own_predictions_whatever_it_was_called(shared: House, steps: list[tuple[str, str]]) -> None:
    """Against a plain table by id: models come, go, are renamed and come back under names that others had."""
    shared.examples += 1
    run = f"m{shared.examples}"
    real: dict[str, str] = {}
    own: dict[str, set[str]] = {}
    gone: list[tuple[str, str]] = []
    for step, short in steps:
        name, other = f"{short}-{run}", f"{NAMES[1 - NAMES.index(short)]}-{run}"
        try:
            if step == "create":
                shared.model(name)
                real[name] = shared.registry.model(name).id
                own[real[name]] = set()
            elif step == "predict" and name in real:
                own[real[name]].add(shared.put(name, "ann").id)
            elif step == "delete" and name in real:
                shared.curation.delete(name, actor="ann")
                gone.append((real.pop(name), name))
            elif step == "rename" and name in real:
                shared.curation.rename(name, other, actor="ann")
                real[other] = real.pop(name)
            elif step == "restore" and gone:
                shared.curation.restore(*gone[-1], actor="ann")
                model_id, back = gone.pop()
                real[back] = model_id
        except Conflict:
            pass  # the name is another's now
    for name, model_id in real.items():
        assert shared.ids(name) == own[model_id]
        assert shared.joined(name) == own[model_id]
    for model_id, name in gone:
        assert shared.ids(name) | shared.ids(f"~{model_id}~{name}") >= own[model_id], "nothing is lost"
