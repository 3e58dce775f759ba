"""`mlbox monitor`: drift, skew and live performance of what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.errors import InvalidInput
from mlbox.records import (
    BusinessSeries,
    ConceptResult,
    DomainResult,
    DriftResult,
    DriftSummary,
    EstimatedPerformance,
    LivePerformance,
    ModelHealth,
    PostedNumbers,
    ServedSpan,
    SkewResult,
)

app = typer.Typer(no_args_is_help=True, help="What is served: drift, skew, and performance as labels arrive.")
COLUMNS = (
    *("feature", "statistic", "verdict", "reference_rows", "current_rows"),
    *("current_missing", "missing_risen", "p_adjusted", "reference"),
)
SUMMARY_COLUMNS = (
    *("model", "version", "checked_at", "features", "drifting"),
    *("missing_risen", "worst_feature", "worst_statistic"),
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Model = Annotated[str, typer.Argument(help="The model's name.")]


@app.command("ls", epilog="Example: mlbox monitor ls")
def ls(limit: Annotated[int, typer.Option(help="At most so many.")] = 100, output: OutputOption = Output.table) -> None:
    """List the models in Production with their last check."""
    with connect() as client:
        show(client.get("/api/v1/monitoring", list[DriftSummary], limit=limit), SUMMARY_COLUMNS, output)


@app.command(epilog="Example: mlbox monitor check flight-delay")
def check(model: Model, output: OutputOption = Output.table) -> None:
    """Compare what is served with what the model in Production learned from."""
    with connect() as client:
        _show(client.post(f"/api/v1/monitoring/{model}/check", list[DriftResult]), output)


@app.command(epilog="Example: mlbox monitor drift flight-delay --window 7d")
def drift(
    model: Model,
    window: Annotated[str, typer.Option(help="How long before now, such as 24h or 7d.")] = "7d",
    until: Annotated[str | None, typer.Option(help="Before this moment of domain time, instead of now.")] = None,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    segment: Annotated[
        str | None, typer.Option(help="A feature: each frequent value, or tenth, by itself, on both sides.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Exact p-values, of the last 10,000 rows.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Compare what was served over a time with what the model learned from; nothing is kept, and no alert fires."""
    query = {"window_seconds": _seconds(window, "window"), "until": until, "feature": feature, "segment": segment}
    with connect(timeout_seconds=600) as client:
        found = client.get(
            f"/api/v1/monitoring/{model}/drift", list[DriftResult], **query, exact="true" if exact else None
        )
    columns = ("feature", "statistic", "verdict", "p_value", "p_adjusted", "reference_rows", "current_rows")
    show(found, (*(("segment",) if segment else ()), *columns), output)


@app.command(epilog="Example: mlbox monitor served flight-delay --window 30d --every 1d")
def served(
    model: Model,
    window: Annotated[str, typer.Option(help="How long before now, such as 24h or 7d.")] = "30d",
    every: Annotated[str, typer.Option(help="Each span by itself, such as 1d.")] = "1d",
    output: OutputOption = Output.table,
) -> None:
    """Show what was served over a time, by version, role and span."""
    query = {"window_seconds": _seconds(window, "window"), "every_seconds": _seconds(every)}
    with connect(timeout_seconds=600) as client:
        found = client.get(f"/api/v1/monitoring/{model}/served", list[ServedSpan], **query)
    show(found, ("start", "version", "role", "predictions", "mean_score", "mean_latency_ms", "max_latency_ms"), output)


@app.command(epilog="Example: mlbox monitor domain flight-delay --window 7d")
def domain(
    model: Model,
    window: Annotated[str, typer.Option(help="How long before now, such as 24h or 7d.")] = "7d",
    output: OutputOption = Output.table,
) -> None:
    """Have a classifier tell what was served from what was learned from, by all features together."""
    with connect(timeout_seconds=600) as client:
        found = client.get(
            f"/api/v1/monitoring/{model}/domain", DomainResult, window_seconds=_seconds(window, "window")
        )
    if output is not Output.table:
        show([found], (), output)
        return
    show(found.features, ("feature", "importance"), output)
    note(
        f"AUC {found.auc:.3f} ({found.low:.3f} to {found.high:.3f}) over {found.rows:,} rows of either side: {found.verdict}."
    )


