"""The automatic gates between a registered version and Staging: pure functions from evidence to results.

Each gate states what it requires and what was measured, in words and units that a person can act on. Evidence that could
not be had fails its gate with the reason; nothing passes for want of a measurement.

A version that mlbox cannot serve answers nobody through mlbox, so the gates that load, time and score it do not apply: it is
governed by the approval, of which `UNSERVED` holds what the approver is told; a policy may ask for more.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from mlbox.records import (
    BenchFigure,
    CardParts,
    CommandRun,
    Comparison,
    DatasetVersion,
    Fairness,
    GateCommand,
    GateResult,
    Model,
    ModelVersion,
    PromotionPolicy,
    Record,
    Replay,
    ReplayRule,
    Run,
)
from mlbox.serve.rollout.shadow import diverges
from mlbox.store.registry.promotions import HOW_TO_SERVE


class Evidence(Record, frozen=True, kw_only=True):
    """What the gates look at. None means that it could not be had; `problems` says why, by gate."""

    version: ModelVersion
    policy: PromotionPolicy
    model: Model | None = None
    now: datetime | None = None
    run: Run | None = None
    code: str | None = None
    """The SHA-256 of the code that its job was sent, of which the box has a copy."""
    dataset: DatasetVersion | None = None
    champion: ModelVersion | None = None
    latency: BenchFigure | None = None
    """With the policy's rows and requests at a time."""
    card: CardParts | None = None
    parity: float | None = None
    """Largest absolute difference to the source model's outputs over the registered sample."""
    scores: tuple[float, float] | None = None
    """Least and greatest score over the training sample, or answer to the registered one; NaN when one was not finite."""
    comparison: Comparison | None = None
    """With the champion, on the policy's rows."""
    replay: Replay | None = None
    """Of logged requests, beside the champion's answers."""
    fairness: Fairness | None = None
    """By the policy's sensitive columns, on its rows."""
    test: CommandRun | None = None
    problems: Mapping[str, str] = {}


class Outcome(NamedTuple):
    """One gate's verdict before it is dated."""

    passed: bool
    required: str
    measured: str


Gate = Callable[[Evidence], Outcome]
MOST_LINE = 120
TRACED = "a run, a dataset version, and a git commit or a copy of the code"


def lineage(evidence: Evidence) -> Outcome:
    """The version names a run and a dataset version that exist, and its code: a commit, or the copy that the box has."""
    version = evidence.version
    missing = [
        name
        for name, there in (
            ("run", evidence.run is not None and evidence.run.status in ("RUNNING", "FINISHED")),
            ("dataset version", evidence.dataset is not None),
            ("git commit or copy of the code", bool(version.git_commit or evidence.code)),
        )
        if not there
    ]
    named = f"run {(version.run_id or '')[:12]}, {version.dataset}, {_code(evidence)}"
    return Outcome(not missing, TRACED, f"no {' and no '.join(missing)}" if missing else named)


def _code(evidence: Evidence) -> str:
    if evidence.version.git_commit:
        return f"commit {evidence.version.git_commit[:12]}"
    return f"code {evidence.code[:12]}" if evidence.code else "no git commit"


def signature(evidence: Evidence) -> Outcome:
    """The model's input takes as many columns as the version names features; one that names none is asked by its tensors."""
    version = evidence.version
    inputs = ", ".join(f"{i.name} {i.dtype}{list(i.shape)}" for i in version.inputs) or "no inputs"
    if not version.features:
        outputs = ", ".join(f"{o.name} {o.dtype}{list(o.shape)}" for o in version.outputs) or "no outputs"
        there = bool(version.inputs and version.outputs)
        return Outcome(there, "inputs and outputs, as no features are named", f"{inputs} to {outputs}")
    shape = version.inputs[0].shape if len(version.inputs) == 1 else ()
    fits = len(shape) == 2 and shape[1] in (-1, len(version.features))
    count = len(version.features)
    return Outcome(fits, f"one input of {count} feature{'s' if count != 1 else ''}", inputs)


