"""The automatic gates between a registered version and Staging: pure functions from evidence to results.

Each gate states what it requires and what was measured, in words and units that a person can act on. Evidence that could
not be had fails its gate with the reason; nothing passes for want of a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from mlbox.records import DatasetVersion, GateResult, ModelVersion, PromotionPolicy, Record, Run


class Evidence(Record, frozen=True, kw_only=True):
    """What the gates look at. None means that it could not be had; `problems` says why, by gate."""

    version: ModelVersion
    policy: PromotionPolicy
    run: Run | None = None
    dataset: DatasetVersion | None = None
    champion: ModelVersion | None = None
    p95_ms: float | None = None
    parity: float | None = None
    """Largest absolute difference to the source model's outputs over the registered sample."""
    scores: tuple[float, float] | None = None
    """Least and greatest score over the training sample; NaN when a score was not finite."""
    problems: Mapping[str, str] = {}


class Outcome(NamedTuple):
    """One gate's verdict before it is dated."""

    passed: bool
    required: str
    measured: str


Gate = Callable[[Evidence], Outcome]


def lineage(evidence: Evidence) -> Outcome:
    """The version names a run, a dataset version and a commit that exist."""
    version = evidence.version
    missing = [
        name
        for name, there in (
            ("run", evidence.run is not None and evidence.run.status in ("RUNNING", "FINISHED")),
            ("dataset version", evidence.dataset is not None),
            ("git commit", bool(version.git_commit)),
        )
        if not there
    ]
    named = f"run {(version.run_id or '')[:12]}, {version.dataset}, commit {(version.git_commit or '')[:12]}"
    return Outcome(
        not missing, "a run, a dataset version and a git commit", f"no {' and no '.join(missing)}" if missing else named
    )


def signature(evidence: Evidence) -> Outcome:
    """The model's input takes as many columns as the version names features, and the dataset has them."""
    version = evidence.version
    required = f"one input of {len(version.features)} features"
    if not version.features:
        return Outcome(False, "features named by the version", "none")
    shape = version.inputs[0].shape if len(version.inputs) == 1 else ()
    fits = len(shape) == 2 and shape[1] in (-1, len(version.features))
    inputs = ", ".join(f"{i.name} {i.dtype}{list(i.shape)}" for i in version.inputs) or "no inputs"
    return Outcome(fits, required, inputs)


def size(evidence: Evidence) -> Outcome:
    """The artifact is not larger than the policy allows."""
    limit, actual = evidence.policy.max_artifact_bytes, evidence.version.size
    return Outcome(0 < actual <= limit, f"at most {limit / 2**20:.1f} MiB", f"{actual / 2**20:.3f} MiB")


def metric(evidence: Evidence) -> Outcome:
    """The policy's metric is what the run logged, is above the minimum, and no worse than the champion's by the margin."""
    policy, name = evidence.policy, evidence.policy.metric
    value = evidence.version.metrics.get(name)
    bounds = _metric_bounds(evidence)
    required = f"{name} " + " and ".join([*(text for text, _ in bounds), "as logged by the run"])
    if value is None or not math.isfinite(value):
        return Outcome(False, required, f"no {name}")
    point = evidence.run.metrics.get(name) if evidence.run else None
    logged = point.value if point else None
    if logged is None or not math.isclose(logged, value, rel_tol=1e-9):
        return Outcome(False, required, f"{value:.4f}, but the run logged {'nothing' if logged is None else logged}")
    sign = 1 if policy.higher_is_better else -1
    passed = all(sign * value >= sign * bound for _, bound in bounds)
    return Outcome(passed, required, f"{value:.4f}")


def _metric_bounds(evidence: Evidence) -> list[tuple[str, float]]:
    policy, word = evidence.policy, "at least" if evidence.policy.higher_is_better else "at most"
    bounds = []
    if policy.minimum is not None:
        bounds.append((f"{word} {policy.minimum:.4f}", policy.minimum))
    champion = evidence.champion.metrics.get(policy.metric) if evidence.champion else None
    if champion is not None:
        bound = champion - policy.margin if policy.higher_is_better else champion + policy.margin
        bounds.append((f"{word} {bound:.4f} (champion {champion:.4f}, margin {policy.margin:.4f})", bound))
    return bounds


def latency(evidence: Evidence) -> Outcome:
    """The 95th percentile of single predictions, measured on this machine."""
    required = f"p95 at most {evidence.policy.max_latency_ms_p95:.1f} ms"
    if evidence.p95_ms is None:
        return Outcome(False, required, evidence.problems.get("latency", "not measured"))
    return Outcome(evidence.p95_ms <= evidence.policy.max_latency_ms_p95, required, f"{evidence.p95_ms:.3f} ms")


def parity(evidence: Evidence) -> Outcome:
    """The ONNX model answers what the source model answered."""
    required = f"difference to the source model at most {evidence.policy.parity_tolerance:g}"
    if evidence.parity is None:
        return Outcome(False, required, evidence.problems.get("parity", "no sample was registered"))
    return Outcome(evidence.parity <= evidence.policy.parity_tolerance, required, f"{evidence.parity:.2g}")


def sanity(evidence: Evidence) -> Outcome:
    """Scores over real training rows are finite and not all the same."""
    required = "finite scores that differ"
    if evidence.scores is None:
        return Outcome(False, required, evidence.problems.get("sanity", "not measured"))
    low, high = evidence.scores
    return Outcome(math.isfinite(low) and math.isfinite(high) and low < high, required, f"{low:.4f} to {high:.4f}")


GATES: dict[str, Gate] = {
    "lineage": lineage,
    "signature": signature,
    "size": size,
    "metric": metric,
    "latency": latency,
    "parity": parity,
    "sanity": sanity,
}
"""All gates, in the order in which people read them."""


def evaluate(evidence: Evidence, now: datetime) -> list[GateResult]:
    """Every gate's result."""
    outcomes = {name: gate(evidence) for name, gate in GATES.items()}
    return [
        GateResult(gate=name, passed=o.passed, required=o.required, measured=o.measured, at=now)
        for name, o in outcomes.items()
    ]
