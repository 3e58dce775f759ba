"""Label sets: what is labelled, by whom, whom to believe, and which of several claims counts.

A label is a claim of a source about an entity at an event time. Three times belong to it: the event's, the one at which the
source claims to have known, and `knowable`, the later of that claim and the server's clock when it was written. Rows are only
ever added (`label_rows`); which of them counts is derived (`label_views`), so another policy rewrites nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import Clock
from mlbox.errors import AlreadyExists, InvalidInput, NotFound, suggest
from mlbox.records import Column, LabelPolicy, LabelSet, LabelSource, check_name
from mlbox.store.db import Database, Row, Tx
from mlbox.store.given import given_value
from mlbox.store.offline.offline import Offline, quote
from mlbox.store.offline.views import SQL_TYPES, source_table

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

EVENT_TIME = Column(name="event_time", dtype="TIMESTAMP")
KNOWN_AT = Column(name="known_at", dtype="TIMESTAMP")
ID = Column(name="id", dtype="STRING")
ANNOTATOR = Column(name="annotator", dtype="STRING")
PREDICTION = Column(name="prediction_id", dtype="STRING")
GROUND_TRUTH = Column(name="ground_truth", dtype="BOOL")
OPTIONAL = (KNOWN_AT, ID, ANNOTATOR, PREDICTION, GROUND_TRUTH)
"""What a label may come with. Without `known_at` it is known when it arrives; ground truth is believed before all else."""
REVIEW = "review"
"""The source of what people settle here; it is ground truth."""
MAX_CLASSES = 1000


class LabelSets:
    """Declared label sets."""

    def __init__(self, db: Database, offline: Offline, clock: Clock) -> None:
        self._db = db
        self._offline = offline
        self._clock = clock

    def apply(self, wanted: LabelSet, *, actor: str) -> LabelSet:
        """Declare a label set, or change what it may be; keys and the value's type stay. Changes nothing twice."""
        wanted = _checked(wanted)

        def write(tx: Tx) -> None:
            # The offline store does not tell capitals apart, so two names that differ in them would share a table.
            row = tx.one("SELECT * FROM label_set WHERE name = ? COLLATE NOCASE", (wanted.name,))
            if row is None:
                made = msgspec.structs.replace(wanted, policy_version=1, created_at=tx.now)
                tx.run("INSERT INTO label_set VALUES (?,?,?)", (made.name, made.to_json().decode(), tx.now_us))
                tx.emit("label.created", f"label:{made.name}", actor)
                return
            before = _label_set(row)
            if before.name != wanted.name:
                raise AlreadyExists(
                    f"The label set {before.name!r} differs only in capitals.",
                    hint="Choose another name.",
                    field="name",
                )
            made = _changed(before, wanted)
            if made != before:
                tx.run("UPDATE label_set SET spec = ? WHERE name = ?", (made.to_json().decode(), made.name))
                tx.emit("label.changed", f"label:{made.name}", actor, policy=made.policy_ref)

        self._db.write(write)
        return self.label_set(wanted.name)

    def sets(self, *, limit: int | None = None, after: str = "") -> list[LabelSet]:
        """Label sets by name, from behind the name `after`, with their number of rows."""
        rows = self._db.all(
            "SELECT * FROM label_set WHERE name > ? AND visible('label', name) ORDER BY name LIMIT ?",
            (after, -1 if limit is None else limit),
        )
        return [self._counted(_label_set(row)) for row in rows]

    def label_set(self, name: str) -> LabelSet:
        """One label set, with its number of rows; raises NotFound."""
        return self._counted(self.declared(name))

    def declared(self, name: str) -> LabelSet:
        """One label set as it was declared; raises NotFound."""
        row = self._db.one("SELECT * FROM label_set WHERE name = ? AND visible('label', name)", (name,))
        if row is None:
            known = [row["name"] for row in self._db.all("SELECT name FROM label_set WHERE visible('label', name)")]
            raise NotFound(f"There is no label set {name[:200]!r}.", hint=suggest(name, known), field="label_set")
        return _label_set(row)

    def visible(self, name: str) -> bool:
        """True when whoever asks in this context may know of a label set."""
        return self._db.privacy.visible("label", name)

    def _counted(self, labels: LabelSet) -> LabelSet:
        if not self._offline.used:
            return labels

        def count(cursor: Cursor) -> int:
            row = cursor.execute(f"SELECT count(*) FROM {self._ensure(cursor, labels)}").fetchone()
            return int(row[0]) if row else 0

        return msgspec.structs.replace(labels, rows=self._offline.read(count))

    @staticmethod
    def _ensure(cursor: Cursor, labels: LabelSet) -> str:
        """The label set's table, quoted, made if it is new."""
        target = quote(f"label:{labels.name}")
        typed = ", ".join(f"{quote(c.name)} {SQL_TYPES[c.dtype]}" for c in (*labels.keys, labels.value))
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {target} ({typed}, event_time TIMESTAMP, _claimed TIMESTAMP, _knowable TIMESTAMP,"
            " _source VARCHAR, _id VARCHAR, _annotator VARCHAR, _prediction VARCHAR, _truth BOOLEAN,"
            " _digest UBIGINT, _backfill BOOLEAN, _by VARCHAR, _at TIMESTAMP, _seq BIGINT)"
        )
        return target

    def _entities_sql(self, cursor: Cursor, labels: LabelSet) -> str | None:
        """A relation of the entities that there are, where the label set names a source of them."""
        if not labels.entities:
            return None
        found = cursor.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [f"source:{labels.entities}"]
        ).fetchall()
        keys = ", ".join(quote(key.name) for key in labels.keys)
        return f"(SELECT DISTINCT {keys} FROM {source_table(labels.entities)})" if found[0][0] else None


