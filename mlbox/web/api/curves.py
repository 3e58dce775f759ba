"""Curves of metrics of several runs: as much of them as a picture shows, whether there is more by now, and every point as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

from litestar import get
from litestar.params import Parameter, QueryParameter
from litestar.response import Stream

from mlbox.clock import from_us
from mlbox.errors import InvalidInput
from mlbox.records import MAX_STEP, Record, Run
from mlbox.store.tracking import series
from mlbox.store.tracking.runs import ENDED
from mlbox.web.box import Box

MOST_RUNS = 200
POINTS_IN_ALL = 24_000
"""That the lines of one answer share, so that many runs do not weigh more than a few."""
ROWS_AT_ONCE = 10_000
Ids = Annotated[list[str], QueryParameter(name="run")]
Step = Annotated[int | None, Parameter(ge=-MAX_STEP, le=MAX_STEP)]
_FORMULA = re.compile(r"[=+\-@\t\r]")
"""How begins what a spreadsheet takes for a formula (OWASP: CSV injection)."""


class CurveLine(Record, frozen=True, kw_only=True):
    """A metric of one run: steps, finite values, and when each was logged, in milliseconds since 1970."""

    run: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    at: tuple[int, ...]
    whole: bool
    """False when points were left out: then these are the least and the greatest of each bucket of steps."""


class Lines(Record, frozen=True, kw_only=True):
    """A metric of several runs, of those that have it."""

    lines: tuple[CurveLine, ...]


class Growth(Record, frozen=True, kw_only=True):
    """How many points the runs logged of each metric that is a curve, and how many of them may log more."""

    points: dict[str, int]
    live: int


def _runs(box: Box, ids: Sequence[str]) -> list[Run]:
    wanted = list(dict.fromkeys(one for text in ids for one in text.split(",") if one))
    if not 0 < len(wanted) <= MOST_RUNS:
        raise InvalidInput(f"{len(wanted)} runs were named.", hint=f"Name 1 to {MOST_RUNS}.", field="run")
    return box.tracker.these(wanted)


@get("/api/v1/curves", action="run.read")
async def curves(
    box: Box,
    runs: Ids,
    key: str,
    most: Annotated[int, Parameter(ge=2, le=series.MAX_CURVE)] = series.MAX_CURVE,
    first: Step = None,
    last: Step = None,
) -> Lines:
    """A metric of runs, named one by one or between commas, from step `first` to `last`: for a picture, with every extreme."""

    def read() -> Lines:
        found = [run.id for run in _runs(box, runs)]
        each = max(2, min(most, POINTS_IN_ALL // len(found)))
        return Lines(lines=tuple(_lines(box, found, key, each, first, last)))

    return await box.call(read)


def _lines(
    box: Box, run_ids: Sequence[str], key: str, most: int, first: int | None, last: int | None
) -> Iterator[CurveLine]:
    for run_id in run_ids:
        curve, at = box.tracker.timed_curve(run_id, key, most=most, first=first, last=last)
        if curve.points:
            steps, values = zip(*curve.points, strict=True)
            yield CurveLine(run=run_id, steps=steps, values=values, at=at, whole=curve.whole)


@get("/api/v1/curves/state", action="run.read")
async def growth(box: Box, runs: Ids) -> Growth:
    """How far the metrics of some runs have come: what changed since the last time is read again."""

    def read() -> Growth:
        found = _runs(box, runs)
        points = box.tracker.points([run.id for run in found])
        return Growth(points=points, live=sum(run.status not in ENDED for run in found))

    return await box.call(read)


@get("/api/v1/curves/points", action="run.read", media_type="text/csv")
async def curve_points(box: Box, runs: Ids, key: str) -> Stream:
    """Every point of a metric of several runs as CSV: run, name, step, time (UTC), value. It is made while it is sent."""
    found = await box.call(_runs, box, runs)
    parts = _csv(box, found, key)

    async def send() -> AsyncIterator[bytes]:
        while (part := await box.call(next, parts, None)) is not None:
            yield part

    headers = {"Content-Disposition": 'attachment; filename="points.csv"'}
    return Stream(send(), media_type="text/csv; charset=utf-8", headers=headers)


def _csv(box: Box, runs: Sequence[Run], key: str) -> Iterator[bytes]:
    yield _rows([("run", "name", "step", "time", "value")])
    for run in runs:
        name = f"'{run.name}" if _FORMULA.match(run.name) else run.name
        last: series.Point | None = None
        while found := box.tracker.history(run.id, key, limit=ROWS_AT_ONCE, after=last):
            last = found[-1]
            yield _rows([(run.id, name, p.step, from_us(p.at_us).isoformat(), p.value) for p in found])


def _rows(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


handlers: list[Any] = [curves, growth, curve_points]
