"""A promotion that is cut off at any point: between two steps, and within one, it stands where the last whole step left it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlbox.errors import Conflict, Refused, Unavailable
from mlbox.records import GateCommand, ModelVersion, Promotion, PromotionPolicy
from mlbox.store.registry import decisions
from mlbox.store.registry.curation import Curation
from mlbox.store.registry.promotion_moves import MOVES, OPEN
from tests.store.road import COMMAND, POLICY, Store

PAST = ("shadow", "waiting_approval", "canary", "completed")
"""States that a promotion with an integration command comes to only by passing it."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.register()
    store.registry.policies.set("delay", POLICY, actor="admin")
    store.first_in_production()
    yield store
    store.db.close()


def steps(store: Store) -> list[Callable[[], object]]:
    """The way of a version from its proposal to Production, as it is walked."""
    candidate = store.register()

    def of() -> str:
        (promotion,) = store.promotions.open("delay")
        return promotion.id

    return [
        lambda: store.promotions.propose(candidate, actor="ann"),
        lambda: store.gates(of()),
        lambda: store.integrated(of()),
        lambda: store.promotions.shadow_done(of(), "seen"),
        lambda: store.promotions.decide(of(), approver="bea", decision="approve"),
        lambda: store.promotions.decide(of(), approver="carl", decision="approve"),
        lambda: store.promotions.set_hold(of(), "paused", "a sale"),
        lambda: store.promotions.set_hold(of(), "", "over"),
        lambda: store.promotions.next_step(of(), "held"),
        lambda: store.promotions.next_step(of(), "held"),
    ]


def test_a_crash_between_any_two_steps_loses_nothing(store: Store) -> None:
    for step in steps(store):
        step()
        before = store.standing()
        store.crash()
        assert store.standing() == before
    assert store.registry.model("delay").stages == {"Production": 3, "Archived": 2, "None": 1}


def test_a_step_that_breaks_at_its_end_did_not_happen(store: Store) -> None:
    broken = "CREATE TRIGGER broken BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    for step in steps(store):
        before = store.standing()
        store.db.write(lambda tx: tx.run(broken).rowcount)
        with pytest.raises(Unavailable, match="the disk is full"):
            step()
        store.crash()
        assert store.standing() == before
        store.db.write(lambda tx: tx.run("DROP TRIGGER broken").rowcount)
        step()
    assert store.registry.by_stage("delay", "Production") == store.registry.version("delay", 3)


def test_neither_staging_nor_production_is_had_past_a_command_that_the_policy_registers(store: Store) -> None:
    """Nor by a script with the database's file: the triggers ask for the result."""
    store.registry.policies.set("delay", msgspec.structs.replace(POLICY, test=COMMAND), actor="admin")
    promotion = store.promotions.propose(store.register(), actor="ann")
    with pytest.raises(Unavailable, match="gates all passed"):
        store.gates(promotion.id)  # of which none is the test
    store.db.write(lambda tx: tx.run("UPDATE promotion SET policy = json_remove(policy, '$.test')").rowcount)
    assert store.gates(promotion.id).state == "integration"
    store.db.write(lambda tx: tx.run("UPDATE promotion SET state = 'shadow' WHERE id = ?", (promotion.id,)).rowcount)
    store.promotions.shadow_done(promotion.id, "seen")
    for who in ("bea", "carl"):
        store.promotions.decide(promotion.id, approver=who, decision="approve")
    store.promotions.next_step(promotion.id, "held")
    with pytest.raises(Unavailable, match="a passed integration command"):
        store.promotions.next_step(promotion.id, "held")


def test_of_two_promotions_at_once_one_begins(store: Store) -> None:
    versions = [store.register() for _ in range(4)]

    def propose(version: ModelVersion) -> str:
        try:
            return store.promotions.propose(version, actor="ann").state
        except Conflict as err:
            return err.message

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(propose, versions))
    assert told.count("testing") == 1
    assert sum("is on its way already (testing)" in words for words in told) == 3


@pytest.mark.parametrize("after", [6, 9])
def test_a_promotion_that_ended_in_its_canary_keeps_the_step_that_it_was_at(store: Store, after: int) -> None:
    for step in steps(store)[:after]:
        step()
    (promotion,) = store.promotions.open("delay")
    assert promotion.step == (0 if after == 6 else 1)
    ended = store.promotions.roll_back(promotion.id, "bad")
    assert (ended.state, ended.step, ended.percent) == ("rolled_back", promotion.step, 0)


def test_a_version_is_not_deleted_in_its_canary(store: Store) -> None:
    for step in steps(store)[:6]:
        step()
    with pytest.raises(Conflict, match=r"on its way to Production \(canary\)"):
        Curation(store.db, store.registry).delete_version("delay", 3, actor="ann")
    (promotion,) = store.promotions.open("delay")
    assert promotion.state == "canary"


