"""Live performance over HTTP: predictions, and the labels that they have met so far."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from litestar import get
from litestar.params import Parameter

from mlbox.clock import parse_time
from mlbox.records import LivePerformance
from mlbox.web.box import Box


@get("/api/v1/monitoring/{model:str}/performance", action="monitor.read")
async def performance(
    box: Box,
    model: str,
    labels: str | None = None,
    since: str | None = None,
    until: str | None = None,
    segment: str | None = None,
    every_seconds: Annotated[int | None, Parameter(ge=1, le=10**9)] = None,
) -> list[LivePerformance]:
    """By version and role: coverage, maturity and metrics of what was predicted, by the labels that are known by now.

    `labels` is by default the label set of the data that the model learned from. With `every_seconds` each span by itself, with
    `segment`, a feature or a key, each of its 20 most frequent values, or each tenth of its numbers.
    """
    return await box.call(
        box.performance.measure,
        model,
        labels=labels,
        since=parse_time(since, field="since") if since else None,
        until=parse_time(until, field="until") if until else None,
        segment=segment,
        every=None if every_seconds is None else timedelta(seconds=every_seconds),
    )


handlers: list[Any] = [performance]
