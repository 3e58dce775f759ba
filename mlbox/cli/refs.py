"""References to model versions, and what the commands about their promotions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.errors import NotFound
from mlbox.records import Promotion, split_ref

Ref = Annotated[str, typer.Argument(metavar="MODEL/VERSION", help="For example flight-delay/3, or flight-delay@3.")]
Comment = Annotated[str, typer.Option("--comment", "-m", help="Why; it stays in the record.")]
split = split_ref


def newest(ref: str, found: Sequence[Promotion]) -> Promotion:
    """A version's newest promotion, of its model's; raises NotFound."""
    version = split(ref)[1]
    of_version = [promotion for promotion in found if promotion.version == version]
    if not of_version:
        raise NotFound(f"{ref} was never proposed.", hint=f"`mlbox model promote {ref}` does that.", field="ref")
    return of_version[0]


def act(ref: str, action: str, comment: str) -> None:
    """Do something to a version's promotion, and say where it then stands."""
    with connect() as client:
        promotion = newest(ref, client.get("/api/v1/promotions", list[Promotion], model=split(ref)[0]))
        after = client.post(f"/api/v1/promotions/{promotion.id}/{action}", Promotion, {"comment": comment})
    share = f", {after.hold or 'takes'} {after.percent:g} %" if after.state == "canary" else ""
    typer.echo(f"{ref} is {after.state}{share}.", err=True)
