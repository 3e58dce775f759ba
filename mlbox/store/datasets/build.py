"""Rows on their way into a dataset version: in plain types, counted, and written as files, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import Column, DataFile, DatasetSplit, ResumePoint
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.facts import Facts
from mlbox.store.datasets.files import FileWriter, moment_of, starts_of
from mlbox.store.datasets.split import check_split
from mlbox.store.tables import dtype_of, plain

if TYPE_CHECKING:
    import pyarrow as pa

RESUME_ROWS = 500_000
"""With fewer rows before it, to go on from a day saves little, and what is kept for it is as large as they are."""


class Before(NamedTuple):
    """What there is already of the rows before a day."""

    files: tuple[DataFile, ...]
    columns: tuple[Column, ...]
    facts: bytes
    point: ResumePoint


class Built(NamedTuple):
    """What rows became."""

    files: tuple[DataFile, ...]
    columns: tuple[Column, ...]
    rows: int
    statistics: dict[str, dict[str, Any]]
    resume: ResumePoint | None
    """Where a later build can go on, its facts kept as an artifact."""


def build(
    artifacts: Artifacts,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    split: DatasetSplit | None,
    before: Before | None = None,
    *,
    resumable: bool = False,
) -> Built:
    """Keep rows as files, in their order, and count what they hold; memory is bounded where they come one by one.

    With `before`, the rows are those from its day on; what is `resumable` keeps where a later build can go on. Raises
    InvalidInput for columns or a split that cannot be, and whatever is raised by who hands them over.
    """
    import pyarrow as pa

    columns = columns_of(schema)
    if split is not None:
        check_split(split, columns)
    if before is not None and columns != before.columns:
        raise InvalidInput("The columns are others than they were.", field="spine")
    counted = _Counted(columns, before)
    with FileWriter(artifacts, split, before.point.begins if before is not None else None) as files:
        for batch in batches:
            if not batch.num_rows:
                continue
            table = plain(pa.Table.from_batches([batch]))
            files.add(table)
            counted.add(table, files.begun)
        made = _joined(before, files.finish(), split)
        resume = counted.resume(files.begun, artifacts) if resumable else None
        return Built(made, columns, counted.rows, counted.facts.found(), resume)


def _joined(before: Before | None, files: tuple[DataFile, ...], split: DatasetSplit | None) -> tuple[DataFile, ...]:
    """All files, those of a part after each other."""
    if before is None:
        return files
    places = [part.name for part in split.parts] if split is not None else [""]
    return tuple(sorted((*before.files, *files), key=lambda file: places.index(file.split)))


class _Counted:
    """What rows hold, and what those before each day on which files began held, as long as one may go on from there."""

    def __init__(self, columns: tuple[Column, ...], before: Before | None) -> None:
        self.facts = Facts(columns) if before is None else Facts.resumed(columns, before.facts)
        self.rows = 0 if before is None else before.point.rows
        self._before = before
        self._then: dict[int, tuple[int, Facts]] = {}
        self._seen: set[int] = set()

    def add(self, table: pa.Table, begun: Mapping[str, list[int]]) -> None:
        """The next rows, and the days on which files began until here."""
        fresh = {day for days in begun.values() for day in days} - self._seen
        self._seen |= fresh
        done = 0
        for day, at in starts_of(table, fresh) if fresh else ():
            self._take(table.slice(done, at - done))
            self._then[day] = (self.rows, self.facts.copy())
            done = at
        self._take(table.slice(done))
        first = _resumable(begun)
        self._then = {day: kept for day, kept in self._then.items() if first is None or day >= first}

    def _take(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self.facts.add(rows)
            self.rows += rows.num_rows

    def resume(self, begun: Mapping[str, list[int]], artifacts: Artifacts) -> ResumePoint | None:
        """Where a later version can go on from this one, if anywhere; what was counted until there is kept."""
        day = _resumable(begun)
        if day is None or day not in self._then:
            return self._before.point if self._before is not None else None
        rows, facts = self._then[day]
        if rows < RESUME_ROWS:
            return None
        return ResumePoint(
            day=moment_of(day),
            begins={part: moment_of(days[-2]) for part, days in begun.items()},
            rows=rows,
            facts=artifacts.put([facts.dump()])[0],
        )


def _resumable(begun: Mapping[str, list[int]]) -> int | None:
    """The first of the days from which the last two files of days of each part are made anew; None where one has not as many.

    The last may still grow, and where the one before it ends depends on the first day of the last.
    """
    if not begun or any(len(days) < 2 for days in begun.values()):
        return None
    return min(days[-2] for days in begun.values())


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns of a schema; raises InvalidInput for a name that is there twice."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(
            f"The column {twice[:200]!r} is there twice.", hint="Give each a name of its own.", field=twice[:200]
        )
    return tuple(Column(name=field.name, dtype=dtype_of(field.type)) for field in schema)
