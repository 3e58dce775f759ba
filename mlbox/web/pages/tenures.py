"""A model's history as a picture: which version was where, from when until when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from mlbox.records import Tenure
from mlbox.web.pages.form import utc

LEFT, WIDTH, LANE, TOP = 110, 720, 26, 22
"""Pixels: names on the left, the whole, a lane, the axis."""
MOST_LANES = 8
KINDS = {"Production": "ok", "Staging": "run"}
LETTER = 7
TICKS = 4


class Stay(NamedTuple):
    """One version's stay in one place."""

    x: float
    y: int
    width: float
    kind: str
    text: str
    """What there is room for."""
    title: str
    href: str


class Drawing(NamedTuple):
    """The history in pixels."""

    width: int
    height: int
    left: int
    lanes: tuple[tuple[str, int], ...]
    ticks: tuple[tuple[float, str], ...]
    stays: tuple[Stay, ...]


def drawn(model: str, history: Sequence[Tenure], now: datetime) -> Drawing | None:
    """A lane for Production, for Staging and for each alias; None where nothing was anywhere."""
    names = sorted({_place(one) for one in history}, key=lambda name: (name.startswith("@"), name))[:MOST_LANES]
    if not names:
        return None
    begin = min(one.since for one in history)
    whole = max((now - begin).total_seconds(), 1.0)

    def x(at: datetime) -> float:
        return LEFT + (WIDTH - LEFT) * (at - begin).total_seconds() / whole

    stays = [
        _stay(model, one, x(one.since), x(one.until or now), TOP + LANE * names.index(_place(one)))
        for one in history
        if _place(one) in names
    ]
    ticks = [(LEFT + (WIDTH - LEFT) * step / TICKS, begin + (now - begin) * step / TICKS) for step in range(TICKS)]
    form = "%H:%M" if whole < 86_400 else "%Y-%m-%d"
    return Drawing(
        WIDTH,
        TOP + LANE * len(names),
        LEFT,
        tuple((name, TOP + LANE * at) for at, name in enumerate(names)),
        tuple((place, at.strftime(form)) for place, at in ticks),
        tuple(stays),
    )


def _place(one: Tenure) -> str:
    return one.name if one.kind == "stage" else f"@{one.name}"


def _stay(model: str, one: Tenure, left: float, right: float, y: int) -> Stay:
    width = max(right - left, 2.0)
    text = f"{one.version}" if width < 10 * LETTER else f"version {one.version}"
    return Stay(
        round(left, 1),
        y,
        round(width, 1),
        KINDS.get(one.name, "wait"),
        text if width > (len(text) + 1) * LETTER else "",
        f"version {one.version}, {_place(one)}, {utc(one.since)} to {utc(one.until) if one.until else 'now'}",
        f"/models/{model}/{one.version}",
    )
