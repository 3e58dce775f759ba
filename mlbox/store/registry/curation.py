"""What people change of models and versions: words, tags, aliases, names; and how they are deleted.

None of it decides anything: a tag is a note, an alias is a name, and neither opens a stage. Deleted is hidden, not erased: the
approvals of a version, its history and its audit log stay, and its number is not given again.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime

from mlbox.clock import to_us
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, MlboxError, NotFound
from mlbox.records import Model, ModelVersion, check_name
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry.former_names import vacate
from mlbox.store.registry.promotion_moves import OPEN
from mlbox.store.registry.registry import Registry

MAX_KEY, MAX_VALUE, MAX_ALIAS = 250, 100_000, 255
_ALIAS = re.compile(r"[\w-]+")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
_log = logging.getLogger(__name__)
_UNDER_WAY = f"p.state IN ({', '.join(repr(state) for state in OPEN)})"


class Curation:
    """Changes to models and versions that are not promotions."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry

    # -- models -----------------------------------------------------------------------------------------------------

    def describe(
        self,
        name: str,
        *,
        actor: str,
        purpose: str | None = None,
        owner: str | None = None,
        expires_at: datetime | None = None,
    ) -> Model:
        """Set a model's facts; what is None stays."""
        _check_text(purpose or "", "purpose")
        _check_text(owner or "", "owner", most=256)
        facts = {
            "purpose": purpose,
            "owner": owner,
            "expires_us": to_us(expires_at) if expires_at is not None else None,
        }
        given = {column: value for column, value in facts.items() if value is not None}
        model = self._registry.model(name)

        def write(tx: Tx) -> None:
            for column, value in given.items():
                tx.run(f"UPDATE model SET {column} = ? WHERE id = ?", (value, model.id))
            tx.run("UPDATE model SET updated_us = ? WHERE id = ?", (tx.now_us, model.id))
            tx.emit("model.described", f"model:{name}", actor, fields=sorted(given))

        self._db.write(write)
        return self._registry.model(name)

    def rename(self, name: str, new_name: str, *, actor: str) -> Model:
        """Give a model another name; versions, promotions and history go with it, and the former name is kept as such.

        Raises Conflict while it serves or a promotion is under way, because callers know it by name. What other stores keep of it
        follows.
        """
        check_name(new_name, field="new_name")
        model = self._registry.model(name)
        serving = self._registry.by_stage(name, "Production")
        if serving is not None and serving.servable:
            raise Conflict(
                f"{serving.ref} serves predictions under this name.",
                hint="Register a version under the new name and move its callers first.",
                field="name",
            )

        def write(tx: Tx) -> None:
            _check_idle(tx, name, "p.version_id IN (SELECT id FROM model_version WHERE model_id = ?)", model.id)
            if name == new_name:
                return
            if tx.one("SELECT 1 FROM model WHERE name = ?", (new_name,)):
                raise AlreadyExists(
                    f"A model named {new_name!r} exists already.", hint="Choose another name.", field="new_name"
                )
            vacate(tx, new_name, self._registry.belongings, to=model.id)
            tx.run("INSERT OR REPLACE INTO former_name VALUES (?,?,?)", (model.id, name, tx.now_us))
            tx.run("UPDATE model SET name = ?, updated_us = ? WHERE id = ?", (new_name, tx.now_us, model.id))
            tx.emit("model.renamed", f"model:{new_name}", actor, former=name)

        self._db.write(write)
        if name != new_name:
            try:
                self._registry.belongings.moved(name, new_name)
            except MlboxError as err:  # it is renamed all the same, and the next start makes the move
                _log.warning("What is kept of %s is still under its former name %s: %s", new_name, name, err)
        return self._registry.model(new_name)

    def former_names(self, name: str) -> list[str]:
        """What a model was called before, the latest first."""
        rows = self._db.all(
            "SELECT name FROM former_name WHERE model_id = ? ORDER BY until_us DESC", (self._registry.model(name).id,)
        )
        return [row["name"] for row in rows]

    def delete(self, name: str, *, actor: str) -> None:
        """Hide a model and all its versions, and free its name; raises Conflict while one is in Production or on its way."""
        model = self._registry.model(name)

        def write(tx: Tx) -> None:
            busy = tx.one(
                "SELECT version FROM model_version WHERE model_id = ? AND stage = 'Production' AND deleted_us IS NULL",
                (model.id,),
            )
            if busy is not None:
                raise _in_production(f"{name}/{busy['version']}")
            _check_idle(tx, name, "p.version_id IN (SELECT id FROM model_version WHERE model_id = ?)", model.id)
            tx.run("DELETE FROM model_alias WHERE model_id = ?", (model.id,))
            tx.run(
                "UPDATE model_version SET deleted_us = ? WHERE model_id = ? AND deleted_us IS NULL",
                (tx.now_us, model.id),
            )
            tx.run("INSERT OR REPLACE INTO former_name VALUES (?,?,?)", (model.id, name, tx.now_us))
            tx.run(
                "UPDATE model SET name = ?, deleted_us = ? WHERE id = ?", (f"~{model.id}~{name}", tx.now_us, model.id)
            )
            tx.emit("model.deleted", f"model:{name}", actor)

        self._db.write(write)

    def restore(self, model_id: str, name: str, *, actor: str) -> None:
        """Take back that a model was deleted, with the versions that went with it; raises Conflict when its name is taken."""

        def write(tx: Tx) -> None:
            row = tx.one(
                "SELECT name, deleted_us FROM model WHERE id = ? AND deleted_us IS NOT NULL AND removed_us IS NULL",
                (model_id,),
            )
            if row is None:
                raise NotFound("The model is not deleted any more.", field="model")
            if tx.one("SELECT 1 FROM model WHERE name = ?", (name,)) is not None:
                raise Conflict(
                    f"There is another model {name!r} by now.", hint="Rename that one, then restore.", field="model"
                )
            vacate(tx, name, self._registry.belongings, to=model_id)
            self._registry.belongings.moved(row["name"], name)
            tx.run("UPDATE model SET name = ?, deleted_us = NULL WHERE id = ?", (name, model_id))
            tx.run(
                "UPDATE model_version SET deleted_us = NULL WHERE model_id = ? AND deleted_us = ? AND removed_us IS NULL",
                (model_id, row["deleted_us"]),
            )
            tx.run("DELETE FROM former_name WHERE model_id = ? AND until_us = ?", (model_id, row["deleted_us"]))
            tx.emit("model.restored", f"model:{name}", actor)

        self._db.write(write)

    def restore_version(self, version_id: str, ref: str, *, actor: str) -> None:
        """Take back that a version was deleted."""

        def write(tx: Tx) -> None:
            done = tx.run(
                "UPDATE model_version SET deleted_us = NULL WHERE id = ? AND removed_us IS NULL", (version_id,)
            )
            if not done.rowcount:
                raise NotFound("The version's files were removed meanwhile.", field="version")
            tx.emit("model.restored", f"model:{ref}", actor)

        self._db.write(write)

    def set_model_tag(self, name: str, key: str, value: str, *, actor: str) -> None:
        """Tag a model."""
        _check_tag(key, value)
        model = self._registry.model(name)

        def write(tx: Tx) -> None:
            tx.run("INSERT OR REPLACE INTO model_tag VALUES (?,?,?)", (model.id, key, value))
            tx.emit("model.tagged", f"model:{name}", actor, key=key, value=value)

        self._db.write(write)

    def delete_model_tag(self, name: str, key: str, *, actor: str) -> None:
        """Take a tag away; doing it again changes nothing."""
        model = self._registry.model(name)

        def write(tx: Tx) -> None:
            if tx.run("DELETE FROM model_tag WHERE model_id = ? AND key = ?", (model.id, key)).rowcount:
                tx.emit("model.untagged", f"model:{name}", actor, key=key)

        self._db.write(write)

    # -- aliases ----------------------------------------------------------------------------------------------------

    def set_alias(self, name: str, alias: str, number: int, *, actor: str) -> None:
        """Let a free name stand for a version, instead of whichever it stood for."""
        check_alias(alias)
        version = self._registry.version(name, number)
        model = self._registry.model(name)

        def write(tx: Tx) -> None:
            tx.run("INSERT OR REPLACE INTO model_alias VALUES (?,?,?)", (model.id, alias, number))
            _note_alias(tx, model.id, alias, number, actor)
            tx.emit("model.alias", f"model:{version.ref}", actor, alias=alias)

        self._db.write(write)

    def delete_alias(self, name: str, alias: str, *, actor: str) -> None:
        """Take a name away; doing it again changes nothing."""
        model = self._registry.model(name)

        def write(tx: Tx) -> None:
            if tx.run("DELETE FROM model_alias WHERE model_id = ? AND alias = ?", (model.id, alias)).rowcount:
                _note_alias(tx, model.id, alias, None, actor)
                tx.emit("model.unaliased", f"model:{name}", actor, alias=alias)

        self._db.write(write)

    # -- versions ---------------------------------------------------------------------------------------------------

    def describe_version(self, name: str, number: int, description: str, *, actor: str) -> ModelVersion:
        """Say in words what a version is."""
        _check_text(description, "description")
        version = self._registry.version(name, number)

        def write(tx: Tx) -> None:
            tx.run(
                "UPDATE model_version SET description = ?, updated_us = ? WHERE id = ?",
                (description, tx.now_us, version.id),
            )
            tx.emit("model.described", f"model:{version.ref}", actor, fields=["description"])

        self._db.write(write)
        return self._registry.version(name, number)

    def set_version_tag(
        self, name: str, number: int, key: str, value: str, *, actor: str, dataset: str | None = None
    ) -> None:
        """Tag a version; with `dataset`, which the tag names, a version of unknown data is linked to it."""
        _check_tag(key, value)
        version = self._registry.version(name, number)
        if dataset is not None:
            self._db.privacy.shelter("model", name, [("dataset", dataset.partition("@")[0])])

        def write(tx: Tx) -> None:
            tx.run("INSERT OR REPLACE INTO version_tag VALUES (?,?,?)", (version.id, key, value))
            tx.emit("model.tagged", f"model:{version.ref}", actor, key=key, value=value)
            if dataset is not None:
                linked = tx.run(
                    "UPDATE model_version SET dataset = ? WHERE id = ? AND dataset IS NULL", (dataset, version.id)
                )
                if linked.rowcount:
                    tx.emit("model.linked", f"model:{version.ref}", actor, dataset=dataset)

        self._db.write(write)

    def delete_version_tag(self, name: str, number: int, key: str, *, actor: str) -> None:
        """Take a tag away; doing it again changes nothing."""
        version = self._registry.version(name, number)

        def write(tx: Tx) -> None:
            if tx.run("DELETE FROM version_tag WHERE version_id = ? AND key = ?", (version.id, key)).rowcount:
                tx.emit("model.untagged", f"model:{version.ref}", actor, key=key)

        self._db.write(write)

    def delete_version(self, name: str, number: int, *, actor: str) -> None:
        """Hide a version; raises Conflict while it is in Production or on its way there."""
        version = self._registry.version(name, number)

        def write(tx: Tx) -> None:
            if _stage(tx, version.id) == "Production":
                raise _in_production(version.ref)
            _check_idle(tx, version.ref, "p.version_id = ?", version.id)
            gone: list[Row] = tx.all(
                "DELETE FROM model_alias WHERE version = ? AND model_id ="
                " (SELECT model_id FROM model_version WHERE id = ?) RETURNING model_id, alias",
                (number, version.id),
            )
            for row in gone:
                _note_alias(tx, row["model_id"], row["alias"], None, actor)
            tx.run("UPDATE model_version SET deleted_us = ? WHERE id = ?", (tx.now_us, version.id))
            tx.emit("model.deleted", f"model:{version.ref}", actor)

        self._db.write(write)


