"""Production takes a decision about exactly what is there: a changed version, dataset, policy, gate or approval does not pass."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import GateResult, Promotion
from mlbox.store import migrations
from mlbox.store.db import Database, Tx
from mlbox.store.registry import decisions
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion, Registry

NOW = parse_time("2026-01-01T00:00Z")


class Hub:
    """A model with version 1 in Production, and version 2 approved and in its canary."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = Database(path, migrations.registry, ManualClock(NOW), EventBus())
        self.registry = Registry(self.db)
        self.promotions = Promotions(self.db, self.registry)
        self.first = self.approved()
        self.second = self.approved()

    def approved(self) -> Promotion:
        version = self.registry.register(
            NewVersion(
                model="churn",
                artifact="a" * 64,
                dataset="churn@v1",
                dataset_hash="d" * 64,
                trained_by="ada",
                submitted_by="ada",
            )
        )
        gate = GateResult(gate="lineage", passed=True, required="a dataset", measured="churn@v1", at=NOW)
        promotion = self.promotions.record_gates(self.promotions.propose(version, actor="ada").id, [gate])
        if promotion.state == "shadow":
            promotion = self.promotions.shadow_done(promotion.id, "seen enough")
        return self.promotions.decide(promotion.id, approver="grace", decision="approve")

    def finish(self) -> Promotion:
        """The rest of the canary."""
        promotion = self.promotions.get(self.second.id)
        while promotion.state == "canary":
            promotion = self.promotions.next_step(promotion.id, "held")
        return promotion

    def force(self) -> None:
        """Production past the methods, as a script that has the triggers' function might try."""

        def write(tx: Tx) -> None:
            tx.run("UPDATE promotion SET state = 'completed' WHERE id = ?", (self.second.id,))
            tx.run("UPDATE model_version SET stage = 'Archived' WHERE stage = 'Production'")
            tx.run("UPDATE model_version SET stage = 'Production' WHERE version = 2")

        self.db.write(write)

    def tamper(self, *statements: str) -> None:
        """Change the file as someone who may write to it does, past the triggers that say that things stay."""
        with sqlite3.connect(self.path) as file:
            stay = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
            for name in stay:
                if name.endswith(("_stays", "_kept", "_another", "_deleted")):
                    file.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                assert file.execute(statement).rowcount, statement


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "registry.sqlite")
    yield hub
    hub.db.close()


def test_an_approval_leaves_a_decision_that_stands(hub: Hub) -> None:
    assert hub.first.state == "completed"
    assert decisions.stands(hub.db, hub.first.id)
    assert decisions.stands(hub.db, hub.second.id)
    approved = hub.db.events(type="promotion.approved")
    assert [len(event.data["decision"]) for event in approved] == [64, 64]
    assert hub.finish().state == "completed"
    assert hub.registry.model("churn").stages["Production"] == 2


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE model_version SET artifact = '{'b' * 64}' WHERE version = 2",
        f"UPDATE model_version SET dataset_hash = '{'e' * 64}' WHERE version = 2",
        "UPDATE model_version SET dataset = 'churn@v2' WHERE version = 2",
        "UPDATE model_version SET trained_by = 'eve' WHERE version = 2",
        "UPDATE model_version SET features = '[\"x@v1:y\"]' WHERE version = 2",
        "UPDATE promotion SET policy = json_set(policy, '$.minimum', 0.1) WHERE champion = 1",
        "UPDATE promotion SET requested_by = 'eve' WHERE champion = 1",
        "UPDATE gate_result SET measured = 'better' WHERE promotion_id = (SELECT id FROM promotion WHERE champion = 1)",
        "UPDATE approval SET approver = 'eve' WHERE promotion_id = (SELECT id FROM promotion WHERE champion = 1)",
        "UPDATE approval SET at_us = at_us - 1 WHERE promotion_id = (SELECT id FROM promotion WHERE champion = 1)",
        "DELETE FROM decision WHERE promotion_id = (SELECT id FROM promotion WHERE champion = 1)",
        f"UPDATE decision SET digest = '{'0' * 64}' WHERE promotion_id = (SELECT id FROM promotion WHERE champion = 1)",
        "INSERT INTO version_file SELECT id, 'weights.bin', 'x', 1 FROM model_version WHERE version = 2",
    ],
)
def test_what_changed_since_the_decision_does_not_reach_production(hub: Hub, change: str) -> None:
    hub.tamper(change)
    assert not decisions.stands(hub.db, hub.second.id)
    with pytest.raises(Exception, match="what was decided about is not what is there"):
        hub.force()
    ended = hub.finish()
    assert (ended.state, ended.reason) == (
        "withdrawn",
        "its approval is void: what was approved is not what is there now",
    )
    assert hub.registry.model("churn").stages["Production"] == 1


def test_a_decision_is_never_changed(hub: Hub) -> None:
    for change in ("UPDATE decision SET digest = ''", "DELETE FROM decision"):
        with pytest.raises(Exception, match="a decision is"):
            hub.db.write(lambda tx, change=change: tx.run(change))


def test_the_version_approved_before_decisions_were_kept_goes_its_way(tmp_path: Path) -> None:
    """A data directory of before: the migration writes the decisions down that were made."""
    hub = Hub(tmp_path / "registry.sqlite")
    hub.db.close()
    with sqlite3.connect(hub.path) as file:
        drops = file.execute(
            "SELECT type, name FROM sqlite_master WHERE name LIKE '%deci%' AND type <> 'index'"
        ).fetchall()
        for kind, name in sorted(drops, key=lambda row: ("trigger", "view", "table").index(row[0])):
            file.execute(f"DROP {kind} {name}")
        file.execute("DROP TRIGGER dataset_hash_stays")
        file.execute("ALTER TABLE model_version DROP COLUMN dataset_hash")
        file.execute("DELETE FROM _sqlite_migrations WHERE name = 'm003_decisions'")
    hub.db = Database(hub.path, migrations.registry, ManualClock(NOW), EventBus())
    hub.registry = Registry(hub.db)
    hub.promotions = Promotions(hub.db, hub.registry)
    assert decisions.stands(hub.db, hub.second.id)
    assert hub.finish().state == "completed"
    hub.db.close()
