"""References to model versions, and what the commands about their promotions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import note
from mlbox.errors import NotFound
from mlbox.records import Promotion, PromotionState, split_ref

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
    note(f"{ref} {where(after)}.")


def where(promotion: Promotion) -> str:
    """Where a version stands, in words."""
    share = f", {promotion.hold or 'takes'} {promotion.percent:g} %" if promotion.state == "canary" else ""
    return f"{_STANDS[promotion.state]}{share}"


_STANDS: dict[PromotionState, str] = {
    "testing": "goes through its gates",
    "waiting_traffic": "waits for traffic to be asked again",
    "rejected": "was rejected",
    "integration": "runs its integration test",
    "shadow": "is a shadow beside the champion",
    "waiting_approval": "waits for approval",
    "canary": "is a canary",
    "completed": "is in Production",
    "rolled_back": "was rolled back",
    "withdrawn": "was withdrawn",
    "expired": "was not decided about in time",
}
