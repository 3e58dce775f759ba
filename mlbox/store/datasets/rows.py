"""The rows of a dataset version as SQL over the offline store: a spine, features as they were known, labels, a total order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mlbox.errors import InvalidInput, MlboxError, Unavailable, suggest
from mlbox.records import DatasetSplit, LabelSet, Record
from mlbox.store.datasets.files import GROUP_ROWS
from mlbox.store.datasets.split import EVENT_TIME
from mlbox.store.features.features import FeatureStore
from mlbox.store.labels.views import Labels
from mlbox.store.offline.offline import Offline, first_line, one, quote
from mlbox.store.offline.usersql import explaining
from mlbox.store.offline.views import literal
from mlbox.store.offline.views import names as names_of

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

T = TypeVar("T")
Take = Callable[["pa.Schema", Iterator["pa.RecordBatch"], Callable[[datetime], int]], T]
BUILD_SECONDS = 3600.0
"""A build is interrupted after this long."""


class DatasetFrom(Record, frozen=True, kw_only=True):
    """What is said of a version besides its rows."""

    split: DatasetSplit | None = None
    parents: tuple[str, ...] = ()
    """Dataset versions that it is made from."""
    run_id: str | None = None
    git_commit: str | None = None
    git_dirty: bool = False
    description: str = ""
    tags: dict[str, str] = {}


class DatasetSpec(DatasetFrom, frozen=True, kw_only=True):
    """What a dataset version is to hold."""

    name: str
    spine: str = ""
    """One SELECT over sources that yields the entities' keys and `event_time`; none: what is labelled."""
    features: tuple[str, ...] = ()
    """Feature references, or services; none: the spine's own columns."""
    label_set: str | None = None
    event_from: datetime | None = None
    event_to: datetime | None = None
    """Rows from the first moment to before the second."""
    as_of: datetime | None = None
    """Cut-off: nothing that became known later is in it; by default domain time."""


class Asked(NamedTuple):
    """What rows a version is to have, as SQL."""

    select: str
    """Its rows, in their order."""
    spine: str | None
    """What is in the table `spine` by then: the rows that something is joined to, with the label where one is wanted."""
    label: str | None
    given: pa.Table | None = None
    """What a user's SELECT yielded, which the others find as `given`."""
    features: tuple[str, ...] = ()
    """Those that the rows are to have, where transforms make some of them out of what is read; else none."""