def size(evidence: Evidence) -> Outcome:
    """The artifact is not larger than the policy allows."""
    limit, actual = evidence.policy.max_artifact_bytes, evidence.version.size
    return Outcome(0 < actual <= limit, f"at most {_binary(limit)}", _binary(actual))


def _binary(size: float) -> str:
    """A size as people read it: `570 B`, `40.8 KiB`, `2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.4g} {unit}"


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


def comparison(evidence: Evidence) -> Outcome:
    """Shown to be no worse than the champion by more than the margin, on the rows that the policy names."""
    spec, champion, found = evidence.policy.compare, evidence.champion, evidence.comparison
    assert spec is not None
    required = f"{spec.metric} shown to be no worse by more than {spec.margin:g} on {spec.dataset}"
    if champion is None:
        return Outcome(True, required, "there is no champion to be compared with")
    if found is None:
        return Outcome(False, required, evidence.problems.get("comparison", "not compared"))
    worst = [part.segment for part in found.found[1:] if part.outcome == "worse"]
    words = found.words + (f"; worse in {', '.join(worst)}" if worst else "")
    return Outcome(found.found[0].outcome in ("better", "non_inferior"), required, " ".join([words, *found.notes]))


def replay(evidence: Evidence) -> Outcome:
    """Logged requests, asked again, are answered validly, and as by the champion within the policy's limits."""
    rule, found = evidence.policy.replay, evidence.replay
    required = _replay_bounds(rule, evidence.champion is not None)
    if found is None:
        return Outcome(False, required, evidence.problems.get("replay", "not replayed"))
    if found.state == "too_few":
        return Outcome(True, required, f"skipped: {found.reason}")
    if found.state == "done" and found.replayed < min(rule.min_rows, found.rows):
        return Outcome(False, required, f"too slow: {found.words}")
    broken = found.broken_share > rule.max_failed
    return Outcome(found.state == "done" and not broken and not _diverges(rule, found), required, found.words)


def _diverges(rule: ReplayRule, found: Replay) -> bool:
    every = found.figures[0] if found.figures else None
    if every is None or every.agreed_share is None:
        return False
    figures = (1 - every.agreed_share, every.mean_difference or 0.0)
    return diverges(figures, (rule.max_disagreement, rule.max_difference))


def _replay_bounds(rule: ReplayRule, compared: bool) -> str:
    limits = [
        f"at most {rule.max_failed:.1%} of the answers fail or are invalid" if rule.max_failed else "all answers valid"
    ]
    if compared and rule.max_disagreement is not None:
        limits.append(f"at most {rule.max_disagreement:.1%} decided otherwise than by the champion")
    if compared and rule.max_difference is not None:
        limits.append(f"scores at most {rule.max_difference:g} apart in the mean")
    return f"the last {rule.last:,} logged requests asked again, {rule.min_rows:,} or more: {', '.join(limits)}"


def fairness(evidence: Evidence) -> Outcome:
    """Groups of people are treated alike within the policy's thresholds; where none are named, the approver reads why."""
    spec, why = evidence.policy.fairness, evidence.policy.not_sensitive.strip()
    if spec is None:
        told = (
            f"no sensitive columns: {why}"
            if why
            else "no sensitive columns are named, and no reason why there are none"
        )
        return Outcome(True, "nothing: the approver decides", told)
    required = f"groups of {', '.join(spec.sensitive)} alike within the policy's thresholds on {spec.dataset}"
    found = evidence.fairness
    if found is None:
        return Outcome(False, required, evidence.problems.get("fairness", "not judged"))
    return Outcome(not found.breaches, required, " ".join([found.words, *found.notes]))


