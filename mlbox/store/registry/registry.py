"""The model registry: the hub that datasets, runs, deployments and predictions meet in.

Models and versions are here; the way of a version to Production is in `promotions`, over the same file. Each version names
its run, its dataset version, its features and its artifact, and is immutable but for its stage, tags and description.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mlbox.clock import from_us
from mlbox.errors import AlreadyExists, InvalidInput, NotFound, suggest
from mlbox.ids import new_id
from mlbox.records import (
    Lineage,
    Model,
    ModelFormat,
    ModelVersion,
    Record,
    RunArtifact,
    Stage,
    TensorSpec,
    check_name,
)
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry.former_names import Belongings, Nothing, vacate
from mlbox.store.registry.policy_book import PolicyBook

_VERSION_SQL = """
SELECT model_version.*, model.name AS model,
  (SELECT json_group_object(key, value) FROM version_tag WHERE version_id = model_version.id) AS tags,
  (SELECT json_group_array(alias) FROM model_alias a WHERE a.model_id = model.id AND a.version = model_version.version)
    AS aliases
FROM model_version JOIN model ON model.id = model_version.model_id AND model_version.deleted_us IS NULL
"""
_MODEL_SQL = """
SELECT model.*,
  (SELECT json_group_object(key, value) FROM model_tag WHERE model_id = model.id) AS tags,
  (SELECT json_group_object(alias, version) FROM model_alias WHERE model_id = model.id) AS aliases,
  (SELECT json_group_object(stage, latest) FROM
    (SELECT stage, max(version) AS latest FROM model_version
      WHERE model_id = model.id AND deleted_us IS NULL GROUP BY stage)) AS stages
FROM (SELECT * FROM model WHERE deleted_us IS NULL) AS model
"""


class NewVersion(Record, frozen=True, kw_only=True):
    """What a registration brings; the registry adds number, stage and time."""

    model: str
    format: ModelFormat = "onnx"
    run_id: str | None = None
    experiment: str | None = None
    """Of the run; what it tells is as private as it."""
    job_id: str | None = None
    dataset: str | None = None
    dataset_hash: str | None = None
    feature_service: str | None = None
    features: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    artifact: str | None = None
    size: int = 0
    reference: str | None = None
    sample: str | None = None
    metrics: dict[str, float] = {}
    git_commit: str | None = None
    trained_by: str
    submitted_by: str
    description: str = ""
    tags: dict[str, str] = {}
    source: str | None = None
    run_link: str = ""
    logged_model: str | None = None
    lineage: Lineage = "recorded"
    unservable: str = ""
    files: tuple[RunArtifact, ...] = ()
    """What the version is made of, by path: it stays, whatever is logged under the same names later."""


_JUDGED_ON = """
SELECT DISTINCT name FROM (
  SELECT m.name, policy FROM promotion_policy p JOIN model m ON m.id = p.model_id WHERE m.deleted_us IS NULL
    AND revision = (SELECT max(revision) FROM promotion_policy WHERE model_id = m.id)
  UNION ALL SELECT m.name, policy FROM promotion p JOIN model_version v ON v.id = p.version_id JOIN model m ON m.id = v.model_id
    WHERE m.deleted_us IS NULL
    AND p.state IN ('testing', 'waiting_traffic', 'integration', 'shadow', 'waiting_approval', 'canary'))
