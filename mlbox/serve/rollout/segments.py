"""Traffic by segment: the values of keys and features that a policy names.

In a canary only the largest segments are compared. They are chosen from the first rows of a step and counted from then on: what
chose them is no evidence about them, so a bound that holds at every look holds for them too, each having its part of the error.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlbox.records import Paired, Segment
from mlbox.serve.predictions.batches import Batch, Given
from mlbox.serve.predictions.routing import Beside
from mlbox.serve.rollout.sequential import EPOCHS
from mlbox.serve.rollout.tally import Pairs, Tally

WARM_ROWS = 1000
"""From so many rows of all traffic the largest segments of a step are chosen."""
SCORES = EPOCHS[6]
"""Scores that are compared in a segment, on each side."""
MOST_TOLD = 30
"""Segments of a shadow that are told by themselves."""
MOST_TEXT = 80
OTHERS = "others"


def labels_of(given: Given, rows: int, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The segments of each row, as `column=value`: of the ids that were sent, else of a feature; none where neither has it."""
    found: list[list[str]] = [[] for _ in range(rows)]
    for column in columns:
        at = _place(given.names, column) if given.values is not None else None
        for place, labels in enumerate(found):
            value = given.entities[place].get(column) if given.entities else None
            if value is None and at is not None and given.values is not None:
                value = _number(given.values[place][at])
            if value is not None:
                labels.append(f"{column}={str(value)[:MOST_TEXT]}")
    return [tuple(labels) for labels in found]


@functools.lru_cache(maxsize=1024)
def _place(names: tuple[str, ...], column: str) -> int | None:
    """Which feature a column is, by its full reference or by its name where only one has that."""
    if column in names:
        return names.index(column)
    alike = [place for place, name in enumerate(names) if name.rpartition(":")[2] == column]
    return alike[0] if len(alike) == 1 else None


def _number(value: Any) -> str | None:
    return None if value is None or value != value else f"{float(value):g}"


def by_label(labels: Sequence[tuple[str, ...]]) -> dict[str, list[int]]:
    """The places of the rows of each segment."""
    found: dict[str, list[int]] = {}
    for place, some in enumerate(labels):
        for label in some:
            found.setdefault(label, []).append(place)
    return found


class Counted:
    """One segment's groups."""

    def __init__(self, seen: Segment) -> None:
        self.name = seen.name
        self.candidate = Tally(seen.candidate, most_scores=SCORES)
        self.control = Tally(seen.control, most_scores=SCORES)
        self.champion = Tally(seen.champion, most_scores=SCORES)

    def segment(self) -> Segment:
        """As it is now."""
        return Segment(
            name=self.name,
            candidate=self.candidate.side(),
            control=self.control.side(),
            champion=self.champion.side(),
        )


Pick = Callable[[Counted], Sequence[Tally]]
"""Where a run counts among a segment's groups."""


class Largest:
    """The largest segments of a canary's step."""

    def __init__(self, columns: tuple[str, ...], most: int, kept: Sequence[Segment] = ()) -> None:
        self.columns = columns
        self._most = most
        self._rows = 0
        self._seen: Counter[str] = Counter()
        self._chosen = {one.name: Counted(one) for one in kept}

    def answered(self, batch: Batch, pick: Pick) -> None:
        """Count a run that gave scores."""
        for counted, places in self._of(batch.given, len(batch.ids)):
            latencies = batch.latency_ms
            taken = [latencies[place] for place in places] if isinstance(latencies, list) else [latencies]
            for tally in pick(counted):
                if tally is counted.champion:
                    tally.runs += len(taken)
                else:
                    tally.answered(taken, [batch.scores[place] for place in places])

    def failed(self, given: Given, pick: Pick) -> None:
        """Count a run that gave none."""
        for counted, _ in self._of(given, given.rows):
            for tally in pick(counted):
                tally.failed()

    def _of(self, given: Given, rows: int) -> list[tuple[Counted, list[int]]]:
        labels = labels_of(given, rows, self.columns)
        if not self._chosen:
            self._choose(labels)
            return []
        found = by_label(labels)
        return [(counted, found[name]) for name, counted in self._chosen.items() if name in found]

    def _choose(self, labels: Sequence[tuple[str, ...]]) -> None:
        self._rows += len(labels)
        self._seen.update(label for some in labels for label in some)
        if self._rows >= WARM_ROWS:
            ranked = sorted(self._seen.items(), key=lambda item: (-item[1], item[0]))
            self._chosen = {name: Counted(Segment(name=name)) for name, _ in ranked[: self._most]}
            self._seen.clear()
            self._rows = 0

    def segments(self) -> tuple[Segment, ...]:
        """As they are now, the largest first."""
        return tuple(counted.segment() for counted in self._chosen.values())


class Pairing:
    """Requests that the champion answered and a shadow ran: all of them, and by segment the first so many, then others."""

    def __init__(
        self, columns: tuple[str, ...], seen: Paired | None = None, seen_in: Mapping[str, Paired] | None = None
    ) -> None:
        self._columns = columns
        self._all = Pairs(seen)
        self._in = {name: Pairs(paired) for name, paired in (seen_in or {}).items()}

    def add(self, found: Beside) -> None:
        """Count a request."""
        rows = len(found.answered)
        _pair(self._all, range(rows), found)
        if not self._columns:
            return
        labels = [tuple(dict.fromkeys(map(self._known, some))) for some in labels_of(found.given, rows, self._columns)]
        for name, places in by_label(labels).items():
            _pair(self._in[name], places, found)

    def _known(self, label: str) -> str:
        if label not in self._in:
            if len(self._in) >= MOST_TOLD:
                label = f"{label.partition('=')[0]}={OTHERS}"
            self._in.setdefault(label, Pairs())
        return label

    def seen(self) -> Paired:
        """All requests, as counted so far."""
        return self._all.seen()

    def seen_in(self) -> dict[str, Paired]:
        """Those of each segment."""
        return {name: pairs.seen() for name, pairs in self._in.items()}


def _pair(pairs: Pairs, places: Sequence[int], found: Beside) -> None:
    if found.beside is None:
        pairs.failed(len(places))
        return
    for place in places:
        pairs.add(found.answered[place], found.beside[place])
    pairs.took(found.answered_ms, found.beside_ms)
