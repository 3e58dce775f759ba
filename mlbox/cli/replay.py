"""`mlbox model replay`: logged traffic, asked again of a version offline."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from mlbox.cli.canary import SHADOW
from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.cli.quantities import seconds
from mlbox.cli.refs import Ref
from mlbox.errors import Conflict, InvalidInput
from mlbox.records import DIFFERENCES, Replay

TIMES = ("replayed", "failed", "invalid", "p50_ms", "p95_ms", "p99_ms")


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox model`."""
    app.command(epilog="Example: mlbox model replay flight-delay@3 --window 7d")(replay)


def replay(
    ref: Ref,
    against: Annotated[
        str, typer.Option(metavar="champion|MODEL@N", help="The version that it is compared with.")
    ] = "champion",
    window: Annotated[str, typer.Option(metavar="DURATION", help="Of how long a time up to now; default: any.")] = "",
    last: Annotated[int, typer.Option(help="Of how many requests at most, the newest.")] = 10_000,
    output: OutputOption = Output.table,
) -> None:
    """Ask a version logged requests again, offline, and compare it as a shadow would be.

    Its answers are compared with those that were logged or, where some other version gave them, with what the version that it is
    compared with answers now. A model of tensors is asked the requests that the server has kept in memory. Times are in ms, of
    both asked offline by turns. Exits 1 where the replay failed.
    """
    from mlbox.sdk.replays import replay as ask

    with connect() as client:
        found = ask(client, ref, against=against, last=last, window_seconds=_span(window))
    if output is not Output.table:
        show_one(found, output)
    else:
        _tell(found)
    if found.state == "failed":
        raise Conflict(
            f"The replay of {found.ref} failed: {found.reason}", hint="`-o json` has what came of it before."
        )


def _span(window: str) -> float | None:
    if not window:
        return None
    found = seconds(window, field="window")
    if not math.isfinite(found):
        raise InvalidInput(f"{window!r} is no duration.", hint="Write it like 2h30m or 7d.", field="window")
    return found


def _tell(found: Replay) -> None:
    note(
        f"{found.ref}: {found.words}"
        if found.replayed
        else f"{found.ref}: {found.state.replace('_', ' ')}: {found.reason}"
    )
    if found.computed:
        note(f"Not in the log, so as the history knows them: {', '.join(found.computed)}")
    if not found.figures:
        if found.replayed:
            note(
                "There is nothing to compare with: no version in Production takes the same requests."
                if found.against is None
                else f"Neither it nor version {found.against} gives scores: what is told is whether their outputs are the same."
            )
            show([found], TIMES)
        return
    note(_beside(found))
    show(found.figures, SHADOW)
    ends = (*(f"up to {end:g}" for end in DIFFERENCES), f"above {DIFFERENCES[-1]:g}")
    spread = [f"{end}: {rows:,}" for end, rows in zip(ends, found.figures[0].bins, strict=True) if rows]
    note(f"Rows by how far apart the scores are: {', '.join(spread) or 'none'}")


def _beside(found: Replay) -> str:
    words = f"Beside version {found.against}: {found.logged:,} of its answers are those that were logged"
    if found.reproduced_share is not None:
        words += f" (asked again it gives {found.reproduced_share:.1%} of them)"
    again = found.replayed - found.logged
    return words + (f", {again:,} were asked for now" if again else "") + "."
