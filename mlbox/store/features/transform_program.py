"""A compiled transform, and the columns that it runs on.

It is a list of steps over slots: the inputs, the constants, then what each step made. The very same steps run over whole columns
in training and over the rows of a request in serving.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mlbox.records import Column, DType

if TYPE_CHECKING:
    from mlbox.store.features.transform_ops import Operation, Values

Type = DType | Literal["NULL"]
ROWS, TEXT_ROWS = 65_536, 1024
"""At once: what is made on the way fits into the processor's cache, and its memory has a bound."""
BARE: dict[str, Any] = {"BOOL": False, "INT64": 0, "FP64": 0.0, "STRING": "", "TIMESTAMP": 0}
"""What stands where a value is null."""


class Step(NamedTuple):
    """One operation on slots; its result is the next slot."""

    name: str
    operation: Operation
    slots: tuple[int, ...]


class Program:
    """A compiled transform. Slots are its inputs, then its constants, then one for each step."""

    def __init__(
        self,
        inputs: Sequence[Column],
        constants: Sequence[tuple[Type, Any]],
        steps: Sequence[Step],
        outputs: Mapping[str, tuple[int, DType]],
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = {name: dtype for name, (_, dtype) in outputs.items()}
        self._slots = [slot for slot, _ in outputs.values()]
        self._steps = [(step.operation.run, step.slots) for step in steps]
        self._constants = [constant_values(kind, value) for kind, value in constants]
        has_text = any("STRING" in (step.operation.gives, *step.operation.takes) for step in steps)
        self._at_once = TEXT_ROWS if has_text else ROWS
        listing = [
            [[column.name, column.dtype] for column in inputs],
            [[kind, value.hex() if isinstance(value, float) else value] for kind, value in constants],
            [[step.name, step.operation.gives, *step.slots] for step in steps],
            [[name, dtype, slot] for name, (slot, dtype) in outputs.items()],
        ]
        self.digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
        """The same for texts that say the same: names of locals, layout, comments and order of assignments are no part."""

    def run(self, columns: Sequence[Values], rows: int) -> list[Values]:
        """The outputs for the inputs' values: a column each, with as many rows as were given."""
        if rows <= self._at_once:
            return self._part(columns, rows)
        parts = [
            self._part(
                [_cut(column, start, start + self._at_once) for column in columns], min(self._at_once, rows - start)
            )
            for start in range(0, rows, self._at_once)
        ]
        return [_joined([part[place] for part in parts]) for place in range(len(self._slots))]

    def _part(self, columns: Sequence[Values], rows: int) -> list[Values]:
        import numpy as np

        slots = [*columns, *self._constants]
        with np.errstate(all="ignore"):
            for operate, places in self._steps:
                slots.append(operate(*[slots[place] for place in places]))
        return [_finished(slots[slot], rows) for slot in self._slots]


def _cut(column: Values, start: int, end: int) -> Values:
    data, nulls = column
    return type(column)(data[start:end], None if nulls is None else nulls[start:end])


def _joined(parts: Sequence[Values]) -> Values:
    import numpy as np

    data = np.concatenate([part.data for part in parts])
    if all(part.nulls is None for part in parts):
        return type(parts[0])(data)
    nulls = [np.zeros(len(part.data), bool) if part.nulls is None else part.nulls for part in parts]
    return type(parts[0])(data, np.concatenate(nulls))


def constant_values(kind: Type, value: Any) -> Values:
    """One value for all rows."""
    import numpy as np

    from mlbox.store.features.transform_ops import Values

    if kind == "NULL":
        return Values(np.zeros(1), np.ones(1, bool))
    dtype = {"BOOL": np.bool_, "INT64": np.int64, "FP64": np.float64, "STRING": object}[kind]
    return Values(np.array([value], dtype))


def _finished(column: Values, rows: int) -> Values:
    """All rows of a result, NaN in its one usual form: its sign and payload have no meaning and depend on the machine code."""
    import numpy as np

    data, nulls = column
    if len(data) != rows:
        data = np.broadcast_to(data, rows)
    if nulls is not None and len(nulls) != rows:
        nulls = np.broadcast_to(nulls, rows)
    if data.dtype == np.float64:
        data = np.where(np.isnan(data), np.nan, data)
    return type(column)(data, nulls)


# -- values in and out ---------------------------------------------------------------------------------------------------------


def values_of(column: Sequence[Any], dtype: DType) -> Values:
    """Python values as a column; times in microseconds since 1970, None for null."""
    import numpy as np

    from mlbox.store.features.transform_ops import Values

    kind: Any = {"BOOL": np.bool_, "FP64": np.float64, "STRING": object}.get(dtype, np.int64)
    if None not in column:
        return Values(np.array(column, kind))
    bare = BARE[dtype]
    nulls = np.array([value is None for value in column], bool)
    return Values(np.array([bare if value is None else value for value in column], kind), nulls)


def plain(column: Values) -> list[Any]:
    """A column as Python values."""
    found: list[Any] = column.data.tolist()
    if column.nulls is None:
        return found
    return [None if null else value for value, null in zip(found, column.nulls.tolist(), strict=True)]


def from_arrow(column: Any, dtype: DType) -> Values:
    """An Arrow column, in its dtype's own type and without a zone, as a column."""
    import pyarrow as pa

    from mlbox.store.features.transform_ops import Values

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    nulls = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    if dtype == "TIMESTAMP":
        array = array.cast(pa.int64())
    if array.null_count:
        array = array.fill_null(BARE[dtype])
    return Values(array.to_numpy(zero_copy_only=False), nulls)


def to_arrow(column: Values, dtype: DType) -> Any:
    """A column as an Arrow array of its dtype; NaN stays NaN."""
    import pyarrow as pa

    from mlbox.store.casting import arrow_type

    if dtype == "TIMESTAMP":
        return pa.array(column.data, pa.int64(), mask=column.nulls, from_pandas=False).cast(arrow_type(dtype))
    return pa.array(column.data, arrow_type(dtype), mask=column.nulls, from_pandas=False)
