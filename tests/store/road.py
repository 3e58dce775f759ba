"""A registry on disk in which versions are promoted, and which can crash."""

from __future__ import annotations

from pathlib import Path

from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import CommandRun, GateCommand, GateResult, ModelVersion, Promotion, PromotionPolicy, RampStep
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion, Registry

START = parse_time("2026-01-01T00:00Z")
COMMAND = GateCommand(command=("true",))
POLICY = PromotionPolicy(
    approvals=2,
    steps=(
        RampStep(percent=5, hold_seconds=60),
        RampStep(percent=25, hold_seconds=60),
        RampStep(percent=100, hold_seconds=0),
    ),
    integration=COMMAND,
)


class Store:
    """A registry with a version in Production and another to promote; what is on disk is all that a crash leaves."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START)
        self._path = folder / "registry.sqlite"
        self.open()

    def open(self) -> None:
        self.db = Database(self._path, migrations.registry, self.clock, EventBus())
        self.registry = Registry(self.db)
        self.promotions = Promotions(self.db, self.registry)

    def crash(self) -> None:
        self.db.close()
        self.open()

    def register(self) -> ModelVersion:
        new = NewVersion(model="delay", artifact="a" * 64, trained_by="ann", submitted_by="ann")
        return self.registry.register(new)

    def gates(self, promotion_id: str, passed: bool = True) -> Promotion:
        result = GateResult(gate="size", passed=passed, required="", measured="", at=START)
        return self.promotions.record_gates(promotion_id, [result])

    def integrated(self, promotion_id: str, passed: bool = True) -> Promotion:
        result = GateResult(gate="integration", passed=passed, required="", measured="", at=START)
        run = CommandRun(gate="integration", command=COMMAND.command, state="succeeded" if passed else "failed")
        return self.promotions.record_integration(promotion_id, result, run)

    def first_in_production(self) -> None:
        promotion = self.gates(self.promotions.propose(self.register(), actor="ann").id)
        if promotion.state == "integration":
            promotion = self.integrated(promotion.id)
        for who in ("bea", "carl")[: promotion.policy.approvals]:
            promotion = self.promotions.decide(promotion.id, approver=who, decision="approve")
        assert promotion.state == "completed"

    def standing(self) -> tuple[list[Promotion], dict[str, int]]:
        """All that a person sees of it."""
        return self.promotions.page(), self.registry.model("delay").stages
