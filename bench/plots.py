"""Small charts as SVG, in colours that can be read on a light and on a dark page; no library draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 46, 52
_STYLE = """
text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:15px}.g{stroke:#d0d7de}
.l{fill:none;stroke-width:2.5}.c0{stroke:#6e7781}.c1{stroke:#0969da}.c2{stroke:#bc4c00}.c3{stroke:#1a7f37}
.f0{fill:#6e7781}.f1{fill:#0969da}.f2{fill:#bc4c00}.f3{fill:#1a7f37}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.g{stroke:#3d444d}.c0{stroke:#9198a1}.c1{stroke:#4493f8}.c2{stroke:#f0883e}
.c3{stroke:#3fb950}.f0{fill:#9198a1}.f1{fill:#4493f8}.f2{fill:#f0883e}.f3{fill:#3fb950}}
"""
_TICKS = [(60, "1 min"), (600, "10 min"), (3600, "1 h"), (36_000, "10 h"), (360_000, "4 days"), (3_600_000, "6 weeks")]


def shares(path: Path, title: str, series: dict[str, Sequence[float]]) -> None:
    """Which part of the jobs was through after which time (seconds, on a logarithmic axis), a line for each name."""
    high = max(max(values) for values in series.values())
    low = 30.0

    def x(seconds: float) -> float:
        part = math.log(max(seconds, low) / low) / math.log(high / low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(part: float) -> float:
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 20, title, "t")]
    for percent in (0, 25, 50, 75, 100):
        parts.append(_line(LEFT, y(percent / 100), WIDTH - RIGHT, y(percent / 100)))
        parts.append(_text(LEFT - 8, y(percent / 100) + 4, f"{percent} %", anchor="end"))
    for seconds, label in _TICKS:
        if low <= seconds <= high:
            parts.append(_text(x(seconds), HEIGHT - BOTTOM + 18, label, anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "from submission to the end", anchor="middle"))
    for at, (name, values) in enumerate(series.items()):
        ordered = sorted(values)
        points = [(x(ordered[min(len(ordered) - 1, n * len(ordered) // 120)]), y(n / 120)) for n in range(121)]
        drawn = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline class="l c{at}" points="{drawn}"/>')
        parts += _key(at, name, colour=at)
    _write(path, title, parts)


def bars(path: Path, title: str, groups: dict[str, dict[str, float]]) -> None:
    """A group of bars for each name, from 1 on a logarithmic axis, in the colours of the second line and those after it."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    high = max(value for group in groups.values() for value in group.values())
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    wide = step * 0.8 / len(names)
    floor = HEIGHT - BOTTOM

    def tall(value: float) -> float:
        return max(0.0, math.log(value) / math.log(high)) * (floor - TOP - 14)

    parts = [_text(LEFT, 20, title, "t")]
    for value in (1, 2, 5, 10, 20, 50, 100):
        if value <= high:
            parts.append(_line(LEFT, floor - tall(value), WIDTH - RIGHT, floor - tall(value)))
            parts.append(_text(LEFT - 8, floor - tall(value) + 4, f"{value} x", anchor="end"))
    for number, (label, group) in enumerate(groups.items()):
        left = LEFT + number * step + step * 0.1
        parts.append(_text(left + step * 0.4, floor + 18, label, anchor="middle"))
        for at, name in enumerate(names):
            x, height = left + at * wide, tall(group[name])
            box = f'x="{x:.1f}" y="{floor - height:.1f}" width="{wide - 2:.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="f{at + 1}" {box}/>')
            parts.append(_text(x + wide / 2 - 1, floor - height - 4, f"{group[name]:.3g}", anchor="middle"))
    for at, name in enumerate(names):
        parts += _key(at, name, colour=at + 1)
    _write(path, title, parts)


def _key(at: int, name: str, colour: int) -> list[str]:
    left = LEFT + at * 200
    return [f'<rect class="f{colour}" x="{left}" y="29" width="12" height="12"/>', _text(left + 18, 40, name)]


def _line(left: float, top: float, right: float, bottom: float) -> str:
    return f'<line class="g" x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}"/>'


def _text(left: float, top: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _write(path: Path, title: str, parts: list[str]) -> None:
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )
