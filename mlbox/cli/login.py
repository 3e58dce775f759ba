"""`mlbox login`: which box, and a token for it."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from mlbox import context
from mlbox.cli.output import note
from mlbox.client import Client
from mlbox.errors import InvalidInput
from mlbox.records import NewToken, Principal

app = typer.Typer()

Url = Annotated[str | None, typer.Argument(metavar="URL", help="The box, such as http://box:8265.")]
Token = Annotated[str | None, typer.Option(help="The token; asked for, unseen, when not given.")]
Once = Annotated[
    str | None, typer.Option(metavar="LINK", help="A one-time login link instead of a token; it names the box, too.")
]
User = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Sign in with this user's password, asked for unseen, instead of a token."),
]

Ca = Annotated[
    str | None,
    typer.Option("--ca", metavar="FILE", help="PEM file of the authority that signed the box's certificate."),
]


@app.command(epilog="Example: mlbox login http://box:8265")
def login(url: Url = None, token: Token = None, once: Once = None, user: User = None, ca: Ca = None) -> None:
    """Store a box's address and a token, in a file that only you can read."""
    if ca is not None:
        os.environ[context.CA] = str(Path(ca).absolute())  # for every client that is made below
    if once is not None:
        url, secret = _split_link(once)
        token = _redeem(url, {"once": secret})
    if url is None:
        raise InvalidInput("No box was named.", hint="For example: mlbox login http://127.0.0.1:8265", field="url")
    if user is not None and token is None:
        token = _redeem(url, {"user": user, "password": _ask("Password").rstrip("\r\n")})
    token = (token if token is not None else _ask("Token")).strip()
    with Client(url, token, timeout_seconds=20) as client:
        who = client.get("/api/v1/whoami", Principal)
    context.save(client.url, token, ca=context.ca_of(client.url))
    note(f"You are {who.name} ({who.role}) on {client.url}.")


def _ask(what: str) -> str:
    """A token or password: typed unseen at a terminal, else the first line of stdin."""
    if sys.stdin.isatty():
        typed: str = typer.prompt(what, hide_input=True, err=True)
        return typed
    line = sys.stdin.readline()
    if not line.strip():
        hint = "Give --token, or write it to stdin." if what == "Token" else "Write it to stdin."
        raise InvalidInput(f"No {what.lower()} was given.", hint=hint, field=what.lower())
    return line


def _split_link(link: str) -> tuple[str, str]:
    """A login link as the box's address and the link's secret."""
    parts = urlsplit(link)
    secret = parse_qs(parts.query).get("once", [""])[0]
    if not secret or not parts.netloc:
        raise InvalidInput(
            f"{link!r} is not a login link.",
            hint="`mlbox serve` prints one on its first start: http://box:8265/login?once=...",
            field="once",
        )
    return f"{parts.scheme}://{parts.netloc}", secret


def _redeem(url: str, proof: dict[str, str]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"login-{platform.node()}")[:100]
    with Client(url, "", timeout_seconds=20) as client:
        return client.post("/api/v1/login", NewToken, {**proof, "name": name}).secret
