"""Live performance over time as a picture: what labels say, what the scores let expect beside it, and how many have a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.records import LivePerformance

ENOUGH = 20
"""Fewest labelled predictions of a span whose metric is drawn."""
VERSIONS = 3
"""Lines that a picture tells apart, each with what is expected beside it."""


class Pictures(NamedTuple):
    """Of one model."""

    metric: str
    lines: dict[str, Any] | None
    """The metric of each version, with what is expected of it in the same colour, dashed; None where no span has a point."""
    coverage: dict[str, Any]
    """The share of each span's predictions that have a label."""


def pictures(found: Sequence[LivePerformance]) -> Pictures | None:
    """Of spans, by version; nothing before two of them. Of a span only the role that most of its predictions were in."""
    spans: dict[int, dict[float, LivePerformance]] = {}
    for one in found:
        if one.role == "shadow" or one.start is None:
            continue
        of_version, at = spans.setdefault(one.version, {}), one.start.timestamp()
        if at not in of_version or one.predictions > of_version[at].predictions:
            of_version[at] = one
    if len({at for of_version in spans.values() for at in of_version}) < 2:
        return None
    metric = next((name for one in found for name in one.metrics), "")
    shown = sorted(sorted(spans, key=lambda version: -len(spans[version]))[:VERSIONS], reverse=True)
    measured = [_line(f"version {v}", spans[v], metric) for v in shown]
    expected = [{**_expected(f"version {v}, expected", spans[v], metric), "like": n} for n, v in enumerate(shown)]
    labelled = [
        {"label": f"version {v}", "points": [(at, one.coverage) for at, one in sorted(spans[v].items())]} for v in shown
    ]
    series = [*measured, *(one for one in expected if one["points"])]
    return Pictures(
        metric,
        {"x": "domain time", "time": True, "series": series} if any(one["points"] for one in series) else None,
        {"x": "domain time", "time": True, "zero": True, "series": labelled},
    )


def _line(label: str, spans: dict[float, LivePerformance], metric: str) -> dict[str, Any]:
    points = [(at, one.metrics.get(metric)) for at, one in sorted(spans.items()) if one.measured >= ENOUGH]
    return {"label": label, "points": [point for point in points if point[1] is not None]}


def _expected(label: str, spans: dict[float, LivePerformance], metric: str) -> dict[str, Any]:
    return {
        "label": label,
        "points": [(at, one.estimated[metric].value) for at, one in sorted(spans.items()) if metric in one.estimated],
    }
