"""`mlbox model pause`, `resume`, `freeze`, `advance`, `guards`, `shadow`, `decisions`: a candidate by hand, and its evidence."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show
from mlbox.cli.refs import Comment, Ref, act, newest, split
from mlbox.errors import Conflict
from mlbox.records import Endpoint, Promotion, Recomputed, ShadowFigures

FINDINGS = ("guard", "segment", "state", "statistic", "bound", "evidence", "low", "high", "words")
SHADOW = (
    *("segment", "rows", "failed", "invalid", "agreed_share", "mean_difference", "leaning", "most"),
    *("champion_p95_ms", "shadow_p95_ms", "slower_p50_ms", "slower_p95_ms", "slower_p99_ms"),
)
DECISIONS = ("at", "actor", "done", "action", "reason", "rule", "same")


def register(app: typer.Typer) -> None:
    """Add the commands to `mlbox model`."""
    app.command(epilog="Example: mlbox model pause flight-delay/3 -m 'a sale runs today'")(pause)
    app.command(epilog="Example: mlbox model resume flight-delay/3")(resume)
    app.command(epilog="Example: mlbox model freeze flight-delay/3 -m 'for the post-mortem'")(freeze)
    app.command(epilog="Example: mlbox model advance flight-delay/3 -m 'seen with the team'")(advance)
    app.command(epilog="Example: mlbox model guards flight-delay")(guards)
    app.command(epilog="Example: mlbox model shadow flight-delay/3")(shadow)
    app.command(epilog="Example: mlbox model decisions flight-delay/3")(decisions)


def pause(ref: Ref, comment: Comment = "") -> None:
    """Keep a canary at its share until it is resumed; its guards still roll it back."""
    act(ref, "pause", comment)


def resume(ref: Ref, comment: Comment = "") -> None:
    """Let a canary that was paused, or is undecided, go on."""
    act(ref, "resume", comment)


def freeze(ref: Ref, comment: Comment = "") -> None:
    """Take a canary's traffic away and keep it for a post-mortem; `mlbox model rollback` ends it."""
    act(ref, "freeze", comment)


def advance(ref: Ref, comment: Comment = "") -> None:
    """Give a canary its next share: one that is undecided, or one whose guards all hold before its hold ends.

    It takes the role approver, and for a hold that is shortened someone who did not approve the canary.
    """
    act(ref, "advance", comment)


def guards(
    model: Annotated[str, typer.Argument(help="The model's name.")], output: OutputOption = Output.table
) -> None:
    """Show what each guard of a model's canary says now."""
    with connect() as client:
        found = [one for one in client.get("/api/v1/endpoints", list[Endpoint]) if one.model == model]
    if output is Output.table:
        for endpoint in found:
            name = f"{model}/{endpoint.candidate}" if endpoint.candidate else model
            typer.echo(f"{name}: {endpoint.standing or 'no candidate'}", err=True)
    show([finding for endpoint in found for finding in endpoint.findings], FINDINGS, output)


def shadow(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show what a shadow does beside the champion on the same requests, or did as it ended: all of them, then by segment.

    Times are in ms; `slower_*` are quantiles of the shadow's time less the champion's on the same request.
    """
    with connect() as client:
        promotion = newest(ref, client.get("/api/v1/promotions", list[Promotion], model=split(ref)[0]))
        found = client.get(f"/api/v1/promotions/{promotion.id}/shadow", list[ShadowFigures])
    show(found, SHADOW, output)


def decisions(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show every decision about a version's traffic, and make each again from its own inputs.

    `same` says whether the rule gives the same answer; -o json has all inputs, statistics and bounds. Exits 1 when one differs.
    """
    with connect() as client:
        promotion = newest(ref, client.get("/api/v1/promotions", list[Promotion], model=split(ref)[0]))
        found = client.get(f"/api/v1/promotions/{promotion.id}/decisions/recomputed", list[Recomputed])
    if output is not Output.table:
        show(found, ("decision", "same", "action", "reason"), output)
    else:
        show([_row(one) for one in found], DECISIONS, output)
    if not all(one.same for one in found):
        raise Conflict(
            "A decision made again is another.", hint="Another version of mlbox may have made it: see `rule`."
        )


def _row(one: Recomputed) -> dict[str, object]:
    made = one.decision
    return {name: getattr(made, name) for name in DECISIONS if name != "same"} | {"same": one.same}
