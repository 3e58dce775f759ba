"""Models: their versions, the way of each to Production, and their drift."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from litestar import Response, get
from litestar.params import Parameter

from mlbox.errors import InvalidInput
from mlbox.records import DIFFERENCES, ModelVersion, Promotion, RolloutDecision, Run, ShadowFigures, Stage
from mlbox.serve.promotion.governance import changes
from mlbox.store.registry.promotion_moves import OPEN
from mlbox.store.registry.promotions import HOW_TO_SERVE
from mlbox.web.api.registry import span_of
from mlbox.web.box import Box
from mlbox.web.pages import tenures
from mlbox.web.pages.guard_pictures import guard_pictures
from mlbox.web.pages.serving_fields import serving_fields
from mlbox.web.pages.view import PAGE_SIZE, Node, View, keyset, next_page, part

STAGES: tuple[Stage, ...] = ("Production", "Staging", "Archived")
PROMOTIONS = 10
Number = Annotated[int | None, Parameter(ge=1, le=2**31 - 1)]
HISTORY = 50
"""Stays in a stage or under an alias that a page shows; the API has all."""


class Step(NamedTuple):
    """One step of a promotion as it is drawn: done, now, stopped or next."""

    name: str
    note: str
    state: str


def _list(view: View, after: str | None, name: str, stage: str | None) -> dict[str, Any]:
    wanted = next((known for known in STAGES if known == stage), None)
    found = view.box.registry.models(limit=PAGE_SIZE + 1, after=after, part=name.strip(), stage=wanted)
    shown, last = keyset(found, PAGE_SIZE, lambda model: model.name)
    return {"models": shown, "next": next_page(view, last), "name": name, "stage": wanted or "", "stages": STAGES}


@get("/models", include_in_schema=False, action="model.read")
async def models(view: View, after: str | None = None, name: str = "", stage: str | None = None) -> Response[bytes]:
    """Models by name: all, or those with a part in their name, and with a version in a stage."""
    return await view.page("models.html", lambda: _list(view, after, name, stage))


# -- the way to Production, drawn ---------------------------------------------------------------------------------------


def steps(promotion: Promotion) -> list[Step]:
    """A promotion's steps in order, each with how far it is."""
    names = _names(promotion)
    at = _reached(promotion)
    ended_badly = promotion.state in ("rejected", "rolled_back", "withdrawn", "expired")
    drawn = []
    for place, (name, note) in enumerate(names):
        if place < at or promotion.state == "completed":
            drawn.append(Step(name, note, "done"))
        elif place == at:
            drawn.append(Step(name, _short(promotion) or note, "stopped") if ended_badly else Step(name, note, "now"))
        else:
            drawn.append(Step(name, note, "next"))
    return drawn


def _short(promotion: Promotion) -> str:
    """Why it stopped, as far as there is room: of one rolled back a sentence is below."""
    return "rolled back" if promotion.state == "rolled_back" else promotion.reason


WORSE = {
    "errors": "it fails more often than {other}",
    "invalid": "more of its scores are invalid than those of {other}",
    "latency": "it is slower than {other}",
    "scores": "its scores are spread otherwise than those of {other}",
    "labels": "it is further from the labels than {other}",
}
"""By the kind of a guard, what it says that found a canary worse."""


def why(promotion: Promotion, decisions: Sequence[RolloutDecision]) -> str:
    """What became of a promotion in a sentence; `decisions` are about its traffic."""
    last = next((one for one in reversed(decisions) if one.done == "roll_back"), None)
    if promotion.state != "rolled_back" or last is None:
        return promotion.reason
    other = f"version {promotion.champion}"
    step = promotion.policy.steps[last.samples.step].percent if last.samples.state == "canary" else None
    at = "as a shadow" if step is None else f"at {step:g} %"
    kinds = {guard.name: guard.kind for guard in promotion.policy.guards}
    worse = [one for one in last.findings if one.state == "worse" and one.guard in kinds]
    if last.actor != "mlbox":
        cause = f"by {last.actor}: {promotion.reason or 'without a word'}"
    elif worse:
        said = WORSE[kinds[worse[0].guard]].format(other=other)
        cause = f"because {said}{' in ' + worse[0].segment if worse[0].segment else ''}: {worse[0].words}"
    else:
        cause = f"because {promotion.reason}"
    return f"Rolled back {at}, {cause}. {other.capitalize()} answers everything."


