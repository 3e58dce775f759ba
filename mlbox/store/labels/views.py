"""Which label counts: derived from all that was claimed and knowable at a moment, by the set's policy.

1. Of each label (source and id) the last correction is looked at.
2. Of each source, or annotator of a source, the last word on an item (an entity at an event time) is its claim. Suggestions make
   none.
3. Ground truth counts, the last that was told: what a person settled, or was marked as such. Otherwise the policy decides:

   `latest`    the claim that was made last; of equal times the one that came in last
   `priority`  among the claims of the most trusted source that made any, what most of them say
   `majority`  what most claims say
   `weighted`  what has the greatest sum of the sources' weights

   Where two values are equally good under the last three, the item is unresolved: it is no label, and somebody is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import Agreement, Claim, LabelItem, LabelSet, SourceCounts
from mlbox.store.given import given_value
from mlbox.store.labels import agreement
from mlbox.store.labels.labels import REVIEW, allowed
from mlbox.store.labels.rows import OPTIONAL_NAMES, LabelRows, columns_of
from mlbox.store.offline.offline import one, quote
from mlbox.store.offline.views import literal, names
from mlbox.store.tables import arrow_utc, conform, table_of

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

MAX_SHOWN = 100
"""Claims of an item that are told: those of the most trusted sources, the last ones first."""
MAX_CLAIMS = 1_000_000
"""Claims that agreement is computed over at most: the last ones."""


class Labels(LabelRows):
    """All label sets, and what counts in them."""

    # -- resolved -------------------------------------------------------------------------------------------------------

    def known(self, name: str, *, at: datetime) -> int:
        """How many things have a label that counted at a moment."""
        found = self.declared(name)
        return self._count_of(found, "_tied IS NOT true", at)

    def unresolved(self, name: str, *, at: datetime) -> int:
        """How many things have claims that were tied at a moment."""
        return self._count_of(self.declared(name), "_tied", at)

    def _count_of(self, labels: LabelSet, where: str, at: datetime) -> int:
        if not self._offline.used:
            return 0

        def count(cursor: Cursor) -> int:
            row = one(cursor, f"SELECT count(*) FROM ({self.resolved_sql(cursor, labels, at)}) WHERE {where}")
            return int(row[0]) if row else 0

        return self._offline.read(count)

    def known_sql(self, cursor: Cursor, labels: LabelSet, at: datetime) -> str:
        """A SELECT of keys, event_time and value: the labels that counted at a moment."""
        listed = f"{names(labels.keys)}, event_time, {quote(labels.value.name)}"
        return f"SELECT {listed} FROM ({self.resolved_sql(cursor, labels, at)}) WHERE _tied IS NOT true"

    def resolved_sql(self, cursor: Cursor, labels: LabelSet, at: datetime) -> str:
        """A SELECT of keys, event_time, value, when it was knowable, and whether it is tied with another value."""
        return decided_sql(labels, self.claims_sql(cursor, labels, at), item_of(labels))

    def claims_sql(self, cursor: Cursor, labels: LabelSet, at: datetime, *, among: str = "") -> str:
        """A SELECT of what each source, or each of its annotators, said last of each item, as knowable at a moment.

        With `among`, a relation of items, only labels that ever were about one of those are looked at.
        """
        target = self._ensure(cursor, labels)
        rows = f"SELECT * FROM {target} WHERE _knowable <= {literal(at)}"
        if among:
            item = item_of(labels)
            spoke = f"SELECT _source, _id FROM {target} SEMI JOIN ({among}) wanted USING ({item})"
            rows = f"SELECT said.* FROM ({rows}) said SEMI JOIN ({spoke}) spoke USING (_source, _id)"
        corrected = f"{rows} QUALIFY row_number() OVER (PARTITION BY _source, _id ORDER BY _seq DESC) = 1"
        return last_words_sql(labels, corrected, item_of(labels))

    def has_backfill(self, labels: LabelSet, at: datetime) -> bool:
        """Whether a claim that was knowable at a moment is from a declared backfill."""

        def look(cursor: Cursor) -> bool:
            sql = f"SELECT count(*) FROM {self._ensure(cursor, labels)} WHERE _backfill AND _knowable <= {literal(at)}"
            row = one(cursor, sql)
            return bool(row and row[0])

        return self._offline.read(look)

    # -- what has come since ----------------------------------------------------------------------------------------------

    def last(self, labels: LabelSet) -> int:
        """The number of the last label that came in."""

        def read(cursor: Cursor) -> int:
            row = one(cursor, f"SELECT coalesce(max(_seq), 0) FROM {self._ensure(cursor, labels)}")
            return int(row[0]) if row else 0

        return self._offline.read(read)

    def changed_from(
        self, cursor: Cursor, labels: LabelSet, seen: int, known: tuple[datetime, datetime]
    ) -> datetime | None:
        """The first event about which anything else may be known at the second of two moments than was at the first, with what
        had come in by then; a label that was corrected may have been about another one before.
        """
        target = self._ensure(cursor, labels)
        before, now = (literal(moment) for moment in known)
        fresh = (
            f"SELECT _source, _id FROM {target} WHERE _knowable <= {now} AND (_seq > {seen} OR _knowable > {before})"
        )
        row = one(cursor, f"SELECT min(event_time) FROM {target} SEMI JOIN ({fresh}) fresh USING (_source, _id)")
        return row[0].replace(tzinfo=UTC) if row and row[0] is not None else None

    # -- items and the review -------------------------------------------------------------------------------------------

    def review(self, name: str, *, limit: int = 20) -> list[LabelItem]:
        """Items whose claims are tied, the latest events first, with what each source says."""
        labels = self.declared(name)
        if not self._offline.used:
            return []
        item = f"{names(labels.keys)}, event_time"

        def read(cursor: Cursor) -> list[LabelItem]:
            now = self._clock.now()
            tied = (
                f"SELECT {item} FROM ({self.resolved_sql(cursor, labels, now)}) WHERE _tied"
                f" ORDER BY event_time DESC, {names(labels.keys)} LIMIT {int(limit)}"
            )
            return self._items(cursor, labels, tied, now)

        return self._offline.read(read)

    def item(self, name: str, keys: Mapping[str, Any], event_time: datetime) -> LabelItem:
        """What is claimed of one item, and what counts; raises NotFound where nothing is."""
        labels = self.declared(name)

        def read(cursor: Cursor) -> list[LabelItem]:
            self._ensure(cursor, labels)
            columns = [f"{_given(keys.get(key.name), key)} AS {quote(key.name)}" for key in labels.keys]
            one_item = f"SELECT {', '.join(columns)}, {literal(event_time)} AS event_time"
            return self._items(cursor, labels, one_item, self._clock.now())

        found = self._offline.read(read)
        if not found:
            raise NotFound(f"Nothing is claimed of this in {name}.", hint="Check keys and event_time.", field="keys")
        return found[0]

    def settle(self, name: str, keys: Mapping[str, Any], event_time: datetime, value: Any, *, actor: str) -> LabelItem:
        """Decide what an item is. It is kept as a claim that is believed before any other."""
        labels = self.declared(name)
        if value is None:
            raise InvalidInput("There is no value.", hint="Say what it is.", field="value")
        if labels.classes and given_value(value, labels.value, "value") not in allowed(labels):
            shown = ", ".join(str(one) for one in labels.classes[:10])
            raise InvalidInput(f"{value!r:.80} is none of the classes.", hint=f"One of {shown}.", field="value")
        self.item(name, keys, event_time)
        now = self._clock.now()
        row = {
            **{key.name: keys.get(key.name) for key in labels.keys},
            "event_time": event_time.isoformat(),
            labels.value.name: value,
            "annotator": actor,
            "ground_truth": True,
            "id": new_id(),
            "known_at": now.isoformat(),
        }
        columns = columns_of(labels)
        rows = arrow_utc(conform(table_of([row], columns, "label"), columns, optional=OPTIONAL_NAMES))
        done = self._offline.write(
            lambda cursor: self._ingest(cursor, labels, REVIEW, rows, now, backfill=False, actor=actor)
        )
        if done.quarantined:
            raise InvalidInput(f"{value!r:.80} is no value of {name}.", hint="See its range.", field="value")
        self._db.write(lambda tx: tx.emit("label.settled", f"label:{name}", actor, value=str(value)[:100]))
        return self.item(name, keys, event_time)

    def _items(self, cursor: Cursor, labels: LabelSet, wanted: str, at: datetime) -> list[LabelItem]:
        keys = [key.name for key in labels.keys]
        item, value = [*keys, "event_time"], quote(labels.value.name)
        same = " AND ".join(f"wanted.{quote(name)} = claim.{quote(name)}" for name in item)
        listed = ", ".join(f"claim.{quote(name)}" for name in item)
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE asked AS {wanted}")
        said = self.claims_sql(cursor, labels, at, among="SELECT * FROM asked")
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE claims AS SELECT claim.* FROM ({said}) claim JOIN asked wanted ON {same}"
        )
        claims = cursor.execute(
            f"SELECT {listed}, claim.{value}, claim._source, claim._annotator, claim._claimed,"
            f" count(*) OVER (PARTITION BY {listed}) FROM claims claim"
            f" QUALIFY row_number() OVER (PARTITION BY {listed} ORDER BY claim._rank, claim._claimed DESC, claim._seq DESC)"
            f" <= {MAX_SHOWN} ORDER BY claim.event_time DESC, {listed}, claim._rank, claim._annotator"
        ).fetchall()
        counts = cursor.execute(
            f"SELECT {item_of(labels)}, {value} FROM ({decided_sql(labels, 'SELECT * FROM claims', item_of(labels))})"
            " WHERE _tied IS NOT true"
        ).fetchall()
        cursor.execute("DROP TABLE asked; DROP TABLE claims")
        decided = {tuple(row[: len(item)]): row[len(item)] for row in counts}
        totals: dict[tuple[Any, ...], int] = {}
        found: dict[tuple[Any, ...], list[Claim]] = {}
        for row in claims:
            said, source, annotator, claimed, totals[tuple(row[: len(item)])] = row[len(item) :]
            found.setdefault(tuple(row[: len(item)]), []).append(
                Claim(source=source, annotator=annotator, value=said, claimed_at=claimed.replace(tzinfo=UTC))
            )
        return [
            LabelItem(
                keys=dict(zip(keys, key, strict=False)),
                event_time=key[-1].replace(tzinfo=UTC),
                value=decided.get(key),
                claims=tuple(said),
                claim_count=totals[key],
            )
            for key, said in found.items()
        ]

    # -- figures --------------------------------------------------------------------------------------------------------

    def counts(self, name: str, *, days: int = 30) -> list[SourceCounts]:
        """What arrived per source and day, with the delays after the events; the last days that anything arrived on."""
        labels = self.declared(name)
        if not self._offline.used:
            return []

        def read(cursor: Cursor) -> list[tuple[Any, ...]]:
            target = self._ensure(cursor, labels)
            delay = "epoch(_knowable) - epoch(event_time)"
            return cursor.execute(
                f"SELECT _source, strftime(_knowable, '%Y-%m-%d') AS day, count(*), median({delay}),"
                f" quantile_cont({delay}, 0.95) FROM {target} WHERE _knowable >= (SELECT max(_knowable) FROM {target})"
                f" - INTERVAL {int(days)} DAY GROUP BY ALL ORDER BY day, _source"
            ).fetchall()

        return [
            SourceCounts(source=source, day=day, rows=rows, delay_seconds=delay, late_seconds=late)
            for source, day, rows, delay, late in self._offline.read(read)
        ]

    def agreement(self, name: str) -> Agreement:
        """How far those who label agree, over the items of two claims or more; raises InvalidInput for measures."""
        labels = self.declared(name)
        if labels.value.dtype == "FP64":
            raise InvalidInput(
                f"{name} holds measures, and agreement is about classes.", hint="Compare their values.", field="name"
            )

        def read(cursor: Cursor) -> list[tuple[Any, ...]]:
            claims = self.claims_sql(cursor, labels, self._clock.now())
            item = f"{names(labels.keys)}, event_time"
            rater = "CASE WHEN _annotator IS NULL THEN _source ELSE _source || '/' || _annotator END"
            return cursor.execute(
                f"SELECT dense_rank() OVER (ORDER BY {item}), {rater}, _source, {quote(labels.value.name)}::VARCHAR"
                f" FROM (SELECT * FROM ({claims}) WHERE _source <> {_text(REVIEW)}"
                f" QUALIFY count(*) OVER (PARTITION BY {item}) > 1) ORDER BY event_time DESC LIMIT {MAX_CLAIMS}"
            ).fetchall()

        return agreement.over(self._offline.read(read) if self._offline.used else [])


def item_of(labels: LabelSet) -> str:
    """The columns that name an item, as an SQL list."""
    return f"{names(labels.keys)}, event_time"


def heard(labels: LabelSet) -> str:
    """The sources whose labels are claims, as an SQL list: all but suggestions."""
    return ", ".join(
        _text(name) for name in (REVIEW, *(one.name for one in labels.sources if one.kind != "suggestion"))
    )


def last_words_sql(labels: LabelSet, rows: str, item: str) -> str:
    """A SELECT of the claims among labels as they were corrected last, with the rank and the weight of their source."""
    return (
        f"{ranked_sql(labels, rows)}"
        f" QUALIFY row_number() OVER (PARTITION BY {item}, _source, _annotator ORDER BY _claimed DESC, _seq DESC) = 1"
    )


def ranked_sql(labels: LabelSet, rows: str) -> str:
    """A SELECT of the labels that are heard, with the rank and the weight of their source."""
    told = [(place, one) for place, one in enumerate(labels.sources) if one.kind != "suggestion"]
    ranks = " ".join(f"WHEN {_text(one.name)} THEN {place}" for place, one in told)
    weights = " ".join(f"WHEN {_text(one.name)} THEN {one.weight!r}" for _, one in told)
    rank = f"CASE WHEN _truth THEN -1 ELSE CASE _source {ranks} END END" if ranks else "-1"
    weight = f"CASE _source {weights} ELSE 1.0 END" if weights else "1.0"
    return f"SELECT *, {rank} AS _rank, {weight} AS _weight FROM ({rows}) WHERE _source IN ({heard(labels)})"


def decided_sql(labels: LabelSet, claims: str, item: str) -> str:
    """A SELECT of what the policy makes of claims: for each item the value, when it was knowable, and whether it is tied."""
    value = quote(labels.value.name)
    if labels.policy == "latest":
        return (
            f"SELECT {item}, {value}, _knowable, false AS _tied FROM ({claims}) QUALIFY row_number()"
            f" OVER (PARTITION BY {item} ORDER BY _rank < 0 DESC, _claimed DESC, _seq DESC) = 1"
        )
    best = f"_rank = min(_rank) OVER (PARTITION BY {item})"
    counted = best if labels.policy == "priority" else f"(_rank < 0 OR min(_rank) OVER (PARTITION BY {item}) >= 0)"
    weight = "_weight" if labels.policy == "weighted" else "1.0"
    # Of several ground truths the last one is the only claim that is heard.
    votes = (
        f"SELECT * FROM ({claims}) QUALIFY {counted} AND (_rank >= 0 OR row_number() OVER"
        f" (PARTITION BY {item}, _rank < 0 ORDER BY _claimed DESC, _seq DESC) = 1)"
    )
    tally = (
        f"SELECT {item}, {value}, round(sum({weight}), 9) AS _score, max(_knowable) AS _knowable FROM ({votes})"
        f" GROUP BY {item}, {value}"
    )
    return (
        f"SELECT {item}, arg_max({value}, _score) AS {value}, max(_knowable) AS _knowable,"
        f" count(*) > 1 AND max(_score, 2)[1] = max(_score, 2)[2] AS _tied FROM ({tally}) GROUP BY {item}"
    )


def _given(value: Any, column: Any) -> str:
    """One key of an item as SQL."""
    checked = given_value(value, column, f"keys.{column.name}")
    if checked is None:
        raise InvalidInput(f"The key {column.name!r} is missing.", hint="Name all keys.", field=f"keys.{column.name}")
    if column.dtype == "TIMESTAMP":
        return f"make_timestamp({checked})"
    if isinstance(checked, bool):
        return str(checked).lower()
    return repr(checked) if isinstance(checked, int | float) else _text(checked)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