def allowed(labels: LabelSet) -> list[Any]:
    """A set's classes as the store has them."""
    return [given_value(one, labels.value, "classes") for one in labels.classes]


def source_of(labels: LabelSet, name: str | None) -> LabelSource:
    """The source that labels come from; raises InvalidInput. A set of one source need not have it named."""
    if name is None and len(labels.sources) == 1:
        return labels.sources[0]
    for one in labels.sources:
        if one.name == name:
            return one
    known = [one.name for one in labels.sources]
    raise InvalidInput(
        f"{labels.name} has no source {name[:200]!r}." if name else f"{labels.name} has several sources.",
        hint=(suggest(name, known) if name else "") or f"One of {', '.join(known)}.",
        field="source",
    )


def _checked(wanted: LabelSet) -> LabelSet:
    check_name(wanted.name)
    taken = [EVENT_TIME.name, *(one.name for one in OPTIONAL)]
    names = [column.name for column in (*wanted.keys, wanted.value)]
    if not wanted.keys or len({*names, *taken}) < len(names) + len(taken):
        raise InvalidInput("Keys and value need names of their own.", hint=f"Taken: {', '.join(taken)}.", field="keys")
    for name in names:
        check_name(name, field="keys")
    if wanted.value.dtype == "TIMESTAMP":
        raise InvalidInput("A label is no TIMESTAMP.", hint="BOOL, INT64, FP64 or STRING.", field="value")
    _check_range(wanted)
    sources = wanted.sources or (LabelSource(name="upload", kind="delayed"),)
    called = [one.name for one in sources]
    for one in sources:
        check_name(one.name, field="sources")
    if len(set(called)) < len(called) or REVIEW in called:
        raise InvalidInput(
            "Each source needs a name of its own.",
            hint=f"{REVIEW!r} is taken: it is what people settle.",
            field="sources",
        )
    if wanted.value.dtype == "FP64" and wanted.policy in ("majority", "weighted"):
        raise InvalidInput(
            f"The policy {wanted.policy!r} counts votes, and a measure has none.",
            hint="Choose latest or priority.",
            field="policy",
        )
    return msgspec.structs.replace(wanted, sources=sources, rows=0, published="")


def _check_range(wanted: LabelSet) -> None:
    if len(wanted.classes) > MAX_CLASSES:
        raise InvalidInput("There are too many classes.", hint=f"{MAX_CLASSES:,} at most.", field="classes")
    if len({repr(one) for one in allowed(wanted)}) < len(wanted.classes):
        raise InvalidInput("A class is there twice.", hint="Keep one.", field="classes")
    bounds = [bound for bound in (wanted.minimum, wanted.maximum) if bound is not None]
    if bounds and wanted.value.dtype not in ("INT64", "FP64"):
        raise InvalidInput("Only a number has a range.", hint="Name classes instead.", field="minimum")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        raise InvalidInput("The range is empty.", hint="minimum is at most maximum.", field="minimum")


def _changed(before: LabelSet, wanted: LabelSet) -> LabelSet:
    """What a set becomes; raises for what cannot change."""
    for field in ("keys", "value"):
        old, new = getattr(before, field), getattr(wanted, field)
        if _kinds(old) != _kinds(new):
            raise AlreadyExists(
                f"The label set {before.name!r} exists with other columns.",
                hint="Give the new one a new name.",
                field="name",
            )
    gone = [one.name for one in before.sources if one.name not in {new.name for new in wanted.sources}]
    if gone:
        raise InvalidInput(
            f"The source {gone[0]!r} of {before.name} is left out, and its labels are kept.",
            hint="Name it, with the kind `suggestion` if it is not to count as truth any more.",
            field="sources",
        )
    same = _policy(before) == _policy(wanted)
    version = before.policy_version + (0 if same else 1)
    return msgspec.structs.replace(
        wanted, policy_version=version, created_at=before.created_at, published=before.published
    )


def _kinds(columns: Column | Sequence[Column]) -> list[tuple[str, str]]:
    return [(one.name, one.dtype) for one in ([columns] if isinstance(columns, Column) else columns)]


def _policy(labels: LabelSet) -> tuple[LabelPolicy, tuple[LabelSource, ...]]:
    told = tuple(msgspec.structs.replace(one, fields={}, each="") for one in labels.sources)
    return labels.policy, told


def _label_set(row: Row) -> LabelSet:
    return msgspec.json.decode(row["spec"], type=LabelSet)
