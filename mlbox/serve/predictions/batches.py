"""What the prediction log takes: rows as they come off the request path, and as the columns that are written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.records import Prediction, ServeRole
from mlbox.serve.predictions.files import FEATURE

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SHARE = "share"
"""The column with the probability that a row was kept with; a file without a sampled row has none."""
_json = msgspec.json.Encoder().encode


class Given(NamedTuple):
    """What rows were made of: the features, in the order of a row's values, and what they were looked up by."""

    rows: int
    names: tuple[str, ...] = ()
    values: np.ndarray | Sequence[Sequence[float | None]] | None = None
    entities: Sequence[dict[str, Any]] = ()


NOTHING = Given(0)


class Batch(msgspec.Struct, frozen=True, eq=False):
    """Rows that one version answered in one run: what they have in common is said once.

    They are those of one request, or of several with one row each. What becomes of each row is worked out where it is written.
    """

    model: str
    version: int
    role: ServeRole
    at: datetime
    domain_at: datetime
    caller: str
    latency_ms: float | list[float]
    """Of the request; of each, where there are several."""
    ids: Sequence[str]
    scores: Sequence[float | None]
    names: tuple[str, ...] = ()
    """The features, in the order of a row's values."""
    values: np.ndarray | Sequence[Sequence[float | None]] | None = None
    entities: Sequence[dict[str, Any]] = ()
    keys: Sequence[str] = ()
    """What decides which rows a sample keeps; nothing where their ids do, or where all are kept."""
    share: float = 1.0
    """With which probability these rows were kept."""

    @property
    def given(self) -> Given:
        """What its rows were made of."""
        return Given(len(self.ids), self.names, self.values, self.entities)

    @property
    def by_request(self) -> Sequence[float]:
        """The latency of each request."""
        return self.latency_ms if isinstance(self.latency_ms, list) else (self.latency_ms,)

    @property
    def latencies(self) -> Sequence[float]:
        """The latency of each row."""
        return self.latency_ms if isinstance(self.latency_ms, list) else [self.latency_ms] * len(self.ids)

    def predictions(self) -> list[Prediction]:
        """A record for each row; what is NaN among the features is missing."""
        rows, latencies = self._rows(), self.latencies
        return [
            Prediction(
                id=own,
                model=self.model,
                version=self.version,
                role=self.role,
                at=self.at,
                domain_at=self.domain_at,
                caller=self.caller,
                entity=self.entities[place] if self.entities else {},
                features=dict(zip(self.names, rows[place], strict=True)) if self.names else {},
                score=self.scores[place],
                latency_ms=latencies[place],
            )
            for place, own in enumerate(self.ids)
        ]

    def _rows(self) -> Sequence[Sequence[float | None]]:
        if self.values is None or not self.names:
            return ()
        if isinstance(self.values, Sequence):
            return self.values
        return [[None if value != value else value for value in row] for row in self.values.tolist()]


def prepare() -> None:
    """Load what writing takes, which holds the interpreter for as long as a second: better before there are requests."""
    import pyarrow.parquet as pq

    moment = from_us(0)
    row = Batch("", 0, "champion", moment, moment, "", 0.0, ids=("",), scores=(0.0,), names=("x",), values=((0.0,),))
    pq.write_table(table_of([row]), io.BytesIO(), compression="zstd")


def table_of(batches: Sequence[Batch]) -> pa.Table:
    """The rows of one version's batches, as `from_table` reads them: their fields, and a float64 column for each feature."""
    import pyarrow as pa

    alike: dict[tuple[str, ...], list[Batch]] = {}
    for batch in batches:
        alike.setdefault(batch.names if batch.values is not None else (), []).append(batch)
    return pa.concat_tables([_alike(names, some) for names, some in alike.items()], promote_options="default")


def _alike(names: tuple[str, ...], batches: Sequence[Batch]) -> pa.Table:
    """Of batches with the same features: column by column, which takes a fraction of what rows do."""
    import numpy as np
    import pyarrow as pa

    counts = [len(batch.ids) for batch in batches]
    single = sum(counts) == len(counts)

    def each(values: Sequence[Any], kind: Any = None) -> pa.Array:
        """What a batch's rows have in common, for each of them."""
        if not single:
            values = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
        return pa.array(values, kind)

    columns: dict[str, Any] = {
        "id": pa.array([own for batch in batches for own in batch.ids], pa.string()),
        "model": each([batch.model for batch in batches]),
        "version": each([batch.version for batch in batches], pa.int64()),
        "role": each([batch.role for batch in batches]),
        "at_us": each([to_us(batch.at) for batch in batches], pa.int64()),
        "domain_us": each([to_us(batch.domain_at) for batch in batches], pa.int64()),
        "caller": each([batch.caller for batch in batches]),
        "entity": _entities(batches),
        "score": pa.array([score for batch in batches for score in batch.scores], pa.float64()),
        "latency_ms": pa.array([one for batch in batches for one in batch.latencies], pa.float64()),
    }
    if any(batch.share < 1 for batch in batches):
        columns[SHARE] = each([batch.share for batch in batches], pa.float64())
    if names:
        parts = [np.asarray(batch.values, np.float64) for batch in batches]
        values = np.ascontiguousarray(np.concatenate(parts).T)
        columns |= {FEATURE + name: pa.array(values[at], from_pandas=True) for at, name in enumerate(names)}
    return pa.table(columns)


def shares_of(rows: pa.Table) -> pa.ChunkedArray:
    """With which probability each row of the log was kept."""
    import pyarrow as pa

    if SHARE not in rows.column_names:
        return pa.chunked_array([pa.repeat(1.0, rows.num_rows)])
    return rows.column(SHARE).fill_null(1.0)


def _entities(batches: Sequence[Batch]) -> pa.Array:
    """What the rows were looked up by, as JSON."""
    import pyarrow as pa

    if not any(batch.entities for batch in batches):
        return pa.repeat("{}", sum(len(batch.ids) for batch in batches))
    found: list[str] = []
    for batch in batches:
        found += [_json(entity).decode() for entity in batch.entities] if batch.entities else ["{}"] * len(batch.ids)
    return pa.array(found, pa.string())
