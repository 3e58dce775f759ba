"""`mlbox secret`: values that jobs get in their environment, and that nobody reads back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, counted, note, show
from mlbox.errors import InvalidInput
from mlbox.records import Record, Secret

app = typer.Typer(no_args_is_help=True, help="Secrets for jobs: set, list by name, remove.")

COLUMNS = ("name", "team", "set_by", "set_at", "used_at", "usable")
Name = Annotated[str, typer.Argument(help="As for an environment variable: HF_TOKEN.")]
TeamName = Annotated[str, typer.Option(metavar="TEAM", help="Whose it is: its members' jobs may have it.")]


class Rotation(Record, frozen=True, kw_only=True):
    """What a change of the key did."""

    sealed: int
    lost: tuple[str, ...] = ()


@app.command("set", epilog="Example: mlbox secret set HF_TOKEN < token.txt")
def set_(
    name: Name,
    team: TeamName = "everyone",
    from_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the value from a file, as it is.")
    ] = None,
) -> None:
    """Keep a secret: asked for, unseen, or read from stdin; never an argument, which others on this machine could see."""
    value = _read(from_file) if from_file is not None else _ask()
    with connect() as client:
        client.post("/api/v1/secrets", Secret, {"name": name, "team": team, "value": value})
    of_team = "" if team == "everyone" else f"--team {team} "
    note(f"Jobs of {team} may have it: `mlbox submit {of_team}--secret {name} -- COMMAND`.")


@app.command("ls", epilog="Example: mlbox secret ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List the secrets of your teams: names, who set them and when, when a job last had them; never values."""
    with connect() as client:
        show(client.get("/api/v1/secrets", list[Secret]), COLUMNS, output)


@app.command(epilog="Example: mlbox secret rm HF_TOKEN --team vision")
def rm(name: Name, team: TeamName = "everyone") -> None:
    """Forget a secret; jobs that have it keep it until they end."""
    with connect() as client:
        client.delete(f"/api/v1/secrets/{quote(team, safe='')}/{quote(name, safe='')}")
    note(f"The secret {team}/{name} is gone.")


@app.command("rotate-key", epilog="Example: mlbox secret rotate-key")
def rotate_key() -> None:
    """Encrypt all secrets under a new key and forget the old one, as an admin of the box."""
    with connect() as client:
        done = client.post("/api/v1/secrets/rotate-key", Rotation)
    note(f"{counted(done.sealed, 'secret')} encrypted under a new key.")
    if done.lost:
        note(f"The key of these is lost, set them again: {', '.join(done.lost)}.")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as err:
        raise InvalidInput(f"{path} cannot be read: {err.strerror}.", hint="Give another file.") from err
    except UnicodeDecodeError as err:
        raise InvalidInput(f"{path} is not text in UTF-8.", hint="Encode it in base64 first.") from err


def _ask() -> str:
    """The value: typed unseen at a terminal, else all of stdin without its last line break."""
    if sys.stdin.isatty():
        typed: str = typer.prompt("Value", hide_input=True, confirmation_prompt="Once more", err=True)
        return typed
    value = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not value:
        raise InvalidInput("No value was given.", hint="Write it to stdin, or give --from-file.", field="value")
    return value
