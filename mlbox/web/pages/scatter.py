"""Runs as points: one parameter or metric along, another up, and a third as colour and shape."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from mlbox.records import Run
from mlbox.web.pages import form
from mlbox.web.pages.run_columns import Column

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 78, 18, 14, 44
KINDS = 5
"""Ranges of a number that have a colour and a shape of their own; of a text, the most frequent values."""
MOST_WORDS = 12
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8 4.6 3.4h-9.2z",
    "M0-5.2 4.6 0 0 5.2-4.6 0z",
    "M-1.3-4.6h2.6v3.3h3.3v2.6h-3.3v3.3h-2.6v-3.3h-3.3v-2.6h3.3z",
    "M0 4.8-4.6-3.4h9.2z",
)


class Dot(NamedTuple):
    """One run where it is drawn."""

    x: float
    y: float
    kind: int
    shape: str
    href: str
    title: str
    cells: tuple[str | float | None, ...]


class Tick(NamedTuple):
    """A mark of an axis."""

    at: float
    text: str


class Entry(NamedTuple):
    """What a colour and a shape stand for."""

    kind: int
    shape: str
    text: str


class Scatter(NamedTuple):
    """The picture."""

    x: str
    y: str
    colour: str
    dots: tuple[Dot, ...]
    along: tuple[Tick, ...]
    up: tuple[Tick, ...]
    legend: tuple[Entry, ...]
    missing: int
    """Runs that have not both values."""


Value = float | str | None


def value_of(run: Run, one: Column) -> Value:
    """A run's value as it is drawn: a finite number, a text, or nothing."""
    if one.entity == "metric":
        if one.extreme == "last":
            found = run.metrics[one.key].value if one.key in run.metrics else None
        else:
            found = run.extremes[one.key][one.extreme == "max"] if one.key in run.extremes else None
        return found if found is not None and math.isfinite(found) else None
    text = (run.params if one.entity == "param" else run.tags).get(one.key)
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def draw(runs: Sequence[Run], names: Sequence[str], x: Column, y: Column, colour: Column | None) -> Scatter:
    """A point for each run that has both values."""
    found = [(run, name, value_of(run, x), value_of(run, y)) for run, name in zip(runs, names, strict=True)]
    kept = [(run, name, a, b) for run, name, a, b in found if a is not None and b is not None]
    along = _Scale([a for _, _, a, _ in kept], LEFT, WIDTH - RIGHT)
    up = _Scale([b for _, _, _, b in kept], HEIGHT - BOTTOM, TOP)
    kinds = _Kinds([value_of(run, colour) for run, *_ in kept] if colour else [])
    dots = []
    for run, name, a, b in kept:
        third = value_of(run, colour) if colour else None
        kind = kinds.of(third)
        said = f"{name}: {x.label} {_said(a)}, {y.label} {_said(b)}" + (
            f", {colour.label} {_said(third)}" if colour else ""
        )
        cells = (name, a, b, *((third,) if colour else ()))
        dots.append(Dot(along.at(a), up.at(b), kind, SHAPES[kind], f"/runs/{run.id}", said, cells))
    legend = tuple(Entry(kind, SHAPES[kind], text) for kind, text in enumerate(kinds.words))
    label = colour.label if colour else ""
    return Scatter(x.label, y.label, label, tuple(dots), along.ticks, up.ticks, legend, len(found) - len(kept))


def _said(value: Value) -> str:
    return "–" if value is None else form.number(value)


class _Scale:
    """An axis: of numbers, or, where there are texts, of words in their order."""

    def __init__(self, values: Sequence[Value], begin: float, end: float) -> None:
        numbers = [value for value in values if isinstance(value, float | int)]
        self._begin, self._end = begin, end
        self._places: dict[str, float] = {}
        if len(numbers) == len(values) and numbers:
            self._low, self._high = _widened(min(numbers), max(numbers))
            self.ticks = tuple(Tick(self.at(tick), form.number(tick)) for tick in _ticks(self._low, self._high))
            return
        words = sorted({_said(value) for value in values})
        self._low, self._high = -0.5, len(words) - 0.5
        self._places = {word: float(place) for place, word in enumerate(words)}
        step = max(1, math.ceil(len(words) / MOST_WORDS))
        self.ticks = tuple(Tick(self.at(word), _short(word)) for word in words[::step])

    def at(self, value: Value) -> float:
        """Where a value lies, in pixels."""
        number = self._places[_said(value)] if self._places else float(value or 0)
        share = (number - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        return round(self._begin + share * (self._end - self._begin), 1)


def _short(word: str) -> str:
    return word if len(word) <= 12 else f"{word[:11]}…"


def _widened(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.04 or abs(low) * 0.1 or 1.0
    return (low - room, high + room) if math.isfinite(high - low) else (low, high)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * n for n in (1, 2, 5, 10) if span / (power * n) <= 6)
    first = math.ceil(low / step)
    return [round(tick * step, 12) for tick in range(first, first + 8) if tick * step <= high]


class _Kinds:
    """What values are told apart by: equal parts of the numbers in order, or the most frequent texts."""

    def __init__(self, values: Sequence[Value]) -> None:
        known = [value for value in values if value is not None]
        numbers = sorted(value for value in known if isinstance(value, float | int))
        self.words: list[str] = []
        self._edges: list[float] = []
        self._texts: dict[str, int] = {}
        different = sorted(set(numbers))
        if numbers and len(numbers) == len(known) and len(different) > KINDS:
            cuts = [numbers[round(len(numbers) * part / KINDS)] for part in range(1, KINDS)]
            self._edges = sorted(set(cuts))
            ends = [numbers[0], *self._edges, numbers[-1]]
            self.words = [f"{form.number(a)} to {form.number(b)}" for a, b in itertools.pairwise(ends)]
            return
        counts: dict[str, int] = {}
        for value in known:
            counts[_said(value)] = counts.get(_said(value), 0) + 1
        most = sorted(counts, key=lambda word: (-counts[word], word))[: len(SHAPES)]
        most = most if len(counts) <= len(SHAPES) else most[: len(SHAPES) - 1]
        self._texts = {word: place for place, word in enumerate(sorted(most))}
        self.words = [*(_short(word) for word in sorted(most)), *(["other"] if len(counts) > len(most) else [])]

    def of(self, value: Value) -> int:
        """The kind of a value; 0 where nothing is told apart."""
        if self._edges:
            return sum(float(value) >= edge for edge in self._edges) if isinstance(value, float | int) else 0
        return self._texts.get(_said(value), len(self._texts) if self.words and value is not None else 0) % len(SHAPES)
