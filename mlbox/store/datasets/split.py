"""How a dataset's rows are divided into parts such as train and test: by time, or by a hash of the entity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlbox.errors import InvalidInput, suggest
from mlbox.records import Column, DatasetSplit

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EVENT_TIME = "event_time"
_SHARES = 1_000_000


def check_split(split: DatasetSplit, columns: Sequence[Column]) -> None:
    """Raise InvalidInput where a split cannot be made of these columns."""
    kinds = {column.name: column.dtype for column in columns}
    names = [part.name for part in split.parts]
    if len(names) < 2 or len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        raise InvalidInput(
            "A split has two parts or more, each with a name of its own.", hint="train, test", field="split.parts"
        )
    needed = split.keys if split.by == "hash" else (EVENT_TIME,)
    missing = [name for name in needed if name not in kinds]
    if missing or not needed:
        raise InvalidInput(
            f"The split needs the column {missing[0]!r}." if missing else "Which columns are hashed is not said.",
            hint=(suggest(missing[0], list(kinds)) if missing else "") or "Name the entity's keys.",
            field="split.keys",
        )
    if split.by == "time" and kinds[EVENT_TIME] != "TIMESTAMP":
        raise InvalidInput(
            f"event_time is a {kinds[EVENT_TIME]} and no time.", hint="Convert it first.", field="split.by"
        )
    if split.by == "hash" and (
        any(part.share is None for part in split.parts) or abs(sum(part.share or 0 for part in split.parts) - 1) > 1e-9
    ):
        raise InvalidInput("The shares of the parts are not 1 together.", hint="0.8 and 0.2", field="split.parts")
    ends = [part.until for part in split.parts[:-1]]
    if split.by == "time" and (ends != sorted(filter(None, ends)) or split.parts[-1].until is not None):
        raise InvalidInput(
            "The parts are not one after the other in time.",
            hint="Give all but the last an `until`, rising; the last one takes the rest.",
            field="split.parts",
        )


def divide(table: pa.Table, split: DatasetSplit | None) -> Iterator[tuple[str, pa.Table]]:
    """Each part's name and rows, in their order; a row without a time is in the last part."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if split is None:
        yield "", table
    elif split.by == "time":
        rest = table
        for part in split.parts:
            if part.until is None:
                yield part.name, rest
                return
            times = rest.column(EVENT_TIME).cast(pa.timestamp("us"))
            before = pc.fill_null(pc.less(times, pa.scalar(_naive(part.until), pa.timestamp("us"))), False)
            yield part.name, rest.filter(before)
            rest = rest.filter(pc.invert(before))
    else:
        place = _places(table, split.keys)
        low = 0.0
        for part in split.parts:
            high = low + (part.share or 0) * _SHARES
            last = part is split.parts[-1]
            yield part.name, table.filter(pa.array(np.logical_and(place >= low, (place < high) | last)))
            low = high


def _places(table: pa.Table, keys: tuple[str, ...]) -> np.ndarray:
    """Where each row's entity falls among `_SHARES` places: by an MD5 of its keys, the same on every machine."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [pc.fill_null(table.column(name).cast(pa.string()), "\0") for name in keys]
    joined = pc.binary_join_element_wise(*texts, "\x1f").combine_chunks().dictionary_encode()
    known = [
        int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "little") % _SHARES
        for text in joined.dictionary.to_pylist()
    ]
    places: np.ndarray = np.asarray(known, dtype=np.int64)[joined.indices.to_numpy()]
    return places


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
