"""`mlbox status`: which box, who you are on it, and how it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show_one
from mlbox.client import Client
from mlbox.errors import Unavailable
from mlbox.records import Principal, Record

app = typer.Typer()


class About(Record, frozen=True, kw_only=True):
    """What a box says of itself to everyone."""

    version: str
    standby: bool = False
    replay: bool
    domain_time: datetime
    real_time: datetime


@app.command(epilog="Example: mlbox status -o json")
def status(output: OutputOption = Output.table) -> None:
    """Show the box, who you are on it, and its health.

    Its release, its time and each of its stores; the exit code is 1 when one is down. On standby it begins nothing.
    """
    with connect(timeout_seconds=10) as client:
        about = client.get("/version", About)
        who = client.get("/api/v1/whoami", Principal)
        stores = _stores(client)
    answer = {"url": client.url, "user": who.name, "role": who.role, **msgspec.structs.asdict(about), "stores": stores}
    one_clock = output is Output.table and not about.replay
    show_one(answer, output, columns=[name for name in answer if not (one_clock and name == "real_time")])
    if about.standby:
        note("On standby: nothing runs there by itself, and nothing is sent to anybody.")
    down = [name for name, state in stores.items() if state != "ok"]
    if down:
        raise Unavailable(
            f"{', '.join(down)} {'is' if len(down) == 1 else 'are'} down.", hint="The server's log says why."
        )


def _stores(client: Client) -> dict[str, str]:
    """Each store and its state; a box that is not ready says so with 503, in the same words."""
    answer = client.exchange("GET", "/readyz", accept=(503,)).content
    found: dict[str, str] = client.decode(answer, dict[str, Any])["stores"]
    return found
