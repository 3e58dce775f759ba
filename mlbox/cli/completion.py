"""`mlbox completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mlbox.cli.main import COMPLETE

app = typer.Typer()

Shell = Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]


@app.command(epilog="Example: mlbox completion bash >> ~/.bashrc")
def completion(shell: Shell) -> None:
    """Print a script with which a shell completes commands and options."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # imported there, not re-exported

    print(get_completion_script(prog_name="mlbox", complete_var=COMPLETE, shell=shell))


def answer() -> None:
    """Let typer answer a shell that asks."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # as above

    completion_init()
