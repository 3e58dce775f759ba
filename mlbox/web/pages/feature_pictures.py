"""What a feature's page draws: lineage from left to right, and small histograms."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.records import Column, Distribution, FeatureLineage, FeatureView, LineageNode, Trained
from mlbox.web.pages.file_view import Diff, diff

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 44, 30, 12, 2
MOST_IN_COLUMN = 8
"""Boxes of one column; what is more is said in words."""
LETTERS = 16
HERE = ("view", "transform", "prediction")
"""Kinds whose lineage is drawn."""
_PAGES = {
    "source": "/sources/",
    "view": "/features/",
    "transform": "/features/",
    "dataset": "/datasets/",
    "model": "/models/",
    "endpoint": "/endpoints/",
    "labels": "/labels/",
    "job": "/jobs/",
    "run": "/runs/",
}
_WORDS = {"model": "model version", "service": "feature service", "view": "feature view", "labels": "label set"}
_SHORT = {"run": slice(-8, None), "job": slice(-8, None), "prediction": slice(-8, None), "code": slice(12)}
"""Of an id or a commit, what is drawn."""
_ORDER = (
    *("source", "view", "transform", "service", "label source", "labels", "code", "dataset", "job", "run", "model"),
    *("endpoint", "prediction", "label"),
)
_EXAMPLES: dict[str, Any] = {"STRING": "a", "INT64": 1, "FP64": 1.5, "BOOL": True, "TIMESTAMP": "2026-01-01T00:00:00Z"}


class Box(NamedTuple):
    """One box of the drawing."""

    x: int
    y: int
    what: str
    name: str
    title: str
    href: str | None
    here: bool


class Drawing(NamedTuple):
    """Lineage as it is drawn, in pixels."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    paths: tuple[str, ...]
    hidden: int
    """Nodes that there was no room for."""
    box_width: int = WIDTH
    box_height: int = HEIGHT


def draw(found: FeatureLineage) -> Drawing:
    """Boxes in columns, each to the right of all that it comes from."""
    columns = _columns(found)
    shown: dict[str, tuple[int, int]] = {}
    boxes: list[Box] = []
    tallest = max((min(len(column), MOST_IN_COLUMN) for column in columns), default=0)
    hidden = 0
    for number, column in enumerate(columns):
        ordered = sorted(
            column, key=lambda node: (node.name != found.ref, _ORDER.index(node.kind), _newest_first(node))
        )
        drawn = ordered[:MOST_IN_COLUMN]
        hidden += len(column) - len(drawn)
        top = MARGIN + (tallest - len(drawn)) * (HEIGHT + GAP_Y) // 2
        for place, node in enumerate(drawn):
            x, y = MARGIN + number * (WIDTH + GAP_X), top + place * (HEIGHT + GAP_Y)
            shown[node.id] = (x, y)
            boxes.append(_box(node, x, y, here=node.name == found.ref and node.kind in HERE))
    paths = [_path(shown[a], shown[b]) for a, b in _direct(found.edges) if a in shown and b in shown]
    width = 2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + tallest * (HEIGHT + GAP_Y) - GAP_Y
    return Drawing(max(width, 0), max(height, 0), tuple(boxes), tuple(paths), hidden)


def _columns(found: FeatureLineage) -> list[list[LineageNode]]:
    """Nodes by how many steps are before them; what comes from nothing stands right before what it first leads to."""
    before: dict[str, list[str]] = {}
    for origin, user in found.edges:
        before.setdefault(user, []).append(origin)
    depths: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in depths:
            depths[node] = 0  # the definitions have no circles
            depths[node] = max((depth(origin) + 1 for origin in before.get(node, ())), default=0)
        return depths[node]

    for node in found.nodes:
        depth(node.id)
    for origin in {origin for origin, _ in found.edges} - before.keys():
        depths[origin] = min(depth(user) for first, user in found.edges if first == origin) - 1
    columns: list[list[LineageNode]] = [
        [] for _ in range(1 + max((depth(node.id) for node in found.nodes), default=-1))
    ]
    for node in found.nodes:
        columns[depths[node.id]].append(node)
    return columns


