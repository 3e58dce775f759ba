"""From shadow to 100 %: what a candidate's traffic says, and who answers a request.

`verdict` is pure: a promotion, what the candidate and the control group did since the present step began, and the domain
time. `Rollouts` applies it and answers the router's question.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mlbox.clock import Clock
from mlbox.errors import Conflict, MlboxError, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.records import Endpoint, Event, Promotion, ServeRole
from mlbox.serve.routing import Route, Traffic, TrafficSource, bucket
from mlbox.store.promotions import Promotions
from mlbox.store.registry import Registry

_log = logging.getLogger(__name__)
FEW = 20
"""Below this many predictions a rate says nothing."""


@dataclass(frozen=True)
class Verdict:
    """What to do now, and why, in words."""

    action: Literal["wait", "advance", "roll_back"]
    reason: str


def verdict(promotion: Promotion, candidate: Traffic, control: Traffic, now: datetime) -> Verdict:
    """Decide about a candidate in shadow or canary from its own traffic and the control group's."""
    policy = promotion.policy
    seen = candidate.count + candidate.errors
    if seen >= FEW and candidate.errors / seen > policy.max_error_rate:
        return Verdict("roll_back", f"{candidate.errors} of {seen} predictions failed, {policy.max_error_rate:.1%} may")
    slow = _slowdown(candidate, control)
    if promotion.state == "canary" and slow is not None and slow > policy.max_latency_ratio:
        return Verdict("roll_back", f"p95 is {slow:.2f} times the control's, {policy.max_latency_ratio:.2f} may be")
    if promotion.state == "shadow":
        hold, least = policy.shadow_seconds, policy.shadow_min_predictions
    else:
        step = policy.steps[promotion.step]
        hold, least = step.hold_seconds, step.min_predictions
    held = (now - promotion.state_since).total_seconds()
    if held < hold:
        return Verdict("wait", f"held {span(held)} of {span(hold)}")
    if candidate.count < least:
        return Verdict("wait", f"saw {candidate.count} of {least} predictions")
    return Verdict("advance", f"held {span(held)} and {candidate.count} predictions, {candidate.errors} failed")


def span(seconds: float) -> str:
    """A length of time in the unit that a person would choose."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _slowdown(candidate: Traffic, control: Traffic) -> float | None:
    if min(candidate.count, control.count) < FEW or not candidate.p95_ms or not control.p95_ms:
        return None
    return candidate.p95_ms / control.p95_ms


def choose(key: str, champion: int, promotion: Promotion | None) -> Route:
    """Which version answers a key. A growing share never takes a key away from the candidate again.

    During a canary, as many keys as the candidate has are marked `control`: the champion's like-for-like comparison.
    """
    if promotion is None or promotion.state not in ("shadow", "canary"):
        return Route(version=champion, role="champion", shadow=None)
    if promotion.state == "shadow":
        return Route(version=champion, role="champion", shadow=promotion.version)
    place = bucket(key)
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
        source: TrafficSource,
        clock: Clock,
        bus: EventBus,
        every: float,
    ) -> None:
        self._registry = registry
        self._promotions = promotions
        self._source = source
        self._clock = clock
        self._every = every
        self._lock = threading.Lock()
        self._champions: dict[str, int] = {}
        self._candidates: dict[str, Promotion] = {}
        self._starts: dict[tuple[str, str, int], tuple[Traffic, Traffic]] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._bus = bus
        self._unsubscribe = bus.subscribe(self._on_event)
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

    def endpoints(self) -> list[Endpoint]:
        """What serves, by model, with the traffic since the candidate's present step began."""
        serving = sorted(self._champions.items())
        return [self._endpoint(model, champion) for model, champion in serving if self._registry.visible(model)]

    def _endpoint(self, model: str, champion: int) -> Endpoint:
        promotion = self._candidates.get(model)
        if promotion is None:
            alone = self._source.traffic(model, champion, "champion")
            return Endpoint(
                model=model,
                champion=champion,
                champion_predictions=alone.count,
                champion_errors=alone.errors,
                champion_p95_ms=alone.p95_ms,
            )
        candidate, control = self._traffic_of(promotion)
        return Endpoint(
            model=model,
            champion=champion,
            candidate=promotion.version,
            promotion=promotion.id,
            state=promotion.state,
            percent=promotion.percent,
            standing=verdict(promotion, candidate, control, self._clock.now()).reason,
            champion_predictions=control.count,
            champion_errors=control.errors,
            champion_p95_ms=control.p95_ms,
            candidate_predictions=candidate.count,
            candidate_errors=candidate.errors,
            candidate_p95_ms=candidate.p95_ms,
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
            here = {(p.id, p.state, p.step) for p in self._candidates.values()}
            self._starts = {key: start for key, start in self._starts.items() if key in here}
        for promotion in list(self._candidates.values()):
            self._traffic_of(promotion)

    # -- deciding ---------------------------------------------------------------------------------------------------

    def tick(self) -> list[tuple[Promotion, Verdict]]:
        """Judge every candidate once and do what the verdict says; what was found, for the caller."""
        return [(promotion, self._judge(promotion)) for promotion in list(self._candidates.values())]

    def standing(self, promotion: Promotion) -> Verdict:
        """What the verdict would be now, without doing anything."""
        candidate, control = self._traffic_of(promotion)
        return verdict(promotion, candidate, control, self._clock.now())

    def _judge(self, promotion: Promotion) -> Verdict:
        found = self.standing(promotion)
        try:
            if found.action == "roll_back":
                self._promotions.roll_back(promotion.id, found.reason)
            elif found.action == "advance" and promotion.state == "shadow":
                self._promotions.shadow_done(promotion.id, found.reason)
            elif found.action == "advance":
                self._promotions.next_step(promotion.id, found.reason)
        except Conflict:
            return Verdict("wait", "someone else moved it first")
        return found

    def _traffic_of(self, promotion: Promotion) -> tuple[Traffic, Traffic]:
        """Candidate's and control's traffic since the present step began, which the first look, at its event, marks."""
        role: ServeRole = "shadow" if promotion.state == "shadow" else "canary"
        beside: ServeRole = "champion" if promotion.state == "shadow" else "control"
        now = (
            self._source.traffic(promotion.model, promotion.version, role),
            self._source.traffic(promotion.model, promotion.champion or 0, beside),
        )
        start = self._starts.setdefault((promotion.id, promotion.state, promotion.step), now)
        return now[0].since(start[0]), now[1].since(start[1])

    def start(self) -> None:
        """Judge every so many seconds of real time, and when domain time moves, until closed."""
        self._thread = threading.Thread(target=self._loop, name="mlbox-rollout", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopping:
            self._wake.wait(self._every)
            self._wake.clear()
            if not self._stopping:
                self._tick_safely()

    def _tick_safely(self) -> None:
        """A store that is down must not end the judging: the next tick tries again."""
        try:
            self.tick()
        except MlboxError as err:
            _log.warning("The candidates could not be judged: %s", err)

    def close(self) -> None:
        """Stop judging."""
        self._unsubscribe()
        self._stopping = True
        self._wake.set()
        if self._thread:
            self._thread.join()
