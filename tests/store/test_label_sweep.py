"""One item that very many labels speak of: what it costs to say what counted at each moment grows as they do."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, get_args

import pytest

from mlbox.records import LabelPolicy
from mlbox.store.labels.sweep import Said, swept


def crowd(count: int) -> list[Said]:
    """Each of another rater, every third corrected at once or later, with values that all differ or are often the same."""
    return [
        Said(
            item=0,
            since=at,
            until=at + 1 + at % 50 if at % 3 == 0 else None,
            rater=f"p{at % (count // 2)}",
            claimed=(at * 7919) % count,
            seq=at,
            rank=at % 4,
            weight=1.0 + at % 2,
            value=at if at % 2 else at % 5,
        )
        for at in range(count)
    ]


def calls(what: Iterable[Any]) -> int:
    """How many functions, Python's own among them, are called to have all of something."""
    count = 0

    def seen(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        list(what)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("policy", get_args(LabelPolicy))
def test_twice_the_labels_are_twice_the_work(policy: LabelPolicy) -> None:
    cost = [calls(swept(policy, crowd(size), [(0, at) for at in range(size)])) for size in (400, 800)]
    assert cost[0] > 400, "nothing was counted"
    assert cost[1] < 2.4 * cost[0]


def test_of_equal_votes_none_counts_until_one_goes() -> None:
    said = [
        Said(0, since=1, until=None, rater="a", claimed=1, seq=1, rank=0, weight=1.0, value="cat"),
        Said(0, since=2, until=3, rater="b", claimed=2, seq=2, rank=0, weight=1.0, value="dog"),
        Said(0, since=9, until=None, rater="c", claimed=9, seq=3, rank=-1, weight=1.0, value="cow"),
    ]
    moments = [(0, at) for at in (0, 1, 2, 3, 9)]
    found = [(value if tied is False else None, tied) for _, _, value, tied in swept("majority", said, moments)]
    assert found == [(None, None), ("cat", False), (None, True), ("cat", False), ("cow", False)]
