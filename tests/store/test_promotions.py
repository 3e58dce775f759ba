"""The rule that nothing reaches Production past the gates and another person: by the methods, and by raw SQL."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import Conflict, InvalidInput, Refused, Unavailable
from mlbox.events import EventBus
from mlbox.records import CanaryHold, GateResult, ModelVersion, Promotion, PromotionPolicy, RampStep
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.registry.promotion_moves import MOVES, OPEN
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion, Registry
from mlbox.store.registry.reinstate import Reinstatement


@pytest.fixture
def db(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Database]:
    database = Database(tmp_path / "registry.sqlite", migrations.registry, clock, bus)
    yield database
    database.close()


@pytest.fixture
def registry(db: Database) -> Registry:
    return Registry(db)


@pytest.fixture
def promotions(db: Database, registry: Registry) -> Promotions:
    return Promotions(db, registry)


def register(registry: Registry, model: str = "delay", trainer: str = "ann", submitter: str = "carl") -> ModelVersion:
    return registry.register(
        NewVersion(model=model, trained_by=trainer, submitted_by=submitter, metrics={"auc": 0.7}, tags={"team": "ops"})
    )


def gate(passed: bool = True, name: str = "size") -> GateResult:
    return GateResult(gate=name, passed=passed, required="≤ 1", measured="1", at=datetime(2026, 1, 1, tzinfo=UTC))


def to_production(registry: Registry, promotions: Promotions, version: ModelVersion) -> Promotion:
    promotion = promotions.record_gates(promotions.propose(version, actor="carl").id, [gate()])
    if promotion.state == "shadow":
        promotion = promotions.shadow_done(promotion.id, "seen enough")
    promotion = promotions.decide(promotion.id, approver="bea", decision="approve")
    while promotion.state == "canary":
        promotion = promotions.next_step(promotion.id, "held")
    return promotion


def test_versions_count_up_and_name_their_past(registry: Registry) -> None:
    first, second = register(registry), register(registry)
    assert (first.ref, second.ref, second.stage) == ("delay/1", "delay/2", "None")
    assert registry.version("delay", 2) == second
    assert [v.version for v in registry.versions("delay")] == [2, 1]
    assert second.tags == {"team": "ops"}


def test_the_first_version_goes_to_production_on_approval(registry: Registry, promotions: Promotions) -> None:
    promotion = to_production(registry, promotions, register(registry))
    assert (promotion.state, promotion.champion, promotion.reason) == ("completed", None, "first version of the model")
    assert registry.model("delay").stages == {"Production": 1}


def test_a_later_version_stays_in_staging_until_its_canary_took_all(registry: Registry, promotions: Promotions) -> None:
    to_production(registry, promotions, register(registry))
    promotion = promotions.record_gates(promotions.propose(register(registry), actor="ann").id, [gate()])
    assert promotion.state == "shadow"
    promotion = promotions.decide(promotions.shadow_done(promotion.id, "ok").id, approver="bea", decision="approve")
    seen = []
    while promotion.state == "canary":
        seen.append((promotion.percent, registry.version("delay", 2).stage, registry.version("delay", 1).stage))
        promotion = promotions.next_step(promotion.id, "held")
    assert seen == [(5, "Staging", "Production"), (25, "Staging", "Production")]
    assert registry.model("delay").stages == {"Production": 2, "Archived": 1}


def test_a_ramp_of_one_step_is_over_with_it(registry: Registry, promotions: Promotions) -> None:
    to_production(registry, promotions, register(registry))
    at_once = PromotionPolicy(steps=(RampStep(percent=100, hold_seconds=60),))
    registry.policies.set("delay", at_once, actor="admin")
    assert to_production(registry, promotions, register(registry)).state == "completed"
    assert registry.model("delay").stages == {"Production": 2, "Archived": 1}


def test_a_failed_gate_rejects_and_the_version_stays_out(registry: Registry, promotions: Promotions) -> None:
    promotion = promotions.propose(register(registry), actor="ann")
    promotion = promotions.record_gates(promotion.id, [gate(), gate(passed=False, name="auc")])
    assert (promotion.state, promotion.reason) == ("rejected", "failed: auc")
    assert registry.version("delay", 1).stage == "None"
    with pytest.raises(Conflict, match="is rejected, and this takes waiting_approval"):
        promotions.decide(promotion.id, approver="bea", decision="approve")


def test_a_promotion_may_wait_for_traffic_before_its_gates(registry: Registry, promotions: Promotions) -> None:
    promotion = promotions.propose(register(registry), actor="ann")
    waits = promotions.wait_for_traffic(promotion.id, "3 of 100 requests are logged")
    assert (waits.state, waits.reason) == ("waiting_traffic", "3 of 100 requests are logged")
    assert registry.version("delay", 1).stage == "None"
    with pytest.raises(Conflict, match="is waiting_traffic, and this takes testing"):
        promotions.record_gates(promotion.id, [gate()])
    assert promotions.traffic_came(promotion.id).state == "testing"
    assert promotions.record_gates(promotion.id, [gate()]).state == "waiting_approval"


@pytest.mark.parametrize(("person", "part"), [("ann", "trained"), ("carl", "submitted"), ("dora", "proposed")])
def test_who_made_it_may_not_approve_it(registry: Registry, promotions: Promotions, person: str, part: str) -> None:
    promotion = promotions.record_gates(promotions.propose(register(registry), actor="dora").id, [gate()])
    with pytest.raises(Refused, match=part):
        promotions.decide(promotion.id, approver=person, decision="approve")
    assert promotions.get(promotion.id).approvals == ()


def test_a_rollback_takes_the_candidate_out_of_staging(registry: Registry, promotions: Promotions) -> None:
    to_production(registry, promotions, register(registry))
    promotion = promotions.record_gates(promotions.propose(register(registry), actor="ann").id, [gate()])
    assert promotions.roll_back(promotion.id, "errors above 1 %").state == "rolled_back"
    assert registry.model("delay").stages == {"Production": 1, "None": 2}


def test_production_goes_back_at_once_to_a_version_that_was_there(
    db: Database, registry: Registry, promotions: Promotions
) -> None:
    back = Reinstatement(db, registry, promotions)
    to_production(registry, promotions, register(registry))
    to_production(registry, promotions, register(registry))
    candidate = promotions.record_gates(promotions.propose(register(registry), actor="ann").id, [gate()])
    assert back.to("delay", 1, actor="carl", reason="complaints").stage == "Production"
    assert registry.model("delay").stages == {"Production": 1, "Archived": 2, "None": 3}
    assert promotions.get(candidate.id).reason == "its champion was rolled back: propose it again"
    assert back.to("delay", 2, actor="carl").stage == "Production"
    changes = db.all(
        "SELECT stage, reason FROM stage_change WHERE version_id = ? ORDER BY id", (registry.version("delay", 1).id,)
    )
    assert [tuple(row) for row in changes][-2:] == [
        ("Production", "complaints"),
        ("Archived", "rolled back to version 2"),
    ]
    assert [event.data["former"] for event in db.events(type="model.rolled_back")] == [1, 2]


def test_production_goes_back_to_no_version_that_never_was_there(
    db: Database, registry: Registry, promotions: Promotions
) -> None:
    to_production(registry, promotions, register(registry))
    back = Reinstatement(db, registry, promotions)
    registry.archive("delay", register(registry).version, actor="ann")
    for number, words in ((1, "is in stage Production"), (2, "was never in Production")):
        with pytest.raises(Refused, match=words):
            back.to("delay", number, actor="ann")
    with pytest.raises(Unavailable, match="refused the write"):
        db.write(lambda tx: tx.run("UPDATE model_version SET stage = 'Production' WHERE stage = 'Archived'").rowcount)


def test_one_promotion_of_a_model_at_a_time(registry: Registry, promotions: Promotions) -> None:
    first = promotions.propose(register(registry), actor="ann")
    with pytest.raises(Conflict, match="delay/1 is on its way"):
        promotions.propose(register(registry), actor="ann")
    promotions.withdraw(first.id, actor="ann")
    promotions.propose(registry.version("delay", 2), actor="ann")
    promotions.propose(register(registry, model="other"), actor="ann")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE model_version SET stage = 'Production'",
        "UPDATE model_version SET stage = 'Staging'",
        "INSERT INTO model_version (id, model_id, version, stage, format, features, inputs, outputs, size, metrics, trained_by,"
        " submitted_by, description, created_us) SELECT 'x', model_id, 9, 'Production', format, features, inputs, outputs, size,"
        " metrics, trained_by, submitted_by, description, created_us FROM model_version",
        "UPDATE model_version SET trained_by = 'nobody'",
        "UPDATE promotion SET requested_by = 'nobody'",
        "INSERT INTO approval SELECT id, 'ann', 'approve', '', 0, '' FROM promotion",
    ],
)
def test_raw_sql_cannot_pass_the_rule_either(
    db: Database, registry: Registry, promotions: Promotions, sql: str
) -> None:
    promotions.propose(register(registry), actor="dora")
    with pytest.raises(Unavailable, match="refused the write"):
        db.write(lambda tx: tx.run(sql).rowcount)
    assert registry.version("delay", 1).stage == "None"


def test_completing_by_raw_sql_without_approval_does_not_open_production(
    db: Database, registry: Registry, promotions: Promotions
) -> None:
    promotion = promotions.record_gates(promotions.propose(register(registry), actor="dora").id, [gate()])
    db.write(lambda tx: tx.run("UPDATE promotion SET state = 'completed' WHERE id = ?", (promotion.id,)).rowcount)
    with pytest.raises(Unavailable, match="Production takes as many approvals as the policy says"):
        db.write(lambda tx: tx.run("UPDATE model_version SET stage = 'Production'").rowcount)


def test_gate_results_and_approvals_are_kept(db: Database, registry: Registry, promotions: Promotions) -> None:
    to_production(registry, promotions, register(registry))
    for sql in ("UPDATE gate_result SET passed = 1", "DELETE FROM gate_result", "UPDATE approval SET approver = 'x'"):
        with pytest.raises(Unavailable, match="refused the write"):
            db.write(lambda tx, sql=sql: tx.run(sql).rowcount)


def test_policies_have_revisions_and_a_promotion_keeps_its_own(registry: Registry, promotions: Promotions) -> None:
    promotion = promotions.propose(register(registry), actor="ann")
    steps = (RampStep(percent=10, hold_seconds=1), RampStep(percent=100, hold_seconds=0))
    assert registry.policies.set("delay", PromotionPolicy(steps=steps), actor="ann").revision == 1
    assert registry.policies.set("delay", PromotionPolicy(steps=steps, minimum=0.6), actor="ann").revision == 2
    assert registry.policies.of("delay").minimum == 0.6
    assert promotions.get(promotion.id).policy == PromotionPolicy()
    with pytest.raises(InvalidInput, match="100 %"):
        registry.policies.set("delay", PromotionPolicy(steps=(RampStep(percent=50, hold_seconds=0),)), actor="ann")


def test_every_change_is_in_the_audit_log(db: Database, registry: Registry, promotions: Promotions) -> None:
    to_production(registry, promotions, register(registry))
    types = [row["type"] for row in db.all("SELECT type FROM event WHERE subject = 'model:delay/1' ORDER BY id")]
    assert types == [
        *("model.registered", "promotion.proposed", "promotion.waiting_approval", "model.stage"),
        *("promotion.approved", "promotion.completed", "model.stage"),
    ]


class Road(RuleBasedStateMachine):
    """Any order of calls by anyone: what is in Production was always tested and approved by another."""

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.clock = ManualClock(parse_time("2026-01-01T00:00Z"))
        self._open()
        self.versions: list[ModelVersion] = []

    def _open(self) -> None:
        self.db = Database(Path(self._home.name) / "r.sqlite", migrations.registry, self.clock, EventBus())
        self.registry = Registry(self.db)
        self.promotions = Promotions(self.db, self.registry)

    people = st.sampled_from(["ann", "bea", "carl"])

    @rule(trainer=people, submitter=people)
    def register(self, trainer: str, submitter: str) -> None:
        self.versions.append(register(self.registry, trainer=trainer, submitter=submitter))

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), actor=people)
    def propose(self, data: st.DataObject, actor: str) -> None:
        version = data.draw(st.sampled_from(self.versions))
        self._try(lambda: self.promotions.propose(self.registry.version("delay", version.version), actor=actor))

    @rule(passed=st.booleans())
    def gates(self, passed: bool) -> None:
        self._on_open(lambda p: self.promotions.record_gates(p.id, [gate(), gate(passed, "auc")]))

    @rule()
    def shadow_done(self) -> None:
        self._on_open(lambda p: self.promotions.shadow_done(p.id, "ok"))

    @rule(approver=people, decision=st.sampled_from(["approve", "approve", "reject"]))
    def decide(self, approver: str, decision: str) -> None:
        self._on_open(lambda p: self.promotions.decide(p.id, approver=approver, decision=decision))

    @rule()
    def next_step(self) -> None:
        self._on_open(lambda p: self.promotions.next_step(p.id, "held"))

    @rule(hold=st.sampled_from(["", "paused", "undecided", "frozen"]))
    def hold(self, hold: CanaryHold) -> None:
        self._on_open(lambda p: self.promotions.set_hold(p.id, hold, "why"))

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), actor=people)
    def reinstate(self, data: st.DataObject, actor: str) -> None:
        number = data.draw(st.sampled_from(self.versions)).version
        self._try(lambda: Reinstatement(self.db, self.registry, self.promotions).to("delay", number, actor=actor))

    @rule()
    def crash(self) -> None:
        """What is on disk is all that is left."""
        self.db.close()
        self._open()

    @rule()
    def roll_back(self) -> None:
        self._on_open(lambda p: self.promotions.roll_back(p.id, "bad"))

    def _on_open(self, act: object) -> None:
        for promotion in self.promotions.open("delay"):
            self._try(lambda p=promotion: act(p))

    def _try(self, act: object) -> None:
        with contextlib.suppress(Conflict, Refused):
            act()

    @invariant()
    def production_was_earned(self) -> None:
        in_production = self.registry.in_stage("Production")
        assert len(in_production) <= 1
        assert len(self.promotions.open("delay")) <= 1
        for version in in_production:
            done = [p for p in self.promotions.of("delay", version.version) if p.state == "completed"]
            assert done
            assert all(g.passed for g in done[0].gates)
            assert done[0].approvals
            people = {version.trained_by, version.submitted_by, done[0].requested_by}
            assert not people & {a.approver for a in done[0].approvals}

    @invariant()
    def states_are_known(self) -> None:
        assert {p.state for p in self.promotions.page()} <= set(MOVES)
        assert all(p.state in OPEN for p in self.promotions.open())
        assert all(p.state == "canary" or not p.hold for p in self.promotions.page())
        assert all(p.percent == 0 for p in self.promotions.page() if p.hold == "frozen")

    def teardown(self) -> None:
        self.db.close()
        self._home.cleanup()


Road.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestRoad = Road.TestCase
