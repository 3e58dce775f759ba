"""Who answers, and what becomes of a candidate over a real registry, prediction log and clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from mlbox.events import EventBus
from mlbox.records import GateResult, Guard, Promotion, PromotionPolicy, RampStep, ReplayRule, ServeRole
from mlbox.serve.predictions.batches import Batch
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.routing import bucket
from mlbox.serve.rollout.rollout import Rollouts, choose
from mlbox.serve.rollout.verdict import RULE, recompute
from mlbox.settings import Settings
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion, Registry
from mlbox.store.registry.rollout_log import RolloutLog
from tests.conftest import wait_for

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = PromotionPolicy(
    shadow_seconds=3600,
    shadow_min_predictions=100,
    steps=(
        RampStep(percent=5, hold_seconds=3600, min_predictions=50),
        RampStep(percent=25, hold_seconds=3600, min_predictions=50),
        RampStep(percent=100, hold_seconds=0),
    ),
)
SHADOW = Promotion(
    id="p",
    model="delay",
    version=2,
    champion=1,
    state="shadow",
    requested_by="ann",
    created_at=NOW,
    state_since=NOW,
    policy=POLICY,
)
CANARY = msgspec.structs.replace(SHADOW, state="canary", step=0)
# -- routing, pure --------------------------------------------------------------------------------------------------------


@given(key=st.text(), small=st.floats(0.1, 100), large=st.floats(0.1, 100))
def test_a_growing_share_never_takes_a_key_away(key: str, small: float, large: float) -> None:
    small, large = sorted((small, large))

    def answered_by(percent: float) -> int:
        step = RampStep(percent=percent, hold_seconds=0)
        policy = msgspec.structs.replace(POLICY, steps=(step,))
        return choose(key, 1, msgspec.structs.replace(CANARY, policy=policy)).version

    assert answered_by(small) <= answered_by(large)
    assert 0 <= bucket(key) < 100


@pytest.mark.parametrize("step", [0, 1])
def test_of_100_000_keys_the_share_is_kept_and_the_control_group_is_as_large(step: int) -> None:
    promotion = msgspec.structs.replace(CANARY, step=step)
    routes = [choose(f"flight {n}", 1, promotion) for n in range(100_000)]
    roles = Counter(route.role for route in routes)
    for role in ("canary", "control"):
        assert 100 * roles[role] / len(routes) == pytest.approx(promotion.percent, abs=0.5)
    assert all((route.version == 2) == (route.role == "canary") for route in routes)


def test_another_promotion_puts_other_keys_first() -> None:
    other = msgspec.structs.replace(CANARY, id="q")
    keys = [f"flight {n}" for n in range(5000)]
    first = {key for key in keys if choose(key, 1, CANARY).role == "canary"}
    second = {key for key in keys if choose(key, 1, other).role == "canary"}
    assert len(first & second) < len(first) / 4
    assert {key for key in keys if choose(key, 1, CANARY).role == "canary"} == first


# -- the controller over a real registry ----------------------------------------------------------------------------------


class House:
    def __init__(self, folder: Path, clock: ManualClock, bus: EventBus) -> None:
        self.clock = clock
        self.db = Database(folder / "registry.sqlite", migrations.registry, clock, bus)
        self.registry = Registry(self.db)
        self.promotions = Promotions(self.db, self.registry)
        self.log = PredictionLog(folder / "predictions", flush_seconds=3600)
        self.registry.policies.set("delay", POLICY, actor="admin")
        self.bus = bus
        self.kept = RolloutLog(self.db, self.promotions)
        self.open()

    def open(self) -> None:
        """A server's rollouts; again, after a restart."""
        self.rollouts = Rollouts(self.registry, self.promotions, self.kept, self.log, self.clock, self.bus, every=3600)

    def close(self) -> None:
        self.rollouts.close()
        self.log.close()
        self.db.close()

    def propose(self) -> Promotion:
        version = self.registry.register(NewVersion(model="delay", trained_by="ann", submitted_by="ann"))
        gate = GateResult(gate="size", passed=True, required="small", measured="small", at=NOW)
        return self.promotions.record_gates(self.promotions.propose(version, actor="ann").id, [gate])

    def approve(self, promotion: Promotion) -> Promotion:
        return self.promotions.decide(promotion.id, approver="bea", decision="approve")

    def later(self, hours: float) -> None:
        self.clock.advance(self.clock.now() + hours * HOUR)

    def serve(
        self, version: int, role: ServeRole, n: int, *, errors: int = 0, score: float = 0.0, ms: float = 1.0
    ) -> None:
        """So many runs of one row each, some of which fail."""
        scores = np.random.default_rng(n).random(n) + score
        now = self.clock.now()
        self.log.put(
            [Batch("delay", version, role, now, now, "carl", ms, [f"{i}"], [float(s)]) for i, s in enumerate(scores)]
        )
        for _ in range(errors):
            self.log.record_error("delay", version, role)

    def shadowed(self) -> Promotion:
        """Version 2 after a good shadow, waiting for a person."""
        self.approve(self.propose())
        promotion = self.propose()
        self.serve(2, "shadow", 100)
        self.later(1)
        self.rollouts.tick()
        return self.promotions.get(promotion.id)

    def canary(self) -> Promotion:
        return self.approve(self.shadowed())

    def well(self, n: int = 1500) -> None:
        """Traffic in which the canary does as the champion does."""
        self.serve(2, "canary", n)
        self.serve(1, "control", n)


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[House]:
    built = House(tmp_path, clock, bus)
    yield built
    built.close()


