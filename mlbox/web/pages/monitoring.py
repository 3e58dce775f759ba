"""Monitoring: drift of what is served against what was learned from, and alerts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

from litestar import Response, get
from litestar.params import QueryParameter

from mlbox.errors import InvalidInput, NotFound
from mlbox.records import AlertState, BusinessSeries, DriftResult
from mlbox.serve.monitoring.drift import ALERT, INVESTIGATE
from mlbox.serve.monitoring.reference import load_reference
from mlbox.serve.monitoring.why import explain
from mlbox.web.box import Box
from mlbox.web.pages import heatmap
from mlbox.web.pages.models import worst_first
from mlbox.web.pages.overview import firing
from mlbox.web.pages.performance_picture import pictures
from mlbox.web.pages.view import PAGE_SIZE, Place, View, from_place, keyset, next_page, part

State = Annotated[str | None, QueryParameter(name="state")]
"""Litestar keeps the plain name for itself."""
HISTORY = 500
FLEET = 20
"""Models whose health is shown at first."""
BINS = 24
REPORT = 7 * 86400
"""Seconds that a report taken from the page is about."""
VERSIONS = 6
"""Lines that a picture tells apart."""
STATES: tuple[AlertState, ...] = ("pending", "firing", "resolved")


def _list(view: View, state: str | None, after: str | None, place: int) -> dict[str, Any]:
    box = view.box
    fleet = part(box.health.fleet)
    ranked, following = from_place(fleet.value or (), place, FLEET)
    wanted = _state(state)
    found = box.monitor.alerts(state=wanted, limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda alert: alert.id)
    return {
        "fleet": fleet,
        "ranked": ranked,
        "next_of_fleet": next_page(view, following, "fleet"),
        "silenceable": view.may_somewhere("member"),
        "groups": part(lambda: firing(box)),
        "alerts": shown,
        "next": next_page(view, last),
        "state": wanted,
        "thresholds": (float(INVESTIGATE), float(ALERT)),
    }


def _state(text: str | None) -> AlertState | None:
    if not text:
        return None
    for state in STATES:
        if state == text:
            return state
    raise InvalidInput(f"{text[:40]!r} is no state of an alert.", hint="pending, firing or resolved.", field="state")


@get("/monitoring", include_in_schema=False, action="monitor.read")
async def monitoring(view: View, state_: State = None, after: str | None = None, fleet: Place = 0) -> Response[bytes]:
    """Every model that serves, the worst first, and the alerts."""
    return await view.page("monitoring.html", lambda: _list(view, state_, after, fleet))


def _model(view: View, model: str) -> dict[str, Any]:
    box = view.box
    found = box.registry.model(model)
    firing_now = part(
        lambda: next((group for group in firing(box) if (group.kind, group.name) == ("model", model)), None)
    )
    return {
        "model": found.name,
        "health": part(lambda: box.health.of(model)),
        "group": firing_now,
        "drift": part(functools.partial(worst_first, box, model)),
        "heatmap": part(lambda: heatmap.spec(model, box.monitor.checks(model, heatmap.MOST_CHECKS))),
        "why": part(lambda: why(box, model)),
        "performance": {model: part(functools.partial(box.performance.measure, model))},
        "over_time": part(lambda: pictures(box.performance.over_time(model))),
        "estimated": part(functools.partial(box.monitor.estimate, model)),
        "concept": part(functools.partial(box.concept.measure, model)),
        "skew": {model: part(functools.partial(box.skew.latest, model))},
        "business": part(lambda: charts(box.business.series(model))),
        "report_seconds": REPORT,
        "skew_limit": box.settings.skew_limit,
        "thresholds": (float(INVESTIGATE), float(ALERT)),
    }


def why(box: Box, model: str) -> list[str]:
    """Why a model drifts, in sentences; nothing where it does not."""
    version = box.registry.by_stage(model, "Production")
    dataset = None
    if version is not None and version.dataset is not None:
        with contextlib.suppress(NotFound):  # removed since, or private
            dataset = box.datasets.version(version.dataset)
    return explain(box.monitor.latest(model), dataset)


def charts(found: Sequence[BusinessSeries]) -> list[tuple[str, dict[str, Any], list[BusinessSeries]]]:
    """Each business metric's name, its picture with a line for each version, and the versions' figures."""
    by_name: dict[str, list[BusinessSeries]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one)
    return [(name, _lines(some), some) for name, some in by_name.items()]


def _lines(some: Sequence[BusinessSeries]) -> dict[str, Any]:
    lines = [
        {"label": f"version {one.version}", "points": [(point.start.timestamp(), point.mean) for point in one.points]}
        for one in some[:VERSIONS]
    ]
    return {"x": "domain time", "time": True, "series": lines}


@get("/monitoring/{model:str}", include_in_schema=False, action="monitor.read")
async def health(view: View, model: str) -> Response[bytes]:
    """All that is watched of one model."""
    return await view.page("health.html", lambda: _model(view, model))


def histogram(box: Box, model: str, feature: str) -> dict[str, Any] | None:
    """How the feature's values lie in training and in what was served, as shares of equal bins."""
    import numpy as np

    version = box.registry.by_stage(model, "Production")
    if version is None:
        return None
    reference = load_reference(box.artifacts, version).get(feature)
    settings = box.settings
    since = box.clock.now() - timedelta(days=settings.drift_days)
    served = box.predictions.window(model, limit=settings.drift_window, since=since).features.get(feature)
    if reference is None or served is None:
        return None
    sides = {"training": reference[np.isfinite(reference)], "served": served[np.isfinite(served)]}
    if not all(len(values) for values in sides.values()):
        return None
    edges = np.histogram_bin_edges(np.concatenate(list(sides.values())), bins=BINS)
    series = [{"label": name, "points": _shares(values, edges)} for name, values in sides.items()]
    return {"x": feature.partition(":")[2], "kind": "steps", "zero": True, "series": series}


