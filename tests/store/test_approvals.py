"""Who may decide, how many must, for how long, and what makes an approval void: by the methods, and by raw SQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import Conflict, InvalidInput, Refused, Unavailable
from mlbox.events import EventBus
from mlbox.records import GateResult, ModelVersion, Promotion, PromotionPolicy, RampStep
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.registry.curation import Curation
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion, Registry

STEPS = (RampStep(percent=10, hold_seconds=60), RampStep(percent=100, hold_seconds=0))


class Store:
    """A registry in which things are promoted."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.db = Database(folder / "registry.sqlite", migrations.registry, clock, EventBus())
        self.registry = Registry(self.db)
        self.promotions = Promotions(self.db, self.registry)

    def register(self, dataset_hash: str | None = "h") -> ModelVersion:
        new = NewVersion(model="delay", trained_by="ann", submitted_by="carl", dataset_hash=dataset_hash)
        return self.registry.register(new)

    def waiting(self, **policy: object) -> Promotion:
        """A version that waits for its approval."""
        version = self.register()
        self.registry.policies.set("delay", PromotionPolicy(steps=STEPS, **policy), actor="admin")
        gate = GateResult(gate="size", passed=True, required="", measured="", at=self.clock.real())
        promotion = self.promotions.record_gates(self.promotions.propose(version, actor="carl").id, [gate])
        return self.promotions.shadow_done(promotion.id, "seen") if promotion.state == "shadow" else promotion

    def approve(self, promotion: Promotion, who: str) -> Promotion:
        return self.promotions.decide(promotion.id, approver=who, decision="approve", comment="looked at it")

    def canary(self, **policy: object) -> Promotion:
        """A second version, approved, that takes its first share."""
        self.approve(self.waiting(), "bea")
        promotion = self.approve(self.waiting(**policy), "bea")
        assert promotion.state == "canary"
        return promotion


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    store = Store(tmp_path, clock)
    yield store
    store.db.close()


def test_two_people_approve_where_the_policy_says_so(store: Store) -> None:
    promotion = store.approve(store.waiting(approvals=2), "bea")
    assert (promotion.state, promotion.reason) == ("waiting_approval", "1 of 2 approvals")
    with pytest.raises(Conflict, match="bea approved delay/1 already"):
        store.approve(promotion, "bea")
    promotion = store.approve(promotion, "dora")
    assert promotion.state == "completed"
    assert [given.approver for given in promotion.approvals] == ["bea", "dora"]


def test_one_of_two_may_reject(store: Store) -> None:
    promotion = store.approve(store.waiting(approvals=2), "bea")
    promotion = store.promotions.decide(promotion.id, approver="dora", decision="reject", comment="no")
    assert (promotion.state, store.registry.version("delay", 1).stage) == ("rejected", "None")


def test_only_the_reviewers_that_the_policy_names_decide(store: Store) -> None:
    promotion = store.waiting(reviewers=("dora", "emil"))
    with pytest.raises(Refused, match="bea is no reviewer of delay; its policy names dora and emil"):
        store.approve(promotion, "bea")
    with pytest.raises(Unavailable, match="the policy names other reviewers"):
        store.db.write(
            lambda tx: tx.run("INSERT INTO approval VALUES (?, 'bea', 'approve', '', 0, '')", (promotion.id,)).rowcount
        )
    assert store.approve(promotion, "dora").state == "completed"


def test_one_approval_of_two_does_not_open_production_by_raw_sql_either(store: Store) -> None:
    promotion = store.approve(store.waiting(approvals=2), "bea")

    def force(tx: object) -> None:
        tx.run("UPDATE promotion SET state = 'completed' WHERE id = ?", (promotion.id,))
        tx.run(
            "INSERT INTO decision SELECT promotion_id, sha256(subject), 0 FROM decided WHERE promotion_id = ?",
            (promotion.id,),
        )
        tx.run("UPDATE model_version SET stage = 'Production'")

    with pytest.raises(Unavailable, match="as many approvals as the policy says"):
        store.db.write(force)
    assert store.registry.version("delay", 1).stage == "Staging"


