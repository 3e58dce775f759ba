"""What a candidate's traffic says: a pure function from samples, policy and time to what to do and why.

The rule has a version, and every decision keeps what it was made from (`RolloutDecision`), so `recompute` makes it again.

A canary is *worse* in a guard when the evidence, valid at every look together, exceeds what the policy allows; all guards
together stop a good canary in at most `false_stops` of runs, each having an equal part. A guard *holds* when its interval shows
that the candidate is no worse than its margin, and is then never worse. A step ends when its hold is over and every guard that
has a margin holds: that nothing bad was seen is not enough. (The two tests are those of M. Schultzberg et al., "Risk-aware
product decisions in A/B tests with multiple metrics", 2024: deterioration, and non-inferiority.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from mlbox.records import (
    Finding,
    Guard,
    LabelledLoss,
    PromotionPolicy,
    Recomputed,
    Record,
    RolloutDecision,
    Samples,
    Segment,
    Side,
)
from mlbox.serve.monitoring import drift
from mlbox.serve.rollout.sequential import (
    EPOCHS,
    Interval,
    alpha_of_epoch,
    distance_slack,
    log_evidence_of_rate,
    proportion,
    quantile,
    seen_quantile,
)
from mlbox.serve.rollout.shadow import diverges

if TYPE_CHECKING:
    from typing import Literal

    import numpy as np

RULE = 4
"""Version of the rule: raised with every change that may change a verdict, or its words."""
RECENT = 20
GROSS = 0.5
"""A candidate that fails so much more of its last runs than the champion of all its own is stopped without any statistics."""
MARGIN_ALPHA = 0.05
"""How often a margin may be taken for shown that is not kept. All guards must hold, so each may use all of it."""
FEW_RUNS = 100
"""Fewer runs say nothing of a quantile, and little of a rate."""


class Verdict(Record, frozen=True, kw_only=True):
    """What to do now, and why, in words."""

    action: Literal["wait", "advance", "roll_back", "ask"]
    reason: str
    findings: tuple[Finding, ...] = ()


def verdict(samples: Samples, policy: PromotionPolicy, now: datetime) -> Verdict:
    """Decide about a candidate in shadow or canary from what it and the champion beside it did since the step began."""
    if samples.state == "shadow":
        return _of_shadow(samples, policy, now)
    findings = judge(samples, policy)
    if samples.hold == "frozen":
        return Verdict(action="wait", reason=HOLDS[samples.hold], findings=findings)
    stopped = _gross(samples) or _worse(policy, findings)
    if stopped is not None:
        action, reason = stopped
        return Verdict(action=action, reason=reason, findings=findings)
    if samples.hold:
        return Verdict(action="wait", reason=HOLDS[samples.hold], findings=findings)
    return _of_time(samples, policy, now, findings)


HOLDS = {
    "paused": "paused: it keeps its share until someone resumes it",
    "undecided": "the evidence does not decide: a person advances it or rolls it back",
    "frozen": "frozen without traffic until someone rolls it back",
}


def recompute(decision: RolloutDecision, policy: PromotionPolicy) -> Recomputed:
    """The same decision made again from what it was made from."""
    found = verdict(decision.samples, policy, decision.at)
    same = (found.action, found.reason, found.findings) == (decision.action, decision.reason, decision.findings)
    return Recomputed(decision=decision, same=same, action=found.action, reason=found.reason)


def _of_shadow(samples: Samples, policy: PromotionPolicy, now: datetime) -> Verdict:
    side = samples.candidate
    if proportion(side.errors, side.runs, policy.false_stops).low > policy.max_error_rate:
        words = f"{side.errors} of {side.runs} shadow runs failed, {policy.max_error_rate:.1%} may"
        return Verdict(action="roll_back", reason=words)
    paired, allowed = samples.paired, policy.shadow_max_disagreement
    if allowed is not None and proportion(paired.disagreed, paired.judged, policy.false_stops).low > allowed:
        return Verdict(action="roll_back", reason=f"diverges: {paired.words}; {allowed:.1%} may disagree")
    waits = _waits(samples, policy.shadow_seconds, policy.shadow_min_predictions, now)
    if waits:
        return Verdict(action="wait", reason=waits)
    return _of_pairs(samples, policy, now)


def _of_pairs(samples: Samples, policy: PromotionPolicy, now: datetime) -> Verdict:
    """The shadow has seen enough: whether it answered as the policy wants it, row by row."""
    paired = samples.paired
    limits = (policy.shadow_max_disagreement, policy.shadow_max_difference)
    if limits == (None, None):
        told = f"; {paired.words}" if paired.rows else ""
        return Verdict(action="advance", reason=_passed(samples, now) + told)
    if not paired.rows:
        return Verdict(action="wait", reason="no row was answered by both the champion and the shadow")
    if paired.judged and diverges((paired.disagreed / paired.judged, paired.mean), limits):
        return Verdict(action="roll_back", reason=f"diverges more than the policy allows: {paired.words}")
    return Verdict(action="advance", reason=f"{_passed(samples, now)}; {paired.words}")


def _of_time(samples: Samples, policy: PromotionPolicy, now: datetime, findings: tuple[Finding, ...]) -> Verdict:
    """Nothing is worse: whether the step is over, and what was shown."""
    step = policy.steps[samples.step]
    waits = _waits(samples, step.hold_seconds, step.min_predictions, now)
    if waits:
        return Verdict(action="wait", reason=waits, findings=findings)
    open_ = [
        finding
        for guard, finding in zip(policy.guards, findings, strict=False)  # those of segments come after
        if guard.margin is not None and guard.then != "watch" and finding.state != "holds"
    ]
    if not open_:
        return Verdict(action="advance", reason=_passed(samples, now), findings=findings)
    words = "; ".join(finding.words for finding in open_)
    late = (now - samples.since).total_seconds() >= step.hold_seconds + policy.patience_seconds
    if late and not any(finding.state == "too_little" for finding in open_):
        return Verdict(action="ask", reason=f"undecided: {words}", findings=findings)
    return Verdict(action="wait", reason=f"not shown yet: {words}", findings=findings)


def _waits(samples: Samples, hold: float, least: int, now: datetime) -> str:
    """What of time or traffic is missing, in words."""
    held = (now - samples.since).total_seconds()
    if held < 0:
        return f"the clock is {span(-held)} before this step began: it was set back"
    if held < hold:
        return f"held {span(held)} of {span(hold)}"
    if samples.candidate.rows < least or not samples.candidate.rows:
        return f"too little traffic: saw {samples.candidate.rows} of {max(1, least)} predictions"
    return ""


def _passed(samples: Samples, now: datetime) -> str:
    held = span((now - samples.since).total_seconds())
    return f"held {held} and {samples.candidate.rows} predictions, {samples.candidate.errors} runs failed"


def span(seconds: float) -> str:
    """A length of time in the unit that a person would choose."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


