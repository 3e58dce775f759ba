"""What people change of models: words, tags, aliases, names, deletion; and what none of it may do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.records import CompareSpec, GateResult, ModelVersion, PromotionPolicy, RunArtifact
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.registry.curation import Curation
from mlbox.store.registry.history import History
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion, Registry


class House:
    """A registry and all that changes it."""

    def __init__(self, db: Database, clock: ManualClock) -> None:
        self.db = db
        self.clock = clock
        self.registry = Registry(db)
        self.promotions = Promotions(db, self.registry)
        self.curation = Curation(db, self.registry)
        self.history = History(db, self.registry)

    def register(self, model: str = "churn", **more: object) -> ModelVersion:
        given = {"format": "other", "unservable": "it has no ONNX file.", **more}
        return self.registry.register(
            NewVersion(model=model, trained_by="ann", submitted_by="ann", files=FILES, **given)  # type: ignore[arg-type]
        )

    def propose(self, version: ModelVersion) -> str:
        gate = GateResult(gate="size", passed=True, required="x", measured="x", at=self.clock.real())
        return self.promotions.record_gates(self.promotions.propose(version, actor="ann").id, [gate]).id

    def approve(self, version: ModelVersion, comment: str = "") -> None:
        self.promotions.decide(self.propose(version), approver="bea", decision="approve", comment=comment)

    def later(self, **by: float) -> None:
        self.clock.advance(self.clock.now() + timedelta(**by))


FILES = (
    RunArtifact(path="MLmodel", sha256="a" * 64, size=10),
    RunArtifact(path="data/m.pkl", sha256="b" * 64, size=90),
)


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[House]:
    database = Database(tmp_path / "registry.sqlite", migrations.registry, clock, bus)
    yield House(database, clock)
    database.close()


def test_facts_are_set_one_by_one(house: House) -> None:
    house.register()
    expires = house.clock.now() + timedelta(days=30)
    house.curation.describe("churn", purpose="to keep customers", actor="ann")
    model = house.curation.describe("churn", owner="bea", expires_at=expires, actor="ann")
    assert (model.purpose, model.owner, model.expires_at) == ("to keep customers", "bea", expires)
    with pytest.raises(InvalidInput, match="100,001 characters"):
        house.curation.describe("churn", purpose="x" * 100_001, actor="ann")


def test_tags_come_and_go(house: House) -> None:
    version = house.register(tags={"a": "1"})
    house.curation.set_model_tag("churn", "team", "ops", actor="ann")
    house.curation.set_version_tag("churn", 1, "approved_by", "ann", actor="ann")
    assert house.registry.model("churn").tags == {"team": "ops"}
    assert house.registry.version("churn", 1).tags == {"a": "1", "approved_by": "ann"}
    house.curation.delete_model_tag("churn", "team", actor="ann")
    house.curation.delete_version_tag("churn", 1, "a", actor="ann")
    house.curation.delete_version_tag("churn", 1, "a", actor="ann")
    assert (house.registry.model("churn").tags, house.registry.version("churn", 1).tags) == ({}, {"approved_by": "ann"})
    assert house.registry.version("churn", 1).stage == version.stage == "None"
    for key, value, field in (("", "v", "key"), ("k" * 251, "v", "key"), ("k", "v" * 100_001, "value")):
        with pytest.raises(InvalidInput) as caught:
            house.curation.set_version_tag("churn", 1, key, value, actor="ann")
        assert caught.value.field == field


def test_a_dataset_is_linked_where_none_was_known_and_only_then(house: House) -> None:
    house.register()
    house.register(dataset="sales@v1")
    house.curation.set_version_tag("churn", 1, "dataset_version", "sales@v2", actor="ann", dataset="sales@v2")
    house.curation.set_version_tag("churn", 2, "dataset_version", "sales@v2", actor="ann", dataset="sales@v2")
    first, second = (house.registry.version("churn", number) for number in (1, 2))
    assert (first.dataset, first.flags) == ("sales@v2", ())
    assert second.dataset == "sales@v1"
    assert second.flags == ("The tag dataset_version says 'sales@v2', and the run trained on sales@v1.",)
    house.curation.set_version_tag("churn", 1, "dataset_version", "q3 dump", actor="ann")
    with pytest.raises(Unavailable, match="a version is immutable"):
        house.db.write(lambda tx: tx.run("UPDATE model_version SET dataset = 'other@v1'").rowcount)


def test_an_alias_is_a_free_name(house: House) -> None:
    house.register()
    house.register()
    house.curation.set_alias("churn", "champion", 1, actor="ann")
    house.curation.set_alias("churn", "champion", 2, actor="bea")
    assert house.registry.model("churn").aliases == {"champion": 2}
    assert house.registry.by_alias("churn", "champion").aliases == ("champion",)
    house.curation.delete_alias("churn", "champion", actor="bea")
    with pytest.raises(NotFound, match="no alias 'champion'"):
        house.registry.by_alias("churn", "champion")
    with pytest.raises(NotFound, match="no version 9"):
        house.curation.set_alias("churn", "champion", 9, actor="ann")


@pytest.mark.parametrize("alias", ["", "latest", "LATEST", "v1", "V23", "a/b", "a b", "x" * 256])
def test_an_alias_that_could_mean_something_else_is_refused(house: House, alias: str) -> None:
    house.register()
    with pytest.raises(InvalidInput) as caught:
        house.curation.set_alias("churn", alias, 1, actor="ann")
    assert caught.value.field == "alias"


def test_a_renamed_model_keeps_versions_promotions_and_history(house: House) -> None:
    house.approve(house.register())
    house.curation.set_alias("churn", "champion", 1, actor="ann")
    house.curation.rename("churn", "leavers", actor="ann")
    assert house.registry.version("leavers", 1).stage == "Production"
    assert house.promotions.of("leavers", 1)[0].state == "completed"
    assert {stay.name for stay in house.history.of("leavers")} == {"Staging", "Production", "champion"}
    assert house.curation.former_names("leavers") == ["churn"]
    with pytest.raises(NotFound):
        house.registry.model("churn")
    house.register("churn")
    with pytest.raises(AlreadyExists):
        house.curation.rename("leavers", "churn", actor="ann")
    with pytest.raises(InvalidInput, match="new_name"):
        house.curation.rename("leavers", "../x", actor="ann")


def test_what_serves_or_is_on_its_way_keeps_its_name(house: House) -> None:
    waiting = house.propose(house.register())
    with pytest.raises(Conflict, match=r"Version 1 of churn is on its way .* \(waiting_approval\)"):
        house.curation.rename("churn", "leavers", actor="ann")
    house.promotions.withdraw(waiting, actor="ann")
    house.approve(house.register(format="onnx", unservable=""))
    with pytest.raises(Conflict, match="churn/2 serves predictions"):
        house.curation.rename("churn", "leavers", actor="ann")


def test_a_deleted_model_is_gone_and_its_name_free(house: House) -> None:
    old = house.register()
    house.curation.set_alias("churn", "champion", 1, actor="ann")
    house.curation.delete("churn", actor="ann")
    for read in (lambda: house.registry.model("churn"), lambda: house.registry.files_of(old.id)):
        with pytest.raises(NotFound):
            read()
    assert house.registry.models() == []
    new = house.register()
    assert (new.version, new.aliases, house.history.of("churn")) == (1, (), [])
    assert house.registry.of_run("r") == []


def test_what_is_in_production_or_on_its_way_is_not_deleted(house: House) -> None:
    waiting = house.propose(house.register())
    for delete in (
        lambda: house.curation.delete("churn", actor="a"),
        lambda: house.curation.delete_version("churn", 1, actor="a"),
    ):
        with pytest.raises(Conflict, match="on its way"):
            delete()
    house.promotions.decide(waiting, approver="bea", decision="approve")
    for delete in (
        lambda: house.curation.delete("churn", actor="a"),
        lambda: house.curation.delete_version("churn", 1, actor="a"),
    ):
        with pytest.raises(Conflict, match="churn/1 is in Production"):
            delete()
    with pytest.raises(Unavailable, match="in Production is not deleted"):
        house.db.write(lambda tx: tx.run("UPDATE model_version SET deleted_us = 1").rowcount)


def test_a_deleted_version_keeps_its_number_and_its_past(house: House) -> None:
    house.register()
    house.register()
    house.curation.set_alias("churn", "new", 2, actor="ann")
    house.registry.archive("churn", 2, actor="ann")
    house.later(days=1)
    house.curation.delete_version("churn", 2, actor="ann")
    assert [v.version for v in house.registry.versions("churn")] == [1]
    assert house.registry.model("churn").aliases == {}
    assert house.register().version == 3
    assert {(stay.name, stay.until) for stay in house.history.of("churn")} == {
        ("Archived", house.clock.now()),
        ("new", house.clock.now()),
    }


def test_the_files_of_a_version_stay(house: House) -> None:
    version = house.register()
    assert tuple(house.registry.files("churn", 1)) == FILES == tuple(house.registry.files_of(version.id))
    for sql in (
        "UPDATE version_file SET sha256 = 'x'",
        "DELETE FROM version_file",
        "UPDATE model_version SET source = 'x'",
    ):
        with pytest.raises(Unavailable, match="a version is immutable"):
            house.db.write(lambda tx, sql=sql: tx.run(sql).rowcount)


# -- history ------------------------------------------------------------------------------------------------------------


def at(house: House, moment: object) -> dict[str, int]:
    return {stay.name: stay.version for stay in house.history.of("churn", start=moment, end=moment)}  # type: ignore[arg-type]


def test_what_was_in_production_at_any_moment_and_by_whose_approval(house: House) -> None:
    start = house.clock.now()
    house.later(hours=1)
    house.approve(house.register(), comment="looks right")
    house.curation.set_alias("churn", "champion", 1, actor="ann")
    house.later(days=2)
    house.approve(house.register())
    house.later(days=2)
    house.curation.set_alias("churn", "champion", 2, actor="carl")
    assert at(house, start) == {}
    assert at(house, start + timedelta(days=1)) == {"Production": 1, "champion": 1}
    assert at(house, start + timedelta(days=3)) == {"Production": 2, "Archived": 1, "champion": 1}
    assert at(house, start + timedelta(days=9)) == {"Production": 2, "Archived": 1, "champion": 2}
    first = next(s for s in house.history.of("churn") if (s.name, s.version) == ("Production", 1))
    assert (first.by, first.approved_by, first.reason) == ("bea", ("bea",), "looks right")
    assert first.until == start + timedelta(days=2, hours=1)
    archived = next(s for s in house.history.of("churn") if s.name == "Archived")
    assert (archived.reason, archived.approved_by, archived.until) == ("replaced by version 2", (), None)


def test_the_history_is_kept(house: House) -> None:
    house.approve(house.register())
    house.curation.set_alias("churn", "champion", 1, actor="ann")
    for table in ("stage_change", "alias_change"):
        for sql in (f"UPDATE {table} SET actor = 'x'", f"DELETE FROM {table}"):
            with pytest.raises(Unavailable, match=r"is never changed|is kept"):
                house.db.write(lambda tx, sql=sql: tx.run(sql).rowcount)


# -- versions that are not served -----------------------------------------------------------------------------------------


def test_an_unserved_version_goes_to_production_on_approval_and_archives_the_former(house: House) -> None:
    for _ in range(2):
        house.approve(house.register())
    assert house.registry.model("churn").stages == {"Production": 2, "Archived": 1}
    assert house.promotions.of("churn", 2)[0].reason == "approved"


def test_several_unserved_versions_may_wait_at_once(house: House) -> None:
    first, second = house.register(), house.register()
    house.propose(first)
    house.propose(second)
    assert {p.version for p in house.promotions.open("churn")} == {1, 2}
    with pytest.raises(Conflict, match="churn/2 is on its way"):
        house.promotions.propose(house.registry.version("churn", 2), actor="ann")


def test_an_unserved_version_does_not_take_an_endpoint_away(house: House) -> None:
    house.approve(house.register(format="onnx", unservable=""))
    with pytest.raises(Exception, match=r"churn/1 serves predictions, and churn/2 cannot be served: it has no ONNX"):
        house.promotions.propose(house.register(), actor="ann")


def test_the_first_servable_version_is_compared_with_nothing(house: House) -> None:
    house.approve(house.register())
    promotion = house.promotions.propose(house.register(format="onnx", unservable=""), actor="ann")
    assert promotion.champion is None


def test_the_first_approval_sets_the_expiry_that_nobody_set(house: House) -> None:
    house.approve(house.register())
    assert house.registry.model("churn").expires_at == house.clock.now() + timedelta(days=365)


SPEC = CompareSpec(dataset="held-out@v1", hash="h", label="y")


def test_what_a_model_needs_of_datasets_is_named_from_its_gates_to_its_end(house: House) -> None:
    """Trained on, while it is on its way or serves; judged on, while a policy says so."""
    version = house.register(dataset="d@v1")
    assert house.registry.in_use_of("d@v1") == []
    promotion = house.promotions.propose(version, actor="ann")
    assert house.registry.in_use_of("d@v1") == ["churn/1 in its gates"]
    gate = GateResult(gate="size", passed=True, required="x", measured="x", at=house.clock.real())
    waiting = house.promotions.record_gates(promotion.id, [gate])
    assert (waiting.state, house.registry.in_use_of("d@v1")) == ("waiting_approval", ["churn/1 in Staging"])
    house.promotions.withdraw(promotion.id, actor="ann")
    assert house.registry.in_use_of("d@v1") == []


def test_rows_that_a_policy_judges_on_are_needed_by_it_and_by_who_began_under_it(house: House) -> None:
    version = house.register()
    house.registry.policies.set("churn", PromotionPolicy(compare=SPEC), actor="admin")
    promotion = house.promotions.propose(version, actor="ann")
    house.registry.policies.set("churn", PromotionPolicy(), actor="admin")
    assert house.registry.in_use_of("held-out@v1") == ["the policy of churn"]
    house.promotions.withdraw(promotion.id, actor="ann")
    assert house.registry.in_use_of("held-out@v1") == []