def test_nothing_serves_before_a_version_is_in_production(house: House) -> None:
    with pytest.raises(NotFound, match="No version of the model 'delay'"):
        house.rollouts.route("delay", "k")
    house.approve(house.propose())
    assert house.rollouts.route("delay", "k").version == 1


def test_a_candidate_goes_from_shadow_to_production_on_its_own_evidence(house: House) -> None:
    house.approve(house.propose())
    promotion = house.propose()
    assert house.rollouts.route("delay", "k").shadow == 2
    house.serve(2, "shadow", 100)
    assert house.rollouts.tick()[0][1].action == "wait"
    house.later(1)
    house.rollouts.tick()
    promotion = house.approve(house.promotions.get(promotion.id))
    assert (promotion.state, promotion.percent) == ("canary", 5)
    for percent in (25, 0):
        house.well()
        house.later(1)
        house.rollouts.tick()
        assert house.promotions.get(promotion.id).percent == percent
    assert house.registry.model("delay").stages == {"Production": 2, "Archived": 1}
    assert house.rollouts.route("delay", "k").version == 2
    made = house.kept.of(promotion.id)
    assert [(one.done, one.samples.state) for one in made] == [
        ("advance", "shadow"),
        ("advance", "canary"),
        ("advance", "canary"),
    ]
    assert all(recompute(one, promotion.policy).same for one in made)
    assert made[1].samples.candidate.rows == 1500


def test_a_step_counts_only_what_came_after_it_began(house: House) -> None:
    house.approve(house.propose())
    house.serve(2, "shadow", 1000)
    promotion = house.propose()
    house.later(2)
    assert house.rollouts.standing(promotion).reason == "too little traffic: saw 0 of 100 predictions"


def test_what_was_asked_for_by_its_version_is_no_evidence(house: House) -> None:
    promotion = house.canary()
    house.serve(2, "champion", 500, errors=500)
    house.serve(7, "champion", 500)
    assert house.rollouts.standing(promotion).findings[0].words == "0 of 0 runs failed, the champion's 0 of 0"


def test_a_failing_canary_loses_its_traffic_and_leaves_the_reason(house: House) -> None:
    promotion = house.canary()
    house.serve(1, "champion", 1000)
    house.serve(2, "canary", 20, errors=30)
    house.rollouts.tick()
    assert house.promotions.get(promotion.id).state == "rolled_back"
    assert {house.rollouts.route("delay", str(n)).version for n in range(200)} == {1}
    assert house.rollouts.endpoints()[0].candidate is None
    made = house.kept.of(promotion.id)[-1]
    assert (made.action, made.rule, made.samples.candidate.errors) == ("roll_back", RULE, 30)
    assert recompute(made, promotion.policy).same


def test_gross_failure_is_looked_at_at_once(house: House) -> None:
    promotion = house.canary()
    house.rollouts.start()  # whose next look is an hour away
    house.serve(2, "canary", 0, errors=20)
    wait_for(lambda: house.promotions.get(promotion.id).state == "rolled_back", what="the rollback")
    assert Settings().rollout_seconds <= 30, "what is not gross is looked at so often"


def test_a_restart_goes_on_from_the_evidence_that_was_there(house: House) -> None:
    promotion = house.canary()
    house.well()
    house.rollouts.close()
    house.open()
    house.later(1)
    house.rollouts.tick()
    assert house.promotions.get(promotion.id).percent == 25
    assert house.rollouts.standing(house.promotions.get(promotion.id)).action == "wait"  # and the next step begins anew