def _names(promotion: Promotion) -> list[tuple[str, str]]:
    passed = sum(gate.passed for gate in promotion.gates)
    measured = "waits for traffic" if promotion.state == "waiting_traffic" else "being measured"
    names = [("Gates", f"{passed} of {len(promotion.gates)} passed" if promotion.gates else measured)]
    if promotion.policy.integration is not None:
        names.append(("Integration", "against Staging"))
    if promotion.champion is not None:
        names.append(("Shadow", f"beside version {promotion.champion}"))
    approvers = [a.approver for a in promotion.approvals if a.decision == "approve"]
    names.append(("Approval", f"by {', '.join(approvers)}" if approvers else "by someone else"))
    if promotion.champion is not None:
        names += [(f"{step.percent:g} %", "canary") for step in promotion.policy.steps if step.percent < 100]
    return [*names, ("Production", "all traffic")]


def _reached(promotion: Promotion) -> int:
    """The index of the step that the promotion is at, or ended at."""
    shadow, integration = promotion.champion is not None, promotion.policy.integration is not None
    approval = 1 + integration + shadow
    if promotion.step >= 0:
        return approval + 1 + promotion.step
    if (
        promotion.state in ("testing", "waiting_traffic")
        or not promotion.gates
        or not all(gate.passed for gate in promotion.gates)
    ):
        return int(any(gate.gate == "integration" for gate in promotion.gates))
    if promotion.state == "integration":
        return 1
    if promotion.state == "shadow":
        return 1 + integration
    if promotion.state == "rolled_back" and shadow:
        # out of shadow, or out of a canary whose step releases before 1.0 did not keep
        return approval + 1 if any(one.decision == "approve" for one in promotion.approvals) else approval - 1
    return approval


def score_bins(figures: Sequence[ShadowFigures]) -> list[tuple[str, int]]:
    """Rows by how far apart their scores are, in words, of all requests."""
    ends = (*(f"up to {end:g}" for end in DIFFERENCES), f"above {DIFFERENCES[-1]:g}")
    return list(zip(ends, figures[0].bins, strict=True)) if figures else []


# -- one model, one version ---------------------------------------------------------------------------------------------


def _model(view: View, name: str, after: str | None, at: str | None) -> dict[str, Any]:
    box = view.box
    start, end = span_of(at) if at else (None, None)
    model = box.registry.model(name)
    before = int(after) if after and after.isdecimal() else None
    found = box.registry.versions(name, limit=PAGE_SIZE + 1, before=before)
    shown, last = keyset(found, PAGE_SIZE, lambda version: str(version.version))
    policy = box.registry.policies.of(name)
    serving = box.serving.of(name)
    history = part(lambda: box.history.of(name, start=start, end=end)[:HISTORY])
    return {
        "model": model,
        "may_write": view.may("member", name=name),
        "versions": shown,
        "next": next_page(view, last),
        "policy": policy,
        "serving": serving,
        "serving_fields": serving_fields(serving),
        "promotions": [drawn_of(box, p) for p in box.promotions.page(model=name, limit=PROMOTIONS)],
        "endpoint": part(partial(box.rollouts.endpoint, name)),
        "drift": part(lambda: worst_first(box, name)),
        "performance": {name: part(lambda: box.performance.measure(name))},
        "history": history,
        "drawn": tenures.drawn(name, history.value or [], box.clock.real()),
        "at": at or "",
    }


def drawn_of(box: Box, promotion: Promotion) -> tuple[Promotion, list[Step], str]:
    """A promotion with its steps, and what became of it."""
    decisions = box.rollout_log.of(promotion.id) if promotion.state == "rolled_back" else []
    return promotion, steps(promotion), why(promotion, decisions)


def worst_first(box: Box, model: str) -> list[Any]:
    """A model's last drift results, the largest statistic first."""
    return sorted(box.monitor.latest(model), key=lambda result: -(result.statistic or 0))


@get("/models/{name:str}", include_in_schema=False, action="model.read")
async def model(view: View, name: str, after: str | None = None, at: str | None = None) -> Response[bytes]:
    """One model; `at` chooses a day of its history."""
    return await view.page("model.html", lambda: _model(view, name, after, at))


def _nodes(version: ModelVersion, champion: bool) -> list[Node]:
    nodes = []
    if version.dataset:
        nodes.append(Node("dataset", version.dataset, f"/datasets/{version.dataset}"))
    if version.job_id:
        nodes.append(Node("job", version.job_id[-8:], f"/jobs/{version.job_id}"))
    if version.run_id:
        nodes.append(Node("run", version.run_id[-8:], f"/runs/{version.run_id}"))
    nodes.append(Node("model version", version.ref, None, here=True))
    if champion:
        nodes.append(Node("endpoint", version.model, f"/endpoints/{version.model}"))
    return nodes


class Move(NamedTuple):
    """A stage that a version may be moved to, and what is asked before."""

    stage: Stage
    label: str
    question: str


