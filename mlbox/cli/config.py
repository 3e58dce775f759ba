"""`mlbox config`: what the server would run with, and why."""

from __future__ import annotations

import typer

from mlbox.cli.output import Output, OutputOption, show
from mlbox.cli.serve import with_settings
from mlbox.settings import Origin, Settings, describe, env_name, flag_name, text_of

app = typer.Typer()

COLUMNS = ("name", "value", "origin", "variable")


@app.command(epilog="Example: MLBOX_PORT=9000 mlbox config --config mlbox.toml -o json")
@with_settings
def config(settings: Settings, origins: list[Origin], output: OutputOption = Output.table) -> None:
    """Print each setting with its value and where it came from."""
    show([_row(origin, as_text=output is Output.table) for origin in origins], COLUMNS, output)


def _row(origin: Origin, *, as_text: bool) -> dict[str, object]:
    return {
        "name": origin.name,
        "value": text_of(origin.value) if as_text else origin.value,
        "origin": origin.origin,
        "flag": flag_name(origin.name),
        "variable": env_name(origin.name),
        "help": describe(origin.name),
    }
