"""MLflow's metrics on the wire: points in and out, and histories in pages."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

from litestar import Request

from mlbox.clock import from_us, to_us
from mlbox.errors import InvalidInput
from mlbox.records import MAX_STEP, Metric, Principal
from mlbox.store.tracking import series
from mlbox.web.box import Box
from mlbox.web.mlflow import scope, wire
from mlbox.web.mlflow.wire import Message, get, paths

MAX_KEY = 250
MOST_POINTS = 25_000
MOST_BULK_RUNS = 100
MOST_BULK = 2500
_NAME = re.compile(r"[/\w.\- :]+")
_ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_EARLIEST, _LATEST = -62_135_596_800_000, 253_402_300_799_999
"""Milliseconds of the years 1 and 9999."""


class Point(Message, frozen=True, kw_only=True):
    """A metric's point in a batch."""

    key: str
    value: float | str
    timestamp: int
    step: int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class History(Message, frozen=True, kw_only=True):
    """A metric of a run, or a page of it."""

    metric_key: str
    run_id: str = ""
    run_uuid: str = ""
    max_results: int | None = None
    page_token: str = ""


class Bulk(Message, frozen=True, kw_only=True):
    """A metric of several runs between two steps, at a number of steps that all share."""

    metric_key: str
    run_ids: tuple[str, ...] = ()
    start_step: int | None = None
    end_step: int | None = None
    max_results: int | None = None


def check_key(key: str, parameter: str) -> str:
    """A name of a metric, a parameter or a tag; raises InvalidInput."""
    parts = key.split("/")
    if not _NAME.fullmatch(key):
        raise wire.invalid(
            parameter,
            key,
            "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:)"
            " and slashes (/).",
        )
    if any(part in ("", ".", "..") for part in parts):
        raise wire.invalid(parameter, key, "Names may be treated as files in certain cases.")
    if len(key) > MAX_KEY:
        raise InvalidInput(
            f"'{parameter}' exceeds the maximum length of {MAX_KEY} characters: {key[:80]!r} has {len(key):,}.",
            field=parameter,
        )
    return key


def moment(value: int, parameter: str) -> datetime:
    """A time of MLflow's, in milliseconds; raises InvalidInput beyond the year 9999."""
    if not _EARLIEST <= value <= _LATEST:
        raise wire.invalid(parameter, value, "It is in milliseconds since 1970, and not after the year 9999.")
    return from_us(value * 1000)


def metric_of(point: Point, place: str = "") -> Metric:
    """A point as the tracker has it; raises InvalidInput that names the parameter."""
    check_key(point.key, f"{place}key" if place else "key")
    if abs(point.step) > MAX_STEP:
        raise wire.invalid(f"{place}step", point.step, "It does not fit 64 bits.")
    return Metric(
        key=point.key,
        value=_number(point.value, f"{place}value"),
        step=point.step,
        at=moment(point.timestamp, f"{place}timestamp"),
    )


def _number(value: float | str, parameter: str) -> float:
    if isinstance(value, str):
        if value not in _ODD:
            raise wire.invalid(parameter, value, "A metric's value is a number.")
        return _ODD[value]
    return float(value)


def message(metric: Metric) -> dict[str, Any]:
    """A point as MLflow writes it; what is no finite number as JSON's protobuf has it."""
    return {
        "key": metric.key,
        "value": shown(metric.value),
        "timestamp": to_us(metric.at) // 1000,
        "step": metric.step,
    }


def shown(value: float | None) -> float | str:
    """A value in JSON."""
    if value is not None and math.isfinite(value):
        return value
    return "NaN" if value is None or math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@get(paths("metrics/get-history"), action="run.read")
async def history(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """A metric's points, by step; all of them unless `max_results` asks for a page."""
    asked = await wire.decode(request, History)
    if asked.max_results is not None or asked.page_token:
        limit: int | None = wire.page_size(asked.max_results, default=MOST_POINTS, most=MOST_POINTS)
    else:
        limit = None
    place = wire.read_token(asked.page_token)

    def work() -> dict[str, Any]:
        run_id = scope.run(box, principal, "run.read", asked.run_id or asked.run_uuid)
        points = box.tracker.history(run_id, asked.metric_key, limit=limit, after=_position(asked, place))
        more = limit is not None and len(points) == limit
        after = [points[-1].step, points[-1].at_us, shown(points[-1].value)] if more else None
        key = asked.metric_key
        found = [
            {"key": key, "value": shown(value), "timestamp": at_us // 1000, "step": step}
            for step, at_us, value in points
        ]
        return {"metrics": found, **wire.next_page(after)}

    return await box.call(work)


def _position(asked: History, place: list[Any] | None) -> series.Point | None:
    if place is None:
        return None
    try:
        step, at_us, value = place
        return series.Point(int(step), to_us(from_us(int(at_us))), float(value))
    except (TypeError, ValueError, OverflowError) as err:
        raise wire.invalid("page_token", asked.page_token, "Send what next_page_token said.") from err


@get(paths("metrics/get-history-bulk-interval"), action="run.read")
async def bulk(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """A metric of several runs, thinned to the same steps in each; the extremes of each run stay."""
    asked = await wire.decode(request, Bulk)
    if not asked.run_ids:
        raise scope.missing("run_ids")
    if len(asked.run_ids) > MOST_BULK_RUNS:
        raise wire.invalid("run_ids", len(asked.run_ids), f"At most {MOST_BULK_RUNS} runs at a time.")
    limit = wire.page_size(asked.max_results, default=320, most=MOST_BULK)
    if asked.start_step is not None and asked.end_step is not None and asked.start_step > asked.end_step:
        raise wire.invalid("end_step", asked.end_step, "end_step must be greater than start_step.")

    def work() -> dict[str, Any]:
        found = []
        for run_id in asked.run_ids:
            scope.run(box, principal, "run.read", run_id)
            points = box.tracker.sampled(
                run_id, asked.metric_key, most=limit, first=asked.start_step, last=asked.end_step
            )
            found += [{**message(point), "run_id": run_id} for point in points]
        return {"metrics": found}

    return await box.call(work)


handlers: list[Any] = [history, bulk]
