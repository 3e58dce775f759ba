"""`mlbox model serving`: how a model's requests are joined, queued, limited and remembered."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.errors import InvalidInput
from mlbox.records import Bench, ServingConfig, VersionQuarantine

Ref = Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="For example fraud@3, or fraud/3.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `mlbox model`."""
    app.command(epilog="Example: mlbox model bench fraud@3 --rows 1 --rows 64 --concurrency 16")(bench)
    app.command("quarantine", epilog="Example: mlbox model quarantine")(quarantined)
    app.command(epilog="Example: mlbox model release fraud@3")(release)
    app.command(epilog="Example: mlbox model serving fraud --set max_batch=32 --set max_delay_us=500")(serving)


def serving(
    model: str,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set one of them; may be given again.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show or set how a model is served: batches, queue, timeout, cache, rate."""
    with connect() as client:
        path = f"/api/v1/models/{model}/serving"
        if not changes:
            show_one(client.get(path, ServingConfig), output)
            return
        body = dict(_change(change) for change in changes)
        show_one(msgspec.json.decode(client.request("PATCH", path, body=body), type=ServingConfig), output)


def quarantined(output: OutputOption = Output.table) -> None:
    """List versions that may not run, because the processes that ran them died."""
    with connect() as client:
        show(client.get("/api/v1/quarantine", list[VersionQuarantine]), ("model", "version", "reason", "at"), output)


def release(ref: Ref) -> None:
    """Let a version run again that is in quarantine."""
    model, _, version = ref.replace("@", "/").rpartition("/")
    with connect() as client:
        client.request("POST", f"/api/v1/models/{model}/versions/{version}/release")
    note(f"{ref} may run again.")


def bench(
    ref: Ref,
    rows: Annotated[list[int] | None, typer.Option(help="Rows of a request; may be given again.")] = None,
    concurrency: Annotated[list[int] | None, typer.Option(help="Requests at a time; may be given again.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Show what was measured last, and measure nothing.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Measure how quick a version is on this box, and keep the figures with it."""
    model, _, version = ref.replace("@", "/").rpartition("/")
    path = f"/api/v1/models/{model}/versions/{version}/bench"
    with connect(timeout_seconds=600) as client:
        if last:
            found = client.get(path, Bench)
        else:
            found = client.post(path, Bench, {"rows": rows or [], "concurrency": concurrency or []})
    if output is not Output.table:
        show_one(found, output)
        return
    note(f"{found.provider} on {found.cpus} CPUs, without the network, {found.at:%Y-%m-%d %H:%M} UTC")
    show(found.figures, ("rows", "concurrency", "p50_ms", "p95_ms", "p99_ms", "rows_per_second", "requests"), output)


def _change(text: str) -> tuple[str, Any]:
    name, given, value = text.partition("=")
    if not given or not name:
        raise InvalidInput(f"{text!r} is not NAME=VALUE.", hint="For example max_batch=32.", field="set")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
