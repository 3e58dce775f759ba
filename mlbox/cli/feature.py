"""`mlbox feature`: views and services, their definitions from a file, and what is known of an entity now."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlbox.cli import catalogue, definitions, feast
from mlbox.cli.context import connect
from mlbox.cli.follow import follow
from mlbox.cli.output import Output, OutputOption, note, read_pairs, show, show_one
from mlbox.cli.source import naming, read_input, typed
from mlbox.client import BYTES
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import FILE_FORMATS, FeatureService, FeatureView, Freshness, Job, OnlineRow, Transform

if TYPE_CHECKING:
    from mlbox.client import Client

app = typer.Typer(no_args_is_help=True, help="Feature views and services, and what is known of an entity.")
catalogue.register(app)
definitions.register(app)
feast.register(app)

VIEW_COLUMNS = ("ref", "join_keys", "features", "sources", "ttl_seconds", "owner", "description")
FRESH_COLUMNS = ("view", "schedule", "rows", "entities", "latest_event", "updated_at", "next_at", "stale", "error")
SERVICE_COLUMNS = ("ref", "features", "created_by", "created_at")
ARROW = {
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.stream",
    ".arrows": "application/vnd.apache.arrow.stream",
}


@app.command("ls", epilog="Example: mlbox feature ls --services")
def ls(
    services: Annotated[bool, typer.Option("--services", help="List services instead of views.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """List all versions of all views, by name."""
    with connect() as client:
        if services:
            show(list(client.pages("/api/v1/features/services", FeatureService, key="ref")), SERVICE_COLUMNS, output)
        else:
            show(list(client.pages("/api/v1/features/views", FeatureView, key="ref")), VIEW_COLUMNS, output)


@app.command("show", epilog="Example: mlbox feature show weather@v1")
def show_view(
    ref: Annotated[str, typer.Argument(metavar="VIEW", help="NAME, or NAME@vN for one version.")],
    output: OutputOption = Output.table,
) -> None:
    """Show a view: its features and the SQL that they come from."""
    with connect() as client:
        view = client.get(f"/api/v1/features/views/{ref}", FeatureView)
    show_one(view, output)
    if output is Output.table:
        note("")
        show((*view.join_keys, *view.features), ("name", "dtype", "unit", "description"), output)


@app.command(epilog="Example: mlbox feature materialize weather --start 2026-01-01T00:00Z")
def materialize(
    view: Annotated[str | None, typer.Argument(help="One view; by default all.")] = None,
    start: Annotated[str | None, typer.Option(help="Only events after this time, such as 2026-01-01T00:00Z.")] = None,
    end: Annotated[str | None, typer.Option(help="Only events up to this time.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Write everything again, not only what changed.")] = False,
) -> None:
    """Bring the online store up to domain time."""
    body = {"view": view, "start": start, "end": end, "full": full}
    with connect(timeout_seconds=24 * 3600) as client, _progress():
        answer = client.post("/api/v1/features/materialize", dict[str, int], body)
    rows = answer["rows"]
    note(f"{rows:,} online rows changed." if rows else "All of it was online already: nothing changed.")


@app.command(epilog="Example: mlbox feature run embeddings --wait")
def run(
    view: Annotated[str, typer.Argument(help="A view in free Python: NAME, or NAME@vN for one version.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow its log and end as it ends.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Have a view in free Python computed by a job, which brings it up to date."""
    with connect() as client:
        job = client.post(f"/api/v1/features/views/{view}/run", Job)
    show_one(job, output, columns=("id", "state", "run_id"))
    if wait:
        raise typer.Exit(follow(job.id))


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Say how far the parts are, on a terminal, while the box is at work."""
    done = threading.Event()

    def tell() -> None:
        with connect() as client:
            while not done.wait(1):
                for one in client.get("/api/v1/features/materialize", list[dict[str, Any]]):
                    note(f"{one['view']}: part {one['done'] + 1} of {one['parts']}")

    if not sys.stderr.isatty():
        yield
        return
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


@app.command(epilog="Example: mlbox feature freshness weather")
def freshness(
    view: Annotated[str | None, typer.Argument(help="One view; by default the latest version of each.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show how up to date views are, and which schedules they follow."""
    with connect() as client:
        latest = {one.name: one.ref for one in client.pages("/api/v1/features/views", FeatureView, key="ref")}
        refs = [view] if view else list(latest.values())
        found = [client.get(f"/api/v1/features/views/{ref}/freshness", Freshness) for ref in refs]
    show(found, FRESH_COLUMNS, output)


