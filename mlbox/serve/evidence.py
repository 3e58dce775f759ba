"""What candidates and champions do, counted as it happens: sufficient statistics, in microseconds on the request's path.

Invariant: `_lock` guards all sides; it is held for the microseconds of one count, or of one copy.
"""

from __future__ import annotations

import array
import bisect
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mlbox.records import Paired, Promotion, Samples, ServeRole, Side
from mlbox.records.shadow import DIFFERENCES
from mlbox.serve.batches import Batch
from mlbox.serve.sequential import EPOCHS, bucket_of
from mlbox.serve.verdict import RECENT, is_gross

WIDEST = 1e30
"""Further apart is as far: the sum of such differences stays a number."""
THRESHOLD = 0.5
"""Where a score turns a decision, for the agreement of a shadow and the champion."""


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


class Pairs:
    """Rows that the champion and a shadow both answered, which grow."""

    def __init__(self, seen: Paired | None = None) -> None:
        seen = seen or Paired()
        self._rows, self._agreed, self._total = seen.rows, seen.agreed, seen.total
        self._compared, self._most, self._bins = seen.compared, seen.most, list(seen.bins)

    def add(self, answered: float | None, beside: float | None) -> None:
        """One row."""
        self._rows += 1
        first, second = _finite(answered), _finite(beside)
        if first is None or second is None:
            self._agreed += first is second
            return
        apart = min(abs(first - second), WIDEST)
        self._agreed += (first >= THRESHOLD) == (second >= THRESHOLD)
        self._compared += 1
        self._total += apart
        self._most = max(self._most, apart)
        self._bins[bisect.bisect_left(DIFFERENCES, apart)] += 1

    def seen(self) -> Paired:
        """As it is now."""
        return Paired(
            rows=self._rows,
            agreed=self._agreed,
            total=self._total,
            compared=self._compared,
            most=self._most,
            bins=tuple(self._bins),
        )


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


class Groups(NamedTuple):
    """Of one model whose candidate is watched."""

    step: Step
    version: int
    champion_version: int | None
    candidate: Tally
    control: Tally
    champion: Tally
    pairs: Pairs


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

    def paired(
        self, model: str, version: int, answered: Sequence[float | None], beside: Sequence[float | None]
    ) -> None:
        """Count rows that the champion and a shadow answered; called behind the request's path."""
        groups = self._groups.get(model)
        if groups is None or groups.version != version:
            return
        with self._lock:
            for one, other in zip(answered, beside, strict=True):
                groups.pairs.add(one, other)

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
                paired=groups.pairs.seen(),
            )


def _groups(promotion: Promotion, kept: Samples | None) -> Groups:
    seen = kept or Samples(state="shadow", since=promotion.state_since)
    return Groups(
        step_of(promotion),
        promotion.version,
        promotion.champion,
        candidate=Tally(seen.candidate),
        control=Tally(seen.control),
        champion=Tally(seen.champion),
        pairs=Pairs(seen.paired),
    )


def _tallies(groups: Groups, version: int, role: ServeRole) -> tuple[Tally, ...]:
    """Where a run counts: the control group is the champion's, too. What was asked by its version counts nowhere."""
    if version == groups.version:
        return (groups.candidate,) if role in ("canary", "shadow") else ()
    if version != groups.champion_version:
        return ()
    return (groups.control, groups.champion) if role == "control" else (groups.champion,)