WHERE :dataset IN (json_extract(policy, '$.compare.dataset'), json_extract(policy, '$.fairness.dataset')) ORDER BY name
"""


class Registry:
    """Models and their versions."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.belongings: Belongings = Nothing()
        """What other stores keep under the names of models; told of a name before another model gets it."""
        self.policies = PolicyBook(db, self._model_for, self.model)

    # -- models -----------------------------------------------------------------------------------------------------

    def create_model(self, name: str, *, actor: str, purpose: str = "") -> Model:
        """A new, empty model; raises AlreadyExists."""
        check_name(name, field="model")

        def write(tx: Tx) -> None:
            if _model_id(tx, name):
                raise AlreadyExists(
                    f"A model named {name!r} exists already.", hint="Register a version of it.", field="name"
                )
            self._insert_model(tx, name, actor, purpose)

        self._db.write(write)
        return self.model(name)

    def _model_for(self, tx: Tx, name: str, actor: str) -> str:
        return _model_id(tx, name) or self._insert_model(tx, name, actor, "")

    def _insert_model(self, tx: Tx, name: str, owner: str, purpose: str) -> str:
        vacate(tx, name, self.belongings)
        model_id = new_id()
        tx.run(
            "INSERT INTO model (id, name, owner, purpose, created_us, updated_us) VALUES (?,?,?,?,?,?)",
            (model_id, name, owner, purpose, tx.now_us, tx.now_us),
        )
        tx.emit("model.created", f"model:{name}", owner)
        return model_id

    def models(
        self, *, limit: int = 100, after: str | None = None, part: str = "", stage: Stage | None = None
    ) -> list[Model]:
        """Models by name, from the one after `after`: those with a part in their name, and with a version in a stage."""
        staged = (
            "EXISTS (SELECT 1 FROM model_version WHERE model_id = model.id AND stage = :stage AND deleted_us IS NULL)"
        )
        rows = self._db.all(
            f"{_MODEL_SQL} WHERE name > :after AND visible('model', name) AND instr(lower(name), lower(:part))"
            f"{f' AND {staged}' if stage else ''} ORDER BY name LIMIT :limit",
            {"after": after or "", "part": part, "stage": stage, "limit": limit},
        )
        return [_model(row) for row in rows]

    def model(self, name: str) -> Model:
        """One model; raises NotFound."""
        row = self._db.one(f"{_MODEL_SQL} WHERE name = ? AND visible('model', name)", (name,))
        if row is None:
            raise self._no_model(name)
        return _model(row)

    def _no_model(self, name: str) -> NotFound:
        rows = self._db.all("SELECT name FROM model WHERE visible('model', name) ORDER BY name LIMIT 1000")
        hint = suggest(name, [row["name"] for row in rows], otherwise="`mlbox model ls` lists them.")
        err = NotFound(f"There is no model {name[:200]!r}.", hint=hint, field="model")
        err.model = name
        return err

    # -- versions ---------------------------------------------------------------------------------------------------

    def register(self, new: NewVersion) -> ModelVersion:
        """Add a version, and the model with it if it is the first. The number is the model's last plus one."""
        check_name(new.model, field="model")
        self._shelter(new)

        def write(tx: Tx) -> int:
            model_id = _model_id(tx, new.model)
            model_id = model_id or self._insert_model(tx, new.model, new.submitted_by, new.description)
            row = tx.one("SELECT coalesce(max(version), 0) + 1 AS n FROM model_version WHERE model_id = ?", (model_id,))
            assert row is not None
            _insert_version(tx, model_id, row["n"], new)
            tx.emit(
                "model.registered",
                f"model:{new.model}/{row['n']}",
                new.submitted_by,
                run=new.run_id,
                dataset=new.dataset,
                trained_by=new.trained_by,
            )
            number: int = row["n"]
            return number

        return self.version(new.model, self._db.write(write))

    def _shelter(self, new: NewVersion) -> None:
        parts = [("view", ref.partition("@")[0].partition(":")[0]) for ref in new.features]
        parts += [("dataset", new.dataset.partition("@")[0])] if new.dataset else []
        parts += [("experiment", new.experiment)] if new.experiment else []
        self._db.privacy.shelter("model", new.model, parts)

    def see(self, model: str) -> None:
        """Raise NotFound for a model that whoever asks may not know of; costs no query."""
        if not self.visible(model):
            raise self._no_model(model)

    def visible(self, model: str) -> bool:
        """True when whoever asks may know of a model."""
        return self._db.privacy.visible("model", model)

    def version(self, model: str, number: int) -> ModelVersion:
        """One version; raises NotFound."""
        row = self._db.one(
            f"{_VERSION_SQL} WHERE model.name = ? AND version = ? AND visible('model', model.name)", (model, number)
        )
        if row is None:
            raise no_version(model, number)
        return _version(row)

    def version_of_id(self, version_id: str) -> ModelVersion:
        """One version by its id; raises NotFound."""
        row = self._db.one(f"{_VERSION_SQL} WHERE model_version.id = ? AND visible('model', model.name)", (version_id,))
        if row is None:
            raise NotFound(f"There is no model version {version_id[:80]!r}.", hint="`mlbox model ls` lists them.")
        return _version(row)

    def versions(self, model: str, *, limit: int = 100, before: int | None = None) -> list[ModelVersion]:
        """A model's versions, newest first, from below `before`; raises NotFound for an unknown model."""
        self.model(model)
        ceiling = before if before is not None else 2**62
        rows = self._db.all(
            f"{_VERSION_SQL} WHERE model.name = ? AND version < ? ORDER BY version DESC LIMIT ?",
            (model, ceiling, limit),
        )
        return [_version(row) for row in rows]

    def serving(self, model: str) -> ModelVersion:
        """The version in Production; raises NotFound for an unknown model, or where there is none."""
        found = self.by_stage(model, "Production")
        if found is None:
            self.model(model)
            raise NotFound(
                f"No version of {model!r} is in Production.", hint="`mlbox model ls` shows the stages.", field="model"
            )
        return found

    def by_stage(self, model: str, stage: Stage) -> ModelVersion | None:
        """The newest version in a stage."""
        row = self._db.one(
            f"{_VERSION_SQL} WHERE model.name = ? AND stage = ? AND visible('model', model.name)"
            " ORDER BY version DESC LIMIT 1",
            (model, stage),
        )
        return _version(row) if row else None

    def in_stage(self, stage: Stage) -> list[ModelVersion]:
        """All versions in a stage, of all models."""
        rows = self._db.all(
            f"{_VERSION_SQL} WHERE stage = ? AND visible('model', model.name) ORDER BY model.name", (stage,)
        )
        return [_version(row) for row in rows]

    def by_alias(self, model: str, alias: str) -> ModelVersion:
        """The version that an alias stands for; raises NotFound."""
        number = self.model(model).aliases.get(alias)
        if number is None:
            raise NotFound(
                f"The model {model!r} has no alias {alias[:80]!r}.", hint=f"`mlbox model show {model}`.", field="alias"
            )
        return self.version(model, number)

    def files(self, model: str, number: int) -> list[RunArtifact]:
        """What a version is made of, by path, as it was when it was registered."""
        return self.files_of(self.version(model, number).id)

    def files_of(self, version_id: str) -> list[RunArtifact]:
        """The same by the version's id; raises NotFound."""
        known = self._db.one(
            "SELECT name FROM model JOIN model_version v ON v.model_id = model.id"
            " WHERE v.id = ? AND v.deleted_us IS NULL AND visible('model', name)",
            (version_id,),
        )
        if known is None:
            raise NotFound(f"There is no model version {version_id[:80]!r}.", hint="`mlbox model ls` lists them.")
        rows = self._db.all(
            "SELECT path, sha256, size FROM version_file WHERE version_id = ? ORDER BY path", (version_id,)
        )
        return [RunArtifact(path=row["path"], sha256=row["sha256"], size=row["size"]) for row in rows]

    def select_models(self, condition: str, values: Sequence[Any], order: str, limit: int) -> list[Model]:
        """Models by a condition and an order in SQL, which the caller compiled (see `model_search`)."""
        rows = self._db.all(
            f"{_MODEL_SQL} WHERE ({condition}) AND visible('model', name) ORDER BY {order} LIMIT ?", [*values, limit]
        )
        return [_model(row) for row in rows]

    def select_versions(self, condition: str, values: Sequence[Any], order: str, limit: int) -> list[ModelVersion]:
        """Versions, likewise."""
        rows = self._db.all(
            f"{_VERSION_SQL} WHERE ({condition}) AND visible('model', model.name) ORDER BY {order} LIMIT ?",
            [*values, limit],
        )
        return [_version(row) for row in rows]

    def of_run(self, run_id: str) -> list[ModelVersion]:
        """The versions that a run brought forth."""
        rows = self._db.all(
            f"{_VERSION_SQL} WHERE run_id = ? AND visible('model', model.name) ORDER BY model_version.id", (run_id,)
        )
        return [_version(row) for row in rows]

    def in_use_of(self, dataset: str, runs: Sequence[str] = ()) -> list[str]:
        """What of models needs a dataset version, whoever may see it.

        Versions that were trained on it, or by runs, and are in Production, in Staging or being tested; and the policies whose
        gates judge on it, a model's own and those that promotions under way began with.
        """
        rows = self._db.all(
            f"{_VERSION_SQL} WHERE (model_version.dataset = :dataset OR run_id IN (SELECT value FROM json_each(:runs)))"
            " AND (stage IN ('Production', 'Staging') OR EXISTS (SELECT 1 FROM promotion p WHERE"
            " p.version_id = model_version.id AND p.state = 'testing'))"
            " AND model_version.deleted_us IS NULL ORDER BY model_version.id",
            {"dataset": dataset, "runs": msgspec.json.encode(runs).decode()},
        )
        found = [
            f"{one.ref} {'in ' + one.stage if one.stage != 'None' else 'in its gates'}" for one in map(_version, rows)
        ]
        judged = self._db.all(_JUDGED_ON, {"dataset": dataset})
        return [*found, *(f"the policy of {row['name']}" for row in judged)]

    def archive(self, model: str, number: int, *, actor: str) -> ModelVersion:
        """Take a version out of use; one that serves from Production is replaced, not archived."""
        version = self.version(model, number)
        if version.stage == "Production" and version.servable:
            raise InvalidInput(
                f"{version.ref} is in Production and cannot be archived.",
                hint="Promote another version: the former one is archived with it.",
                field="version",
            )

        def write(tx: Tx) -> None:
            moved = tx.run(
                "UPDATE model_version SET stage = 'Archived', updated_us = ? WHERE id = ? AND stage <> 'Archived'",
                (tx.now_us, version.id),
            )
            if moved.rowcount:
                note_stage(tx, version.id, "Archived", actor)
            tx.emit("model.archived", f"model:{version.ref}", actor)

        self._db.write(write)
        return self.version(model, number)

    def take_back(self, model: str, number: int, *, actor: str) -> ModelVersion:
        """Bring an archived version back to stage None, from where it may be proposed again."""
        version = self.version(model, number)

        def write(tx: Tx) -> None:
            moved = tx.run(
                "UPDATE model_version SET stage = 'None', updated_us = ? WHERE id = ? AND stage = 'Archived'",
                (tx.now_us, version.id),
            )
            if moved.rowcount:
                note_stage(tx, version.id, "None", actor)
                tx.emit("model.stage", f"model:{version.ref}", actor, stage="None")

        self._db.write(write)
        return self.version(model, number)

    def set_tag(self, model: str, number: int, key: str, value: str, *, actor: str) -> None:
        """Tag a version; a tag decides nothing."""
        version = self.version(model, number)

        def write(tx: Tx) -> None:
            tx.run("INSERT OR REPLACE INTO version_tag VALUES (?,?,?)", (version.id, key, value))
            tx.emit("model.tagged", f"model:{version.ref}", actor, key=key, value=value)

        self._db.write(write)