def test_a_canarys_course_is_kept_as_its_evidence_grows(house: House) -> None:
    promotion = house.canary()
    house.rollouts.tick()
    assert house.kept.course(promotion.id) == []
    for _ in range(30):
        house.well(100)
        house.rollouts.tick()
    course = house.kept.course(promotion.id)
    seen = [point.predictions for point in course]
    assert seen[:3] == [100, 200, 300]
    assert all(1.1 <= later / earlier < 1.2 or later < 1100 for earlier, later in pairwise(seen)), "a tenth more each"
    errors = [point.findings[0] for point in course]
    widths = [one.high - one.low for one in errors if one.high is not None and one.low is not None]
    assert len(widths) == len(course)
    assert widths == sorted(widths, reverse=True), "what may be true tightens"
    house.rollouts.close()
    house.open()
    house.rollouts.tick()
    assert house.kept.course(promotion.id) == course, "a restart goes on where it was"
    house.later(1)
    house.rollouts.tick()
    assert house.kept.course(promotion.id)[-1].predictions == 3000, "and what it was advanced by is its last point"
    house.well(100)
    house.rollouts.tick()
    assert [(p.step, p.predictions) for p in house.kept.course(promotion.id)][-2:] == [(0, 3000), (1, 100)]


def test_a_pause_counts_for_no_hold_and_is_still_guarded(house: House) -> None:
    promotion = house.canary()
    house.well()
    assert house.rollouts.hold(promotion.id, "paused", actor="carl", comment="a sale").hold == "paused"
    house.later(5)
    house.rollouts.tick()
    assert house.promotions.get(promotion.id).percent == 5
    assert (
        house.rollouts.hold(promotion.id, "", actor="carl", comment="").state_since == promotion.state_since + 5 * HOUR
    )
    house.later(0.5)
    house.rollouts.tick()
    assert house.promotions.get(promotion.id).percent == 5
    house.rollouts.hold(promotion.id, "paused", actor="carl", comment="again")
    house.serve(2, "canary", 0, errors=200)
    house.rollouts.tick()
    assert house.promotions.get(promotion.id).state == "rolled_back"


def test_a_frozen_canary_has_no_traffic_and_ends_by_a_rollback_only(house: House) -> None:
    promotion = house.canary()
    frozen = house.rollouts.hold(promotion.id, "frozen", actor="carl", comment="post-mortem")
    assert (frozen.state, frozen.percent) == ("canary", 0)
    assert {house.rollouts.route("delay", str(n)).version for n in range(200)} == {1}
    for act in (
        lambda: house.rollouts.hold(promotion.id, "", actor="carl", comment=""),
        lambda: house.rollouts.advance(promotion.id, actor="dora", comment=""),
    ):
        with pytest.raises(Conflict, match="frozen"):
            act()
    house.later(500)
    house.rollouts.tick()
    assert house.rollouts.roll_back(promotion.id, actor="carl", comment="done").state == "rolled_back"
    assert [one.done for one in house.kept.of(promotion.id)][-2:] == ["frozen", "roll_back"]


def test_an_undecided_canary_goes_to_a_person_who_did_not_make_it(house: House) -> None:
    promotion = house.canary()
    house.well(200)
    house.later(30)
    house.rollouts.tick()
    asked = house.promotions.get(promotion.id)
    assert (asked.hold, asked.percent) == ("undecided", 5)
    assert "undecided: " in asked.reason
    with pytest.raises(Refused, match="ann trained"):
        house.rollouts.advance(promotion.id, actor="ann", comment="mine")
    assert house.rollouts.advance(promotion.id, actor="bea", comment="looked at it").percent == 25


def test_resuming_what_is_undecided_gives_it_its_patience_anew(house: House) -> None:
    promotion = house.canary()
    house.well(200)
    house.later(30)
    house.rollouts.tick()
    house.rollouts.hold(promotion.id, "", actor="bea", comment="more traffic comes")
    house.rollouts.tick()
    assert house.promotions.get(promotion.id).hold == ""


def test_a_hold_is_shortened_by_a_second_approver_and_only_where_all_guards_hold(house: House) -> None:
    promotion = house.canary()
    with pytest.raises(Refused, match="when all its guards hold: 0 of 0 runs failed"):
        house.rollouts.advance(promotion.id, actor="dora", comment="")
    house.well()
    with pytest.raises(Refused, match="takes a second approver"):
        house.rollouts.advance(promotion.id, actor="bea", comment="")
    assert house.rollouts.advance(promotion.id, actor="dora", comment="holds").percent == 25
    made = house.kept.of(promotion.id)[-1]
    assert (made.actor, made.action, made.done) == ("dora", "wait", "advance")
    assert recompute(made, promotion.policy).same


class Unsteady(ManualClock):
    """A clock that somebody sets."""

    def put(self, at: datetime) -> None:
        self._now = at


