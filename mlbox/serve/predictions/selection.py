"""Which rows of a file of the prediction log are meant: by their entity, their time, and what else is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.clock import to_us
from mlbox.records import PredictionHold

if TYPE_CHECKING:
    import pyarrow as pa


class Selection(NamedTuple):
    """Rows that are all of what is given."""

    entity: Mapping[str, Any] = {}
    since_us: int | None = None
    """Domain time."""
    until_us: int | None = None
    version: int | None = None
    role: str | None = None

    @property
    def columns(self) -> Sequence[str]:
        """What must be read to decide."""
        return tuple(
            name
            for name, asked in (
                ("id", True),
                ("entity", self.entity),
                ("domain_us", self.since_us is not None or self.until_us is not None),
                ("version", self.version is not None),
                ("role", self.role is not None),
            )
            if asked
        )

    def mask(self, rows: pa.Table) -> pa.BooleanArray:
        """Which of these rows are meant."""
        import pyarrow as pa
        import pyarrow.compute as pc

        mask: Any = pa.array([True] * rows.num_rows, pa.bool_())
        if self.entity:
            mask = pc.and_(mask, _of_entity(rows, self.entity))
        for name, compare, value in (
            ("domain_us", pc.greater_equal, self.since_us),
            ("domain_us", pc.less, self.until_us),
            ("version", pc.equal, self.version),
            ("role", pc.equal, self.role),
        ):
            if value is not None:
                mask = pc.and_(mask, compare(rows.column(name).combine_chunks(), value))
        return mask


def held_by(hold: PredictionHold) -> Selection:
    """What a hold holds, of a model that it is about."""
    return Selection(hold.entity, *between(hold.since, hold.until))


def between(since: datetime | None, until: datetime | None) -> tuple[int | None, int | None]:
    """Two moments in microseconds."""
    return None if since is None else to_us(since), None if until is None else to_us(until)


def has_keys(entity: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an entity has all these keys. A key counts as what it is written as: 17, 17.0 and "17" are one customer."""
    return all(name in entity and _text(entity[name]) == _text(value) for name, value in wanted.items())


def canonical(entity: Mapping[str, Any]) -> str:
    """Keys as one text, the same however they are written."""
    return msgspec.json.encode({name: _text(value) for name, value in sorted(entity.items())}).decode()


def _of_entity(rows: pa.Table, wanted: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    encoded = rows.column("entity").combine_chunks().dictionary_encode()
    meant = [has_keys(msgspec.json.decode(text), wanted) for text in encoded.dictionary.to_pylist()]
    return pa.array(meant, pa.bool_()).take(encoded.indices)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