def latency(evidence: Evidence) -> Outcome:
    """Quantiles of a request's time, of as many rows and with as many at a time as the policy says, on this machine."""
    policy, found = evidence.policy, evidence.latency
    most = {name: getattr(policy, f"max_latency_ms_{name}") for name in ("p50", "p95", "p99")}
    bounds = ", ".join(f"{name} at most {bound:.1f} ms" for name, bound in most.items() if bound is not None)
    rows, at_once = policy.latency_rows, policy.latency_concurrency
    required = f"{bounds}, with {rows} row{'s' if rows != 1 else ''} and {at_once} at a time"
    if found is None:
        return Outcome(False, required, evidence.problems.get("latency", "not measured"))
    took = {name: getattr(found, f"{name}_ms") for name in most}
    words = ", ".join(f"{name} {value:.3f}" for name, value in took.items())
    passed = all(took[name] <= bound for name, bound in most.items() if bound is not None)
    return Outcome(passed, required, f"{words} ms over {found.requests:,} requests")


def parity(evidence: Evidence) -> Outcome:
    """The ONNX model answers what the source model answered."""
    required = f"difference to the source model at most {evidence.policy.parity_tolerance:g}"
    if evidence.parity is None:
        return Outcome(False, required, evidence.problems.get("parity", "no sample was registered"))
    return Outcome(evidence.parity <= evidence.policy.parity_tolerance, required, f"{evidence.parity:.2g}")


def sanity(evidence: Evidence) -> Outcome:
    """Scores over real training rows, or what other models answer to their sample, are finite and not all the same."""
    required = "finite scores that differ" if evidence.version.features else "finite answers that differ"
    if evidence.scores is None:
        return Outcome(False, required, evidence.problems.get("sanity", "not measured"))
    low, high = evidence.scores
    return Outcome(math.isfinite(low) and math.isfinite(high) and low < high, required, f"{low:.4f} to {high:.4f}")


def facts(evidence: Evidence) -> Outcome:
    """Someone owns the model, it says what for, and it was looked at within its time."""
    model = evidence.model
    required = "an owner, a purpose and an expiry that is ahead"
    if model is None:
        return Outcome(False, required, evidence.problems.get("facts", "not known"))
    purpose = model.purpose or evidence.version.description
    expires, past = model.expires_at, _is_past(evidence)
    missing = [name for name, value in (("owner", model.owner), ("purpose", purpose)) if not value.strip()]
    if missing:
        return Outcome(False, required, f"no {' and no '.join(missing)}: `mlbox model describe {model.name}`")
    until = (
        expires.date().isoformat() if expires else f"{evidence.policy.lifetime_days:g} days after the first approval"
    )
    again = f" (another date is set with `mlbox model describe {model.name}`)" if past else ""
    words = f"owner {model.owner}, {'expired on' if past else 'expires'} {until}{again}, for: {purpose:.80}"
    return Outcome(not past, required, words)


def _is_past(evidence: Evidence) -> bool:
    """Whether the model was to be looked at again by now."""
    expires = evidence.model.expires_at if evidence.model else None
    return expires is not None and evidence.now is not None and expires <= evidence.now


def card(evidence: Evidence) -> Outcome:
    """People wrote the parts of the model card that the policy names."""
    names = evidence.policy.card
    if not names:
        return Outcome(True, "nothing: the policy names no part of the card", "the approver reads what there is")
    required = f"a model card with {_listed(names)}"
    if evidence.card is None:
        return Outcome(False, required, evidence.problems.get("card", "not known"))
    empty = [name for name in names if not getattr(evidence.card, name).strip()]
    if empty:
        model = evidence.version.model
        written = f"`mlbox model card {evidence.version.ref} --set {empty[0]}=TEXT`, or on the page of {model}'s card"
        return Outcome(False, required, f"nothing of {_listed(empty)}: {written}")
    return Outcome(True, required, f"{_listed(names)} written")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(name.replace("_", " ") for name in names)


def declared(evidence: Evidence) -> Outcome:
    """What is known of where a version came from; for one that is not served, all of it may be a client's word."""
    version = evidence.version
    named = [
        f"run {version.run_id[:12]} ({version.lineage})" if version.run_id else f"no run ({version.lineage})",
        version.dataset or "no dataset version",
        _code(evidence),
    ]
    if evidence.policy.unserved == "gates":
        return Outcome(lineage(evidence).passed, TRACED, ", ".join(named))
    return Outcome(True, "nothing: the approver decides", ", ".join([*named, *version.flags]))


