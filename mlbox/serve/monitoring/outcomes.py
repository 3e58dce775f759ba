"""Outcomes: predictions and the labels that they meet, whenever those arrive.

A prediction is about one item, an entity at an event time, and has the item's label, if it has one:

1. the item of a label that names the prediction's id, the last such label;
2. else the item of its entity at the `event_time` that was sent with its ids;
3. else the next item of its entity, at or after the prediction, within the label set's horizon, if that has one.

So a label may come at any time after. A prediction without a label, or whose label is tied, is not a negative one: it is in no
metric, and coverage counts it.

The join is kept, in the offline store. It is brought up to date by new predictions, file by file of the log, and by labels that
changed, with the predictions that these are about; each step is a transaction, and one that is broken off is made again. What is
held in memory is one file of the log; the joins are DuckDB's, which puts on disk what does not fit.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Column, LabelSet
from mlbox.serve.predictions.batches import SHARE, shares_of
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.casting import arrow_type
from mlbox.store.given import given_value
from mlbox.store.labels.history import LabelHistory, resolved_table
from mlbox.store.labels.labels import EVENT_TIME, PREDICTION
from mlbox.store.offline.offline import Offline, one, quote
from mlbox.store.offline.views import names, typed_names
from mlbox.store.tables import arrow_utc

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

READ = ("id", "version", "role", "domain_us", "score", "entity", SHARE)
_STATE = """
CREATE TABLE IF NOT EXISTS "state:outcome" (
  model VARCHAR, label_set VARCHAR, log_number BIGINT NOT NULL, label_seq BIGINT NOT NULL, resolved_seq BIGINT NOT NULL,
  horizon DOUBLE, PRIMARY KEY (model, label_set)
);
"""


class _State(NamedTuple):
    number: int = 0
    """The log's file up to which predictions are here."""
    label: int = 0
    """The label and the resolved row up to which they met them."""
    resolved: int = 0
    horizon: float | None = None


class Joined(NamedTuple):
    """The names of the tables that a model and a label set are joined in, quoted."""

    asked: str
    """`_id`, `_version`, `_role`, `_at`, `_score`, `_share`, the keys, and `event_time` where it was sent."""
    met: str
    """By `_id`: the keys and `event_time` of the item, `_value`, `_first` (when it had a label first) and `_tied`."""
    state: tuple[object, ...] = ()
    """The same as long as nothing in them changes."""


