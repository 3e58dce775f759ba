"""What candidates and champions do, counted as it happens: sufficient statistics, in microseconds on the request's path.

Invariant: `_lock` guards all sides; it is held for the microseconds of one count, or of one copy.
"""

from __future__ import annotations

import array
import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from mlbox.records import Promotion, Samples, ServeRole, Side
from mlbox.serve.batches import Batch
from mlbox.serve.sequential import EPOCHS, bucket_of
from mlbox.serve.verdict import RECENT, is_gross


class Step(NamedTuple):
    """One stay of a promotion: evidence is of it and of no other."""

    promotion: str
    state: str
    number: int


def step_of(promotion: Promotion) -> Step:
    """Where a promotion is."""
    return Step(promotion.id, promotion.state, promotion.step)


class Tally:
    """One group's counts, which grow."""

    def __init__(self, side: Side | None = None) -> None:
        side = side or Side()
        self.runs, self.errors = side.runs, side.errors
        self.rows, self.invalid = side.rows, side.invalid
        self.latency = Counter(side.latency)
        self.scores = array.array("d", side.scores)
        self.last = deque(side.last, maxlen=RECENT)

    def answered(self, batch: Batch) -> None:
        """Requests that were given scores."""
        for latency_ms in batch.by_request:
            self.runs += 1
            self.last.append(".")
            self.latency[bucket_of(latency_ms)] += 1
        for score in batch.scores:
            self.rows += 1
            if score is None or not math.isfinite(score):
                self.invalid += 1
            elif len(self.scores) < EPOCHS[-1]:
                self.scores.append(score)

    def failed(self) -> None:
        """One run that gave none."""
        self.runs += 1
        self.errors += 1
        self.last.append("x")

    def side(self) -> Side:
        """As it is now."""
        return Side(
            runs=self.runs,
            errors=self.errors,
            rows=self.rows,
            invalid=self.invalid,
            latency=dict(self.latency),
            scores=self.scores.tobytes(),
            last="".join(self.last),
        )


class Groups(NamedTuple):
    """Of one model whose candidate is watched."""

    step: Step
    version: int
    champion_version: int | None
    candidate: Tally
    control: Tally
    champion: Tally


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
            for tally in _tallies(groups, batch.version, batch.role):
                if tally is groups.champion:  # of all its traffic only the runs are compared
                    tally.runs += len(batch.by_request)
                else:
                    tally.answered(batch)

    def failed(self, model: str, version: int, role: ServeRole) -> None:
        """Count a run that failed."""
        groups = self._groups.get(model)
        if groups is None:
            return
        with self._lock:
            for tally in _tallies(groups, version, role):
                tally.failed()
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
            )


def _groups(promotion: Promotion, kept: Samples | None) -> Groups:
    sides = (kept.candidate, kept.control, kept.champion) if kept else (None, None, None)
    tallies = (Tally(side) for side in sides)
    return Groups(step_of(promotion), promotion.version, promotion.champion, *tallies)


def _tallies(groups: Groups, version: int, role: ServeRole) -> tuple[Tally, ...]:
    """Where a run counts: the control group is the champion's, too. What was asked by its version counts nowhere."""
    if version == groups.version:
        return (groups.candidate,) if role in ("canary", "shadow") else ()
    if version != groups.champion_version:
        return ()
    return (groups.control, groups.champion) if role == "control" else (groups.champion,)