def test_a_clock_that_is_set_back_changes_nothing_but_the_wait(tmp_path: Path, bus: EventBus) -> None:
    """In each state that waits for a time, before and after a restart: who answers stays, and no time is won by it."""
    clock = Unsteady(NOW)
    house = House(tmp_path, clock, bus)
    try:
        house.approve(house.propose())
        promotion = house.propose()
        house.serve(2, "shadow", 100)

        def set_back(state: str, served: set[int]) -> None:
            at = clock.now()
            clock.put(at - 10 * HOUR)
            for _ in range(2):
                house.rollouts.tick()
                house.promotions.expire(clock.now())
                assert house.promotions.get(promotion.id).state == state
                assert {house.rollouts.route("delay", str(n)).version for n in range(500)} == served
                house.rollouts.close()
                house.open()
            clock.put(at)

        set_back("shadow", {1})
        assert "it was set back" in _standing(house, clock, promotion.id)
        house.later(1)
        house.rollouts.tick()
        set_back("waiting_approval", {1})
        house.approve(house.promotions.get(promotion.id))
        house.well()
        set_back("canary", {1, 2})
        assert "it was set back" in _standing(house, clock, promotion.id)
        house.later(1)
        house.rollouts.tick()
        assert house.promotions.get(promotion.id).percent == 25
    finally:
        house.close()


def _standing(house: House, clock: Unsteady, promotion_id: str) -> str:
    """What a person reads while the clock is an hour before the present step began."""
    at = clock.now()
    clock.put(house.promotions.get(promotion_id).state_since - HOUR)
    words = house.rollouts.standing(house.promotions.get(promotion_id)).reason
    clock.put(at)
    return words


ENDS: dict[str, Callable[[House, Promotion], object]] = {
    "rolled_back": lambda house, one: house.rollouts.roll_back(one.id, actor="carl", comment="bad"),
    "withdrawn": lambda house, one: house.promotions.withdraw(one.id, actor="ann"),
    "withdrawn by another policy": lambda house, one: house.registry.policies.set(
        "delay", msgspec.structs.replace(POLICY, minimum=0.5), actor="admin"
    ),
    "withdrawn with its champion": lambda house, one: house.promotions.end_for_another_champion(one.id, actor="carl"),
}


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_a_canary_its_champion_answers_all(house: House, end: str) -> None:
    promotion = house.canary()
    assert {house.rollouts.route("delay", str(n)).version for n in range(500)} == {1, 2}
    ENDS[end](house, promotion)
    for _ in range(2):
        assert house.promotions.get(promotion.id).state == end.split()[0]
        assert {house.rollouts.route("delay", str(n)).version for n in range(500)} == {1}
        house.rollouts.close()
        house.open()
    assert house.registry.model("delay").stages == {"Production": 1, "None": 2}


def test_decisions_are_never_changed(house: House) -> None:
    house.canary()
    for change in ("UPDATE rollout_decision SET decision = ''", "DELETE FROM rollout_decision"):
        with pytest.raises(Unavailable, match="refused the write"):
            house.db.write(lambda tx, change=change: tx.run(change).rowcount)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guards": (Guard(kind="errors", stop=0.5),)}, "1 is as good as the champion"),
        ({"guards": (Guard(kind="latency", stop=1.5, margin=1.0),)}, "No evidence shows that little"),
        ({"guards": (Guard(kind="errors", stop=1, margin=0.0),)}, "No evidence shows that little"),
        ({"guards": (Guard(kind="scores", stop=0.1, margin=0.01),)}, "No evidence shows that little"),
        ({"guards": (Guard(kind="latency", stop=2, quantile=1.0),)}, "between 0 and 1"),
        ({"guards": (Guard(kind="errors", stop=1), Guard(kind="errors", stop=2))}, "two guards errors"),
        ({"minimum": 1.2}, "never above 1"),
        ({"metric": "log_loss", "higher_is_better": False, "minimum": -0.1}, "never below 0"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"max_latency_ms_p95": 0.0}, "Allow some"),
        ({"false_stops": 0.0}, "share between 0 and 1"),
        ({"lifetime_days": 0.01}, "looked at again"),
        ({"shadow_seconds": -1.0}, "negative"),
        ({"replay": ReplayRule(last=2**62)}, "requests are asked again"),
        ({"replay": ReplayRule(last=10, min_rows=11)}, "no more than replay.last"),
        ({"replay": ReplayRule(window_days=0.0)}, "replay.window_days is 0"),
        ({"replay": ReplayRule(max_failed=1.5)}, "replay.max_failed is a share"),
        ({"replay": ReplayRule(max_difference=-1.0)}, "negative"),
    ],
)
def test_a_policy_that_can_never_pass_is_refused(house: House, change: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        house.registry.policies.set("delay", msgspec.structs.replace(POLICY, **change), actor="admin")
    assert words in f"{refused.value.message} {refused.value.hint}"
    assert refused.value.field
