"""From shadow to 100 %: who answers a request, and what becomes of a candidate.

`choose` is pure, and so is the verdict (`verdict.py`) on what the candidate and the champion beside it did since the present step
began (`evidence.py`). `Rollouts` answers the router's question, looks at the evidence, and does what the verdict says.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from mlbox.clock import Clock
from mlbox.errors import Conflict, MlboxError, NotFound, Refused, Unavailable
from mlbox.events import EventBus
from mlbox.loop import attempt
from mlbox.records import (
    CanaryHold,
    CoursePoint,
    Endpoint,
    Event,
    LabelledLoss,
    Promotion,
    Samples,
    ServeRole,
    ShadowFigures,
)
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.routing import Beside, Route, bucket
from mlbox.serve.rollout.evidence import Evidence
from mlbox.serve.rollout.shadow import figures_of
from mlbox.serve.rollout.verdict import FEW_RUNS, Verdict, decided, verdict
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.rollout_log import RolloutLog

KEEP_SECONDS = 60.0
"""How often a candidate's evidence is written down: what a kill -9 may lose of it."""


GROWTH = 1.1
"""How much the evidence grows between two points of its course: 25 of them for ten times the predictions."""


def choose(key: str, champion: int, promotion: Promotion | None) -> Route:
    """Which version answers a key. A growing share never takes a key away from the candidate again.

    During a canary, as many keys as the candidate has are marked `control`: the champion's like-for-like comparison.
    """
    if promotion is None or promotion.state not in ("shadow", "canary"):
        return Route(version=champion, role="champion", shadow=None)
    if promotion.state == "shadow":
        return Route(version=champion, role="champion", shadow=promotion.version)
    place = bucket(key, promotion.id)
    if place < promotion.percent:
        return Route(version=promotion.version, role="canary", shadow=None)
    role: ServeRole = "control" if place >= 100 - min(promotion.percent, 100 - promotion.percent) else "champion"
    return Route(version=champion, role=role, shadow=None)


