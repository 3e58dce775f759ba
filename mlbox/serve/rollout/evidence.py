"""What candidates and champions do, counted as it happens: sufficient statistics, in microseconds on the request's path.

Invariant: `_lock` guards all sides; it is held for the microseconds of one count, or of one copy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from mlbox.records import Promotion, Samples, ServeRole
from mlbox.serve.predictions.batches import NOTHING, Batch, Given
from mlbox.serve.predictions.routing import Beside
from mlbox.serve.rollout.segments import Counted, Largest, Pairing
from mlbox.serve.rollout.tally import Tally
from mlbox.serve.rollout.verdict import is_gross


class Step(NamedTuple):
    """One stay of a promotion: evidence is of it and of no other."""

    promotion: str
    state: str
    number: int


def step_of(promotion: Promotion) -> Step:
    """Where a promotion is."""
    return Step(promotion.id, promotion.state, promotion.step)


class Groups(NamedTuple):
    """Of one model whose candidate is watched."""

    step: Step
    version: int
    champion_version: int | None
    candidate: Tally
    control: Tally
    champion: Tally
    pairing: Pairing
    largest: Largest


class Evidence:
    """The counts of all candidates, each since its present step began."""

    def __init__(self, alarm: Callable[[], None]) -> None:
        self._alarm = alarm
        """Called when a candidate fails so grossly that the next look is too late."""
        self._lock = threading.Lock()
        self._groups: dict[str, Groups] = {}

    def watch(self, promotions: dict[str, Promotion], kept: Callable[[Promotion], Samples | None]) -> None:
        """Count for these, by model, and for no others; a step that is new here goes on from what was kept of it."""
        found: dict[str, Groups] = {}
        for model, promotion in promotions.items():
            old, step = self._groups.get(model), step_of(promotion)
            found[model] = old if old is not None and old.step == step else _groups(promotion, kept(promotion))
        with self._lock:
            self._groups = found

    def answered(self, batch: Batch) -> None:
        """Count a run; called on the path of every request."""
        groups = self._groups.get(batch.model)
        if groups is None:
            return
        with self._lock:
            for tally in _tallies(groups, groups, batch.version, batch.role):
                if tally is groups.champion:  # of all its traffic only the runs are compared
                    tally.runs += len(batch.by_request)
                else:
                    tally.answered(batch.by_request, batch.scores)
            if groups.largest.columns:
                groups.largest.answered(batch, lambda of: _tallies(groups, of, batch.version, batch.role))

    def paired(self, model: str, version: int, found: Beside) -> None:
        """Count a request that the champion answered and a shadow ran; called behind the request's path."""
        groups = self._groups.get(model)
        if groups is None or groups.version != version:
            return
        with self._lock:
            groups.pairing.add(found)

    def failed(self, model: str, version: int, role: ServeRole, given: Given = NOTHING) -> None:
        """Count a run that failed."""
        groups = self._groups.get(model)
        if groups is None:
            return
        with self._lock:
            for tally in _tallies(groups, groups, version, role):
                tally.failed()
            if groups.largest.columns:
                groups.largest.failed(given, lambda of: _tallies(groups, of, version, role))
            gross = is_gross("".join(groups.candidate.last), groups.champion.errors, groups.champion.runs)
        if gross:
            self._alarm()

    def samples(self, promotion: Promotion) -> Samples:
        """What was seen of a promotion's present step."""
        groups = self._groups.get(promotion.model)
        if groups is None or groups.step != step_of(promotion):
            groups = _groups(promotion, None)
        with self._lock:
            return Samples(
                state="shadow" if promotion.state == "shadow" else "canary",
                step=promotion.step,
                since=promotion.state_since,
                hold=promotion.hold,
                candidate=groups.candidate.side(),
                control=groups.control.side(),
                champion=groups.champion.side(),
                paired=groups.pairing.seen(),
                paired_in=groups.pairing.seen_in(),
                segments=groups.largest.segments(),
            )


def _groups(promotion: Promotion, kept: Samples | None) -> Groups:
    seen = kept or Samples(state="shadow", since=promotion.state_since)
    policy, shadow = promotion.policy, promotion.state == "shadow"
    return Groups(
        step_of(promotion),
        promotion.version,
        promotion.champion,
        candidate=Tally(seen.candidate),
        control=Tally(seen.control),
        champion=Tally(seen.champion),
        pairing=Pairing(policy.told_segments if shadow else (), seen.paired, seen.paired_in),
        largest=Largest(() if shadow else policy.segments, policy.largest_segments, seen.segments),
    )


def _tallies(groups: Groups, of: Groups | Counted, version: int, role: ServeRole) -> tuple[Tally, ...]:
    """Where a run counts, of all traffic or of a segment's: the control group is the champion's, too.

    What was asked by its version counts nowhere.
    """
    if version == groups.version:
        return (of.candidate,) if role in ("canary", "shadow") else ()
    if version != groups.champion_version:
        return ()
    return (of.control, of.champion) if role == "control" else (of.champion,)