class Walk(RuleBasedStateMachine):
    """Any order of what people, gates, traffic, time, admins and crashes do: no state that the rule forbids."""

    people = st.sampled_from(["ann", "bea", "carl", "dora"])

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.store = Store(Path(self._home.name))
        self.fit = {"bea", "carl", "dora"}

    @initialize(approvals=st.integers(1, 2))
    def begin(self, approvals: int) -> None:
        self.store.register()
        self._policy(approvals, 1)
        self.store.first_in_production()

    def _policy(self, approvals: int, days: float, integration: GateCommand | None = None) -> None:
        policy = PromotionPolicy(approvals=approvals, approval_days=days, steps=POLICY.steps, integration=integration)
        self.store.registry.policies.set("delay", policy, actor="admin")

    @rule(approvals=st.integers(1, 2), days=st.sampled_from([1.0, 2.0]), integration=st.sampled_from([None, COMMAND]))
    def policy_changes(self, approvals: int, days: float, integration: GateCommand | None) -> None:
        self._policy(approvals, days, integration)

    @rule(actor=people)
    def propose(self, actor: str) -> None:
        self._try(lambda: self.store.promotions.propose(self.store.register(), actor=actor))

    @rule(passed=st.sampled_from([True, True, True, False]))
    def gates_end(self, passed: bool) -> None:
        self._each(lambda p: self.store.gates(p.id, passed))

    @rule(enough=st.booleans())
    def traffic_is_looked_for(self, enough: bool) -> None:
        move = self.store.promotions.traffic_came
        self._each(lambda p: move(p.id) if enough else self.store.promotions.wait_for_traffic(p.id, "too little"))

    @rule(passed=st.sampled_from([True, True, False]))
    def integration_ends(self, passed: bool) -> None:
        self._each(lambda p: self.store.integrated(p.id, passed))

    @rule()
    def shadow_ends(self) -> None:
        self._each(lambda p: self.store.promotions.shadow_done(p.id, "seen"))

    @rule(who=people, decision=st.sampled_from(["approve", "approve", "approve", "reject"]))
    def someone_decides(self, who: str, decision: str) -> None:
        self._each(lambda p: self.store.promotions.decide(p.id, approver=who, decision=decision))

    @rule(who=people)
    def someone_loses_the_role(self, who: str) -> None:
        self.fit.discard(who)
        self.store.promotions.may_approve = lambda user, model: user in self.fit

    @rule()
    def canary_goes_on(self) -> None:
        self._each(lambda p: self.store.promotions.next_step(p.id, "held"))

    @rule()
    def canary_rolls_back(self) -> None:
        self._each(lambda p: self.store.promotions.roll_back(p.id, "bad"))

    @rule(hours=st.sampled_from([1, 12, 24]))
    def time_passes(self, hours: int) -> None:
        self.store.clock.advance(self.store.clock.now() + timedelta(hours=hours))
        self.store.promotions.expire(self.store.clock.now())

    @rule()
    def data_becomes_known(self) -> None:
        for promotion in self.store.promotions.open("delay"):
            curation = Curation(self.store.db, self.store.registry)
            curation.set_version_tag("delay", promotion.version, "dataset_version", "d@v1", actor="ann", dataset="d@v1")

    @rule()
    def crash(self) -> None:
        before = self.store.standing()
        self.store.crash()
        assert self.store.standing() == before
        self.store.promotions.may_approve = lambda user, model: user in self.fit

    def _each(self, act: Callable[[Promotion], object]) -> None:
        for promotion in self.store.promotions.open("delay"):
            self._try(lambda p=promotion: act(p))

    def _try(self, act: Callable[[], object]) -> None:
        with contextlib.suppress(Conflict, Refused):  # too late or not allowed; a fault is neither
            act()

    @invariant()
    def production_was_approved_by_enough_others(self) -> None:
        versions = self.store.registry.in_stage("Production")
        assert len(versions) == 1
        (done,) = [p for p in self.store.promotions.of("delay", versions[0].version) if p.state == "completed"]
        givers = {a.approver for a in done.approvals if a.decision == "approve"}
        assert len(givers) >= done.policy.approvals
        assert "ann" not in givers
        assert done.requested_by not in givers
        assert decisions.stands(self.store.db, done.id) or versions[0].dataset is not None

    @invariant()
    def what_is_under_way_is_where_its_state_says(self) -> None:
        under_way = self.store.promotions.open("delay")
        assert len(under_way) <= 1
        staged = {version.version for version in self.store.registry.in_stage("Staging")}
        assert staged == {p.version for p in under_way if p.state not in ("testing", "waiting_traffic")}
        for promotion in self.store.promotions.page():
            assert promotion.state in MOVES
            assert promotion.state not in OPEN or promotion in under_way
            asked = promotion.policy.integration is not None
            assert not asked or promotion.state not in PAST or "integration" in {g.gate for g in promotion.gates}
            assert promotion.state != "canary" or len(promotion.approvals) >= promotion.policy.approvals

    def teardown(self) -> None:
        self.store.db.close()
        self._home.cleanup()


Walk.TestCase.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
TestWalk = Walk.TestCase
