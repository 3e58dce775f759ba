"""Work with pauses: nothing is lost, and none of its stretches is long."""

from __future__ import annotations

import pytest

from mlbox.web import unhurried as module
from mlbox.web.unhurried import STEPS, Unhurried, unhurried


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One more for each pause."""
    made: list[None] = []
    monkeypatch.setattr(module, "pause", lambda: made.append(None))
    return made


def test_all_items_come_in_their_order_with_a_pause_after_every_few(pauses: list[None]) -> None:
    assert list(unhurried(range(10), 3)) == list(range(10))
    assert len(pauses) == 3
    assert list(unhurried(range(2))) == [0, 1]
    assert len(pauses) == 3


def test_a_list_is_gone_through_with_pauses_by_whoever_takes_a_list(pauses: list[None]) -> None:
    items = Unhurried(range(4 * STEPS))
    assert items == list(range(4 * STEPS))
    assert [item for item in items] == list(range(4 * STEPS))  # noqa: C416 (the loop of a program that knows of no pauses)
    assert len(pauses) >= 4
