"""`mlbox feature`: views and services, their definitions from a file, and what is known of an entity now."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, read_pairs, show, show_one
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import FeatureService, FeatureView, OnlineRow, Record, Source, Transform, ViewSpec

if TYPE_CHECKING:
    from mlbox.client import Client

app = typer.Typer(no_args_is_help=True, help="Feature views and services, and what is known of an entity.")

VIEW_COLUMNS = ("ref", "join_keys", "features", "sources", "ttl_seconds", "owner", "description")
SERVICE_COLUMNS = ("ref", "features", "created_by", "created_at")
_READERS: dict[str, Callable[[str], Any]] = {"BOOL": msgspec.json.decode, "INT64": int, "FP64": float}


class NewSource(Record, frozen=True, kw_only=True):
    """A source in a definition file."""

    name: str
    columns: tuple[dict[str, str], ...]
    event_time: str
    arrival_time: str | None = None


class NewService(Record, frozen=True, kw_only=True):
    """A service in a definition file."""

    name: str
    features: tuple[str, ...]


class Definitions(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A definition file."""

    sources: tuple[NewSource, ...] = ()
    views: tuple[ViewSpec, ...] = ()
    services: tuple[NewService, ...] = ()


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


@app.command(epilog="Example: mlbox feature apply features.toml")
def apply(
    file: Annotated[Path, typer.Argument(help="TOML or JSON with lists `sources`, `views` and `services`.")],
    output: OutputOption = Output.table,
) -> None:
    """Bring the box to what a file defines: what is new is made, what changed is a new version, the rest stays."""
    wanted = _read_definitions(file)
    applied: list[dict[str, str]] = []
    with connect() as client:
        for source in wanted.sources:
            applied.append({"kind": "source", "ref": client.post("/api/v1/sources", Source, source).name})
        for view in wanted.views:
            applied.append({"kind": "view", "ref": client.post("/api/v1/features/views", FeatureView, view).ref})
        for service in wanted.services:
            made = client.post("/api/v1/features/services", FeatureService, service)
            applied.append({"kind": "service", "ref": made.ref})
    show(applied, ("kind", "ref"), output)


@app.command(epilog="Example: mlbox feature materialize weather")
def materialize(view: Annotated[str | None, typer.Argument(help="One view; by default all.")] = None) -> None:
    """Bring the online store up to domain time."""
    with connect(timeout_seconds=600) as client:
        answer = client.post("/api/v1/features/materialize", dict[str, int], {"view": view})
    note(f"{answer['rows']:,} online rows changed.")


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
        entity = {name: _typed(name, text, types.get(name, "STRING")) for name, text in given.items()}
        body = {"features": features, "entities": [entity]}
        (row,) = client.post("/api/v1/features/online", list[OnlineRow], body)
    found = [{"feature": ref, "value": row.values[ref], "status": status} for ref, status in row.statuses.items()]
    show(found, ("feature", "value", "status"), output)


def _read_definitions(file: Path) -> Definitions:
    try:
        text = file.read_text()
        raw: Any = msgspec.json.decode(text) if file.suffix == ".json" else tomllib.loads(text)
        return msgspec.convert(raw, Definitions)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.MsgspecError) as err:
        raise InvalidInput(
            f"{file} holds no definitions: {err}.", hint="It has lists `sources`, `views` and `services`.", field="file"
        ) from err


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
        except NotFound:
            transform = client.get(f"/api/v1/features/transforms/{ref}", Transform)
            types |= {one.name: one.dtype for one in transform.inputs if one.dtype and not one.feature}
            waiting |= {one.feature.partition(":")[0] for one in transform.inputs if one.feature}
        else:
            types |= {key.name: key.dtype for key in view.join_keys}
    return types


def _typed(name: str, text: str, dtype: str) -> Any:
    try:
        return _READERS.get(dtype, str)(text)
    except (ValueError, msgspec.DecodeError) as err:
        raise InvalidInput(f"{name}={text} is no {dtype}.", hint="Give a value of that type.", field="key") from err
