"""Answers put together: the rows of one request may be answered by several versions, each in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.errors import Unavailable
from mlbox.records import ServeRole
from mlbox.serve.inference.loading import Loaded
from mlbox.serve.inference.rows import Values
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.work import Work
from mlbox.serve.predictions.routing import Route

SCORE = "score"
"""An output that every tabular model has beside its own: a number for each row."""


class Inferred(NamedTuple):
    """What tensors were answered with."""

    outputs: list[Tensor]
    ids: Sequence[str]
    """Of each row's prediction in the log."""
    versions: list[int]
    roles: list[ServeRole]


class Running(NamedTuple):
    """One version's work on some rows of a request, under way or done."""

    loaded: Loaded
    route: Route
    places: Sequence[int]
    work: Work
    named: Sequence[str]
    """The outputs of the answer, in their order."""
    caller: str
    values: Values | None = None
    """The features of each row, where they did not come as tensors."""
    entities: Sequence[dict[str, Any]] = ()
    """What they were looked up by."""
    looking: float = 0.0
    """Seconds that it took to look them up."""
    keys: Sequence[str] = ()
    """Of each row, where these decide which of them the log keeps."""


class Part(NamedTuple):
    """What came of it."""

    running: Running
    outputs: list[Tensor]
    scores: list[float | None]
    ids: Sequence[str]
    """Of the rows' predictions."""
    latency_ms: float


def groups(routes: Sequence[Route]) -> dict[Route, list[int]]:
    """The places of the rows that go along each route."""
    found: dict[Route, list[int]] = {}
    for place, route in enumerate(routes):
        found.setdefault(route, []).append(place)
    return found


def scores_of(parts: Sequence[Part], places: Sequence[int]) -> list[float | None]:
    """The scores of some rows of a request, whoever answered each."""
    found = {place: score for part in parts for place, score in zip(part.running.places, part.scores, strict=True)}
    return [found[place] for place in places]


def taken(tensors: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    """Some rows of tensors."""
    return [tensor._replace(data=tensor.data[list(places)]) for tensor in tensors]


def joined(parts: Sequence[Part], rows: int) -> Inferred:
    """One answer of several, each row in its place."""
    first = parts[0]
    if len(parts) == 1:
        running = first.running
        return Inferred(first.outputs, first.ids, [running.loaded.version.version] * rows, [running.route.role] * rows)
    outputs = [
        _placed([(part.running.places, part.outputs[at]) for part in parts], rows) for at in range(len(first.outputs))
    ]
    ids, versions, roles = [""] * rows, [0] * rows, [first.running.route.role] * rows
    for part in parts:
        running = part.running
        for place, own in zip(running.places, part.ids, strict=True):
            ids[place], versions[place], roles[place] = own, running.loaded.version.version, running.route.role
    return Inferred(outputs, ids, versions, roles)


def _placed(parts: Sequence[tuple[Sequence[int], Tensor]], rows: int) -> Tensor:
    import numpy as np

    tensor = parts[0][1]
    data = np.empty((rows, *tensor.data.shape[1:]), tensor.data.dtype)
    for places, part in parts:
        if part.data.shape[:1] != (len(places),) or part.data.shape[1:] != data.shape[1:] or part.dtype != tensor.dtype:
            raise Unavailable(
                f"The versions that answer give outputs {tensor.name!r} of different types or shapes.",
                hint="Send one key for the whole request.",
            )
        data[list(places)] = part.data
    return tensor._replace(data=data)
