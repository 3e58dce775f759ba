"""`mlbox predictions`: the prediction log taken out, held, erased, and for how long it is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.cli.quantities import moment
from mlbox.errors import InvalidInput
from mlbox.records import PredictionHold, PredictionKeeping, PredictionRemoval

app = typer.Typer(no_args_is_help=True, help="The prediction log: export, hold, erase, keep.")
HOLDS = ("id", "active", "model", "entity", "since", "until", "reason", "author", "expires_at", "released_by")
REMOVALS = ("id", "kind", "model", "state", "predictions", "outcomes", "key", "reason", "actor", "done_at")
Model = Annotated[str, typer.Argument(help="The model's name.")]
Of = Annotated[str | None, typer.Option("--model", help="Of this model; of every one where it is left out.")]
Entity = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE that a prediction's entity must have; may be repeated.")
]
Since = Annotated[str | None, typer.Option(help="Predictions from this moment of domain time on.")]
Until = Annotated[str | None, typer.Option(help="Predictions before this moment.")]
Reason = Annotated[str, typer.Option(help="Why, for whoever asks later.")]


@app.command(epilog="Example: mlbox predictions export flight-delay --since 2026-01-01T00:00Z --to january.parquet")
def export(
    model: Model,
    to: Annotated[Path | None, typer.Option(help="The file to write; by default stdout.")] = None,
    form: Annotated[str, typer.Option("--format", help="parquet, csv or jsonl.")] = "parquet",
    since: Since = None,
    until: Until = None,
    version: Annotated[int | None, typer.Option(help="Only of this version.")] = None,
    role: Annotated[str | None, typer.Option(help="Only of this role: champion, canary, control or shadow.")] = None,
    entity: Entity = None,
) -> None:
    """Write a model's predictions, with features, entities and scores, as Parquet, CSV or JSON lines."""
    path = f"/api/v1/predictions/{quote(model, safe='')}/export"
    query = {"format": form, "since": since, "until": until, "version": version, "role": role, "entity": entity}
    with connect(timeout_seconds=3600) as client:
        pieces = client.stream(path, **query)
        if to is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        part = to.with_name(f"{to.name}.part")
        try:
            with part.open("wb") as file:
                size = sum(file.write(piece) for piece in pieces)
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
    note(f"Wrote {to}, {size:,} bytes.")


@app.command(epilog='Example: mlbox predictions rm customer=17 --reason "request 4711"')
def rm(
    keys: Annotated[list[str], typer.Argument(metavar="KEY=VALUE", help="Whose predictions.")],
    reason: Reason,
    model: Of = None,
    output: OutputOption = Output.table,
) -> None:
    """Remove for good every prediction about an entity; refused where one of them is under a hold."""
    body = {"entity": _keys(keys), "reason": reason, "model": model}
    with connect(timeout_seconds=3600) as client:
        show_one(client.post("/api/v1/predictions/erase", PredictionRemoval, body), output)


@app.command(epilog='Example: mlbox predictions hold --model flight-delay --reason "case 12/2026"')
def hold(
    reason: Reason,
    model: Of = None,
    entity: Entity = None,
    since: Since = None,
    until: Until = None,
    expires: Annotated[
        str | None, typer.Option(help="When the hold ends by itself, in real time; else it is released.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Hold predictions that are all of what is named: neither their age nor `rm` removes them."""
    body = {
        "model": model,
        "entity": _keys(entity or []),
        "since": since,
        "until": until,
        "reason": reason,
        "expires_at": moment(expires, field="expires").isoformat() if expires else None,
    }
    with connect() as client:
        show_one(client.post("/api/v1/predictions/holds", PredictionHold, body), output)


@app.command(epilog="Example: mlbox predictions holds")
def holds(
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30, output: OutputOption = Output.table
) -> None:
    """List holds, newest first, those that are over too."""
    with connect() as client:
        show(client.get("/api/v1/predictions/holds", list[PredictionHold], limit=limit), HOLDS, output)


@app.command(epilog="Example: mlbox predictions release 0197f2a0c0de7000a000000000000001")
def release(hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="Its id.")]) -> None:
    """End a hold now."""
    with connect() as client:
        client.delete(f"/api/v1/predictions/holds/{quote(hold_id, safe='')}")
    note(f"Released {hold_id}.")


@app.command(epilog="Example: mlbox predictions removed")
def removed(
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30, output: OutputOption = Output.table
) -> None:
    """List what was removed of the log, by age or for an entity, newest first."""
    with connect() as client:
        show(client.get("/api/v1/predictions/removals", list[PredictionRemoval], limit=limit), REMOVALS, output)


@app.command(epilog="Example: mlbox predictions keep flight-delay --days 730")
def keep(
    model: Model,
    days: Annotated[float | None, typer.Option(help="Keep its predictions for so many days.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Keep them as the server's prediction_days says.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show how long a model's predictions are kept, or say it."""
    path = f"/api/v1/predictions/{quote(model, safe='')}/retention"
    with connect() as client:
        if days is None and not default:
            show_one(client.get(path, PredictionKeeping), output)
        else:
            show_one(client.put(path, PredictionKeeping, {"days": None if default else days}), output)


@app.command(epilog="Example: mlbox predictions sample flight-delay --share 0.1 --role canary=1")
def sample(
    model: Model,
    share: Annotated[
        float, typer.Option(help="Keep the predictions of this share of the requests, from 0 to 1.")
    ] = 1.0,
    role: Annotated[
        list[str] | None, typer.Option(help="ROLE=SHARE of a role with another share; may be repeated.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Say which of a model's predictions the log keeps from now on: all of them without an option."""
    path = f"/api/v1/predictions/{quote(model, safe='')}/sampling"
    with connect() as client:
        show_one(client.put(path, PredictionKeeping, {"share": share, "roles": _shares(role or [])}), output)


def _shares(given: list[str]) -> dict[str, float]:
    try:
        return {name: float(share) for name, share in (part.split("=", 1) for part in given)}
    except ValueError as err:
        raise InvalidInput("A role's share is written ROLE=SHARE.", hint="Such as shadow=1.", field="role") from err


def _keys(given: list[str]) -> dict[str, str]:
    keys = dict(part.split("=", 1) for part in given if "=" in part)
    if len(keys) != len(given):
        raise InvalidInput("A key is written KEY=VALUE.", hint="Such as customer=17.", field="entity")
    return keys
