"""What a candidate's traffic says: pure, replayable, never early, and right about good and bad ones."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.records import (
    Guard,
    LabelledLoss,
    Paired,
    PromotionPolicy,
    RampStep,
    RolloutDecision,
    Samples,
    Segment,
    Side,
)
from mlbox.serve.rollout.sequential import EPOCHS, bucket_of
from mlbox.serve.rollout.verdict import RECENT, decided, recompute, verdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = PromotionPolicy(
    shadow_seconds=3600,
    shadow_min_predictions=100,
    patience_seconds=7200,
    steps=(RampStep(percent=5, hold_seconds=3600, min_predictions=50), RampStep(percent=100, hold_seconds=0)),
)


def side(runs: int, errors: int = 0, *, ms: float = 1.0, shift: float = 0.0, invalid: int = 0, seed: int = 0) -> Side:
    """One group's traffic, with scores spread evenly from `shift` on."""
    answered = runs - errors
    rng = np.random.default_rng(seed)
    scores = rng.random(answered) + shift
    latency: dict[int, int] = {}
    for value in rng.lognormal(0, 0.3, answered) * ms:
        latency[bucket_of(value)] = latency.get(bucket_of(value), 0) + 1
    return Side(
        runs=runs,
        errors=errors,
        rows=answered,
        invalid=invalid,
        latency=latency,
        scores=scores[: EPOCHS[-1]].tobytes(),
        last="." * min(runs, RECENT),
    )


def canary(candidate: Side, control: Side | None = None, champion: Side | None = None, **given: object) -> Samples:
    control = control if control is not None else side(2000, seed=1)
    champion = champion or Side(runs=20_000, errors=20)
    given = {"state": "canary", "step": 0, "since": NOW, **given}
    return Samples(candidate=candidate, control=control, champion=champion, **given)


WELL = side(2000, 2)
SHADOW = Samples(state="shadow", since=NOW, candidate=WELL)


@pytest.mark.parametrize("samples", [SHADOW, canary(WELL)])
def test_it_waits_for_its_hold_then_for_traffic_then_goes_on(samples: Samples) -> None:
    assert verdict(samples, POLICY, NOW + HOUR - timedelta(seconds=1)).reason == "held 60 min of 1 h"
    few = msgspec.structs.replace(samples, candidate=side(10))
    found = verdict(few, POLICY, NOW + HOUR)
    assert (found.action, found.reason.split(" of ")[0]) == ("wait", "too little traffic: saw 10")
    assert verdict(samples, POLICY, NOW + HOUR).action == "advance"


def pairs(rows: int, disagreed: int, mean: float = 0.01) -> Paired:
    return Paired(rows=rows, agreed=rows - disagreed, compared=rows, total=rows * mean, most=0.4)


def test_a_shadow_that_answers_otherwise_than_the_champion_is_stopped() -> None:
    strict = msgspec.structs.replace(POLICY, shadow_max_disagreement=0.05, shadow_max_difference=0.02)

    def of(paired: Paired, policy: PromotionPolicy, at: timedelta = HOUR) -> tuple[str, str]:
        found = verdict(msgspec.structs.replace(SHADOW, paired=paired), policy, NOW + at)
        return found.action, found.reason

    assert of(pairs(2000, 600), POLICY)[0] == "advance"  # told, and nothing else
    assert of(pairs(2000, 40), POLICY)[1].endswith(
        "agrees on 98.0% of 2,000 rows, scores 0.01 apart in the mean, 0.4 at most"
    )
    action, reason = of(pairs(2000, 600), strict, timedelta(0))
    assert (action, reason.partition(":")[0]) == ("roll_back", "diverges")
    assert of(pairs(2000, 40), strict)[0] == "advance"
    assert of(pairs(2000, 110), strict, timedelta(0))[0] == "wait"
    assert of(pairs(2000, 110), strict)[0] == "roll_back"
    assert of(pairs(2000, 0, mean=0.03), strict)[0] == "roll_back"
    action, reason = of(Paired(rows=2000, scoreless=2000), strict)
    assert (action, reason.split("; ")[-1]) == ("advance", "neither gives a score to compare on 2,000 rows")
    assert of(Paired(), strict) == ("wait", "no row was answered by both the champion and the shadow")


def test_a_clock_that_is_set_back_waits() -> None:
    found = verdict(canary(WELL), POLICY, NOW - HOUR)
    assert (found.action, found.reason) == ("wait", "the clock is 1 h before this step began: it was set back")


