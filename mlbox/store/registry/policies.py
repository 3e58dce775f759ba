"""What a promotion policy may say: one that nothing can pass, or that says nothing, is refused before it counts."""

from __future__ import annotations

import math
import re

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import GateCommand, Guard, PromotionPolicy, ReplayRule
from mlbox.store.jobs.notices import check_notify

BOUNDED = frozenset({"auc", "roc_auc", "accuracy", "f1", "precision", "recall", "average_precision"})
"""Metrics that are never above 1."""
LOSSES = frozenset({"log_loss", "brier", "mae", "mse", "rmse"})
"""Metrics that are never below 0, less being better."""
LEAST_DISTANCE = 0.06
"""With the most scores that are compared, D is not shown to be smaller than this."""
MOST_SEGMENTS = 20
DAY = 86_400
_SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_ROWS, MOST_CONCURRENCY = 10_000, 64
"""Of a request whose time is measured, and of requests at a time."""
MOST_DAYS = 3650
MOST_REPLAYED = 100_000
"""Logged requests that are asked again."""


def check_policy(policy: PromotionPolicy) -> None:
    """Raise InvalidInput, naming the field, for a policy that is not one or that no version can pass."""
    _check_numbers(policy)
    _check_steps(policy)
    _check_gates(policy)
    _check_fairness(policy)
    _check_replay(policy.replay)
    _check_approvals(policy)
    _check_segments(policy)
    _check_command(policy.test, "test")
    _check_command(policy.integration, "integration")
    names = [guard.name for guard in policy.guards]
    for guard in policy.guards:
        _check_guard(guard)
        if names.count(guard.name) > 1:
            raise InvalidInput(f"There are two guards {guard.name}.", hint="Keep one.", field="guards")


def _check_numbers(policy: PromotionPolicy) -> None:
    """Every number is finite and not below zero, of the policy and of its parts."""
    for name, value in _numbers(msgspec.to_builtins(policy)):
        if not math.isfinite(value):
            raise InvalidInput(f"{name} is {value}.", hint="Use a number.", field=name.partition(".")[0])
        if value < 0 and name != "minimum":
            raise InvalidInput(f"{name} is negative.", hint="Use 0 or more.", field=name.partition(".")[0])


