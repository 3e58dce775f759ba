"""Approvals: what waits for a person's word, and what was decided."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from litestar import Response, get

from mlbox.records import ModelVersion, Promotion
from mlbox.serve.rollout.shadow import figures_of
from mlbox.store.registry.promotion_notices import subject_of
from mlbox.web.pages.guard_pictures import guard_pictures
from mlbox.web.pages.models import Step, drawn_of, score_bins, steps
from mlbox.web.pages.view import PAGE_SIZE, Place, View, from_place, keyset, next_page

OPENED = 3
"""Versions that wait, whose gates and whose decision are on the page itself."""
NAMED = 20
"""Of the others, how many a page names."""
LAST = datetime.max.replace(tzinfo=UTC)


class Waiting(NamedTuple):
    """A promotion that waits, its version, and why this reader may not decide it."""

    promotion: Promotion
    version: ModelVersion
    steps: list[Step]
    own: str


def _own_part(version: ModelVersion, promotion: Promotion, name: str) -> str:
    """What this person did for the version, in words; empty for someone who may decide."""
    deeds = {
        "trained": version.trained_by,
        "submitted": version.submitted_by,
        "proposed": promotion.requested_by,
    }
    return " and ".join(deed for deed, who in deeds.items() if who == name)


def _waiting(view: View) -> list[Waiting]:
    """What waits: first what this person may decide, then by how soon the wait ends."""
    box, who = view.box, view.principal
    assert who is not None
    found = []
    for promotion in box.promotions.open():
        if promotion.state == "waiting_approval":
            version = box.registry.version(promotion.model, promotion.version)
            own = _own_part(version, promotion, who.name)
            found.append(Waiting(promotion, version, steps(promotion), own))
    return sorted(found, key=lambda one: (bool(one.own), one.promotion.decide_by or LAST, one.promotion.id))


def _fetch(view: View, after: str | None, place: int) -> dict[str, Any]:
    waiting = _waiting(view)
    others, following = from_place(waiting[OPENED:], place, NAMED)
    found = view.box.promotions.page(limit=PAGE_SIZE + 1, before=after)
    shown, last = keyset(found, PAGE_SIZE, lambda promotion: promotion.id)
    return {
        "waiting": waiting[:OPENED],
        "others": others,
        "count": len(waiting),
        "next_of_others": next_page(view, following, "others"),
        "promotions": shown,
        "next": next_page(view, last),
    }


@get("/approvals", include_in_schema=False, action="model.read")
async def approvals(view: View, after: str | None = None, others: Place = 0) -> Response[bytes]:
    """What waits, the first few to be decided here and the others by name, then every promotion, newest first."""
    return await view.page("approvals.html", lambda: _fetch(view, after, others))


def _dossier(view: View, promotion_id: str) -> dict[str, Any]:
    box, who = view.box, view.principal
    assert who is not None
    found = box.governor.dossier(promotion_id)
    own = _own_part(found.version, found.promotion, who.name)
    seen = found.shadow.samples if found.shadow else None
    figures = figures_of(seen.paired, seen.paired_in) if seen else ()
    replayed = found.replay.figures if found.replay else ()
    _, drawn, why = drawn_of(box, found.promotion)
    told = box.promotion_outbox.of(subject_of(promotion_id))
    return {
        "d": found,
        "told": told,
        "steps": drawn,
        "why": why,
        "own": own,
        "bins": score_bins(figures),
        "replay_bins": score_bins(replayed),
        "figures": figures,
        "course": guard_pictures(box, found.promotion),
    }


@get("/approvals/{promotion_id:str}", include_in_schema=False, action="model.read")
async def dossier(view: View, promotion_id: str) -> Response[bytes]:
    """All about one promotion, for whoever decides about it."""
    return await view.page("dossier.html", lambda: _dossier(view, promotion_id))


handlers: list[Any] = [approvals, dossier]