# -- guards ---------------------------------------------------------------------------------------------------------------


def is_gross(last: str, errors: int, runs: int) -> bool:
    """Whether the last runs failed so much more often than the champion's that no statistics are needed."""
    if last.count("x") < GROSS * RECENT:  # the ring is not full at first: what is not there did not fail
        return False
    return last.count("x") / RECENT >= GROSS + (errors / runs if runs else 0.0)


def _gross(samples: Samples) -> tuple[Literal["roll_back"], str] | None:
    if not is_gross(samples.candidate.last, samples.champion.errors, samples.champion.runs):
        return None
    return "roll_back", f"{samples.candidate.last.count('x')} of the last {RECENT} runs failed"


def _worse(policy: PromotionPolicy, findings: tuple[Finding, ...]) -> tuple[Literal["roll_back", "ask"], str] | None:
    """What the guards that found the candidate worse ask for, the hardest first."""
    action: Literal["roll_back", "ask"]
    follows = {guard.name: guard.then for guard in policy.guards}
    for action in ("roll_back", "ask"):
        words = [finding.words for finding in findings if follows[finding.guard] == action and finding.state == "worse"]
        if words:
            return action, "; ".join(words)
    return None


def judge(samples: Samples, policy: PromotionPolicy) -> tuple[Finding, ...]:
    """What every guard says, in the policy's order: over all traffic, then in each segment.

    Where the policy names segments, what good canaries may be stopped is shared: half for all traffic, half for the segments.
    """
    stopping = sum(guard.then != "watch" for guard in policy.guards)
    share = policy.false_stops / 2 if policy.segments else policy.false_stops
    alpha = share / max(1, stopping)
    found = [JUDGES[guard.kind](guard, samples, alpha) for guard in policy.guards]
    for segment in samples.segments[: policy.largest_segments]:
        found += _in_segment(segment, samples, policy, share)
    return tuple(found)


