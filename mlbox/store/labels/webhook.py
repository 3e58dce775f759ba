"""A webhook's body as labels: where each column is in it is said by the source, as JSON pointers (RFC 6901).

What is not there is null, so that a label without a key is held back with the reason instead of lost. Times may be ISO 8601 or
seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlbox.clock import from_us
from mlbox.errors import InvalidInput
from mlbox.records import LabelSet, LabelSource
from mlbox.store.labels.rows import columns_of

MAX_LABELS = 10_000


def check_fields(labels: LabelSet, source: LabelSource) -> None:
    """Raise InvalidInput for a field that is no column of a label, or no pointer."""
    known = [column.name for column in columns_of(labels)]
    for name, pointer in source.fields.items():
        if name not in known:
            raise InvalidInput(
                f"{name[:80]!r} is no column of a label of {labels.name}.",
                hint=f"One of {', '.join(known)}.",
                field="sources",
            )
        check_pointer(pointer)
    check_pointer(source.each)


def check_pointer(pointer: str) -> None:
    """Raise InvalidInput for what is no JSON pointer."""
    if pointer and not pointer.startswith("/"):
        raise InvalidInput(f"{pointer[:80]!r} is no JSON pointer.", hint="Write it like /data/0/id.", field="sources")


def read_body(body: Any, labels: LabelSet, source: LabelSource) -> list[Mapping[str, Any]]:
    """The labels of a body, as `Labels.append_rows` takes them."""
    if not source.fields:
        raise InvalidInput(
            f"The source {source.name} of {labels.name} does not say where its labels are in a body.",
            hint=f"`mlbox label create {labels.name} ... --field {source.name}:{labels.value.name}=/data/value`.",
            field="source",
        )
    found = _at(body, source.each) if source.each else body
    events = found if isinstance(found, list) else [found]
    if len(events) > MAX_LABELS:
        raise InvalidInput(f"{len(events):,} labels at once are too many.", hint="10,000 at most.", field="body")
    times = {column.name for column in columns_of(labels) if column.dtype == "TIMESTAMP"}
    return [
        {name: _moment(_at(event, at)) if name in times else _at(event, at) for name, at in source.fields.items()}
        for event in events
    ]


def _at(value: Any, pointer: str) -> Any:
    """What a pointer leads to; None where it leads to nothing."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _moment(value: Any) -> Any:
    """Seconds since 1970 as text; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2.5e11:
        return value
    return from_us(round(value * 1_000_000)).isoformat()
