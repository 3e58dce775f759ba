"""Feast's reads: features of entities, column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.enums import MediaType

from mlbox.clock import to_us
from mlbox.errors import InvalidInput
from mlbox.store.features.catalog import split_ref
from mlbox.store.features.vectors import Vectors
from mlbox.web.box import Box
from mlbox.web.fast.routes import Call, Fast, Reply
from mlbox.web.feast.wire import EPOCH, PREFIX, moment_text, row_count

MAX_ENTITIES = 10_000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request of Feast's; fields that are not known are ignored."""

    entities: dict[str, list[Any]]
    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


_decode = msgspec.json.Decoder(Asked).decode


class Result(msgspec.Struct, frozen=True):
    """One column of the answer."""

    values: Sequence[Any]
    statuses: Sequence[str] | msgspec.Raw
    event_timestamps: Sequence[str] | msgspec.Raw


@post(f"{PREFIX}/get-online-features", status_code=200, include_in_schema=False, action="view.read")
async def get_online_features(box: Box, data: Asked) -> Response[bytes]:
    """The latest values of features of entities, as of domain time."""
    content = _answer(box, data) if _is_at_hand(box, data) else await box.call(_answer, box, data)
    return Response(content, media_type=MediaType.JSON, status_code=200)


def _is_at_hand(box: Box, asked: Asked) -> bool:
    """Whether to answer where it was read; raises InvalidInput for columns of entities that do not fit, or are too long."""
    count = row_count(asked.entities, "entities")
    if count > MAX_ENTITIES:
        raise InvalidInput(
            f"More than {MAX_ENTITIES:,} entities are too many for one request.",
            hint="Ask in parts.",
            field="entities",
        )
    return box.features.is_at_hand(_named(asked), count)


def _named(asked: Asked) -> list[str]:
    return (asked.features or []) if asked.feature_service is None else [asked.feature_service]


def _answer(box: Box, asked: Asked) -> bytes:
    named = _named(asked)
    if not named:
        raise InvalidInput("No feature is named.", hint="Send features, or feature_service.", field="features")
    features = box.features.resolve(named)
    names = _names(features, full=asked.full_feature_names)
    entities = _by_entity(asked.entities)
    rows = len(entities)
    present, never = _once(["PRESENT"] * rows), _once([EPOCH] * rows)
    results = [Result(values, present, never) for values in asked.entities.values()]
    if box.features.uses_transforms(features):
        results += _by_record(box, features, entities)
    else:
        results += _by_column(box.features.online_vectors(features, entities))
    metadata: dict[str, Any] = {"feature_names": [*asked.entities, *names]}
    if asked.include_feature_view_version_metadata:
        views = dict.fromkeys(split_ref(ref.partition(":")[0]) for ref in features)
        metadata["feature_view_metadata"] = [{"name": name, "version": version} for name, version in views]
    return msgspec.json.encode({"metadata": metadata, "results": results})


def _by_entity(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if len(columns) == 1:  # the usual case, and three times as fast
        ((name, values),) = columns.items()
        return [{name: value} for value in values]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _once(texts: list[str]) -> msgspec.Raw:
    """What is the same for every feature of a view, as JSON that is made once: two thirds of a long answer are this."""
    return msgspec.Raw(msgspec.json.encode(texts))


def _by_column(vectors: Vectors) -> list[Result]:
    parts: dict[int, tuple[msgspec.Raw, msgspec.Raw]] = {}
    for view in dict.fromkeys(vectors.view_of):
        found = vectors.found(view)
        states = _once([one.status for one in found])  # a null that is stored is PRESENT to Feast
        parts[view] = states, _once([moment_text(one.event_us) for one in found])
    return [Result(column, *parts[view]) for column, view in zip(vectors.columns(), vectors.view_of, strict=True)]


def _by_record(box: Box, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> list[Result]:
    found = box.features.online_features(features, entities)
    results = []
    for feature in features:
        moments = [row.event_times.get(feature) for row in found]
        statuses = ["PRESENT" if row.statuses[feature] == "NULL" else row.statuses[feature] for row in found]
        times = [moment_text(None if at is None else to_us(at)) for at in moments]
        results.append(Result([row.values[feature] for row in found], statuses, times))
    return results


def _names(features: Sequence[str], *, full: bool) -> list[str]:
    """How the answer calls features; raises InvalidInput where two have one name."""
    parts = [ref.partition(":") for ref in features]
    names = [f"{split_ref(view)[0]}__{feature}" if full else feature for view, _, feature in parts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(
            f"Two features are called {twice!r}.", hint="Set full_feature_names.", field="full_feature_names"
        )
    return names


@get(f"{PREFIX}/health", include_in_schema=False, action="view.read")
async def health() -> Response[None]:
    """Up, as Feast's own feature server says it."""
    return Response(None, status_code=200)


def _fast_is_at_hand(box: Box, call: Call) -> bool:
    call.read = _decode(call.body)
    return _is_at_hand(box, call.read)


handlers: list[Any] = [get_online_features, health]
fast = [Fast(get_online_features, _fast_is_at_hand, lambda box, call: Reply(_answer(box, call.read)))]
