"""What counted of an item at each of many moments, where very many labels speak of it: one pass over them in time.

A label counts from when it was knowable until it is corrected. Then the last word of its rater may change, and with it what the
policy makes of all last words (`label_views` says how). Whatever is the first of many is the top of a heap, so that a change
costs the logarithm of how many there are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from mlbox.records import LabelPolicy

Verdict = tuple[Any, bool | None]
"""The value, and whether it is tied with another one; None where nobody claims anything."""
_NOTHING: Verdict = (None, None)


class Said(NamedTuple):
    """A label of an item: when it counts, in microseconds, whose it is, and how much it counts."""

    item: int
    since: int
    until: int | None
    """None where it is not corrected."""
    rater: Hashable
    claimed: int
    seq: int
    rank: int
    """Below 0 for ground truth."""
    weight: float
    value: Any

    @property
    def order(self) -> tuple[int, int]:
        """The least of a rater's is the last word."""
        return -self.claimed, -self.seq


def swept(
    policy: LabelPolicy, said: Iterable[Said], moments: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int, Any, bool | None]]:
    """The item, the moment and the verdict at each moment of each item; the moments of an item come in their order."""
    labels = defaultdict(list)
    for one in said:
        labels[one.item].append(one)
    for item, times in groupby(moments, itemgetter(0)):
        changes = [(one.since, True, one) for one in labels[item]]
        changes += [(one.until, False, one) for one in labels[item] if one.until is not None]
        coming = iter(sorted(changes, key=itemgetter(0)))
        words, change = _Words(policy), next(coming, None)
        for _, moment in times:
            while change is not None and change[0] <= moment:
                words.change(change[2], counts=change[1])
                change = next(coming, None)
            yield item, moment, *words.verdict()


class _First:
    """The least of keys that come and go."""

    def __init__(self) -> None:
        self._heap: list[Any] = []
        self._there: set[Any] = set()

    def change(self, key: Any, *, there: bool) -> None:
        """A key comes, or goes."""
        if not there:
            self._there.discard(key)
        elif key not in self._there:
            self._there.add(key)
            heappush(self._heap, key)

    def look(self) -> Any:
        """The least key; None where there is none."""
        while self._heap and self._heap[0] not in self._there:
            heappop(self._heap)
        return self._heap[0] if self._heap else None


class _Words:
    """The last words on one item, and what the policy makes of them."""

    def __init__(self, policy: LabelPolicy) -> None:
        self._policy = policy
        self._raters: defaultdict[Hashable, _First] = defaultdict(_First)
        self._said: dict[tuple[int, int], Said] = {}
        self._truths = _First()
        self._latest = _First()
        self._votes: defaultdict[int, _Votes] = defaultdict(_Votes)
        """By rank where the policy asks for it."""

    def change(self, one: Said, *, counts: bool) -> None:
        """A label begins or ceases to count."""
        self._said[one.order] = one
        rater = self._raters[one.rater]
        before = rater.look()
        rater.change(one.order, there=counts)
        now = rater.look()
        if before != now:
            for order, there in ((before, False), (now, True)):
                if order is not None:
                    self._hear(self._said[order], there=there)

    def _hear(self, one: Said, *, there: bool) -> None:
        if one.rank < 0:
            self._truths.change(one.order, there=there)
        elif self._policy == "latest":
            self._latest.change(one.order, there=there)
        else:
            votes = self._votes[one.rank if self._policy == "priority" else 0]
            votes.change(one.value, one.weight if self._policy == "weighted" else 1.0, 1 if there else -1)

    def verdict(self) -> Verdict:
        """What counts now."""
        for first in (self._truths, self._latest):
            if (order := first.look()) is not None:
                return self._said[order].value, False
        heard = [rank for rank, votes in self._votes.items() if votes]
        return self._votes[min(heard)].verdict() if heard else _NOTHING


class _Votes:
    """How many claims say what, and the value of the greatest sum of weights."""

    def __init__(self) -> None:
        self._counts: dict[Any, Counter[float]] = {}
        """Claims of each value, by their weight."""
        self._by_score: defaultdict[float, dict[Any, None]] = defaultdict(dict)
        self._best = _First()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def change(self, value: Any, weight: float, by: int) -> None:
        """A vote comes, or goes."""
        counts = self._counts.pop(value, Counter())
        if counts:
            self._place(value, counts, there=False)
        counts[weight] += by
        counts = +counts
        if counts:
            self._counts[value] = counts
            self._place(value, counts, there=True)

    def _place(self, value: Any, counts: Counter[float], *, there: bool) -> None:
        score = round(sum(weight * count for weight, count in counts.items()), 9)
        holders = self._by_score[score]
        if there:
            holders[value] = None
        else:
            del holders[value]
        self._best.change(-score, there=bool(holders))

    def verdict(self) -> Verdict:
        """The best value, and whether another one is as good."""
        holders = self._by_score[-self._best.look()]
        return next(iter(holders)), len(holders) > 1
