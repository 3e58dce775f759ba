"""`mlbox user`: people and services that may sign in."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.errors import InvalidInput
from mlbox.records import Account, Record, Role, User

app = typer.Typer(no_args_is_help=True, help="People and services that may sign in.")

COLUMNS = ("name", "role", "kind", "disabled_at", "created_at")

Name = Annotated[str, typer.Argument(help="As `mlbox user ls` shows it.")]


class Link(Record, frozen=True, kw_only=True):
    """A one-time login link."""

    url: str


class Ended(Record, frozen=True, kw_only=True):
    """How many sessions ended."""

    sessions: int


@app.command("ls", epilog="Example: mlbox user ls -o id")
def ls(output: OutputOption = Output.table) -> None:
    """List users, by name."""
    with connect() as client:
        show(client.get("/api/v1/users", list[User]), COLUMNS, output)


@app.command(epilog="Example: mlbox user create bea --role approver")
def create(
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_' and '-'.")],
    role: Annotated[Role, typer.Option(help="What they may do; each role may do what those before it may.")] = "member",
    service: Annotated[
        bool, typer.Option("--service", help="A program: it has tokens only, no password and no browser session.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Add a user, as an admin; `mlbox user link` or `mlbox token create` then lets them in."""
    body = {"name": name, "role": role, "kind": "service" if service else "person"}
    with connect() as client:
        show_one(client.post("/api/v1/users", User, body), output, columns=COLUMNS)


@app.command(epilog="Example: mlbox user disable bea")
def disable(name: Name) -> None:
    """Stop an account's tokens, sessions and password at once, as an admin."""
    _set_state(name, "disabled")
    note(f"{name} is disabled: none of its credentials work, nor do those of its jobs.")


@app.command(epilog="Example: mlbox user enable bea")
def enable(name: Name) -> None:
    """Let a disabled account's tokens and password work again, as an admin."""
    _set_state(name, "active")
    note(f"{name} may sign in again.")


@app.command(epilog="Example: mlbox user link bea")
def link(name: Name) -> None:
    """Print a one-time login link for someone, good for 30 minutes, as an admin."""
    with connect() as client:
        typer.echo(client.post(f"{_path(name)}/link", Link).url)


@app.command("sign-out", epilog="Example: mlbox user sign-out bea")
def sign_out(name: Name) -> None:
    """End all browser sessions and login links of yours, or as an admin of anyone."""
    with connect() as client:
        ended = client.post(f"{_path(name)}/sign-out", Ended).sessions
    note(f"{ended} {'session' if ended == 1 else 'sessions'} of {name} ended.")


@app.command(epilog="Example: mlbox user password")
def password(
    name: Annotated[str | None, typer.Argument(help="Whose; yours when not given.")] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take a forgotten password away, with the sessions, as an admin.")
    ] = False,
) -> None:
    """Set a password: yours, or as an admin the first one of someone who has none.

    It is asked for unseen at a terminal; a script writes to stdin, on lines of their own, the present password where there is
    one, and the new one.
    """
    with connect() as client:
        account = client.get("/api/v1/account", Account)
        whose = name or account.name
        if remove:
            client.delete(f"{_path(whose)}/password")
            note(f"{whose} has no password now.")
            return
        present = _read("Present password") if whose == account.name and account.has_password else None
        body = {"old": present, "password": _read("New password", again=True)}
        client.request("PUT", f"{_path(whose)}/password", body=body)
    note(f"The password of {whose} is set. Its other browser sessions have ended.")


def _read(what: str, *, again: bool = False) -> str:
    """A password: typed unseen at a terminal, else the next line of stdin. Never an argument, which `ps` would show."""
    if sys.stdin.isatty():
        typed: str = typer.prompt(what, hide_input=True, err=True, confirmation_prompt=again)
        return typed
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise InvalidInput(f"The line with the {what.lower()} is missing.", hint="Write it to stdin.", field="password")
    return line


def _set_state(name: str, state: str) -> None:
    with connect() as client:
        client.put(f"{_path(name)}/state", User, {"state": state})


def _path(name: str) -> str:
    return f"/api/v1/users/{quote(name, safe='')}"
