"""The `mlbox` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mlbox.errors import MlboxError

app = typer.Typer(
    name="mlbox",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A whole ML platform for one GPU box.",
)


@app.callback()
def root() -> None:
    """A whole ML platform for one GPU box."""


@app.command(epilog="Example: mlbox serve --data-dir /srv/mlbox --port 8265")
def serve(
    data_dir: Annotated[str | None, typer.Option(help="Folder that holds everything the server keeps.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port to listen on; 0 picks a free one.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="Host name that requests may come in under.")] = None,
    replay_clock: Annotated[str | None, typer.Option(help="Start of domain time, for a new data directory.")] = None,
    config: Annotated[str | None, typer.Option(help="TOML file with settings.")] = None,
) -> None:
    """Run the server."""
    from pathlib import Path

    from mlbox import settings as settings_module

    flags = {
        "data_dir": data_dir,
        "host": host,
        "port": port,
        "allowed_host": allowed_host or None,
        "replay_clock": replay_clock,
    }
    settings, _ = settings_module.load(flags, file=Path(config) if config else None)
    from mlbox.web.server import serve as run_server

    run_server(settings)


def main() -> None:
    """Run the command; every error of ours ends in one line and its exit code."""
    try:
        app()
    except MlboxError as err:
        print(f"mlbox: {err}", file=sys.stderr)
        sys.exit(err.exit_code)
