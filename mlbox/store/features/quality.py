"""Expectations of a source's columns, and the quarantine of the rows that break them.

Every load and push is checked before it is written. Rows that break an expectation go to the quarantine with their reasons, the
others go on, and both are one transaction: nothing is lost and nothing is there twice. A row leaves the quarantine only for the
source, when it is sent again, corrected or not, and meets what is expected then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.errors import InvalidInput, suggest
from mlbox.records import Column, Expectation, Quality, Quarantined, Source
from mlbox.store.casting import arrow_type
from mlbox.store.db import Tx
from mlbox.store.features.features import FeatureStore
from mlbox.store.features.folders import Found
from mlbox.store.given import given_value
from mlbox.store.offline import views
from mlbox.store.offline.offline import quote

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

MAX_VALUES = 1000
MAX_PATTERN = 1000
_READS: dict[tuple[str, str], str] = {
    ("STRING", "INT64"): r"[+-]?[0-9]{1,18}",
    ("STRING", "FP64"): r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?",
    ("STRING", "BOOL"): r"(?i:true|false)",
    (
        "STRING",
        "TIMESTAMP",
    ): r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?",
}
"""What a text looks like that can be read as a type."""
READS_AS: dict[str, tuple[str, ...]] = {"STRING": ("INT64", "FP64", "BOOL", "TIMESTAMP"), "FP64": ("INT64",)}
"""As what else than its own type a column's values may be expected to be readable."""
_EXTRA = "_id BIGINT NOT NULL, _at TIMESTAMP NOT NULL, _by VARCHAR NOT NULL, _reasons VARCHAR[] NOT NULL"

_PREFIX = "quarantine:"


class Broken(NamedTuple):
    """One rule, in words, and which rows break it."""

    reason: str
    rows: Any


def table_of(source: str) -> str:
    """The table of a source's quarantine, quoted."""
    return quote(f"{_PREFIX}{source}")


