"""Drift and alerts over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, get_args
from urllib.parse import quote

from litestar import Response, get, post
from litestar.params import Parameter, QueryParameter

from mlbox.clock import parse_time
from mlbox.errors import InvalidInput
from mlbox.records import (
    Alert,
    AlertGroup,
    AlertState,
    ConceptResult,
    DomainResult,
    DriftResult,
    DriftSummary,
    EstimatedPerformance,
    ModelHealth,
    Principal,
    ServedSpan,
)
from mlbox.serve.alerts.alert_groups import grouped
from mlbox.serve.predictions.served_spans import served_spans
from mlbox.web.box import Box
from mlbox.web.pages.report import report_page
from mlbox.web.pages.view import render

Limit = Annotated[int, Parameter(ge=1, le=1000)]


@get("/api/v1/monitoring", action="monitor.read")
async def summaries(box: Box, limit: Limit = 100, after: str | None = None) -> list[DriftSummary]:
    """The last check of each model in Production, by model name."""
    return await box.call(box.monitor.summaries, limit=limit, after=after)


@post("/api/v1/monitoring/{model:str}/check", status_code=200, action="monitor.check")
async def check(box: Box, principal: Principal, model: str) -> list[DriftResult]:
    """Compare what is served with what the model in Production learned from, now."""
    return await box.call(box.monitor.check, model)


@get("/api/v1/monitoring/{model:str}", action="monitor.read")
async def latest(box: Box, model: str) -> list[DriftResult]:
    """The results of the last check, by feature."""
    await box.call(box.registry.model, model)
    return await box.call(box.monitor.latest, model)


@get("/api/v1/monitoring/{model:str}/features/{feature:path}", action="monitor.read")
async def history(box: Box, model: str, feature: str, limit: Limit = 1000) -> list[DriftResult]:
    """One feature's results, oldest first."""
    await box.call(box.registry.model, model)
    return await box.call(box.monitor.history, model, feature.removeprefix("/"), limit)


@get("/api/v1/monitoring/{model:str}/estimate", action="monitor.read")
async def estimate(box: Box, model: str) -> EstimatedPerformance:
    """How well a classifier in Production does, by its own scores, before the labels are there."""
    return await box.call(box.monitor.estimate, model)


Window = Annotated[int, Parameter(ge=1, le=10**9)]


@get("/api/v1/monitoring/{model:str}/drift", action="monitor.read")
async def drift(
    box: Box,
    model: str,
    window_seconds: Window,
    until: str | None = None,
    feature: str | None = None,
    segment: str | None = None,
    exact: bool = False,
) -> list[DriftResult]:
    """Compare what was served over a time, by default up to now; nothing is kept, and no alert fires.

    `segment` names a feature: each of its 20 most frequent values, or each tenth of its numbers, is compared by itself, with the
    same rows of training. With `exact` p-values are exact, of the last 10,000 rows.
    """
    return await box.call(
        box.spans.drift,
        model,
        hold=timedelta(seconds=window_seconds),
        until=parse_time(until, field="until") if until else None,
        feature=feature,
        segment=segment,
        exact=exact,
    )


@get("/api/v1/monitoring/{model:str}/served", action="monitor.read")
async def served(
    box: Box, model: str, window_seconds: Window = 30 * 86_400, every_seconds: Window = 86_400
) -> list[ServedSpan]:
    """What was served over a time up to now, by version, role and span: how many, their mean score, their latency."""

    def work() -> list[ServedSpan]:
        box.registry.model(model)
        until = box.clock.now() + timedelta(microseconds=1)  # what was asked in this very moment is meant too
        since, every = until - timedelta(seconds=window_seconds), timedelta(seconds=every_seconds)
        return served_spans(box.predictions, model, since=since, until=until, every=every)

    return await box.call(work)


@get("/api/v1/monitoring/{model:str}/domain", action="monitor.read")
async def domain(box: Box, model: str, window_seconds: Window) -> DomainResult:
    """Have a classifier tell what was served over a time from what was learned from, by all features together."""
    return await box.call(box.spans.domain, model, hold=timedelta(seconds=window_seconds))


@get("/api/v1/monitoring/{model:str}/report", action="monitor.read")
async def report(
    box: Box, model: str, window_seconds: Window, format_: Annotated[str, QueryParameter(name="format")] = "json"
) -> Response[bytes]:
    """All that is known of a model over a time up to now: as JSON, or as an HTML page that needs no other file."""
    if format_ not in ("json", "html"):
        raise InvalidInput(f"{format_[:40]!r} is no form of a report.", hint="Use json or html.", field="format")

    def work() -> bytes:
        found = box.reports.of(model, hold=timedelta(seconds=window_seconds))
        return found.to_json() if format_ == "json" else render("report.html", report_page(found))

    kind = "application/json" if format_ == "json" else "text/html"
    headers = {"content-disposition": f'attachment; filename="{quote(model)}.{format_}"'}
    return Response(await box.call(work), media_type=kind, headers=headers)


@get("/api/v1/monitoring/{model:str}/concept", action="monitor.read")
async def concept(box: Box, model: str) -> ConceptResult:
    """Whether the version in Production errs otherwise on its newest labelled predictions, and whether its inputs moved."""
    return await box.call(box.concept.measure, model)


@get("/api/v1/monitoring/{model:str}/health", action="monitor.read")
async def health(box: Box, model: str) -> ModelHealth:
    """All that is watched of a model in Production, each with a state and in words."""
    return await box.call(box.health.of, model)


@get("/api/v1/health", action="monitor.read")
async def fleet(box: Box) -> list[ModelHealth]:
    """The health of every model in Production, the worst first."""
    return await box.call(box.health.fleet)


@get("/api/v1/alerts/groups", action="monitor.read")
async def groups(box: Box) -> list[AlertGroup]:
    """The alerts that fire, a group for each model or view, the worst first."""
    return await box.call(lambda: grouped(box.monitor.alerts(state="firing", limit=1000), box.rules))


@get("/api/v1/alerts", action="monitor.read")
async def alerts(
    box: Box,
    alert_state: Annotated[str | None, QueryParameter(name="state", description="pending, firing or resolved")] = None,
    limit: Limit = 100,
    after: str | None = None,
) -> list[Alert]:
    """Alerts, newest first."""
    return await box.call(box.monitor.alerts, state=_state(alert_state), limit=limit, after=after)


def _state(text: str | None) -> AlertState | None:
    # Litestar keeps the argument name `state` to itself, and its own check would name the argument, not the field.
    found = next((state for state in get_args(AlertState) if state == text), None)
    if text and found is None:
        raise InvalidInput(
            f"{text[:40]!r} is no state of an alert.", hint="Use pending, firing or resolved.", field="state"
        )
    return found


handlers: list[Any] = [
    *(summaries, check, latest, history, estimate, concept, drift, domain, served),
    *(report, health, fleet, groups, alerts),
]
