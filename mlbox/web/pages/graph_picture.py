"""The graph of a model, from its inputs down to its outputs, in layers (Sugiyama 1981, ordered by the barycentre rule)."""

from __future__ import annotations

from typing import NamedTuple

from mlbox.store.sandbox.look_worker import GraphLook

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 42, 26, 30, 8
LETTERS = 19
MOST_DRAWN = 200
"""Operations of a graph that is drawn; of one with more, what it is made of is told."""


class Part(NamedTuple):
    """An input, an operation or an output, as a box."""

    x: int
    y: int
    what: str
    name: str
    title: str
    here: bool


class GraphDrawing(NamedTuple):
    """The boxes and what leads from one to another, in pixels."""

    width: int
    height: int
    boxes: tuple[Part, ...]
    paths: tuple[str, ...]


class _Box(NamedTuple):
    what: str
    name: str
    title: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    here: bool = False


def draw(graph: GraphLook) -> GraphDrawing | None:
    """The picture; None for a graph that is too large for one."""
    if graph.nodes_in_all > MOST_DRAWN or len(graph.inputs) + len(graph.outputs) > MOST_DRAWN:
        return None
    boxes = [
        *(_Box("input", one.name, f"{one.name}: {one.type}", (), (one.name,), True) for one in graph.inputs),
        *(
            _Box(n.op, n.name, f"{n.op} {n.name}: {', '.join(n.inputs)} → {', '.join(n.outputs)}", n.inputs, n.outputs)
            for n in graph.nodes
        ),
    ]
    makers = {name: at for at, box in enumerate(boxes) for name in box.makes}
    boxes += [_Box("output", one.name, f"{one.name}: {one.type}", (one.name,), (), True) for one in graph.outputs]
    above = [sorted({makers[name] for name in box.reads if makers.get(name, at) != at}) for at, box in enumerate(boxes)]
    layers = _layers(above)
    places = _places(layers, above)
    wide = max(len(layer) for layer in layers)
    width = 2 * MARGIN + wide * (WIDTH + GAP_X) - GAP_X
    drawn = tuple(_part(box, *places[at]) for at, box in enumerate(boxes))
    paths = tuple(_path(places[origin], places[at]) for at, origins in enumerate(above) for origin in origins)
    return GraphDrawing(width, 2 * MARGIN + len(layers) * (HEIGHT + GAP_Y) - GAP_Y, drawn, paths)


def _layers(above: list[list[int]]) -> list[list[int]]:
    """Boxes by the longest way down to them. What reads from below itself, which ONNX does not allow, stands as if it did not."""
    depths: list[int] = []
    for at, origins in enumerate(above):
        depths.append(max((depths[origin] + 1 for origin in origins if origin < at), default=0))
    layers: list[list[int]] = [[] for _ in range(max(depths) + 1)]
    for at, depth in enumerate(depths):
        layers[depth].append(at)
    return layers


def _places(layers: list[list[int]], above: list[list[int]]) -> dict[int, tuple[int, int]]:
    wide = max(len(layer) for layer in layers)
    places: dict[int, tuple[int, int]] = {}
    for depth, layer in enumerate(layers):

        def middle(at: int) -> float:
            known = [places[origin][0] for origin in above[at] if origin in places]
            return sum(known) / len(known) if known else 0.0

        left = MARGIN + (wide - len(layer)) * (WIDTH + GAP_X) // 2
        for place, at in enumerate(sorted(layer, key=middle)):
            places[at] = (left + place * (WIDTH + GAP_X), MARGIN + depth * (HEIGHT + GAP_Y))
    return places


def _part(box: _Box, x: int, y: int) -> Part:
    head, under = (box.what, box.name) if not box.here else (box.name, box.what)
    return Part(x, y, _cut(under), _cut(head), box.title, box.here)


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _path(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH // 2, start[1] + HEIGHT, end[0] + WIDTH // 2, end[1]
    bend = max((y2 - y1) // 2, 12)
    return f"M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"