class Screened(FeatureStore):
    """The feature store, with expectations of its sources."""

    # -- what is expected -------------------------------------------------------------------------------------------

    def expect(self, source: str, expectations: Sequence[Expectation], *, actor: str) -> Quality:
        """Set all of a source's expectations, one for a column; what is there already is not checked again."""
        found = self.declared(source)
        columns = {column.name: column for column in found.columns}
        for number, one in enumerate(expectations):
            _check(one, columns, f"expectations.{number}")
        named = [one.column for one in expectations]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise InvalidInput(f"{twice!r} is there twice.", hint="One for each column.", field="expectations")

        def write(tx: Tx) -> None:
            tx.run("DELETE FROM expectation WHERE source = ?", (source,))
            rows = [(source, one.column, one.to_json().decode(), actor, tx.now_us) for one in expectations]
            tx.many("INSERT INTO expectation VALUES (?,?,?,?,?)", rows)
            tx.emit("source.expected", f"source:{source}", actor, columns=named)

        self._db.write(write)
        return self.quality(source)

    def expectations(self, source: str) -> tuple[Expectation, ...]:
        """A source's expectations, by column."""
        rows = self._db.all('SELECT spec FROM expectation WHERE source = ? ORDER BY "column"', (source,))
        return tuple(msgspec.json.decode(row["spec"], type=Expectation) for row in rows)

    # -- on the way in ------------------------------------------------------------------------------------------------

    def append(self, source: str, table: pa.Table, *, file: Found | None = None, actor: str) -> int:
        """As `FeatureStore.append`; how many rows went on: the others are in the quarantine."""
        added = super().append(source, table, file=file, actor=actor)
        self._note_held(source, int(table.num_rows) - added, actor)
        return added

    def _note_held(self, source: str, rows: int, actor: str) -> None:
        if rows:
            self._db.write(lambda tx: tx.emit("source.quarantined", f"source:{source}", actor, rows=rows))

    def _screened(self, cursor: Cursor, source: Source, rows: pa.Table, actor: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        expectations = self.expectations(source.name)
        broken = [one for one in _broken(rows, expectations) if pc.any(one.rows).as_py()]
        if not broken:
            return rows
        bad = broken[0].rows
        for one in broken[1:]:
            bad = pc.or_(bad, one.rows)
        held = rows.filter(bad)
        reasons = _reasons(broken, bad)
        now = self._clock.real().replace(tzinfo=None)
        self._ensure_quarantine(cursor, source)
        target = table_of(source.name)
        for name, values in (
            ("_at", pa.array([now] * held.num_rows, pa.timestamp("us"))),
            ("_by", pa.array([actor] * held.num_rows, pa.string())),
            ("_reasons", pa.array(reasons, pa.list_(pa.string()))),
        ):
            held = held.append_column(name, values)
        cursor.register("held", held)
        cursor.execute(f"INSERT INTO {target} BY NAME SELECT nextval('quarantined') AS _id, * FROM held")
        cursor.unregister("held")
        return rows.filter(pc.invert(bad))

    @staticmethod
    def _ensure_quarantine(cursor: Cursor, source: Source) -> None:
        typed = views.typed_names(source.columns)
        cursor.execute("CREATE SEQUENCE IF NOT EXISTS quarantined")  # an id is never given again
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {table_of(source.name)} ({typed}, {_EXTRA})")

    # -- the quarantine -------------------------------------------------------------------------------------------------

    def quality(self, source: str) -> Quality:
        """What is expected of a source, and how many rows broke which rule."""
        self.declared(source)
        reasons: dict[str, int] = {}
        count = 0
        if self._has_quarantine(source):
            sql = f"SELECT unnest(_reasons) AS reason, count(*) FROM {table_of(source)} GROUP BY reason ORDER BY 2 DESC, 1"
            reasons = dict(self._offline.rows(sql))
            count = self._offline.rows(f"SELECT count(*) FROM {table_of(source)}")[0][0]
        return Quality(source=source, expectations=self.expectations(source), quarantined=count, reasons=reasons)

    def quarantined_rows(self) -> dict[str, int]:
        """How many rows of each source are in quarantine, where there are any."""
        if not self._offline.used:
            return {}
        names = self._offline.rows(f"SELECT table_name FROM duckdb_tables() WHERE starts_with(table_name, '{_PREFIX}')")
        sources = [name.removeprefix(_PREFIX) for (name,) in names]
        counts = " UNION ALL ".join(f"SELECT {number}, count(*) FROM {table_of(s)}" for number, s in enumerate(sources))
        return {sources[number]: count for number, count in self._offline.rows(counts) if count} if sources else {}

    def quarantined(self, source: str, *, limit: int = 100, after: int = 0) -> list[Quarantined]:
        """Rows of the quarantine in the order that they came in, from the one after the id `after`."""
        found = self.declared(source)
        if not self._has_quarantine(source):
            return []
        names = views.names(found.columns)
        sql = f"SELECT _id, _at, _by, _reasons, {names} FROM {table_of(source)} WHERE _id > ? ORDER BY _id LIMIT ?"
        return [
            Quarantined(
                id=row[0],
                at=row[1].replace(tzinfo=UTC),
                by=row[2],
                reasons=tuple(row[3]),
                values={c.name: _plain(value) for c, value in zip(found.columns, row[4:], strict=True)},
            )
            for row in self._offline.rows(sql, [after, limit])
        ]

    def _has_quarantine(self, source: str) -> bool:
        if not self._offline.used:
            return False
        sql = "SELECT 1 FROM duckdb_tables() WHERE table_name = ?"
        return bool(self._offline.rows(sql, [f"{_PREFIX}{source}"]))

    def resubmit(
        self,
        source: str,
        *,
        ids: Sequence[int] | None = None,
        corrections: Mapping[int, Mapping[str, Any]] | None = None,
        actor: str,
    ) -> int:
        """Send rows of the quarantine again, all or those of `ids`, with corrected values by id; how many went on.

        What breaks an expectation still is in the quarantine again, corrected, under a new id. Raises InvalidInput for an
        id that is not there, a column that is none, or a value of another type.
        """
        found = self.declared(source)
        wanted = set(ids) if ids is not None else None
        changes = _checked_changes(found, corrections or {})
        if not self._has_quarantine(source):
            _check_ids((wanted or set()) | set(changes), set(), source)
            return 0

        def write(cursor: Cursor) -> tuple[int, int]:
            rows = self._taken(cursor, found, wanted, changes)
            added = self._insert(cursor, found, self._screened(cursor, found, rows, actor))
            return added, rows.num_rows - added

        added, left = self._offline.write(write)
        if added:
            self.note_append(source, added, actor=actor)
        note = {"rows": added, "held": left}
        self._db.write(lambda tx: tx.emit("source.resubmitted", f"source:{source}", actor, **note))
        return added

    @staticmethod
    def _taken(
        cursor: Cursor, source: Source, ids: set[int] | None, changes: Mapping[int, Mapping[str, Any]]
    ) -> pa.Table:
        """Rows out of the quarantine, with what was corrected."""
        import pyarrow as pa

        target, names = table_of(source.name), views.names(source.columns)
        known = {row[0] for row in cursor.execute(f"SELECT _id FROM {target}").fetchall()}
        _check_ids((ids or set()) | set(changes), known, source.name)
        chosen = sorted(known if ids is None else ids | set(changes))
        cursor.register("chosen", pa.table({"_id": pa.array(chosen, pa.int64())}))
        sql = f"FROM {target} WHERE _id IN (SELECT _id FROM chosen)"
        rows = cursor.sql(f"SELECT {names} {sql} ORDER BY _id").to_arrow_table()
        cursor.execute(f"DELETE {sql}")
        cursor.unregister("chosen")
        for place, column in enumerate(source.columns):
            corrected = {
                chosen.index(number): row[column.name] for number, row in changes.items() if column.name in row
            }
            if corrected:
                rows = rows.set_column(place, column.name, _corrected(rows.column(place), corrected, column))
        return rows


# -- checking rows --------------------------------------------------------------------------------------------------------------


def _broken(rows: pa.Table, expectations: Sequence[Expectation]) -> Iterator[Broken]:
    """Each rule with the rows that break it."""
    for one in expectations:
        yield from _broken_of(rows.column(one.column).combine_chunks(), one, rows.num_rows)


def _broken_of(values: Any, one: Expectation, count: int) -> Iterator[Broken]:
    import pyarrow as pa
    import pyarrow.compute as pc

    def unless(fine: Any) -> Any:
        """Null breaks no rule about values."""
        return pc.invert(pc.fill_null(fine, True))

    if one.max_nulls is not None and values.null_count > one.max_nulls * count:
        share = f"{values.null_count / count:.3g} of the load, at most {one.max_nulls:g} is expected"
        reason = f"{one.column} is null" if one.max_nulls == 0 else f"{one.column} is null in {share}"
        yield Broken(reason, pc.is_null(values))
    if one.dtype is not None:
        yield Broken(f"{one.column} is no {one.dtype}", unless(_reads_as(values, one.dtype)))
    if one.min is not None:
        yield Broken(f"{one.column} is below {one.min}", unless(pc.greater_equal(values, _bound(one.min, values.type))))
    if one.max is not None:
        yield Broken(f"{one.column} is above {one.max}", unless(pc.less_equal(values, _bound(one.max, values.type))))
    if one.values:
        fine = pc.is_in(values, value_set=pa.array(one.values, pa.string()))
        yield Broken(f"{one.column} is none of its values", pc.and_(pc.is_valid(values), pc.invert(fine)))
    if one.pattern:
        fine = pc.match_substring_regex(values, rf"\A(?:{one.pattern})\z")
        yield Broken(f"{one.column} does not match its pattern", unless(fine))


def _reads_as(values: Any, dtype: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(values.type):
        return pc.match_substring_regex(values, rf"\A(?:{_READS['STRING', dtype]})\z")
    whole = pc.equal(values, pc.trunc(values))  # FP64 as INT64; NaN equals nothing
    return pc.and_(whole, pc.and_(pc.greater_equal(values, -(2.0**63)), pc.less(values, 2.0**63)))


def _bound(limit: Any, kind: Any) -> Any:
    """A bound in the column's own type where it has it: a whole number is not compared as a float."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        column = Column(name="bound", dtype="TIMESTAMP")
        return pa.scalar(given_value(limit, column, "expectations"), pa.int64()).cast(kind)
    return pa.scalar(limit) if isinstance(limit, int) else pa.scalar(float(limit))


def _reasons(broken: Sequence[Broken], bad: Any) -> list[list[str]]:
    """What each bad row broke, in the order of the rows."""
    columns = [(one.reason, one.rows.filter(bad).to_pylist()) for one in broken]
    count = len(columns[0][1])
    return [[reason for reason, rows in columns if rows[number]] for number in range(count)]


# -- checking expectations -------------------------------------------------------------------------------------------------------


def _check(one: Expectation, columns: Mapping[str, Column], field: str) -> None:
    column = columns.get(one.column)
    if column is None:
        hint = suggest(one.column, columns)
        raise InvalidInput(f"The source has no column {one.column!r:.200}.", hint=hint, field=f"{field}.column")
    is_text = column.dtype == "STRING"
    if one.dtype is not None and one.dtype not in READS_AS.get(column.dtype, ()):
        raise _wrong(f"A {column.dtype} is always one, or never {one.dtype}.", f"{field}.dtype")
    if (one.values or one.pattern) and not is_text:
        raise _wrong(f"{one.column} is {column.dtype}: values and pattern are for text.", f"{field}.values")
    if one.max_nulls is not None and not 0 <= one.max_nulls <= 1:
        raise _wrong(f"max_nulls is {one.max_nulls}, and a share from 0 to 1 is wanted.", f"{field}.max_nulls")
    if len(one.values) > MAX_VALUES or len(one.pattern) > MAX_PATTERN:
        raise _wrong(f"More than {MAX_VALUES:,} values, or characters of a pattern.", f"{field}.values")
    bounds = [_checked_bound(limit, column, f"{field}.{name}") for name, limit in (("min", one.min), ("max", one.max))]
    if None not in bounds and bounds[0] > bounds[1]:
        raise _wrong(f"min {one.min} is above max {one.max}.", f"{field}.min")
    _check_pattern(one.pattern, f"{field}.pattern")


def _checked_bound(limit: Any, column: Column, field: str) -> Any:
    if limit is None:
        return None
    if column.dtype in ("STRING", "BOOL"):
        raise _wrong(f"{column.name} is {column.dtype} and has no range.", field)
    if column.dtype == "INT64" and isinstance(limit, float):
        return limit
    return given_value(limit, column, field)


def _check_pattern(pattern: str, field: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        pc.match_substring_regex(pa.array([""]), rf"\A(?:{pattern})\z")
    except pa.ArrowInvalid as err:
        raise InvalidInput(
            f"The pattern cannot be used: {str(err).splitlines()[0]}.",
            hint="It is an RE2 expression: no look-around, no back reference.",
            field=field,
        ) from err


def _wrong(message: str, field: str) -> InvalidInput:
    return InvalidInput(message, hint="See docs/how-to/quality.md.", field=field)


# -- values out and in -----------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if hasattr(value, "tzinfo") else value


def _check_ids(wanted: set[int], known: set[int], source: str) -> None:
    missing = sorted(wanted - known)
    if missing:
        raise InvalidInput(
            f"The quarantine of {source} has no row {missing[0]}.",
            hint=f"`mlbox quality rows {source}` lists them.",
            field="ids",
        )


def _checked_changes(source: Source, corrections: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    columns = {column.name: column for column in source.columns}
    found: dict[int, dict[str, Any]] = {}
    for number, row in corrections.items():
        found[number] = {}
        for name, value in row.items():
            field = f"corrections.{number}.{name[:80]}"
            if name not in columns:
                hint = suggest(name, columns)
                raise InvalidInput(f"The source has no column {name!r:.200}.", hint=hint, field=field)
            if value is None and name == source.event_time:
                raise InvalidInput(f"{name!r} cannot be null.", hint="Fill it.", field=field)
            found[number][name] = given_value(value, columns[name], field)
    return found


def _corrected(values: Any, corrected: Mapping[int, Any], column: Column) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = arrow_type(column.dtype)
    raw = pa.int64() if column.dtype == "TIMESTAMP" else kind
    places = [number in corrected for number in range(len(values))]
    new = pa.array([corrected.get(number) for number in range(len(values))], raw).cast(kind)
    return pc.if_else(pa.array(places), new, values.cast(kind).combine_chunks())
