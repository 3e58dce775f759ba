"""What counted, when: every change of a resolved label, kept as rows that are only ever added.

Each row says that from `_knowable` on an item (an entity at an event time) has this value, or none: while it is tied, or once
its last claim was corrected away. Of equal times the row that was added last holds. So the rows are a source of features like
any other: asked about a moment they say what could be known then, and no more.

- A claim changes what is known from the moment at which it is knowable; a declared backfill may so change the past.
- A change of the policy or of the sources counts from the moment at which it is noticed: what counted before, counted.

Only items that labels came in about are looked at anew. Where the set is published, its source has the rows in the same
transaction as the labels.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from mlbox.errors import AlreadyExists, InvalidInput, NotFound
from mlbox.records import Column, Labelled, LabelSet, Source
from mlbox.store.asking import asking
from mlbox.store.casting import arrow_type
from mlbox.store.db import Tx
from mlbox.store.labels.labels import EVENT_TIME
from mlbox.store.labels.sweep import Said, swept
from mlbox.store.labels.views import Labels, decided_sql, heard, item_of, last_words_sql, ranked_sql
from mlbox.store.labels.webhook import check_fields
from mlbox.store.offline.offline import one, quote
from mlbox.store.offline.views import literal, names, typed_names

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

PAGE_LABELS = 2_000_000
"""Labels, each time that they count, that are looked at together."""
MANY = 64
"""Labels of an item that are looked at together at each of its moments; of more, their changes are followed (`label_sweep`)."""
KNOWABLE = Column(name="knowable", dtype="TIMESTAMP", description="When this began to count.")
_STATE = """
CREATE TABLE IF NOT EXISTS "state:resolved" (
  label_set VARCHAR PRIMARY KEY, seen BIGINT NOT NULL, row_count BIGINT NOT NULL, fed BIGINT NOT NULL, policy VARCHAR NOT NULL
);
"""


class Feeds(Protocol):
    """The sources that resolved labels are written to."""

    def add_source(
        self, name: str, columns: tuple[Column, ...], event_time: str, arrival_time: str | None, *, actor: str
    ) -> Source:
        """Declare one."""

    def declared(self, name: str) -> Source:
        """One by its name."""

    def source(self, name: str) -> Source:
        """One by its name, with its number of rows."""

    def feed(self, cursor: Cursor, source: Source, table: pa.Table) -> None:
        """Add rows to one, in a transaction of the caller's."""

    def note_append(self, name: str, rows: int, *, actor: str) -> None:
        """Tell that rows were added."""


class _State(NamedTuple):
    seen: int = 0
    """The last label that was looked at."""
    rows: int = 0
    fed: int = 0
    """The last row that the source has."""
    policy: str = ""