def stated(evidence: Evidence) -> Outcome:
    """The model's facts; for a version that is not served the approver may do without a purpose, and not past the expiry."""
    found = facts(evidence)
    if evidence.policy.unserved == "gates" or evidence.model is None or _is_past(evidence):
        return found
    return Outcome(True, "nothing: the approver decides", found.measured)


def carded(evidence: Evidence) -> Outcome:
    """The model card; for a version that is not served the approver may do without."""
    found = card(evidence)
    if found.passed or evidence.policy.unserved == "gates":
        return found
    return Outcome(True, "nothing: the approver decides", found.measured)


def not_served(evidence: Evidence) -> Outcome:
    """Says that the gates on serving do not apply, and how they would."""
    why = evidence.version.unservable or "it has no ONNX file."
    return Outcome(True, "nothing: clients load it", f"not servable: {why} {HOW_TO_SERVE}")


def unjudged(evidence: Evidence) -> Outcome:
    """What is declared of groups of people, of a version whose answers mlbox cannot see."""
    if evidence.policy.fairness is None:
        return fairness(evidence)
    return Outcome(True, "nothing: the approver decides", "not judged: mlbox cannot run it on the policy's rows")


def test(evidence: Evidence) -> Outcome:
    """The policy's test command exits with 0."""
    assert evidence.policy.test is not None
    return commanded(evidence.policy.test, evidence.test, evidence.problems.get("test", "not run"))


def commanded(command: GateCommand, found: CommandRun | None, problem: str) -> Outcome:
    """What a command comes to: how it ended, and the last that it said where that was not well."""
    line = " ".join(shlex.join(command.command).split())
    required = f"`{line if len(line) <= MOST_LINE else line[:MOST_LINE] + '…'}` exits with 0 within {command.timeout_seconds:g} s"
    if found is None:
        return Outcome(False, required, problem)
    passed = found.state == "succeeded"
    words = [_ended(found)]
    if found.requests_from:
        words.append(f"{found.requests:,} requests to replay, from {found.requests_from}")
    if not passed and found.log.strip():
        words.append(f"it said last: {found.log.strip().splitlines()[-1][:200]}")
    return Outcome(passed, required, "; ".join(words))


def _ended(found: CommandRun) -> str:
    after = f" after {found.seconds:.1f} s" if found.seconds is not None else ""
    if not found.job:
        return f"no job could be started: {found.reason}"
    if found.state == "timed_out":
        return f"ran out of time{after}"
    if found.state in ("stopped", "lost"):
        return f"{found.state}{after}: {found.reason}"
    return f"exit code {found.exit_code}{after}"


GATES: dict[str, Gate] = {
    "lineage": lineage,
    "signature": signature,
    "size": size,
    "metric": metric,
    "latency": latency,
    "parity": parity,
    "sanity": sanity,
    "facts": facts,
    "card": card,
    "fairness": fairness,
}
"""The gates of what is to be served, in the order in which people read them."""
UNSERVED: dict[str, Gate] = {
    "lineage": declared,
    "size": size,
    "facts": stated,
    "card": carded,
    "serving": not_served,
    "fairness": unjudged,
}
"""The gates of a version that mlbox cannot serve."""


def gates_for(evidence: Evidence) -> dict[str, Gate]:
    """The gates that apply to a version."""
    asked: dict[str, Gate] = {"test": test} if evidence.policy.test else {}
    if evidence.version.servable:
        replayed: dict[str, Gate] = (
            {"replay": replay} if evidence.policy.replay.last and evidence.version.features else {}
        )
        return GATES | replayed | ({"comparison": comparison} if evidence.policy.compare else {}) | asked
    return UNSERVED | ({"metric": metric} if evidence.policy.unserved == "gates" else {}) | asked


def evaluate(evidence: Evidence, now: datetime) -> list[GateResult]:
    """Every gate's result."""
    outcomes = {name: gate(evidence) for name, gate in gates_for(evidence).items()}
    return [
        GateResult(gate=name, passed=o.passed, required=o.required, measured=o.measured, at=now)
        for name, o in outcomes.items()
    ]
