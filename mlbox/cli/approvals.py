"""`mlbox approvals`: what waits for a person's decision, and all that this person should see."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.canary import SHADOW
from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show, show_one
from mlbox.cli.refs import newest, split
from mlbox.records import DIFFERENCES, Dossier, FairnessColumn, Promotion, Rate

app = typer.Typer(help="What waits for a person's decision.")
LOG_LINES = 20
FIGURES = (
    *("column", "group", "rows", "judged", "selection_rate", "true_positive_rate", "false_positive_rate"),
    *("precision", "auc"),
)


@app.command(epilog="Example: mlbox approvals flight-delay/3")
def approvals(
    ref: Annotated[
        str, typer.Argument(metavar="MODEL/VERSION", help="Show all about this one; without it, list what waits.")
    ] = "",
    output: OutputOption = Output.table,
) -> None:
    """List what waits for a decision, or show all about one version before you decide.

    Then `mlbox model approve MODEL/VERSION -m WHY`, or `reject`.
    """
    with connect() as client:
        if not ref:
            found = client.get("/api/v1/approvals", list[Promotion])
            show(
                [_row(one) for one in found], ("version", "requested_by", "decide_by", "approvals", "reviewers"), output
            )
            return
        promotion = newest(ref, client.get("/api/v1/promotions", list[Promotion], model=split(ref)[0]))
        dossier = client.get(f"/api/v1/promotions/{promotion.id}/dossier", Dossier)
    if output is not Output.table:
        show_one(dossier, output)
    else:
        _print(dossier)


def _row(one: Promotion) -> dict[str, object]:
    return {
        "version": f"{one.model}/{one.version}",
        "requested_by": one.requested_by,
        "decide_by": one.decide_by,
        "approvals": f"{len(one.approvals)} of {one.policy.approvals}",
        "reviewers": one.policy.reviewers or "who has the role",
    }


def _print(found: Dossier) -> None:
    promotion, table = found.promotion, Output.table
    typer.echo(f"{found.version.ref} is {promotion.state}: {promotion.reason or 'nothing to add'}")
    for words in found.missing:
        typer.echo(f"! {words}")
    _head("Gates")
    show(promotion.gates, ("gate", "passed", "required", "measured"), table)
    for run in (found.test, found.integration):
        if run is not None:
            _head(f"What the {run.gate} command said last (job {run.job or 'none'})")
            typer.echo("\n".join(run.log.splitlines()[-LOG_LINES:]) or "nothing")
    if found.comparison:
        _head(f"With the champion on {found.comparison.spec.dataset}: {found.comparison.words}")
        show(found.comparison.found, ("segment", "rows", "outcome", "first", "second", "low", "high", "note"), table)
    if found.replay:
        _head(f"Logged traffic, asked again: {found.replay.words}")
        if found.replay.figures:
            show(found.replay.figures, SHADOW, table)
    if found.fairness:
        _head(f"Fairness on {found.fairness.spec.dataset}: {found.fairness.words}")
        show([row for column in found.fairness.columns for row in _groups(column)], FIGURES, table)
    if found.shadow:
        _head(f"Shadow: {found.shadow.reason}")
        paired = found.shadow.samples.paired
        ends = (*(f"up to {end:g}" for end in DIFFERENCES), f"above {DIFFERENCES[-1]:g}")
        apart = [{"scores_apart": end, "rows": rows} for end, rows in zip(ends, paired.bins, strict=True) if rows]
        show(apart, ("scores_apart", "rows"), table)
    if promotion.champion is not None:
        _head(f"Against the champion, version {promotion.champion}")
        show(found.changes, ("part", "name", "champion", "candidate"), table)
    _head("Who answers for it")
    show_one(found.governance, table)
    typer.echo(f"\nThe card: mlbox model card {found.version.ref}", err=True)


def _groups(column: FairnessColumn) -> list[dict[str, object]]:
    return [
        {"column": column.column, "group": group.group, "rows": group.rows, "judged": group.judged}
        | {name: _rate(getattr(group, name)) for name in FIGURES[4:]}
        for group in column.groups
    ]


def _rate(rate: Rate | None) -> str:
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})" if rate else "–"


def _head(words: str) -> None:
    typer.echo(f"\n{words}")