def _numbers(value: object, name: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in _numbers(part, f"{name}.{key}".strip("."))]
    if isinstance(value, list | tuple):
        return [found for part in value for found in _numbers(part, name)]
    return [(name, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _check_steps(policy: PromotionPolicy) -> None:
    percents = [step.percent for step in policy.steps]
    if not percents or percents[-1] != 100 or sorted(set(percents)) != percents or percents[0] <= 0:
        raise InvalidInput(
            "The ramp's steps must rise and end at 100 %.", hint="For example 5, 25, 100.", field="steps"
        )
    holds = policy.shadow_seconds + sum(step.hold_seconds for step in policy.steps[:-1])
    if holds >= policy.lifetime_days * DAY:
        raise InvalidInput(
            f"Shadow and canary hold {holds / DAY:.3g} days, and a model is to be looked at again after"
            f" {policy.lifetime_days:g}.",
            hint="No version can pass that: hold less, or live longer.",
            field="steps",
        )


def _check_gates(policy: PromotionPolicy) -> None:
    if policy.minimum is not None and policy.minimum > 1 and policy.metric in BOUNDED and policy.higher_is_better:
        raise _never(f"{policy.metric} of at least {policy.minimum:g}", "It is never above 1.", "minimum")
    if policy.minimum is not None and policy.minimum < 0 and policy.metric in LOSSES and not policy.higher_is_better:
        raise _never(f"{policy.metric} of at most {policy.minimum:g}", "It is never below 0.", "minimum")
    for name in ("max_artifact_bytes", "max_latency_ms_p50", "max_latency_ms_p95", "max_latency_ms_p99"):
        if getattr(policy, name) == 0:
            raise _never(f"{name} of 0", "Allow some.", name)
    for name, most in (("latency_rows", MOST_ROWS), ("latency_concurrency", MOST_CONCURRENCY)):
        if not 1 <= getattr(policy, name) <= most:
            raise InvalidInput(f"{name} is {getattr(policy, name)}.", hint=f"1 to {most:,} are measured.", field=name)
    if len(set(policy.card)) < len(policy.card):
        raise InvalidInput("A part of the card is named twice.", hint="Name each once.", field="card")
    if not 0 < policy.false_stops < 1:
        raise InvalidInput(
            "false_stops is a share between 0 and 1.", hint="0.05 stops one good canary in 20.", field="false_stops"
        )


def _check_fairness(policy: PromotionPolicy) -> None:
    spec = policy.fairness
    if spec is None:
        return
    if policy.not_sensitive:
        raise InvalidInput(
            "A policy names sensitive columns, or says why there are none.", hint="Keep one.", field="not_sensitive"
        )
    if not spec.sensitive or len(set(spec.sensitive)) < len(spec.sensitive):
        raise InvalidInput(
            "Name each sensitive column once.", hint='For example ["sex", "age_band"].', field="fairness"
        )
    if spec.min_parity_ratio is not None and spec.min_parity_ratio > 1:
        raise _never(f"a parity ratio of at least {spec.min_parity_ratio:g}", "1 is all alike.", "fairness")


def _check_replay(rule: ReplayRule) -> None:
    if not 0 <= rule.last <= MOST_REPLAYED:
        raise InvalidInput(
            f"replay.last is {rule.last:,}.",
            hint=f"Up to {MOST_REPLAYED:,} requests are asked again, and 0 asks none.",
            field="replay.last",
        )
    if rule.last and not 1 <= rule.min_rows <= rule.last:
        raise InvalidInput(
            f"replay.min_rows is {rule.min_rows:,}, of {rule.last:,} requests at most.",
            hint="Ask for 1 or more, and for no more than replay.last.",
            field="replay.min_rows",
        )
    if rule.window_days is not None and not 0 < rule.window_days <= MOST_DAYS:
        raise InvalidInput(
            f"replay.window_days is {rule.window_days:g}.",
            hint=f"More than 0, up to {MOST_DAYS:,}.",
            field="replay.window_days",
        )
    for name in ("max_failed", "max_disagreement"):
        if (getattr(rule, name) or 0) > 1:
            raise InvalidInput(
                f"replay.{name} is a share: 0 to 1.", hint="0.01 is one in a hundred.", field=f"replay.{name}"
            )


def _check_approvals(policy: PromotionPolicy) -> None:
    reviewers = policy.reviewers
    check_notify(policy.notify)
    if policy.approvals < 1:
        raise InvalidInput("Production takes somebody's approval.", hint="Ask for 1 or more.", field="approvals")
    if len(set(reviewers)) < len(reviewers):
        raise InvalidInput("A reviewer is named twice.", hint="Name each once.", field="reviewers")
    if reviewers and len(reviewers) < policy.approvals:
        raise _never(f"{policy.approvals} approvals of {len(reviewers)} reviewers", "Name more.", "reviewers")
    if not 0 < policy.approval_days <= MOST_DAYS:
        raise InvalidInput(
            "A request waits for some days, and not for ever.", hint=f"Up to {MOST_DAYS:,}.", field="approval_days"
        )


def _check_segments(policy: PromotionPolicy) -> None:
    if len(set(policy.segments)) < len(policy.segments) or "" in policy.segments:
        raise InvalidInput("Name each segment column once.", hint='For example ["carrier"].', field="segments")
    if not 1 <= policy.largest_segments <= MOST_SEGMENTS:
        raise InvalidInput(
            f"{policy.largest_segments} segments are none, or more than have enough traffic to show anything.",
            hint=f"Compare 1 to {MOST_SEGMENTS}.",
            field="largest_segments",
        )


def _check_command(command: GateCommand | None, field: str) -> None:
    """Whether a job can run it is asked where jobs are known (see `serve/gate_jobs`)."""
    if command is None:
        return
    if not command.command or not command.command[0] or any("\0" in word for word in command.command):
        raise InvalidInput(f"The {field} command has no words.", hint='Such as "python -m pytest -q".', field=field)
    if not 0 < command.timeout_seconds <= DAY:
        raise InvalidInput(
            f"The {field} command may run {command.timeout_seconds:g} s.", hint=f"Up to {DAY:,} s.", field=field
        )
    if command.code and not _SHA256.fullmatch(command.code):
        raise InvalidInput(
            f"The code of the {field} command is no SHA-256.",
            hint="`mlbox model policy MODEL --set FILE` sends the folder that the file names.",
            field=field,
        )


def _check_guard(guard: Guard) -> None:
    if guard.kind == "latency" and not 0 < guard.quantile < 1:
        raise InvalidInput("A quantile is between 0 and 1.", hint="For example 0.95.", field="guards")
    if guard.kind == "labels" and guard.scale <= 0:
        raise InvalidInput("A scale is above 0.", hint="The distance that counts as wholly wrong.", field="guards")
    if guard.kind != "scores" and guard.stop < 1:
        raise _never(f"the guard {guard.name} with stop {guard.stop:g}", "1 is as good as the champion.", "guards")
    least = {"latency": 1.0, "scores": LEAST_DISTANCE}.get(guard.kind, 0.0)
    if guard.margin is not None and guard.margin <= least:
        raise _never(
            f"the guard {guard.name} with margin {guard.margin:g}",
            f"No evidence shows that little: use more than {least:g}, or no margin.",
            "guards",
        )


def _never(what: str, hint: str, field: str) -> InvalidInput:
    return InvalidInput(f"No version can pass {what}.", hint=hint, field=field)
