"""Runs beside each other: what differs, their curves, as lines along axes, as points, and which parameters mattered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import QueryParameter

from mlbox.errors import InvalidInput
from mlbox.records import Metric, Run
from mlbox.serve.sweeps.importance import LEAST_RUNS, SOLID_RUNS, WEAK, importance
from mlbox.web.box import Box
from mlbox.web.pages import scatter
from mlbox.web.pages.form import natural
from mlbox.web.pages.run_charts import SYSTEM, curve_sets, titles
from mlbox.web.pages.run_columns import Column, column, less_is_better
from mlbox.web.pages.view import View

MOST_COMPARED = 200
MOST_AXES = 12
Ids = Annotated[list[str] | None, QueryParameter(name="run")]
Only = Annotated[str, QueryParameter(name="show")]


def compared(box: Box, ids: Sequence[str] | None) -> list[Run]:
    """The runs of an address, which may name several between commas; raises InvalidInput and NotFound."""
    wanted = list(dict.fromkeys(one for text in ids or () for one in text.split(",") if one))
    if not 2 <= len(wanted) <= MOST_COMPARED:
        raise InvalidInput(
            f"{len(wanted)} runs were chosen.", hint=f"Choose 2 to {MOST_COMPARED} on the page Runs.", field="run"
        )
    return box.tracker.these(wanted)


def _compare(view: View, ids: Sequence[str] | None, everything: bool) -> dict[str, Any]:
    found = compared(view.box, ids)
    together = ",".join(run.id for run in found)
    said = {name: text for name, text in view.query.items() if name not in ("run", "show")}
    here = urlencode({"run": together, **said})
    tables = [
        (name, rows(found, field)) for name, field in (("Metric", "metrics"), ("Parameter", "params"), ("Tag", "tags"))
    ]
    return {
        "runs": found,
        "together": together,
        "titles": titles(found),
        "tables": [
            (name, [(*row, best(*row[:2])) for row in all if everything or row[2]], len(all)) for name, all in tables
        ],
        "everything": everything,
        "other_way": f"/runs/compare?{here}{'' if everything else '&show=all'}",
        "kept": said,
        "sets": curve_sets(view.box, found),
        "parcoords": parcoords(found),
        **_scatter(view, found),
        "code": f"/runs/compare/code?{urlencode({'run': together})}",
        "importance": f"/runs/compare/importance?{urlencode({'run': together, 'metric': said.get('metric', '')})}",
    }


@get("/runs/compare", include_in_schema=False, action="run.read")
async def compare(view: View, run_ids: Ids = None, show: str = "") -> Response[bytes]:
    """Several runs beside each other: what differs, or all."""
    return await view.page("compare.html", lambda: _compare(view, run_ids, show == "all"))


def rows(runs: Sequence[Run], field: str) -> list[tuple[str, list[Any], bool]]:
    """A row for each name: its value in each run, and whether they differ."""
    names = sorted({name for run in runs for name in getattr(run, field)}, key=natural)
    found = [(name, [getattr(run, field).get(name) for run in runs]) for name in names]
    return [(name, values, len({_plain(value) for value in values}) > 1) for name, values in found]


def best(name: str, values: Sequence[Any]) -> float | None:
    """The best of a metric's last values, as its name says what is better; None where there is nothing to choose."""
    known = (metric.value for metric in values if isinstance(metric, Metric))
    found = [value for value in known if value is not None and math.isfinite(value)]
    if len(found) < 2 or len(set(found)) < 2 or name.startswith(SYSTEM):
        return None
    return min(found) if less_is_better(name) else max(found)


def _plain(value: Any) -> str:
    """A value as it is compared: of a metric neither its step nor its time."""
    return str(getattr(value, "value", value))


# -- pictures -----------------------------------------------------------------------------------------------------------