@app.command(epilog="Example: mlbox feature history weather:temp --rows trips.parquet --to features.parquet")
def history(
    features: Annotated[list[str], typer.Argument(help="VIEW:FEATURE, or a service.")],
    rows: Annotated[Path, typer.Option(help="A file with the join keys and a moment in each row.")],
    to: Annotated[Path, typer.Option(help="Where to write them with the features: a .parquet or .arrow file.")],
    event_time: Annotated[str, typer.Option(help="The column of moments.")] = "event_time",
    latest: Annotated[bool, typer.Option("--latest", help="Count what became known later, too.")] = False,
) -> None:
    """Add features to rows as they were known at each row's time."""
    chosen = FILE_FORMATS.get(rows.suffix.lower())
    answer = ARROW.get(to.suffix.lower())
    if chosen is None or answer is None:
        wrong = rows if chosen is None else to
        raise InvalidInput(f"The name {wrong.name} does not say its format.", hint="End it in .parquet.", field="rows")
    query = {"feature": features, "event_time": event_time, "known": "latest" if latest else "then", "format": chosen}
    headers = {**BYTES, "Accept": answer}
    with connect(timeout_seconds=600) as client, naming(rows):
        found = client.send(
            "POST", "/api/v1/features/historical", content=read_input(rows), headers=headers, query=query
        )
    to.write_bytes(found)
    note(f"{to} has the features of each row.")


@app.command(epilog="Example: mlbox feature get weather:temp weather:humid --key origin=JFK")
def get(
    features: Annotated[list[str], typer.Argument(help="VIEW:FEATURE, or a service.")],
    key: Annotated[list[str], typer.Option("--key", "-k", help="NAME=VALUE, once for each join key.")],
    output: OutputOption = Output.table,
) -> None:
    """Show what is known of one entity now."""
    given = read_pairs(key, name="key")
    with connect() as client:
        types = _key_types(client, features)
        entity = {name: typed(name, text, types.get(name, "STRING")) for name, text in given.items()}
        body = {"features": features, "entities": [entity]}
        (row,) = client.post("/api/v1/features/online", list[OnlineRow], body)
    found = [{"feature": ref, "value": row.values[ref], "status": status} for ref, status in row.statuses.items()]
    show(found, ("feature", "value", "status"), output)


def _key_types(client: Client, features: list[str]) -> dict[str, str]:
    """The types of all join keys of the views that features come from, and of what transforms take with the request."""
    refs = [
        full
        for ref in features
        for full in ([ref] if ":" in ref else client.get(f"/api/v1/features/services/{ref}", FeatureService).features)
    ]
    types: dict[str, str] = {}
    waiting = {ref.partition(":")[0] for ref in refs}
    while waiting:
        ref = waiting.pop()
        try:
            view = client.get(f"/api/v1/features/views/{ref}", FeatureView)
        except NotFound as err:
            try:
                transform = client.get(f"/api/v1/features/transforms/{ref}", Transform)
            except NotFound:
                raise err from None
            types |= {one.name: one.dtype for one in transform.inputs if one.dtype and not one.feature}
            waiting |= {one.feature.partition(":")[0] for one in transform.inputs if one.feature}
        else:
            types |= {key.name: key.dtype for key in view.join_keys}
    return types