class Outcomes:
    """The predictions of all models with their labels."""

    def __init__(self, offline: Offline, labels: LabelHistory, predictions: PredictionLog) -> None:
        self._offline = offline
        self._labels = labels
        self.predictions = predictions
        self._joining = threading.Lock()
        self._forgot = 0
        offline.prepare(_STATE)

    def join(self, model: str, labels: LabelSet) -> Joined:
        """Bring the join up to date; raises Unavailable for a damaged file of the log."""
        tables = Joined(quote(f"asked:{model}:{labels.name}"), quote(f"met:{model}:{labels.name}"))
        with self._joining:
            state = self._offline.write(lambda cursor: self._begin(cursor, model, labels, tables))
            for number, rows in self.predictions.flushed(model, after=state.number, columns=READ):
                state = state._replace(number=number)
                take = functools.partial(
                    self._take, model=model, labels=labels, tables=tables, incoming=_typed(rows, labels), state=state
                )
                self._offline.write(take)
            meet = functools.partial(self._meet_changed, model=model, labels=labels, tables=tables, state=state)
            return tables._replace(state=(*self._offline.write(meet), self._forgot))

    def complete(self, labels: LabelSet, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Labels as they were sent, those that name a prediction and nothing else with the item that it was about."""
        wanted = {key.name for key in labels.keys} | {EVENT_TIME.name}
        bare = [_named(row) for row in rows if _is_bare(row, wanted)]
        known = self.predictions.find({one for one in bare if one}) if any(bare) else {}
        return [_completed(row, labels, known) if _is_bare(row, wanted) else row for row in rows]

    def forget(self, model: str, ids: Sequence[str]) -> None:
        """Remove predictions, which the log has no more, from what they were joined with."""
        import pyarrow as pa

        with self._joining:
            self._remove(model, pa.table({"_id": pa.array(ids, pa.string())}), "IN")

    def drop(self, model: str) -> None:
        """Forget the joins of a model; they are made anew from the log."""

        def remove(cursor: Cursor) -> None:
            found = cursor.execute('SELECT label_set FROM "state:outcome" WHERE model = ?', [model]).fetchall()
            for table in (f"{kind}:{model}:{label_set}" for (label_set,) in found for kind in ("asked", "met")):
                cursor.execute(f"DROP TABLE IF EXISTS {quote(table)}")
            cursor.execute('DELETE FROM "state:outcome" WHERE model = ?', [model])

        with self._joining:
            if self._offline.used:
                self._offline.write(remove)

    def prune(self, model: str) -> None:
        """Remove the predictions that the log has no more."""
        import pyarrow as pa

        with self._joining:
            with self.predictions.reading(model) as files:
                parts = [file.read(("id",), features=False) for file in files]
            ids = pa.concat_tables(parts).column("id") if parts else pa.array([], pa.string())
            self._remove(model, pa.table({"_id": ids}), "NOT IN")

    def _remove(self, model: str, ids: pa.Table, which: str) -> None:
        def remove(cursor: Cursor) -> None:
            cursor.register("gone", ids)
            found = cursor.execute('SELECT label_set FROM "state:outcome" WHERE model = ?', [model]).fetchall()
            for table in (f"{kind}:{model}:{label_set}" for (label_set,) in found for kind in ("asked", "met")):
                cursor.execute(f"DELETE FROM {quote(table)} WHERE _id {which} (SELECT _id FROM gone)")
            cursor.unregister("gone")

        if self._offline.used:
            self._offline.write(remove)
        self._forgot += 1

    def _begin(self, cursor: Cursor, model: str, labels: LabelSet, tables: Joined) -> _State:
        keys = typed_names(labels.keys)
        value = typed_names([Column(name="_value", dtype=labels.value.dtype)])
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {tables.asked} (_id VARCHAR, _version BIGINT, _role VARCHAR, _at TIMESTAMP,"
            f" _score DOUBLE, {keys}, event_time TIMESTAMP);"
            f"ALTER TABLE {tables.asked} ADD COLUMN IF NOT EXISTS _share DOUBLE;"
            f"CREATE TABLE IF NOT EXISTS {tables.met} (_id VARCHAR, {keys}, event_time TIMESTAMP, {value},"
            " _first TIMESTAMP, _tied BOOLEAN)"
        )
        self._labels.bring(cursor, labels)
        row = one(
            cursor,
            'SELECT log_number, label_seq, resolved_seq, horizon FROM "state:outcome" WHERE model = ? AND label_set = ?',
            [model, labels.name],
        )
        if row is not None:
            return _State(*row)
        label, resolved = self._labels.seen(cursor, labels)
        return _State(0, label, resolved, labels.horizon_seconds)

    def _take(
        self, cursor: Cursor, model: str, labels: LabelSet, tables: Joined, incoming: pa.Table, state: _State
    ) -> None:
        """Take one file's predictions, those that are new, and have them meet their labels."""
        self._labels.bring(cursor, labels)
        cursor.register("incoming", incoming)
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE meeting AS SELECT * FROM incoming ANTI JOIN (SELECT _id FROM {tables.asked}"
            " WHERE _id >= (SELECT min(_id) FROM incoming)) known USING (_id)"
        )
        cursor.unregister("incoming")
        cursor.execute(f"INSERT INTO {tables.asked} BY NAME SELECT * FROM meeting")
        self._meet(cursor, labels, tables)
        _keep(cursor, model, labels, state)

    def _meet_changed(self, cursor: Cursor, model: str, labels: LabelSet, tables: Joined, state: _State) -> _State:
        """Have predictions meet labels that changed: those of the items, and those that a label names, or named."""
        self._labels.bring(cursor, labels)
        label, resolved = self._labels.seen(cursor, labels)
        moved = state.horizon != labels.horizon_seconds
        if (label, resolved) == (state.label, state.resolved) and not moved:
            return state
        item = f"{names(labels.keys)}, event_time"
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE changed AS SELECT DISTINCT {item} FROM {resolved_table(labels.name)}"
            f" WHERE _seq > {state.resolved}"
        )
        same = " AND ".join(f"asked.{quote(key.name)} = changed.{quote(key.name)}" for key in labels.keys)
        about = (
            f"SELECT asked._id FROM {tables.asked} asked JOIN changed ON {same} LEFT JOIN {tables.met} met ON met._id = asked._id"
            " WHERE coalesce(asked.event_time = changed.event_time, asked._at <= changed.event_time"
            " AND (met._id IS NULL OR met.event_time >= changed.event_time))"
            f" UNION SELECT _id FROM {tables.met} SEMI JOIN changed USING ({item})"
            f" UNION {self._labels.named_since_sql(cursor, labels, state.label)}"
        )
        wanted = "" if moved else f" WHERE _id IN ({about})"
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE meeting AS SELECT * FROM {tables.asked}{wanted}")
        self._meet(cursor, labels, tables)
        cursor.execute("DROP TABLE changed")
        state = _State(state.number, label, resolved, labels.horizon_seconds)
        _keep(cursor, model, labels, state)
        return state

    def _meet(self, cursor: Cursor, labels: LabelSet, tables: Joined) -> None:
        """Find the items of the predictions in `meeting`, and their labels, anew."""
        keys, value = names(labels.keys), quote(labels.value.name)
        item = f"{keys}, event_time"
        rows = resolved_table(labels.name)
        cursor.execute(f"DELETE FROM {tables.met} WHERE _id IN (SELECT _id FROM meeting)")
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE named AS {self._labels.naming_sql(cursor, labels, 'meeting')};"
            f"CREATE OR REPLACE TEMP TABLE items AS SELECT {item}, arg_max({{'value': {value}, 'tied': _tied}}, _knowable)"
            f" AS now, min(_knowable) FILTER (NOT _tied) AS _first FROM (SELECT * FROM {rows} SEMI JOIN"
            f" (SELECT {keys} FROM meeting UNION SELECT {keys} FROM named) wanted USING ({keys})"
            f" QUALIFY row_number() OVER (PARTITION BY {item}, _knowable ORDER BY _seq DESC) = 1) GROUP BY {item}"
        )
        others = "(SELECT * FROM meeting ANTI JOIN named USING (_id))"
        horizon = (
            ""
            if labels.horizon_seconds is None
            else f" WHERE event_time - _at <= to_seconds({labels.horizon_seconds!r})"
        )
        listed = ", ".join(f"asked.{quote(key.name)}" for key in labels.keys)
        same = " AND ".join(f"asked.{quote(key.name)} = items.{quote(key.name)}" for key in labels.keys)
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE found AS SELECT _id, {item} FROM named UNION ALL BY NAME"
            f" SELECT _id, {item} FROM {others} WHERE event_time IS NOT NULL UNION ALL BY NAME"
            f" SELECT _id, {item} FROM (SELECT asked._id, asked._at, {listed}, items.event_time FROM"
            f" (SELECT * EXCLUDE (event_time) FROM {others} WHERE event_time IS NULL) asked ASOF JOIN"
            f" (SELECT {item} FROM items WHERE now.tied IS NOT NULL) items"
            f" ON {same} AND asked._at <= items.event_time){horizon}"
        )
        cursor.execute(
            f"INSERT INTO {tables.met} BY NAME SELECT _id, {item}, now.value AS _value, _first, now.tied AS _tied"
            f" FROM found JOIN items USING ({item}) WHERE now.tied IS NOT NULL"
        )
        cursor.execute("DROP TABLE named; DROP TABLE items; DROP TABLE found; DROP TABLE meeting")


