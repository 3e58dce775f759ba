"""Experiments: numbered groups of runs, with tags, another name when it is wanted, and deletion that can be taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from mlbox.clock import from_us
from mlbox.errors import AlreadyExists, InvalidInput, NotFound
from mlbox.records import Experiment
from mlbox.store.db import Database, Row, Tx

DEFAULT_ID = "0"
MAX_NAME = 500
MAX_TAG_KEY = 250
MAX_TAG_VALUE = 20_000
Alive = Literal["active", "deleted", "all"]
"""Which of what can be deleted softly: what is not, what is, or both."""
_ALIVE: dict[Alive, str] = {"active": "deleted_us IS NULL", "deleted": "deleted_us IS NOT NULL", "all": "1"}

_SQL = """
SELECT experiment.*,
  (SELECT json_group_object(key, value) FROM experiment_tag WHERE experiment_id = experiment.id) AS tags
FROM experiment
"""
_VISIBLE = "visible('experiment', name)"


class Experiments:
    """The experiments of one box."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, experiment_id: str) -> Experiment:
        """One experiment by its id; raises NotFound."""
        row = self._db.one(f"{_SQL} WHERE id = ? AND {_VISIBLE}", (experiment_id,))
        if row is None:
            raise NotFound(f"No Experiment with id={experiment_id[:80]} exists.", field="experiment_id")
        return of_row(row)

    def by_name(self, name: str) -> Experiment:
        """One experiment by its name, deleted or not; raises NotFound."""
        row = self._db.one(f"{_SQL} WHERE name = ? AND {_VISIBLE}", (name,))
        if row is None:
            raise NotFound(f"Could not find experiment with name '{name[:80]}'.", field="experiment_name")
        return of_row(row)

    def all(self) -> list[Experiment]:
        """Those that are not deleted, by name."""
        rows = self._db.all(f"{_SQL} WHERE deleted_us IS NULL AND {_VISIBLE} ORDER BY name")
        return [of_row(row) for row in rows]

    def visible_ids(self) -> set[str]:
        """The ids of all that whoever asks may know of, deleted or not."""
        return {row["id"] for row in self._db.all(f"SELECT id FROM experiment WHERE {_VISIBLE}")}

    def select(self, condition: str, values: Sequence[object], order: str, limit: int) -> list[Row]:
        """Rows of experiments by a compiled condition and order (see `runsearch`)."""
        sql = f"{_SQL} WHERE {_VISIBLE} AND {condition} ORDER BY {order} LIMIT ?"
        return self._db.all(sql, [*values, limit])

    # -- writing ----------------------------------------------------------------------------------------------------

    def get_or_create(self, name: str, *, actor: str) -> Experiment:
        """The experiment of this name, made if it is new; raises AlreadyExists for one that is deleted."""
        check_experiment_name(name)
        row = self._db.one(f"{_SQL} WHERE name = ?", (name,))
        if row is None:
            row = self._db.write(lambda tx: _row(tx, name) or _insert(tx, name, actor))
        if row["deleted_us"] is not None:
            raise _taken(name, deleted=True)
        return of_row(row)

    @staticmethod
    def id_within(tx: Tx, name: str, *, actor: str) -> str:
        """As `get_or_create`, as part of a write, of a name that was checked: its id."""
        row = tx.one("SELECT id, deleted_us FROM experiment WHERE name = ?", (name,)) or _insert(tx, name, actor)
        if row["deleted_us"] is not None:
            raise _taken(name, deleted=True)
        found: str = row["id"]
        return found

    def create(self, name: str, *, actor: str, tags: Mapping[str, str] = {}) -> Experiment:
        """A new experiment; raises AlreadyExists, also for a name whose experiment is deleted."""
        check_experiment_name(name)
        for key, value in tags.items():
            _check_tag(key, value)

        def write(tx: Tx) -> Row:
            known = _row(tx, name)
            if known is not None:
                raise _taken(name, deleted=known["deleted_us"] is not None)
            made = _insert(tx, name, actor)
            tx.many("INSERT INTO experiment_tag VALUES (?,?,?)", [(made["id"], k, v) for k, v in tags.items()])
            return made

        return self.get(self._db.write(write)["id"])

    def rename(self, experiment_id: str, name: str, *, actor: str) -> None:
        """Another name; raises AlreadyExists, and InvalidInput for an experiment that is deleted."""
        check_experiment_name(name, field="new_name")

        def write(tx: Tx) -> None:
            row = _require(tx, experiment_id)
            known = _row(tx, name)
            if known is not None and known["id"] != experiment_id:
                raise _taken(name, deleted=known["deleted_us"] is not None)
            tx.run("UPDATE experiment SET name = ?, updated_us = ? WHERE id = ?", (name, tx.now_us, experiment_id))
            tx.emit("experiment.renamed", f"experiment:{name}", actor, former=row["name"])

        self._db.write(write)

    def delete(self, experiment_id: str, *, actor: str) -> None:
        """Delete softly, with its runs; raises InvalidInput for the default one."""
        if experiment_id == DEFAULT_ID:
            raise InvalidInput("Cannot delete the default experiment '0'.", field="experiment_id")

        def write(tx: Tx) -> None:
            row = _require(tx, experiment_id)
            tx.run("UPDATE experiment SET deleted_us = ?, updated_us = ? WHERE id = ?", (*[tx.now_us] * 2, row["id"]))
            tx.run(
                "UPDATE run SET deleted_us = ? WHERE experiment_id = ? AND deleted_us IS NULL", (tx.now_us, row["id"])
            )
            tx.emit("experiment.deleted", f"experiment:{row['name']}", actor)

        self._db.write(write)

    def restore(self, experiment_id: str, *, actor: str) -> None:
        """Take a deletion back, with those of its runs that went with it."""

        def write(tx: Tx) -> None:
            row = tx.one("SELECT * FROM experiment WHERE id = ? AND deleted_us IS NOT NULL", (experiment_id,))
            if row is None:
                raise NotFound(f"No deleted Experiment with id={experiment_id[:80]} exists.", field="experiment_id")
            tx.run("UPDATE experiment SET deleted_us = NULL, updated_us = ? WHERE id = ?", (tx.now_us, row["id"]))
            tx.run(
                "UPDATE run SET deleted_us = NULL WHERE experiment_id = ? AND deleted_us = ?",
                (row["id"], row["deleted_us"]),
            )
            tx.emit("experiment.restored", f"experiment:{row['name']}", actor)

        self._db.write(write)

    def set_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set a tag."""
        _check_tag(key, value)

        def write(tx: Tx) -> None:
            _require(tx, experiment_id)
            tx.run("INSERT OR REPLACE INTO experiment_tag VALUES (?,?,?)", (experiment_id, key, value))
            tx.run("UPDATE experiment SET updated_us = ? WHERE id = ?", (tx.now_us, experiment_id))

        self._db.write(write)

    def delete_tag(self, experiment_id: str, key: str) -> None:
        """Take a tag away; raises NotFound."""

        def write(tx: Tx) -> None:
            _require(tx, experiment_id)
            done = tx.run("DELETE FROM experiment_tag WHERE experiment_id = ? AND key = ?", (experiment_id, key))
            if not done.rowcount:
                raise NotFound(f"No tag with name: {key[:80]} in experiment with id {experiment_id}.", field="key")

        self._db.write(write)


def of_row(row: Row) -> Experiment:
    """An experiment of its row."""
    return Experiment(
        id=row["id"],
        name=row["name"],
        created_at=from_us(row["created_us"]),
        updated_at=from_us(row["updated_us"]),
        deleted_at=None if row["deleted_us"] is None else from_us(row["deleted_us"]),
        tags=msgspec.json.decode(row["tags"]),
    )


def alive_condition(alive: Alive, table: str = "") -> str:
    """SQL that is true for rows of this lifecycle."""
    condition = _ALIVE[alive]
    return f"{table}.{condition}" if table and condition != "1" else condition


def check_experiment_name(name: str, *, field: str = "experiment") -> str:
    """A name for an experiment: 1 to 500 characters, none of them a control character; raises InvalidInput."""
    if not name.strip() or len(name) > MAX_NAME or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise InvalidInput(
            f"Invalid value {name[:80]!r} for parameter {field!r} supplied: it has {len(name):,} characters.",
            hint=f"Use 1 to {MAX_NAME} characters, without line breaks.",
            field=field,
        )
    return name


def _check_tag(key: str, value: str) -> None:
    for field, text, most in (("key", key, MAX_TAG_KEY), ("value", value, MAX_TAG_VALUE)):
        if len(text) > most or (field == "key" and not text):
            raise InvalidInput(
                f"Invalid value {text[:80]!r} for parameter 'tags.{field}' supplied: its length is {len(text):,}.",
                hint=f"Use 1 to {most:,} characters.",
                field=f"tags.{field}",
            )


def _row(tx: Tx, name: str) -> Row | None:
    return tx.one(f"{_SQL} WHERE name = ?", (name,))


def _insert(tx: Tx, name: str, actor: str) -> Row:
    number = tx.one("UPDATE experiment_number SET last = last + 1 RETURNING last AS next")
    assert number is not None
    tx.run(
        "INSERT INTO experiment (id, name, created_us, updated_us) VALUES (?,?,?,?)",
        (str(number["next"]), name, tx.now_us, tx.now_us),
    )
    tx.emit("experiment.created", f"experiment:{name}", actor)
    made = _row(tx, name)
    assert made is not None
    return made


def _require(tx: Tx, experiment_id: str) -> Row:
    row = tx.one("SELECT * FROM experiment WHERE id = ?", (experiment_id,))
    if row is None:
        raise NotFound(f"No Experiment with id={experiment_id[:80]} exists.", field="experiment_id")
    if row["deleted_us"] is not None:
        raise InvalidInput(
            f"The experiment {experiment_id} must be in the 'active' state. Current state is deleted.",
            hint="Restore it first.",
            field="experiment_id",
        )
    return row


def _taken(name: str, *, deleted: bool) -> AlreadyExists:
    also = " It is deleted: restore it, or choose another name." if deleted else ""
    return AlreadyExists(f"Experiment(name={name[:80]}) already exists.{also}", field="name")