@app.command(epilog="Example: mlbox monitor report flight-delay --window 7d --to delay.html")
def report(
    model: Model,
    window: Annotated[str, typer.Option(help="How long before now, such as 24h or 7d.")] = "7d",
    to: Annotated[
        Path | None, typer.Option(help="The file to write; by default MODEL.html, or stdout for JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Write all that is known of a model over a time into one HTML file that needs no other, or JSON."""
    path = f"/api/v1/monitoring/{model}/report"
    query = {"window_seconds": _seconds(window, "window"), "format": "json" if as_json else "html"}
    with connect(timeout_seconds=600) as client:
        content = b"".join(client.stream(path, **query))
    if as_json and to is None:
        print(content.decode())
        return
    target = to or Path(f"{model}.html")
    target.write_bytes(content)
    note(f"Wrote {target}, {len(content):,} bytes.")


@app.command("show", epilog="Example: mlbox monitor show flight-delay")
def show_latest(model: Model, output: OutputOption = Output.table) -> None:
    """Show the last check."""
    with connect() as client:
        _show(client.get(f"/api/v1/monitoring/{model}", list[DriftResult]), output)


@app.command(epilog="Example: mlbox monitor estimate flight-delay")
def estimate(model: Model, output: OutputOption = Output.table) -> None:
    """Show how well a classifier does by its own scores, before the labels are there."""
    with connect() as client:
        found = client.get(f"/api/v1/monitoring/{model}/estimate", EstimatedPerformance)
    if output is not Output.table:
        show([found], (), output)
        return
    rows = [
        {"metric": name, **msgspec.structs.asdict(metric), "training": found.training.get(name)}
        for name, metric in found.metrics.items()
    ]
    show(rows, ("metric", "value", "low", "high", "training"), output)
    note(
        f"Over the last {found.predictions:,} predictions of {model}/{found.version}, if its scores are probabilities."
    )


@app.command(epilog="Example: mlbox monitor health flight-delay")
def health(
    model: Annotated[str | None, typer.Argument(help="The model's name; without it, all, the worst first.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show all that is watched of a model, or how every model does."""
    with connect(timeout_seconds=600) as client:
        if model is not None:
            found = client.get(f"/api/v1/monitoring/{model}/health", ModelHealth)
            show(found.areas if output is Output.table else [found], ("name", "state", "words"), output)
            return
        fleet = client.get("/api/v1/health", list[ModelHealth])
    rows = [{**msgspec.structs.asdict(one), **{area.name: area.state for area in one.areas}} for one in fleet]
    columns = ("model", "version", "state", *(area.name for area in fleet[0].areas)) if fleet else ("model",)
    show(rows if output is Output.table else fleet, (*columns, "firing"), output)


@app.command(
    epilog="Example: mlbox monitor post flight-delay minutes-saved 12.5 --prediction 0197f2a0c0de7000a000000000000001"
)
def post(
    model: Model,
    name: Annotated[str, typer.Argument(help="Which number it is, such as revenue.")],
    value: Annotated[float, typer.Argument(help="The number.")],
    prediction: Annotated[str | None, typer.Option(help="The id of the prediction that it came of.")] = None,
    at: Annotated[str | None, typer.Option(help="Instead: the time that it is about; by default now.")] = None,
    version: Annotated[int | None, typer.Option(help="Of a time: by default the version in Production then.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Say what came of a prediction, or of a time, in a number."""
    number = {"name": name, "value": value, "prediction_id": prediction, "at": at, "version": version}
    with connect() as client:
        posted = client.post("/api/v1/outcomes", PostedNumbers, {"model": model, "outcomes": [number]})
    show_one(posted, output)


@app.command(epilog="Example: mlbox monitor business flight-delay --every 7d")
def business(
    model: Model,
    name: Annotated[str | None, typer.Option(help="Only this number.")] = None,
    since: Annotated[str | None, typer.Option(help="From this moment of domain time on.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this moment.")] = None,
    every: Annotated[str | None, typer.Option(help="Spans of the series, such as 7d; they are in -o json.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what came of predictions, compared by version."""
    query = {"name": name, "since": since, "until": until, "every_seconds": _seconds(every) if every else None}
    with connect() as client:
        found = client.get(f"/api/v1/monitoring/{model}/business", list[BusinessSeries], **query)
    show(found, ("name", "version", "mean", "low", "high", "total", "count", "last"), output)


@app.command(epilog="Example: mlbox monitor concept flight-delay")
def concept(model: Model, output: OutputOption = Output.table) -> None:
    """Show whether a model errs otherwise on its newest labelled predictions, and whether its inputs explain it."""
    with connect(timeout_seconds=600) as client:
        found = client.get(f"/api/v1/monitoring/{model}/concept", ConceptResult)
    show([found], ("verdict", "now_error", "now_rows", "before_error", "before_rows", "z", "inputs"), output)


@app.command(epilog="Example: mlbox monitor skew flight-delay --check")
def skew(
    model: Model,
    check: Annotated[bool, typer.Option("--check", help="Measure now, instead of showing the last time.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show which share of what was served is what the history says of the same moments."""
    path = f"/api/v1/monitoring/{model}/skew"
    with connect() as client:
        found = client.post(path, list[SkewResult]) if check else client.get(path, list[SkewResult])
    show(found, ("feature", "share", "verdict", "equal", "rows", "served", "recomputed", "entity"), output)


@app.command(epilog="Example: mlbox monitor performance flight-delay --since 2026-01-01T00:00Z --every 7d")
def performance(
    model: Model,
    labels: Annotated[str | None, typer.Option(help="The label set; by default that of the data learned from.")] = None,
    since: Annotated[str | None, typer.Option(help="Predictions from this moment of domain time on.")] = None,
    until: Annotated[str | None, typer.Option(help="Predictions before this moment.")] = None,
    every: Annotated[str | None, typer.Option(help="Each span by itself, such as 7d or 6h.")] = None,
    segment: Annotated[
        str | None,
        typer.Option(help="A feature or a key: each of its 20 most frequent values, or each tenth, by itself."),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show how each version does by the labels that are known so far, with coverage and maturity beside it."""
    query = {"labels": labels, "since": since, "until": until, "every_seconds": _seconds(every) if every else None}
    query["segment"] = segment
    with connect(timeout_seconds=600) as client:
        found = client.get(f"/api/v1/monitoring/{model}/performance", list[LivePerformance], **query)
    if output is not Output.table:
        show(found, (), output)
        return
    spans = (*(("start",) if every else ()), *(("segment",) if segment else ()))
    names = dict.fromkeys(name for one in found for name in one.metrics)
    rows = [{**msgspec.structs.asdict(one), **one.metrics, "maturity": _matured(one)} for one in found]
    show(rows, (*spans, "version", "role", "predictions", "labelled", "coverage", *names, "maturity"), output)
    if found:
        note("maturity: the share of predictions that had their label within so long, of those that are as old.")


def _matured(found: LivePerformance) -> str:
    parts = [(lag.lag_seconds, lag.share) for lag in found.maturity if lag.share is not None]
    return ", ".join(f"{_lag(seconds)} {share:.0%}" for seconds, share in parts)


def _lag(seconds: float) -> str:
    return f"{seconds / 86_400:g}d" if seconds >= 86_400 else f"{seconds / 3600:g}h"


def _seconds(text: str, field: str = "every") -> int:
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isascii() or not number.isdigit() or not int(number):
        raise InvalidInput(f"{text!r} is no span.", hint="A number and s, m, h or d, such as 7d.", field=field)
    return int(number) * UNITS[unit]


def _show(found: list[DriftResult], output: Output) -> None:
    worst_first = sorted(found, key=lambda result: -(result.statistic or 0))
    show(worst_first, COLUMNS, output)