class LabelHistory(Labels):
    """All label sets, with what counted at every moment."""

    def __init__(self, *args: Any, sources: Feeds, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sources = sources
        self._offline.prepare(_STATE)

    def apply(self, wanted: LabelSet, *, actor: str) -> LabelSet:
        """As `Labels.apply`; the source of a published set is told of another policy at once."""
        for source in wanted.sources:
            check_fields(wanted, source)
        made = super().apply(wanted, actor=actor)
        if made.published:
            self._tell(made, self._offline.write(lambda cursor: self.feed(cursor, made)), actor)
        return made

    def publish(self, name: str, source: str, *, actor: str) -> LabelSet:
        """Have what counts written to a source of its own from here on, all that ever counted first.

        It has the keys, `event_time`, the value and `knowable`, which is its arrival time. Nobody else adds to it.
        """
        labels = self.declared(name)
        if labels.published and labels.published != source:
            raise AlreadyExists(
                f"{name} is published as {labels.published!r} already.", hint="Use that source.", field="source"
            )
        columns = (*labels.keys, EVENT_TIME, labels.value, KNOWABLE)
        self._check_free(source, name)
        if not labels.published:
            self._db.privacy.shelter("source", source, [("label", name)])
            self._sources.add_source(source, columns, EVENT_TIME.name, KNOWABLE.name, actor=actor)

        def write(tx: Tx) -> None:
            tx.run("UPDATE label_set SET spec = json_set(spec, '$.published', ?) WHERE name = ?", (source, name))
            tx.emit("label.published", f"label:{name}", actor, source=source)

        if not labels.published:
            self._db.write(write)
        published = msgspec.structs.replace(labels, published=source)
        self._tell(published, self._offline.write(lambda cursor: self.feed(cursor, published)), actor)
        return self.label_set(name)

    def _check_free(self, source: str, name: str) -> None:
        """A source of this name is the set's own, or none, or an empty one of those very columns."""
        feeder = self._feeder(source)
        if feeder == name:
            return
        with contextlib.suppress(NotFound):
            if feeder is not None or self._sources.source(source).rows:
                raise AlreadyExists(
                    f"There is a source {source!r} with rows of others.", hint="Choose another name.", field="source"
                )

    def _feeder(self, source: str) -> str | None:
        row = self._db.one("SELECT name FROM label_set WHERE json_extract(spec, '$.published') = ?", (source,))
        return row["name"] if row is not None else None

    def check_open(self, source: str) -> None:
        """Raise InvalidInput for a source that a label set feeds, and so nobody else."""
        feeder = self._feeder(source)
        if feeder is not None:
            raise InvalidInput(
                f"{source} holds what counts of the label set {feeder}.",
                hint=f"Send labels instead: `mlbox label add {feeder}`.",
                field="source",
            )

    # -- keeping it -------------------------------------------------------------------------------------------------------

    def _written(self, cursor: Cursor, labels: LabelSet) -> None:
        if labels.published:
            self.feed(cursor, labels)

    def _note(self, name: str, done: Labelled, source: str, backfill: bool, actor: str) -> None:
        super()._note(name, done, source, backfill, actor)
        self._tell(self.declared(name), done.rows, actor)

    def _tell(self, labels: LabelSet, rows: int, actor: str) -> None:
        if labels.published and rows:
            self._sources.note_append(labels.published, rows, actor=actor)

    def feed(self, cursor: Cursor, labels: LabelSet) -> int:
        """Have the source of a published set know of all that counts; how many rows are new."""
        self.bring(cursor, labels)
        state = _state(cursor, labels.name)
        listed = f"{names(labels.keys)}, event_time, {quote(labels.value.name)}, _knowable AS knowable"
        rows = cursor.sql(
            f"SELECT {listed} FROM {resolved_table(labels.name)} WHERE _seq > {state.fed} ORDER BY _seq"
        ).to_arrow_table()
        if rows.num_rows:
            with asking(None):  # who may add labels may have what follows from them written
                self._sources.feed(cursor, self._sources.declared(labels.published), rows)
            _keep(cursor, labels.name, state._replace(fed=state.rows))
        return int(rows.num_rows)

    def bring(self, cursor: Cursor, labels: LabelSet) -> None:
        """Have the rows know of all labels, in the transaction that the cursor is in."""
        target, table = self._ensure(cursor, labels), resolved_table(labels.name)
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {table} ({typed_names((*labels.keys, labels.value))}, event_time TIMESTAMP,"
            " _knowable TIMESTAMP, _tied BOOLEAN, _seq BIGINT)"
        )
        state = _state(cursor, labels.name)
        top = (one(cursor, f"SELECT coalesce(max(_seq), 0) FROM {target}") or (0,))[0]
        changed = bool(state.policy) and state.policy != labels.policy_ref
        if top == state.seen and not changed:
            return
        item = item_of(labels)
        self._moments(cursor, target, item, state.seen)
        if changed:
            now = literal(self._clock.now())
            cursor.execute(
                f"INSERT INTO moments SELECT DISTINCT {item}, {now}::TIMESTAMP FROM {target}; INSERT INTO spoken SELECT DISTINCT"
                f" {item}, _source, _id FROM {target} EXCEPT SELECT * FROM spoken"
            )
        added, decided = 0, self._decided(labels, target)
        for page in range(self._pages(cursor, item)):
            cursor.execute(
                f"CREATE OR REPLACE TEMP TABLE moments AS SELECT * EXCLUDE (_page) FROM paged WHERE _page = {page}"
            )
            added += self._add(cursor, labels, decided, state.rows + added)
        cursor.execute("CREATE OR REPLACE TEMP TABLE moments AS SELECT * FROM crowded")
        if _count(cursor, "moments"):
            cursor.register("swept", self._swept(cursor, labels, target))
            decided = (
                f"SELECT {_of('often', item)}, make_timestamp(_moment) AS _moment, {quote(labels.value.name)}, _tied"
            )
            added += self._add(cursor, labels, f"{decided} FROM swept JOIN often USING (_item)", state.rows + added)
            cursor.unregister("swept")
        cursor.execute("DROP TABLE moments; DROP TABLE spoken; DROP TABLE paged; DROP TABLE crowded; DROP TABLE often")
        _keep(cursor, labels.name, state._replace(seen=top, rows=state.rows + added, policy=labels.policy_ref))

    @staticmethod
    def _pages(cursor: Cursor, item: str) -> int:
        """Make `paged`, the moments of each item in their order, in so many pages; each page looks at a bounded number of labels.

        At each moment of an item all of its labels count. That is their number squared, so those of which very many labels
        speak are apart, as `crowded`.
        """
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE often AS SELECT {item}, count(*) AS _labels, row_number() OVER () AS _item"
            " FROM spoken GROUP BY ALL"
        )
        joined = f"FROM moments JOIN often ON {_same('often', 'moments', item)} WHERE _labels"
        listed = f"{_of('moments', item)}, _moment"
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE paged AS SELECT {listed},"
            f" (sum(_labels) OVER (ORDER BY {listed}) - _labels) // {PAGE_LABELS} AS _page {joined} <= {MANY};"
            f" CREATE OR REPLACE TEMP TABLE crowded AS SELECT {listed} {joined} > {MANY}"
        )
        found = one(cursor, "SELECT coalesce(max(_page) + 1, 0) FROM paged")
        return int(found[0]) if found else 0

    @staticmethod
    def _swept(cursor: Cursor, labels: LabelSet, target: str) -> pa.Table:
        """What counts at each of `moments`, of items by their number in `often`."""
        import pyarrow as pa

        item, value = item_of(labels), quote(labels.value.name)
        versions = (
            f"SELECT *, min(_knowable) OVER (PARTITION BY _source, _id ORDER BY _seq"
            f" ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS _until FROM {target} SEMI JOIN"
            f" (SELECT _source, _id FROM spoken JOIN often USING ({item}) WHERE _labels > {MANY}) spoke USING (_source, _id)"
        )
        here = f"SELECT * FROM ({versions}) JOIN often USING ({item}) WHERE _until IS NULL OR _until > _knowable"
        said = cursor.execute(
            "SELECT _item, epoch_us(_knowable), epoch_us(_until), (_source, _annotator)::VARCHAR, epoch_us(_claimed), _seq,"
            f" _rank, _weight, {value} FROM ({ranked_sql(labels, here)})"
        ).fetchall()
        moments = cursor.execute(
            f"SELECT _item, epoch_us(_moment) FROM moments JOIN often USING ({item}) ORDER BY ALL"
        ).fetchall()
        kinds = (pa.int64(), pa.int64(), arrow_type(labels.value.dtype), pa.bool_())
        columns = zip(*swept(labels.policy, map(Said._make, said), moments), strict=True)
        called = ("_item", "_moment", labels.value.name, "_tied")
        return pa.table({name: pa.array(some, kind) for name, some, kind in zip(called, columns, kinds, strict=True)})

    @staticmethod
    def _moments(cursor: Cursor, target: str, item: str, seen: int) -> None:
        """Make `moments`, when what counts of an item may have changed; and `spoken`, the labels that ever spoke of it.

        A label that is corrected to be of another item changes both.
        """
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE fresh AS SELECT _source, _id, min(_knowable) AS _from FROM {target}"
            f" WHERE _seq > {seen} GROUP BY ALL"
        )
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE touched AS SELECT {item}, min(_from) AS _from"
            f" FROM {target} JOIN fresh USING (_source, _id) GROUP BY ALL"
        )
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE spoken AS SELECT DISTINCT {item}, _source, _id"
            f" FROM {target} SEMI JOIN touched USING ({item})"
        )
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE moments AS SELECT DISTINCT {_of('spoken', item)}, said._knowable AS _moment"
            f" FROM spoken JOIN {target} said USING (_source, _id) JOIN touched ON {_same('touched', 'spoken', item)}"
            " WHERE said._knowable >= touched._from"
        )
        cursor.execute("DROP TABLE fresh; DROP TABLE touched")

    @staticmethod
    def _decided(labels: LabelSet, target: str) -> str:
        """A SELECT of what counts at each of `moments`: of all the labels of the item then."""
        item = item_of(labels)
        corrected = (
            f"SELECT said.*, moments._moment, {_same('said', 'moments', item)} AS _here FROM moments"
            f" JOIN spoken ON {_same('spoken', 'moments', item)} JOIN {target} said USING (_source, _id)"
            " WHERE said._knowable <= moments._moment QUALIFY row_number()"
            f" OVER (PARTITION BY {_of('moments', item)}, moments._moment, _source, _id ORDER BY said._seq DESC) = 1"
        )
        at = f"{item}, _moment"
        return decided_sql(labels, last_words_sql(labels, f"SELECT * FROM ({corrected}) WHERE _here", at), at)

    @staticmethod
    def _add(cursor: Cursor, labels: LabelSet, decided: str, rows: int) -> int:
        """Add a row for each of `moments` at which another value counts than the rows say; how many."""
        table, item, value = resolved_table(labels.name), item_of(labels), quote(labels.value.name)
        known = (
            f"SELECT * FROM {table} SEMI JOIN moments USING ({item})"
            f" QUALIFY row_number() OVER (PARTITION BY {item}, _knowable ORDER BY _seq DESC) = 1"
        )
        before = (
            f"SELECT {_of('moments', item)}, moments._moment, known.{value} AS _value, known._tied AS _tied FROM moments"
            f" ASOF LEFT JOIN ({known}) known ON {_same('known', 'moments', item)} AND moments._moment >= known._knowable"
        )
        said = f"CASE WHEN now._tied IS NOT true THEN now.{value} END"
        each = (
            f"SELECT {_of('before', item)}, before._moment AS _knowable, {said} AS {value}, now._tied AS _tied,"
            f" {said} IS DISTINCT FROM before._value OR now._tied IS DISTINCT FROM before._tied"
            f" OR {said} IS DISTINCT FROM lag({said}, 1, before._value) OVER moment"
            f" OR now._tied IS DISTINCT FROM lag(now._tied, 1, before._tied) OVER moment AS _differs"
            f" FROM ({before}) before LEFT JOIN ({decided}) now"
            f" ON {_same('now', 'before', item)} AND now._moment = before._moment"
            f" WINDOW moment AS (PARTITION BY {_of('before', item)} ORDER BY before._moment)"
        )
        cursor.execute(
            f"INSERT INTO {table} BY NAME SELECT * EXCLUDE (_differs), {rows} + row_number()"
            f" OVER (ORDER BY _knowable, {item}) AS _seq FROM ({each}) WHERE _differs"
        )
        return _count(cursor, f"{table} WHERE _seq > {rows}")

    # -- predictions ------------------------------------------------------------------------------------------------------

    def naming_sql(self, cursor: Cursor, labels: LabelSet, ids: str) -> str:
        """A SELECT of `_id` and the item that a label names it as, of predictions whose ids a relation has as `_id`."""
        target = self._ensure(cursor, labels)
        corrected = (
            f"SELECT * FROM {target} SEMI JOIN (SELECT _source, _id FROM {target} WHERE _prediction IN"
            f" (SELECT _id FROM {ids})) named USING (_source, _id)"
            " QUALIFY row_number() OVER (PARTITION BY _source, _id ORDER BY _seq DESC) = 1"
        )
        return (
            f"SELECT _prediction AS _id, {item_of(labels)} FROM ({corrected}) WHERE _source IN ({heard(labels)})"
            f" AND _prediction IN (SELECT _id FROM {ids})"
            " QUALIFY row_number() OVER (PARTITION BY _prediction ORDER BY _seq DESC) = 1"
        )

    def named_since_sql(self, cursor: Cursor, labels: LabelSet, seen: int) -> str:
        """A SELECT of the `_id` of predictions that labels after a number name, or named before they were corrected."""
        target = self._ensure(cursor, labels)
        fresh = f"SELECT _source, _id FROM {target} WHERE _seq > {seen}"
        return (
            f"SELECT DISTINCT _prediction AS _id FROM {target} SEMI JOIN ({fresh}) fresh USING (_source, _id)"
            " WHERE _prediction IS NOT NULL"
        )

    def seen(self, cursor: Cursor, labels: LabelSet) -> tuple[int, int]:
        """The number of the last label that the rows know of, and how many rows there are."""
        state = _state(cursor, labels.name)
        return state.seen, state.rows


def resolved_table(name: str) -> str:
    """The table of what counted in a label set, quoted."""
    return quote(f"resolved:{name}")


def _count(cursor: Cursor, rows: str) -> int:
    found = one(cursor, f"SELECT count(*) FROM {rows}")
    return int(found[0]) if found else 0


def _state(cursor: Cursor, name: str) -> _State:
    row = one(cursor, 'SELECT seen, row_count, fed, policy FROM "state:resolved" WHERE label_set = ?', [name])
    return _State(*row) if row else _State()


def _keep(cursor: Cursor, name: str, state: _State) -> None:
    cursor.execute('INSERT OR REPLACE INTO "state:resolved" VALUES (?, ?, ?, ?, ?)', [name, *state])


def _of(relation: str, columns: str) -> str:
    """An SQL list of columns as those of a relation."""
    return ", ".join(f"{relation}.{column}" for column in columns.split(", "))


def _same(one: str, other: str, columns: str) -> str:
    """Two relations have the same columns, as a condition."""
    return " AND ".join(f"{one}.{column} = {other}.{column}" for column in columns.split(", "))
