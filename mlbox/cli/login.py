"""`mlbox login`: which box, and a token for it."""

from __future__ import annotations

import platform
import re
import sys
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


@app.command(epilog="Example: mlbox login http://box:8265")
def login(url: Url = None, token: Token = None, once: Once = None) -> None:
    """Store a box's address and a token, in a file that only you can read."""
    if once is not None:
        url, secret = _split_link(once)
        token = _redeem(url, secret)
    if url is None:
        raise InvalidInput("No box was named.", hint="For example: mlbox login http://127.0.0.1:8265", field="url")
    token = (token if token is not None else _ask()).strip()
    with Client(url, token, timeout_seconds=20) as client:
        who = client.get("/api/v1/whoami", Principal)
    context.save(client.url, token)
    note(f"You are {who.name} ({who.role}) on {client.url}.")


def _ask() -> str:
    """The token: typed unseen at a terminal, else the first line of stdin."""
    if sys.stdin.isatty():
        typed: str = typer.prompt("Token", hide_input=True, err=True)
        return typed
    line = sys.stdin.readline()
    if not line.strip():
        raise InvalidInput("No token was given.", hint="Give --token, or write it to stdin.", field="token")
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


def _redeem(url: str, secret: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"login-{platform.node()}")[:100]
    with Client(url, "", timeout_seconds=20) as client:
        return client.post("/api/v1/login", NewToken, {"once": secret, "name": name}).secret