def check_alias(alias: str) -> str:
    """A name that cannot be taken for a version number; raises InvalidInput otherwise."""
    if not _ALIAS.fullmatch(alias) or len(alias) > MAX_ALIAS:
        raise InvalidInput(
            f"{alias[:80]!r} is not a valid alias.",
            hint=f"Use 1 to {MAX_ALIAS} letters, digits, '_' and '-'.",
            field="alias",
        )
    if _RESERVED.fullmatch(alias):
        raise InvalidInput(
            f"{alias[:80]!r} is reserved and no alias.", hint="'latest' and 'v1' already mean a version.", field="alias"
        )
    return alias


def _check_tag(key: str, value: str) -> None:
    if not 0 < len(key) <= MAX_KEY:
        raise InvalidInput(f"A tag's name has {len(key)} characters.", hint=f"Use 1 to {MAX_KEY}.", field="key")
    _check_text(value, "value")


def _check_text(text: str, field: str, most: int = MAX_VALUE) -> None:
    if len(text) > most:
        raise InvalidInput(f"The {field} has {len(text):,} characters.", hint=f"At most {most:,}.", field=field)


def _check_idle(tx: Tx, what: str, condition: str, value: str) -> None:
    row = tx.one(
        f"SELECT version, p.state FROM promotion p JOIN model_version v ON v.id = p.version_id"
        f" WHERE {_UNDER_WAY} AND {condition}",
        (value,),
    )
    if row is not None:
        raise Conflict(
            f"Version {row['version']} of {what.partition('/')[0]} is on its way to Production ({row['state']}).",
            hint="`mlbox model withdraw` it first.",
            field="version",
        )


def _in_production(ref: str) -> Conflict:
    return Conflict(f"{ref} is in Production.", hint="Promote another version or archive it first.", field="version")


def _stage(tx: Tx, version_id: str) -> str:
    row = tx.one("SELECT stage FROM model_version WHERE id = ? AND deleted_us IS NULL", (version_id,))
    if row is None:
        raise NotFound("The version was deleted meanwhile.", field="version")
    stage: str = row["stage"]
    return stage


def _note_alias(tx: Tx, model_id: str, alias: str, version: int | None, actor: str) -> None:
    tx.run(
        "INSERT INTO alias_change (model_id, alias, version, actor, at_us) VALUES (?,?,?,?,?)",
        (model_id, alias, version, actor, tx.now_us),
    )
