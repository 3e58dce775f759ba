"""Labels on their way in: each is kept once, or held back with the reason, and nothing is half there.

The same source, id and payload again is nothing new; the same source and id with another payload is a correction, which is kept
beside what it corrects. Who does not name ids is taken at his word: an equal row is the same label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.errors import InvalidInput, NotFound
from mlbox.records import Column, HeldLabel, Labelled, LabelSet
from mlbox.store.labels.labels import EVENT_TIME, OPTIONAL, LabelSets, allowed, source_of
from mlbox.store.offline.offline import one, quote
from mlbox.store.offline.views import literal, names
from mlbox.store.tables import arrow_utc, conform, table_of

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

NOT_LOGGED = (
    "the prediction log does not have this prediction: it is unknown, too old, or left out by the model's sampling"
)
_HELD = """
CREATE TABLE IF NOT EXISTS "state:held-label" (
  id BIGINT PRIMARY KEY, label_set VARCHAR, source VARCHAR, row_json VARCHAR, reasons VARCHAR[], by_user VARCHAR,
  held_at TIMESTAMP
);
CREATE SEQUENCE IF NOT EXISTS "held-label";
ALTER TABLE "state:held-label" ADD COLUMN IF NOT EXISTS sent_row BIGINT;
"""


def columns_of(labels: LabelSet) -> tuple[Column, ...]:
    """All columns that a label may come with."""
    return (*labels.keys, EVENT_TIME, labels.value, *OPTIONAL)


OPTIONAL_NAMES = tuple(column.name for column in OPTIONAL)


class LabelRows(LabelSets):
    """The raw labels of all sets."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._offline.prepare(_HELD)

    def append(
        self, name: str, table: pa.Table, *, source: str | None = None, backfill: bool = False, actor: str
    ) -> Labelled:
        """Keep labels: keys, `event_time`, the value, and what `OPTIONAL` lists, where it is there.

        With `backfill` the times that they claim are believed, though the server was not there. Raises InvalidInput for a
        column or a type; a row that breaks what the set expects is held back with its reasons.
        """
        labels = self.declared(name)
        told = source_of(labels, source)
        rows = arrow_utc(conform(table, columns_of(labels), optional=OPTIONAL_NAMES))
        now = self._clock.now()
        done = self._offline.write(
            lambda cursor: self._ingest(cursor, labels, told.name, rows, now, backfill=backfill, actor=actor)
        )
        self._note(name, done, told.name, backfill, actor)
        return done

    def append_rows(
        self, name: str, rows: Sequence[Mapping[str, Any]], *, source: str | None = None, actor: str
    ) -> Labelled:
        """As `append`, of rows as JSON has them."""
        labels = self.declared(name)
        return self.append(name, table_of(rows, columns_of(labels), "labels"), source=source, actor=actor)

    def _note(self, name: str, done: Labelled, source: str, backfill: bool, actor: str) -> None:
        if done.rows or done.quarantined:
            kind = "label.backfilled" if backfill else "label.appended"
            self._db.write(
                lambda tx: tx.emit(kind, f"label:{name}", actor, rows=done.rows, held=done.quarantined, source=source)
            )

    def _ingest(
        self,
        cursor: Cursor,
        labels: LabelSet,
        source: str,
        rows: pa.Table,
        now: datetime,
        *,
        backfill: bool,
        actor: str,
    ) -> Labelled:
        target = self._ensure(cursor, labels)
        cursor.register("incoming", rows)
        try:
            cursor.execute(f"CREATE OR REPLACE TEMP TABLE checked AS {self._checked_sql(cursor, labels, now)}")
        finally:
            cursor.unregister("incoming")
        held = self._hold(cursor, labels, source, now, actor)
        before = _count(cursor, target)
        knowable = "_claimed" if backfill else f"greatest(_claimed, {literal(now)})"
        listed = f"{names(labels.keys)}, {quote(labels.value.name)}, event_time"
        # By their digests first, which are quick to look through: few rows are there already, and their text is read alone.
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE again AS SELECT _source, _id, _digest FROM {target} WHERE rowid IN"
            f" (SELECT kept.rowid FROM {target} kept SEMI JOIN checked USING (_digest))"
        )
        cursor.execute(
            f"INSERT INTO {target} BY NAME SELECT {listed}, _claimed, {knowable} AS _knowable, ? AS _source, _id,"
            " annotator AS _annotator, prediction_id AS _prediction, coalesce(ground_truth, false) AS _truth, _digest,"
            " ? AS _backfill, ? AS _by,"
            f" {literal(now)} AS _at, {before} + row_number() OVER (ORDER BY _row) AS _seq FROM checked"
            " WHERE len(_reasons) = 0 AND NOT EXISTS (SELECT 1 FROM again kept WHERE kept._source = ?"
            " AND kept._id = checked._id AND kept._digest = checked._digest)"
            " QUALIFY row_number() OVER (PARTITION BY _id, _digest ORDER BY _row) = 1",
            [source, backfill, actor, source],
        )
        kept = _count(cursor, target) - before
        cursor.execute("DROP TABLE checked; DROP TABLE again")
        if kept:
            self._written(cursor, labels)
        return Labelled(rows=kept, duplicates=rows.num_rows - kept - held, quarantined=held)

    def _written(self, cursor: Cursor, labels: LabelSet) -> None:
        """What follows from new labels, in their transaction."""

    def _checked_sql(self, cursor: Cursor, labels: LabelSet, now: datetime) -> str:
        """Incoming rows with their number, id, digest and claim, and why they are not taken, if they are not."""
        value = quote(labels.value.name)
        keys = [quote(key.name) for key in labels.keys]
        bare = " AND ".join(f"{name} IS NULL" for name in (*keys, "event_time"))
        rules = [(f"prediction_id IS NOT NULL AND {bare}", NOT_LOGGED)]
        rules += [(f"{quote(key.name)} IS NULL", f"{key.name} is missing") for key in labels.keys]
        rules += [
            ("event_time IS NULL", "event_time is missing"),
            (f"event_time > {literal(now)}", "the event is still to come"),
            (f"known_at > {literal(now)}", "it is claimed as known at a time still to come"),
            ("known_at < event_time", "it is claimed as known before the event"),
            (f"{value} IS NULL", "it has no value"),
        ]
        if labels.value.dtype == "FP64":
            rules.append((f"NOT isfinite({value})", "its value is no finite number"))
        if labels.classes:
            inside = ", ".join(_literal(one) for one in allowed(labels))
            rules.append((f"{value} NOT IN ({inside})", "its value is none of the classes"))
        for bound, sign in ((labels.minimum, "<"), (labels.maximum, ">")):
            if bound is not None:
                side = "below" if sign == "<" else "above"
                rules.append((f"{value} {sign} {bound!r}", f"its value is {side} {bound:g}"))
        entities = self._entities_sql(cursor, labels)
        if labels.entities:
            same = " AND ".join(f"entity.{key} = incoming.{key}" for key in keys)
            unknown = f"NOT EXISTS (SELECT 1 FROM {entities} entity WHERE {same})" if entities else "true"
            rules.append((unknown, f"{labels.entities} knows no such entity"))
        reasons = ", ".join(f"CASE WHEN {broken} THEN {_literal(why)} END" for broken, why in rules)
        said = ", ".join(
            f"coalesce({column}::VARCHAR, '\\0')"
            for column in (*keys, "event_time", value, "known_at", "annotator", "ground_truth")
        )
        digest = f"md5_number_lower(concat_ws('\\1', {said}, coalesce(prediction_id, '\\0')))"
        return (
            f"SELECT *, list_filter([{reasons}], lambda why: why IS NOT NULL) AS _reasons,"
            f" row_number() OVER () AS _row, {digest} AS _digest, coalesce(id, 'of ' || ({digest})::VARCHAR) AS _id,"
            f" coalesce(known_at, {literal(now)}) AS _claimed FROM incoming"
        )

    # -- held back ------------------------------------------------------------------------------------------------------

    def _hold(self, cursor: Cursor, labels: LabelSet, source: str, now: datetime, actor: str) -> int:
        """Keep what is not taken, as it came, with why; a row that is held already is not held twice. How many are not taken."""
        row = one(cursor, "SELECT count(*) FROM checked WHERE len(_reasons) > 0")
        count = int(row[0]) if row else 0
        if count:
            listed = ", ".join(f"{_literal(column.name)}: {_as_sent(column)}" for column in columns_of(labels))
            cursor.execute(
                "INSERT INTO \"state:held-label\" SELECT nextval('held-label'), ?, ?, sent, _reasons, ?, ?, _row"
                f" FROM (SELECT to_json({{{listed}}})::VARCHAR AS sent, _reasons, _row FROM checked"
                ' WHERE len(_reasons) > 0) WHERE NOT EXISTS (SELECT 1 FROM "state:held-label" kept WHERE kept.label_set = ?'
                " AND kept.source = ? AND kept.row_json = sent) ORDER BY _row",
                [labels.name, source, actor, now.replace(tzinfo=None), labels.name, source],
            )
        return count

    def held(self, name: str, *, limit: int = 100, after: int = 0) -> list[HeldLabel]:
        """Rows that were held back, oldest first, from the id after `after`."""
        self.declared(name)
        if not self._offline.used:
            return []
        rows = self._offline.rows(
            'SELECT id, source, row_json, reasons, by_user, held_at, sent_row FROM "state:held-label"'
            " WHERE label_set = ? AND id > ? ORDER BY id LIMIT ?",
            [name, after, limit],
        )
        return [
            HeldLabel(
                id=key,
                source=source,
                row=msgspec.json.decode(text),
                number=number,
                reasons=tuple(reasons),
                by=by,
                at=_utc(at),
            )
            for key, source, text, reasons, by, at, number in rows
        ]

    def resubmit(
        self,
        name: str,
        ids: Sequence[int] | None = None,
        corrections: Mapping[int, Mapping[str, Any]] = {},
        *,
        actor: str,
    ) -> Labelled:
        """Send held rows again, with corrections by id; those that are taken leave the quarantine. By default all of them."""
        labels = self.declared(name)
        wanted = set(ids) if ids is not None else None
        now = self._clock.now()

        def write(cursor: Cursor) -> Labelled:
            found = cursor.execute(
                'SELECT id, source, row_json FROM "state:held-label" WHERE label_set = ? ORDER BY id', [name]
            ).fetchall()
            chosen = [row for row in found if wanted is None or row[0] in wanted]
            missing = (wanted or set()) - {row[0] for row in chosen} or set(corrections) - {row[0] for row in chosen}
            if missing:
                raise NotFound(
                    f"No row {min(missing)} of {name} is held back.", hint="See `mlbox label held`.", field="ids"
                )
            total = Labelled(rows=0)
            for source in dict.fromkeys(row[1] for row in chosen):
                own = [row for row in chosen if row[1] == source]
                sent = [{**_bare(text), **corrections.get(key, {})} for key, _, text in own]
                rows = arrow_utc(
                    conform(
                        table_of(sent, columns_of(labels), "corrections"), columns_of(labels), optional=OPTIONAL_NAMES
                    )
                )
                cursor.execute(
                    f'DELETE FROM "state:held-label" WHERE id IN ({", ".join(str(key) for key, _, _ in own)})'
                )
                total += self._ingest(cursor, labels, source, rows, now, backfill=False, actor=actor)
            return total

        done = self._offline.write(write)
        self._note(name, done, "quarantine", False, actor)
        return done

    def discard(self, name: str, ids: Sequence[int], *, actor: str) -> int:
        """Forget held rows; how many."""
        self.declared(name)
        if not ids:
            raise InvalidInput("No rows are named.", hint="Give their ids.", field="ids")
        listed = ", ".join(str(int(one)) for one in ids)

        def write(cursor: Cursor) -> int:
            where = f'FROM "state:held-label" WHERE label_set = ? AND id IN ({listed})'
            found = cursor.execute(f"SELECT count(*) {where}", [name]).fetchall()[0][0]
            cursor.execute(f"DELETE {where}", [name])
            return int(found)

        count = self._offline.write(write)
        if count:
            self._db.write(lambda tx: tx.emit("label.discarded", f"label:{name}", actor, rows=count))
        return count


def _as_sent(column: Column) -> str:
    """A column as JSON can hold it, and as it can be sent again."""
    name = quote(column.name)
    if column.dtype == "TIMESTAMP":
        return f"strftime({name}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    return f"CASE WHEN isfinite({name}) THEN {name} END" if column.dtype == "FP64" else name


def _bare(text: str) -> dict[str, Any]:
    """A held row as it was sent: what it left out is left out."""
    found: dict[str, Any] = msgspec.json.decode(text)
    return {name: value for name, value in found.items() if value is not None}


def _count(cursor: Cursor, table: str) -> int:
    row = one(cursor, f"SELECT count(*) FROM {table}")
    return int(row[0]) if row else 0


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


def _utc(moment: datetime) -> datetime:
    from datetime import UTC

    return moment.replace(tzinfo=UTC)
