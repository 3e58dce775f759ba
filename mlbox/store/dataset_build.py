"""Rows on their way into a dataset version: in plain types, counted, and written as files, as they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import Column, DataFile, DatasetSplit
from mlbox.store.artifacts import Artifacts
from mlbox.store.dataset_facts import Facts
from mlbox.store.dataset_files import FileWriter
from mlbox.store.dataset_split import check_split
from mlbox.store.tables import dtype_of, plain

if TYPE_CHECKING:
    import pyarrow as pa


class Built(NamedTuple):
    """What rows became."""

    files: tuple[DataFile, ...]
    columns: tuple[Column, ...]
    rows: int
    statistics: dict[str, dict[str, Any]]


def build(
    artifacts: Artifacts, schema: pa.Schema, batches: Iterable[pa.RecordBatch], split: DatasetSplit | None
) -> Built:
    """Keep rows as files, in their order, and count what they hold; memory is bounded where they come one by one.

    Raises InvalidInput for columns or a split that cannot be, and whatever is raised by who hands them over.
    """
    import pyarrow as pa

    columns = columns_of(schema)
    if split is not None:
        check_split(split, columns)
    facts, count = Facts(columns), 0
    with FileWriter(artifacts, split) as files:
        for batch in batches:
            if not batch.num_rows:
                continue
            table = plain(pa.Table.from_batches([batch]))
            facts.add(table)
            files.add(table)
            count += table.num_rows
        return Built(files.finish(), columns, count, facts.found())


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns of a schema; raises InvalidInput for a name that is there twice."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(
            f"The column {twice[:200]!r} is there twice.", hint="Give each a name of its own.", field=twice[:200]
        )
    return tuple(Column(name=field.name, dtype=dtype_of(field.type)) for field in schema)