def _direct(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that do not go past a box: where a way leads over others, it says the same."""
    after: dict[str, list[str]] = {}
    for origin, user in edges:
        after.setdefault(origin, []).append(user)
    beyond: dict[str, set[str]] = {}

    def reached(node: str) -> set[str]:
        """What is behind a node, by however many steps."""
        if node not in beyond:
            beyond[node] = set()  # there are no circles
            beyond[node] = {one for user in after.get(node, ()) for one in (user, *reached(user))}
        return beyond[node]

    return [(a, b) for a, b in edges if not any(b in reached(user) for user in after[a] if user != b)]


def _newest_first(node: LineageNode) -> tuple[str, int]:
    name, _, version = node.name.replace("/", "@v").partition("@v")
    return name, -int(version) if version.isdecimal() else 0


def _box(node: LineageNode, x: int, y: int, *, here: bool) -> Box:
    page = _PAGES.get(node.kind)
    uses = f" (takes {', '.join(node.features)})" if node.features else ""
    what = _WORDS.get(node.kind, node.kind)
    text = node.name[_SHORT[node.kind]] if node.kind in _SHORT else node.name
    name = text if len(text) <= LETTERS else f"{text[: LETTERS // 2]}…{text[-LETTERS // 2 + 1 :]}"
    href = f"{page}{node.name}" if page and not here else None
    return Box(x, y, what, name, f"{what} {node.name}{uses}", href, here)


def _path(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT // 2, end[0], end[1] + HEIGHT // 2
    bend = max((x2 - x1) // 2, 12)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"


# -- distributions ----------------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """One feature's row of the table of distributions: today, then by dataset; None where it is not in one."""

    feature: Column
    cells: tuple[Distribution | None, ...]


def spreads(
    features: Sequence[Column], now: Sequence[Distribution], trainings: Sequence[Trained]
) -> tuple[list[Trained], list[Spread]]:
    """The datasets, newest first, and a row for each feature."""
    datasets = list({one.dataset: one for one in trainings}.values())
    today = {one.feature: one for one in now}
    then = {(one.dataset, one.distribution.feature): one.distribution for one in trainings}
    rows = [
        Spread(column, (today.get(column.name), *(then.get((one.dataset, column.name)) for one in datasets)))
        for column in features
    ]
    return datasets, rows


def bars(found: Distribution) -> list[tuple[float, float, float, float, str]]:
    """A histogram's bars in a box of 100 by 28: x, y, width, height, and what each says."""
    if found.edges:
        said = [f"{low:.4g} to {high:.4g}" for low, high in zip(found.edges, found.edges[1:], strict=False)]
        counts: Sequence[int] = found.counts
    else:
        said, counts = [text for text, _ in found.top], [count for _, count in found.top]
    most = max(counts, default=0)
    width = 100 / max(len(counts), 1)
    drawn = []
    for place, (count, words) in enumerate(zip(counts, said, strict=False)):
        height = 28 * count / most if most else 0.0
        drawn.append(
            (
                round(place * width, 2),
                round(28 - height, 2),
                round(width * 0.9, 2),
                round(height, 2),
                f"{words}: {count:,}",
            )
        )
    return drawn


# -- history and examples ---------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A version of a view and how it differs from the one before."""

    view: FeatureView
    words: tuple[str, ...]
    diff: Diff | None
    """Of the SQL; None where it is the same."""


def changes(versions: Sequence[FeatureView]) -> list[Change]:
    """The history of a view, newest first."""
    ordered = sorted(versions, key=lambda view: -view.version)
    befores: list[FeatureView | None] = [*ordered[1:], None]
    return [_change(view, before) for view, before in zip(ordered, befores, strict=True)]


def _change(view: FeatureView, before: FeatureView | None) -> Change:
    if before is None:
        return Change(view, ("first version",), None)
    words = [*_columns_changed("feature", before.features, view.features)]
    words += _columns_changed("join key", before.join_keys, view.join_keys)
    if before.sources != view.sources:
        words.append(f"reads {', '.join(view.sources)} instead of {', '.join(before.sources)}")
    if before.ttl_seconds != view.ttl_seconds:
        words.append("another time for which values count")
    changed = None
    if before.sql != view.sql:
        words.append("another SQL")
        lines = difflib.unified_diff(before.sql.split("\n"), view.sql.split("\n"), lineterm="", n=2)
        changed = diff("\n".join(list(lines)[2:]).encode())
    return Change(view, tuple(words), changed)


def _columns_changed(noun: str, before: Sequence[Column], after: Sequence[Column]) -> list[str]:
    old, new = ({column.name: column.dtype for column in columns} for columns in (before, after))
    words = [f"{noun} {name} added" for name in new if name not in old]
    words += [f"{noun} {name} removed" for name in old if name not in new]
    return words + [
        f"{noun} {name} is {new[name]}, was {old[name]}" for name in new if name in old and old[name] != new[name]
    ]


def examples(features: Sequence[str], asked_with: Sequence[Column], base: str) -> list[tuple[str, str]]:
    """Code that reads features online, by what an entity has to name: from Python, from a shell, over HTTP."""
    entity = {key.name: _EXAMPLES[key.dtype] for key in asked_with}
    keys = " ".join(f"--key {shlex.quote(f'{name}={_said(value)}')}" for name, value in entity.items())
    body = json.dumps({"features": features, "entities": [entity]})
    names = ", ".join(f'"{feature}"' for feature in features)
    return [
        ("Python", f"import mlbox\n\nrows = mlbox.features(\n    [{names}],\n    [{_python(entity)}],\n)"),
        ("Command line", f"mlbox feature get {' '.join(features)} {keys}"),
        (
            "HTTP",
            f"curl --json {shlex.quote(body)} \\\n"
            f'  -H "Authorization: Bearer $MLBOX_TOKEN" {base}/api/v1/features/online',
        ),
    ]


def _python(entity: dict[str, Any]) -> str:
    pairs = (
        f'"{name}": {json.dumps(value) if isinstance(value, str) else repr(value)}' for name, value in entity.items()
    )
    return f"{{{', '.join(pairs)}}}"


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