def test_a_request_that_nobody_decides_expires(store: Store, clock: ManualClock) -> None:
    promotion = store.waiting(approval_days=2)
    assert promotion.decide_by
    assert (promotion.decide_by - promotion.state_since).days == 2
    assert store.promotions.expire(clock.now()) == []
    clock.advance(clock.now() + timedelta(days=2))
    with pytest.raises(Conflict, match="The request for delay/1 expired"):
        store.approve(promotion, "bea")
    (ended,) = store.promotions.expire(clock.now())
    assert (ended.state, ended.reason) == ("expired", "nobody decided about it in time: propose it again")
    assert store.registry.version("delay", 1).stage == "None"
    assert store.waiting().state == "waiting_approval"  # the model is free for the next


def test_who_lost_the_role_counts_no_more_and_another_must(store: Store) -> None:
    promotion = store.approve(store.waiting(approvals=2), "bea")
    store.promotions.may_approve = lambda user, model: user != "bea"
    promotion = store.approve(promotion, "dora")
    assert (promotion.state, promotion.reason) == (
        "waiting_approval",
        "1 of 2 approvals; bea has the role no more",
    )
    assert store.approve(promotion, "emil").state == "completed"


def test_a_decision_stands_when_its_giver_loses_the_role_later(store: Store) -> None:
    promotion = store.canary()
    store.promotions.may_approve = lambda user, model: False
    assert store.promotions.next_step(promotion.id, "held").state == "completed"


def test_another_policy_makes_an_approval_void_and_the_same_one_does_not(store: Store) -> None:
    promotion = store.canary()
    store.registry.policies.set("delay", PromotionPolicy(steps=STEPS), actor="admin")
    assert store.promotions.get(promotion.id).state == "canary"
    store.registry.policies.set("delay", PromotionPolicy(steps=STEPS, minimum=0.9), actor="admin")
    ended = store.promotions.get(promotion.id)
    assert (ended.state, ended.reason) == ("withdrawn", "its approval is void: the policy changed to revision 4")
    assert store.registry.model("delay").stages == {"Production": 1, "None": 2}


def test_another_policy_leaves_what_nobody_approved_yet(store: Store) -> None:
    promotion = store.waiting()
    store.registry.policies.set("delay", PromotionPolicy(steps=STEPS, minimum=0.9), actor="admin")
    assert store.approve(promotion, "bea").state == "completed"


def test_data_that_becomes_known_after_an_approval_makes_it_void(store: Store) -> None:
    curation = Curation(store.db, store.registry)
    promotion = store.canary()
    curation.set_version_tag("delay", 2, "dataset_version", "d@v1", actor="ann", dataset="d@v1")
    ended = store.promotions.next_step(promotion.id, "held")
    assert (ended.state, ended.reason) == (
        "withdrawn",
        "its approval is void: what was approved is not what is there now",
    )
    assert store.registry.model("delay").stages == {"Production": 1, "None": 2}
    promotion = store.approve(store.waiting(approvals=2), "bea")
    curation.set_version_tag("delay", 3, "dataset_version", "d@v1", actor="ann", dataset="d@v1")
    promotion = store.approve(promotion, "dora")
    assert promotion.reason == "1 of 2 approvals; what bea approved was changed"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"approvals": 0}, "takes somebody's approval"),
        ({"approvals": 2, "reviewers": ("ann",)}, "No version can pass 2 approvals of 1 reviewers"),
        ({"reviewers": ("ann", "ann")}, "named twice"),
        ({"approval_days": 0}, "waits for some days"),
        ({"approval_days": 1e9}, "waits for some days"),
    ],
)
def test_a_policy_that_nobody_could_satisfy_is_refused(store: Store, policy: dict[str, object], words: str) -> None:
    store.register()
    with pytest.raises(InvalidInput, match=words):
        store.registry.policies.set("delay", PromotionPolicy(**policy), actor="admin")
