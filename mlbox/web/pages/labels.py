"""Label sets: what came true, who says so, how much of it is known by now, and what somebody has to decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import Response, get
from litestar.params import Parameter

from mlbox.errors import InvalidInput
from mlbox.records import FeatureView, LabelItem, LabelSet
from mlbox.web.box import Box
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page, part

SKIPPED = 1000
"""So far one can skip; then the first comes again."""
HELD = 20
VIEWS_BESIDE = 10


def _known(box: Box, name: str) -> tuple[int, int] | None:
    """How many outcomes are known at domain time, and how many are tied."""
    now = box.clock.now()
    return part(lambda: (box.labels.known(name, at=now), box.labels.unresolved(name, at=now))).value


def _all(view: View, after: str) -> dict[str, Any]:
    box = view.box
    found = part(lambda: keyset(box.labels.sets(limit=PAGE_SIZE + 1, after=after), PAGE_SIZE, lambda one: one.name))
    shown, last = found.value or ([], None)
    known = [_known(box, one.name) if one.rows else (0, 0) for one in shown]
    return {"sets": list(zip(shown, known, strict=True)), "error": found.error, "next": next_page(view, last)}


@get("/labels", include_in_schema=False, action="label.read")
async def labels(view: View, after: str = "") -> Response[bytes]:
    """All label sets, by name."""
    return await view.page("labels.html", lambda: _all(view, after))


def _one(view: View, name: str) -> dict[str, Any]:
    box = view.box
    found = box.labels.declared(name)
    measured = found.value.dtype == "FP64"
    return {
        "found": msgspec.structs.replace(found, rows=part(lambda: box.labels.label_set(name).rows).value or 0),
        "may": view.may("member", name=name),
        "may_backfill": view.may("admin", name=name),
        "may_publish": view.may("member", name=name),
        "known": _known(box, name),
        "counts": part(lambda: box.labels.counts(name)),
        "held": part(lambda: box.labels.held(name, limit=HELD)),
        "agreement": None if measured else part(lambda: box.labels.agreement(name)),
        "datasets": [one for one in box.datasets.versions(limit=200) if one.label_set == name],
    }


@get("/labels/{name:str}", include_in_schema=False, action="label.read")
async def label_set(view: View, name: str) -> Response[bytes]:
    """One label set."""
    return await view.page("label_set.html", lambda: _one(view, name))


class Beside(NamedTuple):
    """A feature of an item as it was known at the item's time."""

    ref: str
    value: Any
    unit: str


def _review(box: Box, name: str, skip: int) -> dict[str, Any]:
    found = box.labels.declared(name)
    left = box.labels.unresolved(name, at=box.clock.now())
    waiting = box.labels.review(name, limit=skip % left + 1) if left else []
    item = waiting[-1] if waiting else None
    return {
        "found": found,
        "item": item,
        "left": left,
        "skip": (skip + 1) % min(left, SKIPPED) if left else 0,
        "keys": msgspec.json.encode(item.keys).decode() if item else "",
        "choices": [(one, msgspec.json.encode(one).decode()) for one in _choices(found, item)],
        "beside": part(lambda: _beside(box, found, item)) if item else None,
    }


def _choices(found: LabelSet, item: LabelItem | None) -> list[Any]:
    """What an item may be: the classes, or what is claimed where there are none."""
    said = dict.fromkeys(claim.value for claim in item.claims) if item else {}
    return [*found.classes] or [*said]


def _beside(box: Box, labels: LabelSet, item: LabelItem) -> list[Beside]:
    """What was known of the item at its time, from the views that are asked with its keys; what was, first."""
    keys = {key.name: key.dtype for key in labels.keys}
    latest: dict[str, FeatureView] = {}
    for one in box.features.views():
        asked = {key.name: key.dtype for key in one.join_keys}
        if asked.items() <= keys.items() and one.version > (latest[one.name].version if one.name in latest else 0):
            latest[one.name] = one
    views = list(latest.values())[:VIEWS_BESIDE]
    values = _values(box, item, views)
    units = {f"{one.ref}:{feature.name}": feature.unit for one in views for feature in one.features}
    found = [Beside(ref, values[ref], unit) for ref, unit in units.items() if ref in values]
    return sorted(found, key=lambda one: one.value is None)


def _values(box: Box, item: LabelItem, views: Sequence[FeatureView]) -> dict[str, Any]:
    """The features of views as they were known at an item's time, without those whose SQL fails on today's data."""
    import pyarrow as pa

    names = dict.fromkeys(key.name for one in views for key in one.join_keys)
    columns = {name: [item.keys[name]] for name in names}
    spine = pa.table({**columns, "event_time": pa.array([item.event_time], pa.timestamp("us", "UTC"))})
    refs = [f"{one.ref}:{feature.name}" for one in views for feature in one.features]
    if not refs:
        return {}
    try:
        (row,) = box.features.historical(refs, spine, event_time="event_time").to_pylist()
    except InvalidInput:  # the view's own page says so
        return (
            {ref: value for one in views for ref, value in _values(box, item, [one]).items()} if len(views) > 1 else {}
        )
    return {ref: row[ref] for ref in refs}


@get("/labels/{name:str}/review", include_in_schema=False, action="label.read")
async def review(view: View, name: str, skip: Annotated[int, Parameter(ge=0, lt=SKIPPED)] = 0) -> Response[bytes]:
    """The next item whose claims are tied, or one after it, to be settled by a key."""
    return await view.page("label_review.html", lambda: _review(view.box, name, skip))


handlers: list[Any] = [labels, label_set, review]