def no_version(model: str, number: int) -> NotFound:
    """What is raised for a version that there is not."""
    err = NotFound(
        f"There is no version {number!s:.40} of a model {model!r}.",
        hint="`mlbox model ls` lists them.",
        field="version",
    )
    err.model, err.version = model, number
    return err


def _model_id(tx: Tx, name: str) -> str | None:
    row = tx.one("SELECT id FROM model WHERE name = ?", (name,))
    return row["id"] if row else None


_JSON_FIELDS = ("features", "inputs", "outputs", "metrics")
_PLAIN_FIELDS = (
    *("format", "run_id", "job_id", "dataset", "feature_service", "artifact", "size", "reference", "sample"),
    *("git_commit", "trained_by", "submitted_by", "description", "source", "run_link", "logged_model", "lineage"),
    *("unservable", "dataset_hash"),
)


def _insert_version(tx: Tx, model_id: str, number: int, new: NewVersion) -> None:
    values: dict[str, Any] = {
        "id": new_id(),
        "model_id": model_id,
        "version": number,
        "created_us": tx.now_us,
        "updated_us": tx.now_us,
        **{name: getattr(new, name) for name in _PLAIN_FIELDS},
        **{name: msgspec.json.encode(getattr(new, name)).decode() for name in _JSON_FIELDS},
    }
    tx.run(
        f"INSERT INTO model_version ({', '.join(values)}) VALUES ({', '.join(':' + name for name in values)})", values
    )
    tx.many("INSERT INTO version_tag VALUES (?,?,?)", [(values["id"], key, value) for key, value in new.tags.items()])
    tx.many("INSERT INTO version_file VALUES (?,?,?,?)", [(values["id"], f.path, f.sha256, f.size) for f in new.files])
    tx.run("UPDATE model SET updated_us = ? WHERE id = ?", (tx.now_us, model_id))


