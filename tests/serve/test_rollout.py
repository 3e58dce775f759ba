"""Who answers, and when a candidate goes on or back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import NotFound
from mlbox.events import EventBus
from mlbox.records import GateResult, Promotion, PromotionPolicy, RampStep, ServeRole
from mlbox.serve.rollout import FEW, Rollouts, choose, verdict
from mlbox.serve.routing import Traffic, bucket
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.promotions import Promotions
from mlbox.store.registry import NewVersion, Registry

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
WELL = Traffic(count=1000, errors=0, p95_ms=1.0)


# -- verdict, pure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("promotion", [SHADOW, CANARY])
def test_it_waits_for_its_hold_then_for_its_predictions_then_goes_on(promotion: Promotion) -> None:
    assert verdict(promotion, WELL, WELL, NOW + HOUR - timedelta(seconds=1)).action == "wait"
    few = Traffic(count=10, p95_ms=1.0)
    assert verdict(promotion, few, WELL, NOW + HOUR).reason.startswith("saw 10 of")
    assert verdict(promotion, WELL, WELL, NOW + HOUR).action == "advance"


@pytest.mark.parametrize("promotion", [SHADOW, CANARY])
def test_errors_above_the_policys_rate_roll_back_before_the_hold_ends(promotion: Promotion) -> None:
    found = verdict(promotion, Traffic(count=90, errors=10), WELL, NOW)
    assert (found.action, found.reason) == ("roll_back", "10 of 100 predictions failed, 1.0% may")


def test_a_slow_canary_rolls_back_and_a_slow_shadow_only_watches() -> None:
    slow = Traffic(count=1000, p95_ms=2.0)
    assert verdict(CANARY, slow, WELL, NOW).action == "roll_back"
    assert verdict(SHADOW, slow, WELL, NOW + HOUR).action == "advance"


traffics = st.builds(
    Traffic, count=st.integers(0, 2000), errors=st.integers(0, 50), p95_ms=st.none() | st.floats(0.01, 100)
)


@given(candidate=traffics, control=traffics, seconds=st.integers(0, 7200), shadow=st.booleans())
def test_it_never_goes_on_early_or_with_too_many_errors(
    candidate: Traffic, control: Traffic, seconds: int, shadow: bool
) -> None:
    promotion = SHADOW if shadow else CANARY
    found = verdict(promotion, candidate, control, NOW + timedelta(seconds=seconds))
    assert found.reason
    if found.action == "advance":
        assert seconds >= 3600
        assert candidate.count >= (100 if shadow else 50)
        assert candidate.errors <= 0.01 * (candidate.count + candidate.errors)
    if found.action == "roll_back":
        assert candidate.count + candidate.errors >= FEW


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


def test_the_share_is_kept_and_the_control_group_is_as_large() -> None:
    routes = [choose(f"flight {n}", 1, CANARY) for n in range(20_000)]
    share = {role: sum(route.role == role for route in routes) / len(routes) for role in ("canary", "control")}
    assert share["canary"] == pytest.approx(0.05, abs=0.01)
    assert share["control"] == pytest.approx(0.05, abs=0.01)
    assert all((route.version == 2) == (route.role == "canary") for route in routes)


# -- the controller over a real registry ----------------------------------------------------------------------------------


class Counts:
    """The seam to the prediction log: figures set by hand."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], Traffic] = {}

    def traffic(self, model: str, version: int, role: ServeRole) -> Traffic:
        return self.seen.get((version, role), Traffic())


class House:
    def __init__(self, folder: Path, clock: ManualClock, bus: EventBus) -> None:
        self.clock = clock
        self.db = Database(folder / "registry.sqlite", migrations.registry, clock, bus)
        self.registry = Registry(self.db)
        self.promotions = Promotions(self.db, self.registry)
        self.counts = Counts()
        self.registry.set_policy("delay", POLICY, actor="admin")
        self.rollouts = Rollouts(self.registry, self.promotions, self.counts, clock, bus, every=3600)

    def propose(self) -> Promotion:
        version = self.registry.register(NewVersion(model="delay", trained_by="ann", submitted_by="ann"))
        gate = GateResult(gate="size", passed=True, required="small", measured="small", at=NOW)
        return self.promotions.record_gates(self.promotions.propose(version, actor="ann").id, [gate])

    def approve(self, promotion: Promotion) -> Promotion:
        return self.promotions.decide(promotion.id, approver="bea", decision="approve")

    def later(self, hours: int) -> None:
        self.clock.advance(self.clock.now() + hours * HOUR)


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[House]:
    built = House(tmp_path, clock, bus)
    yield built
    built.rollouts.close()
    built.db.close()


def test_nothing_serves_before_a_version_is_in_production(house: House) -> None:
    with pytest.raises(NotFound, match="No version of the model 'delay'"):
        house.rollouts.route("delay", "k")
    house.approve(house.propose())
    assert house.rollouts.route("delay", "k").version == 1


def test_a_candidate_goes_from_shadow_to_production_on_its_own_figures(house: House) -> None:
    house.approve(house.propose())
    promotion = house.propose()
    assert house.rollouts.route("delay", "k").shadow == 2
    house.counts.seen = {(2, "shadow"): WELL, (1, "champion"): WELL}
    assert house.rollouts.tick()[0][1].action == "wait"
    house.later(1)
    house.rollouts.tick()
    promotion = house.approve(house.promotions.get(promotion.id))
    assert (promotion.state, promotion.percent) == ("canary", 5)
    for percent in (25, 0):
        house.counts.seen = {
            (2, "canary"): Traffic(count=house.counts.traffic("delay", 2, "canary").count + 60, p95_ms=1),
            (1, "control"): Traffic(count=60, p95_ms=1),
        }
        house.later(1)
        house.rollouts.tick()
        assert house.promotions.get(promotion.id).percent == percent
    assert house.registry.model("delay").stages == {"Production": 2, "Archived": 1}
    assert house.rollouts.route("delay", "k").version == 2


def test_a_step_counts_only_what_came_after_it_began(house: House) -> None:
    house.approve(house.propose())
    house.counts.seen = {(2, "shadow"): WELL}
    promotion = house.propose()
    house.later(2)
    assert house.rollouts.standing(promotion).reason == "saw 0 of 100 predictions"


def test_a_failing_canary_loses_its_traffic(house: House) -> None:
    house.approve(house.propose())
    promotion = house.propose()
    house.promotions.shadow_done(promotion.id, "seen")
    house.approve(promotion)
    house.counts.seen = {(2, "canary"): Traffic(count=50, errors=50)}
    house.rollouts.tick()
    assert house.promotions.get(promotion.id).state == "rolled_back"
    assert {house.rollouts.route("delay", str(n)).version for n in range(200)} == {1}
    assert house.rollouts.endpoints()[0].candidate is None