def _in_segment(segment: Segment, samples: Samples, policy: PromotionPolicy, share: float) -> list[Finding]:
    guards = [guard for guard in policy.guards if guard.kind != "labels"]
    stopping = sum(guard.then != "watch" for guard in guards)
    alpha = share / max(1, stopping * policy.largest_segments)
    part = msgspec.structs.replace(
        samples, candidate=segment.candidate, control=segment.control, champion=segment.champion
    )
    found = [JUDGES[guard.kind](guard, part, alpha) for guard in guards]
    return [
        msgspec.structs.replace(one, segment=segment.name, words=f"in {segment.name}: {one.words}") for one in found
    ]


def _errors(guard: Guard, samples: Samples, alpha: float) -> Finding:
    one, other = samples.candidate, samples.champion
    words = f"{one.errors} of {one.runs} runs failed, the champion's {other.errors} of {other.runs}"
    return _rates(guard, (one.errors, one.runs), (other.errors, other.runs), words, alpha)


def _invalid(guard: Guard, samples: Samples, alpha: float) -> Finding:
    one, other = samples.candidate, samples.control
    words = f"{one.invalid} of {one.rows} scores are invalid, the champion's {other.invalid} of {other.rows}"
    return _rates(guard, (one.invalid, one.rows), (other.invalid, other.rows), words, alpha)


def _labels(guard: Guard, samples: Samples, alpha: float) -> Finding:
    """Of labels that arrived: losses of 0 to 1, for which bounds on rates hold as well, since such a loss spreads no wider."""
    seen = samples.labels.get(guard.name, LabelledLoss())
    one, other = (seen.candidate_loss, seen.candidate), (seen.control_loss, seen.control)
    if not one[1] or not other[1]:
        words = seen.note or f"labels of {one[1]} predictions are known, and of {other[1]} of the champion's"
        return Finding(guard=guard.name, state="too_little", words=words)
    mean, against = one[0] / one[1], other[0] / other[1]
    words = f"{LOSSES[guard.metric]} {mean:.3g} over {one[1]} labels, the champion's {against:.3g} over {other[1]}"
    return _rates(guard, one, other, words, alpha)


LOSSES = {"errors": "share that was wrong", "brier": "Brier score", "absolute": "mean distance, in parts of the scale,"}


def _rates(guard: Guard, one: tuple[float, int], other: tuple[float, int], words: str, alpha: float) -> Finding:
    (hits, n), (others, m) = one, other
    if not n or not m:
        return Finding(guard=guard.name, state="too_little", words=words)
    evidence = log_evidence_of_rate(hits, others, n / (n + m), guard.stop)
    ours, theirs = proportion(hits, n, MARGIN_ALPHA / 2), proportion(others, m, MARGIN_ALPHA / 2)
    interval = Interval(ours.low - theirs.high, ours.high - theirs.low)
    bound = math.log(1 / alpha)
    statistic = (hits / n) / (others / m) if others else None
    return _found(guard, statistic, bound, evidence, evidence > bound, interval, min(n, m) < FEW_RUNS, words)