def note_stage(
    tx: Tx, version_id: str, stage: str, actor: str, *, reason: str = "", promotion_id: str | None = None
) -> None:
    """Write down, in the transaction that makes it, that a version came into a stage."""
    tx.run(
        "INSERT INTO stage_change (version_id, stage, actor, reason, promotion_id, at_us) VALUES (?,?,?,?,?,?)",
        (version_id, stage, actor, reason, promotion_id, tx.now_us),
    )


def _model(row: Row) -> Model:
    return Model(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        purpose=row["purpose"],
        created_at=from_us(row["created_us"]),
        updated_at=from_us(row["updated_us"]),
        expires_at=from_us(row["expires_us"]) if row["expires_us"] is not None else None,
        tags=msgspec.json.decode(row["tags"]),
        aliases=msgspec.json.decode(row["aliases"]),
        stages=msgspec.json.decode(row["stages"]),
    )


def _version(row: Row) -> ModelVersion:
    return msgspec.convert(
        {
            **{name: row[name] for name in ("id", "model", "version", "stage", *_PLAIN_FIELDS)},
            **{name: msgspec.json.decode(row[name]) for name in (*_JSON_FIELDS, "tags", "aliases")},
            "created_at": from_us(row["created_us"]),
            "updated_at": from_us(row["updated_us"]),
        },
        type=ModelVersion,
    )
