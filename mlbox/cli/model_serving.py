"""`mlbox model serving`: how a model's requests are joined, queued, limited and remembered."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show_one
from mlbox.errors import InvalidInput
from mlbox.records import ServingConfig


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox model`."""
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


def _change(text: str) -> tuple[str, Any]:
    name, given, value = text.partition("=")
    if not given or not name:
        raise InvalidInput(f"{text!r} is not NAME=VALUE.", hint="For example max_batch=32.", field="set")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