class DatasetRows:
    """Puts a definition into SQL, and reads what it yields."""

    def __init__(self, offline: Offline, features: FeatureStore, labels: Labels, seconds: float) -> None:
        self._offline = offline
        self._seconds = seconds
        self._features = features
        self._labels = labels

    def asked(
        self,
        spec: DatasetSpec,
        features: tuple[str, ...],
        labels: LabelSet | None,
        as_of: datetime,
        *,
        since: datetime | None = None,
    ) -> Asked:
        """A definition as SQL, checked, with every table that it reads in place and up to date; raises InvalidInput.

        `since` spares a spine that looks at each row alone the events before.
        """
        given = None
        if spec.spine:
            given = self._features.query_sources(spec.spine, known=as_of, dataset=spec.name, since=since)
        spine, empty = self._offline.write(lambda cursor: self._spine(cursor, spec, labels, as_of, given))
        label = labels.value.name if labels is not None else None
        # A total order: rows that are equal in all columns are the same row.
        order = sorted((name for name in empty.column_names if name != label), key=lambda name: name != EVENT_TIME)
        ordered = f"ORDER BY {', '.join(quote(name) for name in order)}"
        if labels is None and not features:
            return Asked(f"{spine} {ordered}", None, None, given)
        rows, columns = "spine", "*"
        if label is not None:
            rows = f"(SELECT * FROM spine WHERE {quote(label)} IS NOT NULL)"
            columns = f"* EXCLUDE ({quote(label)}), {quote(label)}"  # the label comes last, after the features
        if features:
            rows = f"({self._features.historical_sql(features, rows, empty, event_time=EVENT_TIME)})"
        made = features if features and self._features.uses_transforms(features) else ()
        return Asked(f"SELECT {columns} FROM {rows} {ordered}", spine, label, given, made)

    def read(self, asked: Asked, take: Take[T]) -> tuple[T, int]:
        """Hand the rows over, batch by batch, all of one moment's data; and how many of the spine have no label.

        With them goes what says, once all are taken, how many of those without a label are before a moment.
        """

        def unlabelled_before(cursor: Cursor, moment: datetime) -> int:
            if asked.label is None:
                return 0
            where = f"{quote(asked.label)} IS NULL AND event_time < {literal(moment)}"
            found = one(cursor, f"SELECT count(*) FROM spine WHERE {where}")
            return int(found[0]) if found else 0

        def read(cursor: Cursor) -> tuple[T, int]:
            cursor.begin()
            if asked.given is not None:
                cursor.register("given", asked.given)
            unlabelled = _make_spine(cursor, asked) if asked.spine is not None else 0
            with explaining("spine"):
                reader = cursor.sql(asked.select).to_arrow_reader(GROUP_ROWS)
            counted = functools.partial(unlabelled_before, cursor)
            return self._made(
                asked, reader.schema, self._explained(reader), lambda schema, batches: take(schema, batches, counted)
            ), unlabelled

        return self._offline.read(read, seconds=self._seconds)

    def _made(
        self,
        asked: Asked,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        take: Callable[[pa.Schema, Iterator[pa.RecordBatch]], T],
    ) -> T:
        """Hand the rows over with what transforms make of them."""
        import pyarrow as pa

        if not asked.features:
            return take(schema, batches)

        def made(rows: list[pa.RecordBatch]) -> pa.Table:
            table = pa.Table.from_batches(rows, schema)
            return self._features.with_transforms(asked.features, table, last=asked.label)

        done = (one for batch in batches for one in made([batch]).combine_chunks().to_batches())
        return take(made([]).schema, done)

    def _explained(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """What is read; DuckDB's errors come out of Arrow's stream as text alone."""
        import pyarrow as pa

        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            except (OSError, pa.ArrowException) as err:
                raise self._error(first_line(err)) from err
            yield batch

    def _error(self, text: str) -> MlboxError:
        if "INTERRUPT" in text:
            return InvalidInput(
                f"The build took longer than {self._seconds:g} s.",
                hint="Ask for less, or raise build_seconds.",
                field="spine",
            )
        if "Out of Memory" in text:
            return Unavailable(
                f"The offline store ran out of memory: {text}.",
                hint="Raise duckdb_memory or duckdb_temp, or ask for less.",
            )
        return InvalidInput(f"The SQL does not work: {text}.", hint="Check names and types.", field="spine")

    def _spine(
        self, cursor: Cursor, spec: DatasetSpec, labels: LabelSet | None, as_of: datetime, given: pa.Table | None
    ) -> tuple[str, pa.Table]:
        """A SELECT of the spine, with the label where one is wanted, and what it yields without its rows."""
        if given is not None:
            cursor.register("given", given)
            inner = "given"
        else:
            assert labels is not None
            items = f"SELECT {names_of(labels.keys)}, event_time"
            inner = f"({items} FROM ({self._labels.known_sql(cursor, labels, as_of)}))"
        with explaining("spine"):
            names = [column[0] for column in cursor.execute(f"SELECT * FROM {inner} LIMIT 0").description or ()]
        timeless = not spec.features and labels is None and not (spec.event_from or spec.event_to)
        if EVENT_TIME not in names and not timeless:
            raise InvalidInput(
                "The spine yields no column 'event_time'.", hint=f"It yields {', '.join(names)}.", field="spine"
            )
        bounds = [f"event_time >= {literal(spec.event_from)}"] if spec.event_from else []
        bounds += [f"event_time < {literal(spec.event_to)}"] if spec.event_to else []
        rows = f"SELECT * FROM {inner} WHERE {' AND '.join(bounds) or 'true'}"
        sql = rows if labels is None else self._labelled(cursor, rows, names, labels, as_of)
        with explaining("spine"):
            return sql, cursor.sql(f"SELECT * FROM ({sql}) LIMIT 0").to_arrow_table()

    def _labelled(self, cursor: Cursor, rows: str, names: Sequence[str], labels: LabelSet, as_of: datetime) -> str:
        missing = [key.name for key in labels.keys if key.name not in names]
        if missing:
            raise InvalidInput(
                f"The spine has no column {missing[0]!r}, which labels of {labels.name} are found by.",
                hint=suggest(missing[0], names),
                field="spine",
            )
        value = quote(labels.value.name)
        if labels.value.name in names:
            raise InvalidInput(
                f"The spine has a column {labels.value.name!r}, which is the label's name.",
                hint="Leave it out.",
                field="spine",
            )
        on = " AND ".join(f"spine.{quote(key.name)} = known.{quote(key.name)}" for key in labels.keys)
        return (
            f"SELECT spine.*, known.{value} FROM ({rows}) spine"
            f" LEFT JOIN ({self._labels.known_sql(cursor, labels, as_of)}) known"
            f" ON {on} AND spine.event_time = known.event_time"
        )


def _make_spine(cursor: Cursor, asked: Asked) -> int:
    """Have the table `spine`, of this cursor alone; how many of its rows have no label. Raises InvalidInput without a row."""
    with explaining("spine"):
        cursor.execute(f"CREATE TEMP TABLE spine AS {asked.spine}")
    label = quote(asked.label) if asked.label is not None else "0"
    counts = one(cursor, f"SELECT count(*), count({label}), count(*) FILTER (event_time IS NULL) FROM spine")
    assert counts is not None
    rows, labelled, timeless = counts
    if timeless:
        raise InvalidInput(
            f"'event_time' is null in {timeless:,} rows of the spine.", hint="Leave those out.", field="spine"
        )
    if not labelled:
        raise no_rows(rows)
    return int(rows - labelled)


def no_rows(unlabelled: int) -> InvalidInput:
    """What is wrong with a definition that yields no rows, though so many without a label."""
    return InvalidInput(
        f"The dataset has no rows: the spine yields {unlabelled:,}, of which 0 have a known label."
        if unlabelled
        else "The dataset has no rows: the spine yields none in the time range.",
        hint="Check event_from, event_to and as_of.",
        field="spine",
    )
