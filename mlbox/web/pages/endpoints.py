"""Endpoints: who answers, who shadows, how fast, and the last answers given."""

from __future__ import annotations

from typing import Any, NamedTuple

from litestar import Response, get

from mlbox.errors import InvalidInput, NotFound
from mlbox.records import Endpoint
from mlbox.serve.inference.statistics import Totals
from mlbox.web.box import Box
from mlbox.web.pages.guard_pictures import guard_pictures
from mlbox.web.pages.overview import Served, served
from mlbox.web.pages.traffic import SPANS, traffic_of
from mlbox.web.pages.trial import trial_of
from mlbox.web.pages.view import Place, View, from_place, next_page, part

PREDICTIONS = 50
MOST_SIZES = 4


def _urgency(row: Served) -> tuple[bool, float, int, str]:
    """To be sorted by: what somebody decides about, then what fails, then what is asked most."""
    waits = row.endpoint is not None and row.endpoint.candidate is not None
    return not waits, -row.errors / max(row.predictions, 1), -row.predictions, row.version.model


def _list(view: View, after: int) -> dict[str, Any]:
    every = part(lambda: sorted(served(view.box), key=_urgency))
    shown, last = from_place(every.value or (), after)
    return {"served": every, "shown": shown, "next": next_page(view, last)}


@get("/endpoints", include_in_schema=False, action="model.read")
async def endpoints(view: View, after: Place = 0) -> Response[bytes]:
    """All endpoints: those with a candidate first, then by how much fails, then by traffic."""
    return await view.page("endpoints.html", lambda: _list(view, after))


def _find(box: Box, name: str) -> Endpoint:
    found = box.rollouts.endpoint(name)
    if found is None:
        raise NotFound(
            f"Nothing serves under the name {name[:80]!r}.", hint="A version in Production does.", field="model"
        )
    return found


class Traffic(NamedTuple):
    """What a version did since the server started."""

    version: int
    totals: Totals

    @property
    def mean_ms(self) -> float | None:
        """Of a request that was answered, waiting included."""
        success = self.totals.success
        return success.ns / success.count / 1e6 if success.count else None

    @property
    def batches(self) -> list[tuple[int, int]]:
        """The sizes of batches that were run most, with how often."""
        counted = ((rows, took.count) for rows, took in self.totals.batches.items())
        return sorted(counted, key=lambda one: -one[1])[:MOST_SIZES]


def _traffic(box: Box, name: str) -> list[Traffic]:
    every = box.models.statistics.all()
    return [Traffic(version, every[model, version]) for model, version in sorted(every, reverse=True) if model == name]


def _endpoint(view: View, name: str, hours: int) -> dict[str, Any]:
    if hours not in SPANS:
        raise InvalidInput(f"{hours} hours are no span.", hint=f"One of {', '.join(map(str, SPANS))}.", field="hours")
    box = view.box
    found = _find(box, name)
    predictions = part(lambda: box.predictions.recent(name, PREDICTIONS))
    return {
        "endpoint": found,
        "version": box.registry.version(name, found.champion),
        "course": guard_pictures(box, box.promotions.get(found.promotion)) if found.promotion else None,
        "predictions": predictions,
        "traffic": _traffic(box, name),
        "over_time": part(lambda: traffic_of(box, name, hours)),
        "spans": SPANS,
        "hours": hours,
        "trial": part(lambda: trial_of(box, view.base, name, predictions.value or ())),
    }


@get("/endpoints/{name:str}", include_in_schema=False, action="model.read")
async def endpoint(view: View, name: str, hours: int = 24) -> Response[bytes]:
    """One endpoint: its traffic, a form to ask it, how clients do, and its last predictions."""
    return await view.page("endpoint.html", lambda: _endpoint(view, name, hours))


handlers: list[Any] = [endpoints, endpoint]
