"""Labels: outcomes that arrive late, are corrected, and never change what was known before.

A label is about an entity at an event time and became known at another. Rows are only ever added; of those about the same thing
the one that became known last counts, of equal times the one added last.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from mlbox.clock import Clock, from_us
from mlbox.errors import AlreadyExists, InvalidInput, NotFound
from mlbox.records import Column, LabelSet, check_name
from mlbox.store.catalog import suggest
from mlbox.store.db import Database, Row, Tx
from mlbox.store.offline import Offline, quote
from mlbox.store.tables import arrow_utc, conform
from mlbox.store.views import SQL_TYPES, literal, names

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline import Cursor

TIMES = (Column(name="event_time", dtype="TIMESTAMP"), Column(name="known_at", dtype="TIMESTAMP"))


class Labels:
    """All label sets."""

    def __init__(self, db: Database, offline: Offline, clock: Clock) -> None:
        self._db = db
        self._offline = offline
        self._clock = clock

    def create(self, name: str, keys: Sequence[Column], value: Column, *, actor: str) -> LabelSet:
        """Declare a label set; the same declaration again changes nothing."""
        check_name(name)
        every = [column.name for column in (*keys, value, *TIMES)]
        if not keys or len(set(every)) < len(every):
            raise InvalidInput(
                "Keys and value need names of their own.", hint="event_time and known_at are taken.", field="keys"
            )
        for column in every:
            check_name(column, field="keys")
        texts = (msgspec.json.encode(keys).decode(), msgspec.json.encode(value).decode())

        def write(tx: Tx) -> None:
            # The offline store does not tell capitals apart, so two names that differ in them would share a table.
            row = tx.one("SELECT * FROM label_set WHERE name = ? COLLATE NOCASE", (name,))
            if row is not None and row["name"] != name:
                raise AlreadyExists(
                    f"The label set {row['name']!r} differs only in capitals.",
                    hint="Choose another name.",
                    field="name",
                )
            if row is None:
                tx.run("INSERT INTO label_set VALUES (?,?,?,?)", (name, *texts, tx.now_us))
                tx.emit("label.created", f"label:{name}", actor)
            elif (row["keys"], row["value"]) != texts:
                raise AlreadyExists(
                    f"The label set {name!r} exists with other columns.",
                    hint="Give the new one a new name.",
                    field="name",
                )

        self._db.write(write)
        return self.label_set(name)

    def append(self, name: str, table: pa.Table, *, actor: str) -> int:
        """Add labels (keys, event_time, known_at, value), all or none; how many."""
        found = self._declared(name)
        columns = (*found.keys, *TIMES, found.value)
        rows = arrow_utc(conform(table, columns, required=[column.name for column in columns]))
        _check_times(rows)

        def write(cursor: Cursor) -> None:
            target = self._ensure(cursor, found)
            cursor.register("incoming", rows)
            cursor.execute(
                f"INSERT INTO {target} SELECT {names(columns)},"
                f" (SELECT coalesce(max(_seq), 0) FROM {target}) + row_number() OVER () FROM incoming"
            )
            cursor.unregister("incoming")

        self._offline.write(write)
        count = int(rows.num_rows)
        self._db.write(lambda tx: tx.emit("label.appended", f"label:{name}", actor, rows=count))
        return count

    def sets(self) -> list[LabelSet]:
        """All label sets by name, with their number of rows."""
        return [
            self._counted(_label_set(row))
            for row in self._db.all("SELECT * FROM label_set WHERE visible('label', name) ORDER BY name")
        ]

    def label_set(self, name: str) -> LabelSet:
        """One label set, with its number of rows; raises NotFound."""
        return self._counted(self._declared(name))

    def known(self, name: str, *, at: datetime) -> int:
        """How many things have a label that was known at a moment."""
        found = self._declared(name)
        return self._offline.read(lambda cursor: self._count(cursor, f"({self.known_sql(cursor, found, at)})"))

    def known_sql(self, cursor: Cursor, labels: LabelSet, at: datetime) -> str:
        """A SELECT of keys, event_time and value: the label that counted at a moment."""
        target = self._ensure(cursor, labels)
        keys = names(labels.keys)
        return (
            f"SELECT {keys}, event_time, {quote(labels.value.name)} FROM {target} WHERE known_at <= {literal(at)}"
            f" QUALIFY row_number() OVER (PARTITION BY {keys}, event_time ORDER BY known_at DESC, _seq DESC) = 1"
        )

    def _declared(self, name: str) -> LabelSet:
        row = self._db.one("SELECT * FROM label_set WHERE name = ? AND visible('label', name)", (name,))
        if row is None:
            known = [row["name"] for row in self._db.all("SELECT name FROM label_set WHERE visible('label', name)")]
            raise NotFound(f"There is no label set {name[:200]!r}.", hint=suggest(name, known), field="label_set")
        return _label_set(row)

    def _counted(self, labels: LabelSet) -> LabelSet:
        rows = self._offline.read(lambda cursor: self._count(cursor, self._ensure(cursor, labels)))
        return msgspec.structs.replace(labels, rows=rows)

    @staticmethod
    def _count(cursor: Cursor, table: str) -> int:
        row = cursor.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(row[0]) if row else 0

    @staticmethod
    def _ensure(cursor: Cursor, labels: LabelSet) -> str:
        """The label set's table, quoted, made if it is new."""
        target = quote(f"label:{labels.name}")
        typed = ", ".join(f"{quote(c.name)} {SQL_TYPES[c.dtype]}" for c in (*labels.keys, *TIMES, labels.value))
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {target} ({typed}, _seq BIGINT NOT NULL)")
        return target


def _check_times(rows: pa.Table) -> None:
    import pyarrow.compute as pc

    early = pc.less(rows.column("known_at"), rows.column("event_time"))
    if pc.any(early).as_py():
        row = early.to_pylist().index(True)
        raise InvalidInput(
            f"known_at is before event_time in row {row}.", hint="An outcome is known after the fact.", field="known_at"
        )


def _label_set(row: Row) -> LabelSet:
    return LabelSet(
        name=row["name"],
        keys=msgspec.json.decode(row["keys"], type=tuple[Column, ...]),
        value=msgspec.json.decode(row["value"], type=Column),
        created_at=from_us(row["created_us"]),
    )