def parcoords(runs: Sequence[Run]) -> dict[str, Any] | None:
    """What `<mlbox-parcoords>` draws: the parameters that differ, then the metrics; None where there are not two axes."""
    params = [
        (name, [_as_number(value) for value in values]) for name, values, differs in rows(runs, "params") if differs
    ]
    metrics: list[tuple[str, list[float | str | None]]] = [
        (name, [None if metric is None else _finite(metric.value) for metric in values])
        for name, values, _ in rows(runs, "metrics")
    ]
    kept = metrics[: max(MOST_AXES // 2, MOST_AXES - len(params))]
    axes = [*params[: MOST_AXES - len(kept)], *kept]
    axes = [(name, values) for name, values in axes if any(value is not None for value in values)]
    if len(axes) < 2:
        return None
    return {
        "label": "Runs by parameters and metrics",
        "axes": [{"name": name, "values": values} for name, values in axes],
        "runs": [{"name": name, "href": f"/runs/{run.id}"} for name, run in zip(titles(runs), runs, strict=True)],
    }


def _as_number(text: str | None) -> float | str | None:
    try:
        return None if text is None else _finite(float(text))
    except ValueError:
        return text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _scatter(view: View, runs: Sequence[Run]) -> dict[str, Any]:
    """The points, and what they may be drawn of."""
    params = [Column("param", name) for name, _, differs in rows(runs, "params") if differs]
    metrics = [Column("metric", name) for name, _, _ in rows(runs, "metrics")]
    offered = [*params, *metrics, *(one._replace(of="best") for one in metrics)]
    if len(offered) < 2:
        return {"scatter": None}
    asked = [view.query.get(name, "") for name in ("x", "y", "colour")]
    x = column(asked[0], "x") if asked[0] else offered[0]
    y = column(asked[1], "y") if asked[1] else (metrics or params)[-1 if not metrics else 0]
    colour = column(asked[2], "colour") if asked[2] else None
    for name, one in (("x", x), ("y", y), ("colour", colour)):
        if one is not None and one.entity == "attribute":
            raise InvalidInput(
                "Points are drawn of parameters, metrics and tags.", hint="Choose one of them.", field=name
            )
    choices = [(one.id, one.label) for one in offered]
    known = {id for id, _ in choices}
    choices += [(one.id, one.label) for one in {x, y, *((colour,) if colour else ())} if one.id not in known]
    return {
        "scatter": scatter.draw(runs, titles(runs), x, y, colour),
        "choices": choices,
        "chosen": (x.id, y.id, colour.id if colour else ""),
        "size": (scatter.WIDTH, scatter.HEIGHT, scatter.LEFT, scatter.RIGHT, scatter.TOP, scatter.BOTTOM),
    }


# -- importance ---------------------------------------------------------------------------------------------------------


def _importance(view: View, ids: Sequence[str] | None, metric: str) -> dict[str, Any]:
    found = compared(view.box, ids)
    metrics = sorted({key for run in found for key in run.metrics if not key.startswith("system/")})
    chosen = metric or next(iter(metrics), "")
    column = Column("metric", chosen, "best") if chosen else None
    values = [(run.params, scatter.value_of(run, column)) for run in found] if column else []
    measured = importance(chosen, [(params, value) for params, value in values if isinstance(value, float)])
    return {
        "found": measured,
        "metrics": metrics,
        "metric": chosen,
        "least": "least" if less_is_better(chosen) else "greatest",
        "together": ",".join(run.id for run in found),
        "runs": found,
        "most": max((one.importance for one in measured.params), default=0.0),
        "least_runs": LEAST_RUNS,
        "solid_runs": SOLID_RUNS,
        "is_weak": measured.explained is not None and measured.explained < WEAK,
    }


@get("/runs/compare/importance", include_in_schema=False, action="run.read")
async def importance_page(view: View, run_ids: Ids = None, metric: str = "") -> Response[bytes]:
    """Which parameters of some runs say most about a metric."""
    return await view.page("importance.html", lambda: _importance(view, run_ids, metric))


handlers: list[Any] = [compare, importance_page]