def moves(version: ModelVersion, underway: bool) -> list[Move]:
    """Where a version may be moved from its stage; proposing it, withdrawing it and Production are its promotion's."""
    ref = version.ref
    if version.stage == "Archived":
        back = f"Take {ref} back? It has no stage then, and may be proposed."
        staging = (
            f"Take {ref} back and propose it? It is in Staging once its gates have passed, which may take two minutes."
        )
        return [Move("None", "Take back", back), Move("Staging", "Take back to Staging", staging)]
    found = []
    if version.stage == "Staging" and not underway:
        found.append(Move("None", "Take out of Staging", f"Take {ref} out of Staging?"))
    if version.stage != "Production" or not version.servable:
        ends = " Its promotion ends as withdrawn." if underway else ""
        found.append(Move("Archived", "Archive", f"Archive {ref}?{ends} It can be taken back."))
    return found


def _version(view: View, name: str, number: int) -> dict[str, Any]:
    box = view.box
    version = box.registry.version(name, number)
    promotions = box.promotions.of(name, number)
    underway = any(p.state in OPEN for p in promotions)
    replay = next(iter(box.replays.of(name, number)), None)
    endpoint = box.rollouts.endpoint(name)
    candidacy = endpoint if endpoint and endpoint.candidate == number else None
    courses = (guard_pictures(box, p) for p in (promotions[:1] if candidacy else promotions))
    return {
        "version": version,
        "candidacy": candidacy,
        "decisions": box.rollout_log.of(promotions[0].id) if promotions else [],
        "course": next(filter(None, courses), None),
        "last_replay": replay,
        "bins": score_bins(replay.figures if replay else ()),
        "may_replay": view.may("member", name=name) and version.servable,
        "may_write": view.may("member", name=name),
        "bench": box.benches.latest(name, number),
        "moves": moves(version, underway) if view.may("member", name=name) else [],
        "may_retire": view.may("member", name=name) and version.stage != "Production" and not underway,
        "held": view.may("admin", name=name)
        and any((one.model, one.version) == (name, number) for one in box.quarantines.all()),
        "nodes": _nodes(version, version.stage == "Production" and version.servable),
        "how_to_serve": HOW_TO_SERVE,
        "promotions": [drawn_of(box, p) for p in promotions],
        "may_reinstate": view.may("member", name=version.model)
        and version.stage == "Archived"
        and any(p.state == "completed" for p in promotions),
        "may_promote": view.may("member", name=version.model) and version.stage in ("None", "Staging") and not underway,
    }


@get("/models/{name:str}/{number:int}", include_in_schema=False, action="model.read")
async def version(view: View, name: str, number: int) -> Response[bytes]:
    """One version: where it came from, and its way to Production."""
    return await view.page("version.html", lambda: _version(view, name, number))


# -- two versions -------------------------------------------------------------------------------------------------------


def _compare(view: View, name: str, first: int | None, second: int | None) -> dict[str, Any]:
    """Two versions: by default the newest, and the one in Production or else the one before."""
    box = view.box
    known = box.registry.versions(name, limit=PAGE_SIZE + 1)
    if len(known) < 2 and None in (first, second):
        raise InvalidInput(f"{name[:80]} has no two versions.", hint="Compare once there are.", field="second")
    champion = box.registry.by_stage(name, "Production")
    newest = box.registry.version(name, second or known[0].version)
    before = champion.version if champion and champion != newest else known[1].version if len(known) > 1 else 0
    other = box.registry.version(name, first or before)
    runs = [_seen_run(box, version) for version in (other, newest)]
    return {
        "model": name,
        "known": known,
        "more_known": len(known) > PAGE_SIZE,
        "versions": [other, newest],
        "runs": runs,
        "changes": changes(other, newest, *runs, whole=True),
    }


def _seen_run(box: Box, version: ModelVersion) -> Run | None:
    return part(partial(box.tracker.run, version.run_id)).value if version.run_id else None


@get("/models/{name:str}/compare", include_in_schema=False, action="model.read")
async def compare(view: View, name: str, first: Number = None, second: Number = None) -> Response[bytes]:
    """Any two versions beside each other: what they are of, and in what they differ."""
    return await view.page("versions_compare.html", lambda: _compare(view, name, first, second))


def _card(view: View, name: str, number: int) -> dict[str, Any]:
    box = view.box
    promotions = box.promotions.of(name, number)
    return {
        "version": box.registry.version(name, number),
        "card": box.cards.of(name),
        "facts": box.governor.facts(name, number),
        "fairness": box.assessments.of(promotions[0].id).fairness if promotions else None,
        "may_edit": view.may("member", name=name),
    }


@get("/models/{name:str}/{number:int}/card", include_in_schema=False, action="model.read")
async def card(view: View, name: str, number: int) -> Response[bytes]:
    """A version's model card, to read, to print, and to write the human parts of."""
    return await view.page("card.html", lambda: _card(view, name, number))


handlers: list[Any] = [models, model, version, compare, card]