class Rollouts:
    """Every model's champion and candidate, kept in memory and refreshed by the registry's events."""

    def __init__(
        self,
        registry: Registry,
        promotions: Promotions,
        kept: RolloutLog,
        predictions: PredictionLog,
        clock: Clock,
        bus: EventBus,
        every: float,
    ) -> None:
        self._registry = registry
        self._promotions = promotions
        self._kept = kept
        self._predictions = predictions
        self._clock = clock
        self._every = every
        self._lock = threading.Lock()
        self.labels_of: Callable[[Promotion, datetime, datetime], Mapping[str, LabelledLoss]] = lambda *_: {}
        """By guard, what labels that arrived say of a canary that began at a moment, as of another."""
        self.beside: list[Callable[[], None]] = []
        """Done after each look."""
        self.generation = 0
        """How often what is below was read anew."""
        self._champions: dict[str, int] = {}
        self._candidates: dict[str, Promotion] = {}
        self._noted: dict[str, tuple[int, int]] = {}
        """By promotion, the step and the predictions of the last point of its course."""
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._last_kept = time.monotonic()
        self._evidence = Evidence(self._wake.set)
        predictions.on_prediction(self._evidence.answered)
        predictions.on_error(self._evidence.failed)
        self._unsubscribe = bus.subscribe(self._on_event, ["model.", "promotion.", "clock.advanced"])
        with contextlib.suppress(Unavailable):  # the next tick tries again
            self._refresh()

    # -- routing ----------------------------------------------------------------------------------------------------

    def route(self, model: str, key: str) -> Route:
        """Who answers this key; raises NotFound when nothing of the model serves."""
        champion = self._champions.get(model)
        if champion is None:
            raise NotFound(
                f"No version of the model {model!r} is in Production.",
                hint="`mlbox model ls` shows the stages.",
                field="model",
            )
        return choose(key, champion, self._candidates.get(model))

    def versions(self, model: str) -> tuple[int, ...]:
        """Every version that may answer some key now; none when nothing of the model serves."""
        champion, promotion = self._champions.get(model), self._candidates.get(model)
        if champion is None:
            return ()
        return (champion,) if promotion is None or promotion.state == "shadow" else (champion, promotion.version)

    def paired(self, model: str, version: int, found: Beside) -> None:
        """Count what a shadow made of a request that the champion answered."""
        self._evidence.paired(model, version, found)

    def percent(self, model: str, version: int) -> float:
        """The share of the traffic under a model's name that a version answers now."""
        promotion, champion = self._candidates.get(model), self._champions.get(model)
        share = promotion.percent if promotion is not None else 0.0
        if promotion is not None and promotion.version == version:
            return share
        return 100.0 - share if champion == version else 0.0

    def endpoints(self) -> list[Endpoint]:
        """What serves, by model, with the traffic since the candidate's present step began."""
        serving = sorted(self._champions.items())
        return [self._endpoint(model, champion) for model, champion in serving if self._registry.visible(model)]

    def endpoint(self, model: str) -> Endpoint | None:
        """What serves under one model's name; None where nothing does."""
        champion = self._champions.get(model)
        return self._endpoint(model, champion) if champion is not None and self._registry.visible(model) else None

    def _endpoint(self, model: str, champion: int) -> Endpoint:
        promotion = self._candidates.get(model)
        if promotion is None:
            alone = self._predictions.traffic(model, champion, "champion")
            return Endpoint(
                model=model,
                champion=champion,
                champion_predictions=alone.count,
                champion_errors=alone.errors,
                champion_p95_ms=alone.p95_ms,
            )
        found = self.standing(promotion)
        shadow = self.shadow(promotion) if promotion.state == "shadow" else ()
        beside = self._predictions.traffic(model, champion, "champion" if promotion.state == "shadow" else "control")
        own = self._predictions.traffic(model, promotion.version, _role_of(promotion))
        return Endpoint(
            model=model,
            champion=champion,
            candidate=promotion.version,
            promotion=promotion.id,
            state=promotion.state,
            percent=promotion.percent,
            standing=found.reason,
            hold=promotion.hold,
            findings=found.findings,
            shadow=shadow,
            champion_predictions=beside.count,
            champion_errors=beside.errors,
            champion_p95_ms=beside.p95_ms,
            candidate_predictions=own.count,
            candidate_errors=own.errors,
            candidate_p95_ms=own.p95_ms,
        )

    def _on_event(self, event: Event) -> None:
        if event.type.startswith(("model.", "promotion.")):
            self._refresh()
        elif event.type == "clock.advanced":
            self._wake.set()

    def _refresh(self) -> None:
        with self._lock:
            self._champions = {v.model: v.version for v in self._registry.in_stage("Production") if v.servable}
            self._candidates = {p.model: p for p in self._promotions.open() if p.state in ("shadow", "canary")}
            self._evidence.watch(self._candidates, self._kept.kept)
            ids = {promotion.id for promotion in self._candidates.values()}
            self._noted = {held: last for held, last in self._noted.items() if held in ids}
            self.generation += 1

    # -- deciding ---------------------------------------------------------------------------------------------------

    def tick(self) -> list[tuple[Promotion, Verdict]]:
        """Judge every candidate once and do what the verdict says; what was found, for the caller.

        Requests for approval that nobody decided in time expire.
        """
        with contextlib.suppress(Conflict):  # decided at this very moment
            self._promotions.expire(self._clock.now())
        return [(promotion, self._judge(promotion)) for promotion in list(self._candidates.values())]

    def standing(self, promotion: Promotion) -> Verdict:
        """What the verdict would be now, without doing anything."""
        return verdict(self.samples(promotion), promotion.policy, self._clock.now())

    def samples(self, promotion: Promotion) -> Samples:
        """All that a verdict about a promotion goes by now."""
        samples = self._evidence.samples(promotion)
        if not any(guard.kind == "labels" for guard in promotion.policy.guards) or promotion.state != "canary":
            return samples
        canary = [made.samples.since for made in self._kept.of(promotion.id) if made.samples.state == "canary"]
        began = min([*canary, promotion.state_since])
        return msgspec.structs.replace(samples, labels=dict(self.labels_of(promotion, began, self._clock.now())))

    def shadow(self, promotion: Promotion) -> tuple[ShadowFigures, ...]:
        """What a shadow does beside the champion now, or did as it ended; nothing where there was none."""
        if promotion.state == "shadow":
            made = [self.samples(promotion)]
        else:
            made = [one.samples for one in self._kept.of(promotion.id) if one.samples.state == "shadow"]
        return figures_of(made[-1].paired, made[-1].paired_in) if made else ()

    def _judge(self, promotion: Promotion) -> Verdict:
        samples, now = self.samples(promotion), self._clock.now()
        found = verdict(samples, promotion.policy, now)
        decision = decided(samples, found, now)
        try:
            if found.action == "roll_back":
                self._promotions.roll_back(promotion.id, found.reason, decision=decision)
            elif found.action == "ask" and not promotion.hold:
                self._promotions.set_hold(promotion.id, "undecided", found.reason, decision=decision)
            elif found.action == "advance" and promotion.state == "shadow":
                self._promotions.shadow_done(promotion.id, found.reason, decision=decision)
            elif found.action == "advance":
                self._promotions.next_step(promotion.id, found.reason, decision=decision)
        except Conflict:
            return Verdict(action="wait", reason="someone else moved it first")
        with contextlib.suppress(Unavailable, NotFound):  # a picture lacks a point, or its model is deleted by now
            self._note(promotion, samples, found, now)
        return found

    def _note(self, promotion: Promotion, samples: Samples, found: Verdict, now: datetime) -> None:
        """A point of a canary's course, where its evidence has grown enough or decided; fewer runs say too little for one."""
        seen = samples.candidate.rows
        if samples.state != "canary" or seen < FEW_RUNS:
            return
        if promotion.id not in self._noted:
            self._noted[promotion.id] = max(
                ((p.step, p.predictions) for p in self._kept.course(promotion.id)), default=(-1, 0)
            )
        step, last = self._noted[promotion.id]
        decides = found.action in ("advance", "roll_back")
        if samples.step == step and seen < last * GROWTH and not (decides and seen > last):
            return
        findings = tuple(one for one in found.findings if not one.segment)
        self._kept.note(promotion.id, CoursePoint(step=samples.step, predictions=seen, at=now, findings=findings))
        self._noted[promotion.id] = (samples.step, seen)

    # -- people -----------------------------------------------------------------------------------------------------

    def hold(self, promotion_id: str, hold: CanaryHold, *, actor: str, comment: str) -> Promotion:
        """Pause, freeze or resume a canary."""
        promotion = self._promotions.get(promotion_id)
        samples, now = self.samples(promotion), self._clock.now()
        found = verdict(samples, promotion.policy, now)
        decision = decided(samples, found, now, actor=actor, done=hold or "resumed", comment=comment)
        reason = f"{hold or 'resumed'} by {actor}" + (f": {comment}" if comment else "")
        return self._promotions.set_hold(promotion_id, hold, reason, actor=actor, decision=decision)

    def advance(self, promotion_id: str, *, actor: str, comment: str) -> Promotion:
        """A person lets a canary go on: out of what is undecided, or before its hold ends where all guards hold.

        Raises Refused where the evidence does not allow it, and for who made the version or, before the hold's end,
        approved it.
        """
        promotion = self._promotions.get(promotion_id)
        samples, now = self.samples(promotion), self._clock.now()
        found = verdict(samples, promotion.policy, now)
        if promotion.state == "canary" and promotion.hold != "undecided":
            _check_all_hold(promotion, samples, found)
        decision = decided(samples, found, now, actor=actor, done="advance", comment=comment)
        reason = f"advanced by {actor}, {found.reason}" + (f": {comment}" if comment else "")
        return self._promotions.next_step(promotion_id, reason, actor=actor, decision=decision)

    def roll_back(self, promotion_id: str, *, actor: str, comment: str) -> Promotion:
        """A person takes a candidate's traffic away."""
        promotion = self._promotions.get(promotion_id)
        samples, now = self.samples(promotion), self._clock.now()
        decision = None
        if promotion.state in ("shadow", "canary"):
            found = verdict(samples, promotion.policy, now)
            decision = decided(samples, found, now, actor=actor, done="roll_back", comment=comment)
        return self._promotions.roll_back(promotion_id, comment, actor=actor, decision=decision)

    # -- the thread -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Judge every so many seconds of real time, and when domain time moves, until closed."""
        self._thread = threading.Thread(target=self._loop, name="mlbox-rollout", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopping:
            self._wake.wait(self._every)
            self._wake.clear()
            if not self._stopping:
                attempt(self._turn, "The candidates could not be judged", otherwise=None)

    def _turn(self) -> None:
        self.tick()
        for look in self.beside:
            look()
        if time.monotonic() - self._last_kept >= KEEP_SECONDS:
            self.keep()
            self._promotions.remind(self._clock.real())

    def keep(self) -> None:
        """Write the evidence of all candidates down, so that a restart goes on from it."""
        self._last_kept = time.monotonic()
        self._kept.keep({p.id: self._evidence.samples(p) for p in list(self._candidates.values())})

    def close(self) -> None:
        """Stop judging."""
        self._unsubscribe()
        self._stopping = True
        self._wake.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(MlboxError):  # a store that is down keeps what it had
            self.keep()


def _role_of(promotion: Promotion) -> ServeRole:
    return "shadow" if promotion.state == "shadow" else "canary"


def _check_all_hold(promotion: Promotion, samples: Samples, found: Verdict) -> None:
    """Raise Refused unless every guard shows what it must, and something was seen at all."""
    name = f"{promotion.model}/{promotion.version}"
    if promotion.hold:
        raise Conflict(f"{name} is {promotion.hold}.", hint="`mlbox model resume` lets it go on.")
    needed = zip(promotion.policy.guards, found.findings, strict=False)  # those of segments come after
    open_ = [finding.words for guard, finding in needed if guard.margin is not None and finding.state != "holds"]
    if not samples.candidate.rows:
        open_.append("no prediction was seen")
    if found.action in ("roll_back", "ask") or open_:
        raise Refused(
            f"The hold of {name} may be shortened when all its guards hold: {'; '.join(open_) or found.reason}.",
            hint="Wait for more traffic, or roll it back.",
        )