def test_no_data_never_promotes_however_long_it_takes_and_whatever_the_policy() -> None:
    bare = msgspec.structs.replace(POLICY, guards=(), steps=(RampStep(percent=5, hold_seconds=0), POLICY.steps[1]))
    for policy in (POLICY, bare):
        nothing = canary(Side(), Side(), Side())
        assert verdict(nothing, policy, NOW + timedelta(days=1000)).action == "wait"


@pytest.mark.parametrize(
    ("candidate", "guard", "words"),
    [
        (side(900, 60), "errors", "60 of 900 runs failed, the champion's 20 of 20000"),
        (side(900, invalid=60), "invalid", "60 of 900 scores are invalid"),
        (side(2000, ms=3.0), "latency p95", "the champion's"),
        (side(1000, shift=0.3), "scores", "D of the scores is 0.3"),
    ],
)
def test_each_guard_rolls_back_what_is_worse_before_the_hold_ends(candidate: Side, guard: str, words: str) -> None:
    found = verdict(canary(candidate), POLICY, NOW)
    assert found.action == "roll_back"
    assert words in found.reason
    (worse,) = [finding for finding in found.findings if finding.state == "worse"]
    assert worse.guard == guard
    assert worse.evidence is not None
    assert worse.bound is not None


def test_what_fails_grossly_needs_no_statistics() -> None:
    failing = Side(runs=RECENT, errors=RECENT, last="x" * RECENT)
    assert verdict(canary(failing, Side(), Side(runs=1)), POLICY, NOW).reason == "20 of the last 20 runs failed"
    upstream = Side(runs=100, errors=95)
    assert verdict(canary(failing, Side(), upstream), POLICY, NOW).action == "wait"  # the champion fails as well


def test_a_guard_may_ask_or_only_watch() -> None:
    bad = canary(side(900, 60))
    for then, action in (("ask", "ask"), ("watch", "wait")):
        guards = (Guard(kind="errors", stop=1, margin=0.01, then=then),)
        assert verdict(bad, msgspec.structs.replace(POLICY, guards=guards), NOW).action == action


def test_what_is_undecided_waits_for_its_patience_and_then_goes_to_a_person_with_the_numbers() -> None:
    open_ = canary(side(200), side(200, seed=1), Side(runs=20_000, errors=20))
    early = verdict(open_, POLICY, NOW + HOUR)
    assert early.action == "wait"
    assert early.reason.startswith("not shown yet: 0 of 200 runs failed")
    late = verdict(open_, POLICY, NOW + 3 * HOUR)
    assert late.action == "ask"
    assert "is shown, 0.01 is allowed" in late.reason
    held = msgspec.structs.replace(open_, hold="undecided")
    assert verdict(held, POLICY, NOW + 30 * HOUR).action == "wait"


def test_too_little_waits_on_and_says_so() -> None:
    little = canary(side(60), side(60, seed=1), Side(runs=1000))
    found = verdict(little, POLICY, NOW + 300 * HOUR)
    assert found.action == "wait"
    assert {finding.state for finding in found.findings} == {"too_little"}


def test_a_margin_that_is_shown_to_be_kept_forgives_what_is_shown_to_be_worse() -> None:
    """With much traffic every difference is shown; the policy says which ones count."""
    slightly = canary(Side(runs=200_000, errors=2600, rows=1000), Side(), Side(runs=3_800_000, errors=38_000))
    forgiving = msgspec.structs.replace(POLICY, guards=(Guard(kind="errors", stop=1, margin=0.01),))
    assert verdict(slightly, forgiving, NOW + HOUR).findings[0].state == "holds"
    strict = msgspec.structs.replace(POLICY, guards=(Guard(kind="errors", stop=1, margin=0.001),))
    assert verdict(slightly, strict, NOW).action == "roll_back"


def labelled(n: int, loss: float, against: float) -> dict[str, LabelledLoss]:
    sums = LabelledLoss(candidate=n, candidate_loss=n * loss, control=n, control_loss=n * against)
    return {"labels brier": sums}


def test_labels_that_arrive_late_stop_a_canary_whose_scores_cost_more() -> None:
    guard = Guard(kind="labels", stop=1.0, metric="brier")
    policy = msgspec.structs.replace(POLICY, guards=(guard,))
    for n, loss, action in ((400, 0.3, "roll_back"), (400, 0.16, "wait"), (30, 0.3, "wait"), (0, 0, "wait")):
        made = verdict(canary(WELL, labels=labelled(n, loss, 0.15)), policy, NOW)
        assert made.action == action, (n, loss)
    found = verdict(canary(WELL, labels=labelled(400, 0.3, 0.15)), policy, NOW)
    assert found.reason == "Brier score 0.3 over 400 labels, the champion's 0.15 over 400"
    assert found.findings[0].statistic == pytest.approx(2.0)
    noted = canary(WELL, labels={"labels brier": LabelledLoss(note="no labels are known")})
    assert verdict(noted, policy, NOW).findings[0].words == "no labels are known"
    shown = msgspec.structs.replace(policy, guards=(msgspec.structs.replace(guard, margin=0.2),))
    assert verdict(canary(WELL, labels=labelled(400, 0.16, 0.15)), shown, NOW + HOUR).action == "advance"
    assert verdict(canary(WELL), shown, NOW + 9 * HOUR).action == "wait"  # labels are asked for, and none came


