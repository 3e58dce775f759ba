"""The sources of the feature store: append-only tables of what happened and when it became known."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from mlbox.clock import Clock
from mlbox.records import Source, SourceFile
from mlbox.store.db import Database
from mlbox.store.features.catalog import ALL, Catalog
from mlbox.store.features.folders import Folders, Found
from mlbox.store.offline import views
from mlbox.store.offline.offline import Offline, one
from mlbox.store.offline.usersql import ARRIVED, SEQUENCE
from mlbox.store.tables import conform

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

_STATE = """
CREATE TABLE IF NOT EXISTS "state:source" (name VARCHAR PRIMARY KEY, appends BIGINT NOT NULL, row_count BIGINT NOT NULL);
ALTER TABLE "state:source" ADD COLUMN IF NOT EXISTS pushed BOOLEAN DEFAULT false;
CREATE TABLE IF NOT EXISTS "state:landed" (
  source VARCHAR, path VARCHAR, size BIGINT NOT NULL, modified_ns BIGINT NOT NULL, row_count BIGINT NOT NULL,
  taken TIMESTAMP NOT NULL, PRIMARY KEY (source, path)
);
"""


class Sources(Catalog):
    """Declared sources and their rows."""

    def __init__(
        self, db: Database, offline: Offline, clock: Clock, *, max_sql: int, folders: Folders | None = None
    ) -> None:
        super().__init__(db, max_sql=max_sql, folders=folders)
        self._offline = offline
        self._clock = clock
        offline.prepare(_STATE)

    check_open: Callable[[str], None] = staticmethod(lambda source: None)
    """Raises for a source that nobody may add rows to; set by who feeds it."""

    def append(self, source: str, table: pa.Table, *, file: Found | None = None, actor: str) -> int:
        """Add rows to a source, all or none; how many. Columns are those declared, in any order.

        The `file` of a watched folder that they are from is noted in the same transaction: it is taken once, whatever happens.
        """
        found = self.declared(source)
        self.check_open(source)
        rows = conform(table, found.columns, required=(found.event_time,))
        return self._add(found, rows, actor, file=file)

    def _add(self, source: Source, rows: pa.Table, actor: str, *, file: Found | None = None) -> int:
        """Add rows in their declared types; how many went in."""

        def write(cursor: Cursor) -> int:
            self._ensure_source(cursor, source)
            added = self._insert(cursor, source, self._screened(cursor, source, rows, actor))
            if file is not None:
                self._note_landed(cursor, source, file, added)
            return added

        added = self._offline.write(write) if rows.num_rows or file is not None else 0
        if added:
            self.note_append(source.name, added, actor=actor)
        return added

    def feed(self, cursor: Cursor, source: Source, table: pa.Table) -> None:
        """Add rows in a transaction of the caller's, who tells of them by `note_append`."""
        self._ensure_source(cursor, source)
        self._insert(cursor, source, table)

    def _note_landed(self, cursor: Cursor, source: Source, file: Found, rows: int) -> None:
        taken = self._clock.now().astimezone(UTC).replace(tzinfo=None)
        cursor.execute(
            'INSERT INTO "state:landed" VALUES (?, ?, ?, ?, ?, ?)',
            [source.name, file.path, file.size, file.modified_ns, rows, taken],
        )

    def landed(self, source: str) -> dict[str, tuple[SourceFile, int]]:
        """The files that a source has taken from its folder, by path, and when each had been written to, in ns."""
        found = self.declared(source)
        if not self._offline.used:
            return {}
        rows = self._offline.rows(
            'SELECT path, size, modified_ns, row_count, taken FROM "state:landed" WHERE source = ? ORDER BY path',
            [found.name],
        )
        return {
            path: (SourceFile(path=path, size=size, rows=count, taken_at=taken.replace(tzinfo=UTC)), modified)
            for path, size, modified, count, taken in rows
        }

    def _screened(self, cursor: Cursor, source: Source, rows: pa.Table, actor: str) -> pa.Table:
        """Those of the rows that go into the source."""
        return rows

    @classmethod
    def _insert(cls, cursor: Cursor, source: Source, rows: pa.Table, *, arrived: datetime | None = None) -> int:
        """Write rows to a source's table; how many."""
        if not rows.num_rows:
            return 0
        before = cls._row_count(cursor, source.name)
        stamp = views.literal(arrived) if arrived else "NULL"
        cursor.register("incoming", rows)
        cursor.execute(
            f"INSERT INTO {views.source_table(source.name)} BY NAME SELECT {views.names(source.columns)},"
            f" {before} + row_number() OVER () AS {SEQUENCE}, {stamp}::TIMESTAMP AS {ARRIVED} FROM incoming"
        )
        cursor.unregister("incoming")
        cursor.execute(
            'INSERT INTO "state:source" (name, appends, row_count, pushed) VALUES (?, 1, ?, ?) ON CONFLICT (name) DO UPDATE'
            " SET appends = appends + 1, row_count = row_count + excluded.row_count, pushed = pushed OR excluded.pushed",
            [source.name, rows.num_rows, arrived is not None],
        )
        return int(rows.num_rows)

    def sources(self, *, limit: int = ALL, after: str | None = None) -> list[Source]:
        """Sources by name with their number of rows, from the one after `after`."""
        return self._counted(self.declarations(limit=limit, after=after))

    def source(self, name: str) -> Source:
        """One source with its number of rows; raises NotFound."""
        return self._counted([self.declared(name)])[0]

    def _counted(self, declared: list[Source]) -> list[Source]:
        if not declared or not self._offline.used:
            return declared
        counts = dict(self._offline.rows('SELECT name, row_count FROM "state:source"'))
        return [msgspec.structs.replace(source, rows=counts.get(source.name, 0)) for source in declared]

    @staticmethod
    def _row_count(cursor: Cursor, name: str) -> int:
        row = one(cursor, 'SELECT row_count FROM "state:source" WHERE name = ?', [name])
        return row[0] if row else 0

    @staticmethod
    def _ensure_source(cursor: Cursor, source: Source) -> None:
        """Have a source's table; one from before rows were stamped is given the column."""
        table = f"source:{source.name}"
        columns = [
            name
            for (name,) in cursor.execute(
                "SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [table]
            ).fetchall()
        ]
        if not columns:
            typed = views.typed_names(source.columns)
            cursor.execute(
                f"CREATE TABLE {views.source_table(source.name)} ({typed}, {SEQUENCE} BIGINT NOT NULL, {ARRIVED} TIMESTAMP)"
            )
        elif ARRIVED not in columns:
            cursor.execute(f"ALTER TABLE {views.source_table(source.name)} ADD COLUMN {ARRIVED} TIMESTAMP")
