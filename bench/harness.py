"""What every benchmark shares: the table for people, the last line for programs, the exit code, repeated measuring.

A benchmark is a module with `main(arguments) -> int`; it collects `Figure`s in a `Report` and ends with `report.finish()`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Figure(msgspec.Struct, frozen=True):
    """One measured value and what it must hold."""

    name: str
    value: float
    unit: str
    goal: str
    """The bound in words, such as `<= 3`; empty for a value that is only told."""
    ok: bool


class Skipped(msgspec.Struct, frozen=True):
    """A figure that was not measured, and why."""

    name: str
    reason: str


class Result(msgspec.Struct, frozen=True):
    """The last line of a benchmark."""

    figures: list[Figure]
    skipped: list[Skipped] = []
    conditions: dict[str, str] = {}
    """What the figures were measured on: sizes, repeats, machine."""


@dataclass
class Report:
    """Collects figures, prints them, and says whether all goals hold."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)

    def at_most(self, name: str, value: float, limit: float, unit: str) -> None:
        """A figure that must not be above the limit."""
        self._add(Figure(name, value, unit, f"<= {limit:g}", value <= limit))

    def at_least(self, name: str, value: float, limit: float, unit: str) -> None:
        """A figure that must not be below the limit."""
        self._add(Figure(name, value, unit, f">= {limit:g}", value >= limit))

    def tell(self, name: str, value: float, unit: str) -> None:
        """A figure without a goal: a peer, a raw limit."""
        self._add(Figure(name, value, unit, "", True))

    def _add(self, figure: Figure) -> None:
        """Keep a figure, and show it at once: a long benchmark that is cut short has not run for nothing."""
        self.figures.append(figure)
        print(f"{figure.name}: {figure.value:.4g} {figure.unit} {figure.goal}", file=sys.stderr, flush=True)

    def skip(self, name: str, reason: str) -> None:
        """A figure that could not be measured here."""
        self.skipped.append(Skipped(name, reason))

    def finish(self) -> int:
        """Print the table and the last line; 0 when every goal holds."""
        self.conditions = {**machine(), **self.conditions}
        print(table(self))
        print(msgspec.json.encode(Result(self.figures, self.skipped, self.conditions)).decode(), flush=True)
        return 0 if all(figure.ok for figure in self.figures) else 1


def table(report: Report) -> str:
    """The figures for people."""
    rows = [
        (f.name, f"{f.value:.4g} {f.unit}", f.goal, "" if not f.goal else "ok" if f.ok else "MISSED")
        for f in report.figures
    ]
    rows += [(s.name, "not measured", s.reason, "") for s in report.skipped]
    head = (report.title, "measured", "goal", "")
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return "\n".join(
        [lines[0], "-" * len(lines[0]), *lines[1:], ", ".join(f"{k}: {v}" for k, v in report.conditions.items())]
    )


def machine() -> dict[str, str]:
    """What the figures depend on most."""
    return {"python": platform.python_version(), "cpus": str(os.cpu_count()), "load": f"{os.getloadavg()[0]:.1f}"}


def interleave(repeats: int, *measures: Callable[[], T]) -> list[list[T]]:
    """Each measure `repeats` times, in turn (A B A B), so that a busy moment hits all alike; one warm-up round first."""
    for measure in measures:
        measure()
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [list(values) for values in zip(*rounds, strict=True)]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def options(
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    add: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> argparse.Namespace:
    """`--quick` and `--setup`, which every benchmark knows, and what one `add`s."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, which it states; ends within 4 minutes")
    parser.add_argument("--setup", action="store_true", help="install the peers into venvs of their own, then end")
    add(parser)
    return parser.parse_args(sys.argv[1:] if arguments is None else arguments)