def test_a_segment_stops_a_canary_that_is_well_over_all() -> None:
    policy = msgspec.structs.replace(POLICY, segments=("carrier",))
    bad = Segment(
        name="carrier=AA", candidate=side(200, 60), control=side(200, seed=1), champion=Side(runs=4000, errors=4)
    )
    good = msgspec.structs.replace(bad, name="carrier=BB", candidate=side(200))
    assert verdict(canary(WELL, segments=(good,)), policy, NOW).action == "wait"
    found = verdict(canary(WELL, segments=(good, bad)), policy, NOW)
    assert found.action == "roll_back"
    assert found.reason.startswith("in carrier=AA: 60 of 200 runs failed, the champion's 4 of 4000")
    assert [one.segment for one in found.findings] == [*[""] * 4, *["carrier=BB"] * 4, *["carrier=AA"] * 4]
    made = decided(canary(WELL, segments=(good, bad)), found, NOW)
    assert recompute(msgspec.json.decode(made.to_json(), type=RolloutDecision), policy).same


def test_segments_share_the_error_and_are_not_asked_to_show_a_margin() -> None:
    policy = msgspec.structs.replace(POLICY, segments=("carrier",), guards=(POLICY.guards[0],))
    little = Segment(name="carrier=AA", candidate=side(5), control=side(5), champion=Side(runs=50))
    found = verdict(canary(WELL, segments=(little,)), policy, NOW + HOUR)
    assert (found.action, [one.state for one in found.findings]) == ("advance", ["holds", "too_little"])
    assert [math.exp(-(one.bound or 0)) for one in found.findings] == [pytest.approx(0.025), pytest.approx(0.025 / 3)]


@pytest.mark.parametrize(("hold", "action"), [("paused", "roll_back"), ("undecided", "roll_back"), ("frozen", "wait")])
def test_what_is_held_does_not_go_on_and_is_still_guarded_while_it_has_traffic(hold: str, action: str) -> None:
    assert verdict(canary(WELL, hold=hold), POLICY, NOW + 9 * HOUR).action == "wait"
    assert verdict(canary(side(900, 60), hold=hold), POLICY, NOW).action == action


@pytest.mark.parametrize("seed", range(3))
def test_the_same_inputs_give_the_same_answer_also_after_they_were_written_down(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = canary(side(int(rng.integers(300, 900)), int(rng.integers(0, 60)), seed=seed))
    now = NOW + timedelta(hours=float(rng.uniform(0, 5)))
    made = decided(samples, verdict(samples, POLICY, now), now)
    read = msgspec.json.decode(made.to_json(), type=RolloutDecision)
    assert recompute(read, POLICY).same
    other = msgspec.structs.replace(read, samples=msgspec.structs.replace(samples, candidate=side(900, 500)))
    assert not recompute(other, POLICY).same


sides = st.builds(side, st.integers(0, 500), st.just(0), ms=st.floats(0.5, 4), shift=st.floats(0, 0.4))


@given(one=sides, other=sides, errors=st.integers(0, 200), seconds=st.integers(0, 20_000), shadow=st.booleans())
@settings(max_examples=60, deadline=None)
def test_it_never_goes_on_early_nor_on_what_was_not_shown(
    one: Side, other: Side, errors: int, seconds: int, shadow: bool
) -> None:
    failing = msgspec.structs.replace(one, errors=errors, runs=one.runs + errors)
    samples = canary(failing, other, msgspec.structs.replace(other, runs=other.runs * 20))
    if shadow:
        samples = msgspec.structs.replace(samples, state="shadow", step=-1)
    found = verdict(samples, POLICY, NOW + timedelta(seconds=seconds))
    assert found.reason
    if found.action == "advance":
        assert seconds >= 3600
        assert failing.rows >= (100 if shadow else 50)
        needed = [finding for guard, finding in zip(POLICY.guards, found.findings, strict=False) if guard.margin]
        assert all(finding.state == "holds" for finding in needed)
    if found.action == "ask":
        assert seconds >= 3600 + POLICY.patience_seconds