def _keep(cursor: Cursor, model: str, labels: LabelSet, state: _State) -> None:
    cursor.execute('INSERT OR REPLACE INTO "state:outcome" VALUES (?, ?, ?, ?, ?, ?)', [model, labels.name, *state])


# -- what was asked about -----------------------------------------------------------------------------------------------------


def _typed(rows: pa.Table, labels: LabelSet) -> pa.Table:
    """Rows of the log with the keys in the label set's types; null where an entity does not name one, or oddly."""
    import pyarrow as pa

    columns = (*labels.keys, EVENT_TIME)
    encoded = rows.column("entity").combine_chunks().dictionary_encode()
    entities = [_ids(text, columns) for text in encoded.dictionary.to_pylist()]
    found: dict[str, Any] = {
        "_id": rows.column("id"),
        "_version": rows.column("version"),
        "_role": rows.column("role"),
        "_at": rows.column("domain_us").cast(pa.timestamp("us")),
        "_score": rows.column("score"),
        "_share": shares_of(rows),
    }
    for place, column in enumerate(columns):
        kind = arrow_type(column.dtype)
        given = [ids[place] for ids in entities]
        found[column.name] = (
            pa.array(given, pa.int64() if column.dtype == "TIMESTAMP" else kind).cast(kind).take(encoded.indices)
        )
    return arrow_utc(pa.table(found))


def _ids(text: str, columns: Sequence[Column]) -> list[Any]:
    entity: Mapping[str, Any] = msgspec.json.decode(text)
    return [_id(entity.get(column.name), column) for column in columns]


def _id(value: Any, column: Column) -> Any:
    try:
        return given_value(value, column, column.name)
    except InvalidInput:
        return None


def _is_bare(row: Mapping[str, Any], item: set[str]) -> bool:
    """Whether a label says nothing of its item."""
    return all(row.get(name) is None for name in item)


def _named(row: Mapping[str, Any]) -> str:
    found = row.get(PREDICTION.name)
    return found if isinstance(found, str) else ""


def _completed(
    row: Mapping[str, Any], labels: LabelSet, known: Mapping[str, tuple[dict[str, Any], datetime]]
) -> Mapping[str, Any]:
    """A label with the keys and the time of the prediction that it names, if the log has that."""
    found = known.get(_named(row))
    if found is None:
        return row
    entity, at = found
    ids = {key.name: entity[key.name] for key in labels.keys if key.name in entity}
    return {**row, **ids, EVENT_TIME.name: entity.get(EVENT_TIME.name) or at.isoformat()}