def _latency(guard: Guard, samples: Samples, alpha: float) -> Finding:
    one, other = samples.candidate.latency, samples.control.latency
    q, few = guard.quantile, min(sum(one.values()), sum(other.values())) < FEW_RUNS
    seen = seen_quantile(one, q), seen_quantile(other, q)
    words = f"p{q * 100:g} is {seen[0]:.3g} ms, the champion's {seen[1]:.3g} ms"
    if not one or not other:
        return Finding(guard=guard.name, state="too_little", words=f"p{q * 100:g} of {len(one)} runs")
    ours, theirs = quantile(one, q, alpha / 2), quantile(other, q, alpha / 2)
    lower = ours.low / theirs.high
    shown, against = quantile(one, q, MARGIN_ALPHA / 2), quantile(other, q, MARGIN_ALPHA / 2)
    interval = Interval(shown.low / against.high, shown.high / against.low if against.low else math.inf)
    return _found(guard, seen[0] / seen[1], guard.stop, lower, lower > guard.stop, interval, few, words)


def _scores(guard: Guard, samples: Samples, alpha: float) -> Finding:
    one, other = _array(samples.candidate), _array(samples.control)
    n = min(len(one), len(other))
    epochs = [(epoch, size) for epoch, size in enumerate(EPOCHS, 1) if size <= n]
    if not epochs:
        words = f"{n} scores on each side, {EPOCHS[0]} are compared at first"
        return Finding(guard=guard.name, state="too_little", words=words)
    found = None
    for epoch, size in epochs:
        found = _distance(guard, one[:size], other[:size], epoch, alpha)
        if found.state == "worse":
            return found
    assert found is not None
    return found


def _distance(guard: Guard, one: np.ndarray, other: np.ndarray, epoch: int, alpha: float) -> Finding:
    """The distance of the first values on each side, with this epoch's part of alpha."""
    compared = drift.compare(other, one)
    distance, n = compared.statistic or 0.0, len(one)
    spent = alpha_of_epoch(epoch, alpha)
    shown = distance_slack(n, alpha_of_epoch(epoch, MARGIN_ALPHA))
    interval = Interval(max(0.0, distance - shown), min(1.0, distance + shown))
    words = f"D of the scores is {distance:.3f} over {n} on each side"
    if guard.stop == 0:  # any difference counts, and of none there is an exact test
        p = compared.p_value or 0.0
        return _found(guard, distance, spent, p, p <= spent, interval, False, words)
    lower = distance - distance_slack(n, spent)
    return _found(guard, distance, guard.stop, lower, lower > guard.stop, interval, False, words)


def _array(side: Side) -> np.ndarray:
    import numpy as np

    return np.frombuffer(side.scores, np.float64)


def _found(
    guard: Guard,
    statistic: float | None,
    bound: float,
    evidence: float,
    worse: bool,
    interval: Interval,
    few: bool,
    words: str,
) -> Finding:
    """A finding: worse, unless its margin is shown to be kept."""
    holds = guard.margin is not None and interval.high <= guard.margin
    state: Literal["worse", "holds", "undecided", "too_little"]
    if worse and not holds:
        state = "worse"
    elif holds:
        state = "holds"
    else:
        state = "too_little" if few else "undecided"
    most = f"at most {interval.high:.3g} is shown" if math.isfinite(interval.high) else "nothing is shown yet"
    shown = "" if guard.margin is None else f"; {most}, {guard.margin:g} is allowed"
    return Finding(
        guard=guard.name,
        state=state,
        statistic=_finite(statistic),
        bound=bound,
        evidence=_finite(evidence),
        low=_finite(interval.low),
        high=_finite(interval.high),
        words=words + shown,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Judge = Callable[[Guard, Samples, float], Finding]
JUDGES: dict[str, Judge] = {
    "errors": _errors,
    "invalid": _invalid,
    "latency": _latency,
    "scores": _scores,
    "labels": _labels,
}


def decided(
    samples: Samples, found: Verdict, now: datetime, *, actor: str = "mlbox", done: str = "", comment: str = ""
) -> RolloutDecision:
    """A verdict with what it was made from, as it is kept; `done` by a person may be something else than its action."""
    return RolloutDecision(
        at=now,
        actor=actor,
        rule=RULE,
        action=found.action,
        reason=found.reason,
        findings=found.findings,
        samples=samples,
        done=done or found.action,
        comment=comment,
    )