def _shares(values: Any, edges: Any) -> list[tuple[float, float]]:
    """Left edge and share of each bin, with a last point that closes the last step."""
    import numpy as np

    counts = np.histogram(values, bins=edges)[0] / len(values)
    return [*zip(edges[:-1].tolist(), counts.tolist(), strict=True), (float(edges[-1]), float(counts[-1]))]


def _series(history: list[DriftResult]) -> dict[str, Any]:
    points = [(result.at.timestamp(), result.statistic) for result in history if result.statistic is not None]
    guide = [(at, float(ALERT)) for at in sorted({points[0][0], points[-1][0]})] if points else []
    lines = [{"label": "D", "points": points}, {"label": "alert above", "points": guide, "guide": True}]
    return {"x": "domain time", "time": True, "zero": True, "series": lines}


def _feature(view: View, model: str, feature: str) -> dict[str, Any]:
    history = view.box.monitor.history(model, feature, HISTORY)
    if not history:
        view.box.registry.model(model)
        raise NotFound(
            f"{feature[:120]!r} of {model} was never checked.",
            hint="Choose a feature on the page Monitoring.",
            field="feature",
        )
    return {
        "model": model,
        "feature": feature,
        "latest": history[-1],
        "history": history[::-1][:PAGE_SIZE],
        "line": _series(history),
        "distribution": part(lambda: histogram(view.box, model, feature)),
        "thresholds": (float(INVESTIGATE), float(ALERT)),
    }


@get("/monitoring/{model:str}/{feature:str}", include_in_schema=False, action="monitor.read")
async def feature(view: View, model: str, feature: str) -> Response[bytes]:
    """One feature: its statistic over time, and both distributions."""
    return await view.page("drift.html", lambda: _feature(view, model, feature))


handlers: list[Any] = [monitoring, health, feature]
