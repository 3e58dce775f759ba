"""The model registry: the hub that datasets, runs, deployments and predictions meet in.

Models and versions are here; the way of a version to Production is in `promotions`, over the same file. Each version names
its run, its dataset version, its features and its artifact, and is immutable but for its stage, tags and description.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlbox.clock import from_us
from mlbox.errors import AlreadyExists, InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import Model, ModelFormat, ModelVersion, PromotionPolicy, Record, Stage, TensorSpec, check_name
from mlbox.store.db import Database, Row, Tx

_VERSION_SQL = """
SELECT model_version.*, model.name AS model,
  (SELECT json_group_object(key, value) FROM version_tag WHERE version_id = model_version.id) AS tags
FROM model_version JOIN model ON model.id = model_version.model_id
"""
_MODEL_SQL = """
SELECT model.*,
  (SELECT json_group_object(key, value) FROM model_tag WHERE model_id = model.id) AS tags,
  (SELECT json_group_object(alias, version) FROM model_alias WHERE model_id = model.id) AS aliases,
  (SELECT json_group_object(stage, latest) FROM
    (SELECT stage, max(version) AS latest FROM model_version WHERE model_id = model.id GROUP BY stage)) AS stages
FROM model
"""


class NewVersion(Record, frozen=True, kw_only=True):
    """What a registration brings; the registry adds number, stage and time."""

    model: str
    format: ModelFormat = "onnx"
    run_id: str | None = None
    job_id: str | None = None
    dataset: str | None = None
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


class Registry:
    """Models and their versions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- models -----------------------------------------------------------------------------------------------------

    def create_model(self, name: str, *, actor: str, purpose: str = "") -> Model:
        """A new, empty model; raises AlreadyExists."""
        check_name(name, field="model")

        def write(tx: Tx) -> None:
            if _model_id(tx, name):
                raise AlreadyExists(
                    f"A model named {name!r} exists already.", hint="Register a version of it.", field="name"
                )
            _insert_model(tx, name, actor, purpose)

        self._db.write(write)
        return self.model(name)

    def models(self, *, limit: int = 100, after: str | None = None) -> list[Model]:
        """Models by name, from the one after `after`."""
        rows = self._db.all(f"{_MODEL_SQL} WHERE name > ? ORDER BY name LIMIT ?", (after or "", limit))
        return [_model(row) for row in rows]

    def model(self, name: str) -> Model:
        """One model; raises NotFound."""
        row = self._db.one(f"{_MODEL_SQL} WHERE name = ?", (name,))
        if row is None:
            raise NotFound(f"There is no model {name!r}.", hint="`mlbox model ls` lists them.", field="model")
        return _model(row)

    # -- versions ---------------------------------------------------------------------------------------------------

    def register(self, new: NewVersion) -> ModelVersion:
        """Add a version, and the model with it if it is the first. The number is the model's last plus one."""
        check_name(new.model, field="model")

        def write(tx: Tx) -> int:
            model_id = _model_id(tx, new.model) or _insert_model(tx, new.model, new.submitted_by, new.description)
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

    def version(self, model: str, number: int) -> ModelVersion:
        """One version; raises NotFound."""
        row = self._db.one(f"{_VERSION_SQL} WHERE model.name = ? AND version = ?", (model, number))
        if row is None:
            raise NotFound(
                f"There is no version {number} of a model {model!r}.",
                hint="`mlbox model ls` lists them.",
                field="version",
            )
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

    def by_stage(self, model: str, stage: Stage) -> ModelVersion | None:
        """The newest version in a stage."""
        row = self._db.one(
            f"{_VERSION_SQL} WHERE model.name = ? AND stage = ? ORDER BY version DESC LIMIT 1", (model, stage)
        )
        return _version(row) if row else None

    def in_stage(self, stage: Stage) -> list[ModelVersion]:
        """All versions in a stage, of all models."""
        return [_version(row) for row in self._db.all(f"{_VERSION_SQL} WHERE stage = ? ORDER BY model.name", (stage,))]

    def of_run(self, run_id: str) -> list[ModelVersion]:
        """The versions that a run brought forth."""
        return [
            _version(row)
            for row in self._db.all(f"{_VERSION_SQL} WHERE run_id = ? ORDER BY model_version.id", (run_id,))
        ]

    def archive(self, model: str, number: int, *, actor: str) -> ModelVersion:
        """Take a version out of use; the one in Production is replaced, not archived."""
        version = self.version(model, number)
        if version.stage == "Production":
            raise InvalidInput(
                f"{version.ref} is in Production and cannot be archived.",
                hint="Promote another version: the former one is archived with it.",
                field="version",
            )

        def write(tx: Tx) -> None:
            tx.run("UPDATE model_version SET stage = 'Archived' WHERE id = ? AND stage <> 'Archived'", (version.id,))
            tx.emit("model.archived", f"model:{version.ref}", actor)

        self._db.write(write)
        return self.version(model, number)

    def set_tag(self, model: str, number: int, key: str, value: str, *, actor: str) -> None:
        """Tag a version; a tag decides nothing."""
        version = self.version(model, number)

        def write(tx: Tx) -> None:
            tx.run("INSERT OR REPLACE INTO version_tag VALUES (?,?,?)", (version.id, key, value))
            tx.emit("model.tagged", f"model:{version.ref}", actor, key=key, value=value)

        self._db.write(write)

    # -- policies ---------------------------------------------------------------------------------------------------

    def policy(self, model: str) -> PromotionPolicy:
        """What the model's versions must pass: its latest policy, or the house's default."""
        self.model(model)
        row = self._db.one(
            "SELECT policy FROM promotion_policy JOIN model ON model.id = model_id WHERE name = ? ORDER BY revision DESC LIMIT 1",
            (model,),
        )
        return msgspec.json.decode(row["policy"], type=PromotionPolicy) if row else PromotionPolicy()

    def set_policy(self, model: str, policy: PromotionPolicy, *, actor: str) -> PromotionPolicy:
        """Give a model a new revision of its policy; promotions under way keep the one they began with."""
        check_policy(policy)

        def write(tx: Tx) -> PromotionPolicy:
            model_id = _model_id(tx, model) or _insert_model(tx, model, actor, "")
            row = tx.one(
                "SELECT coalesce(max(revision), 0) + 1 AS n FROM promotion_policy WHERE model_id = ?", (model_id,)
            )
            assert row is not None
            revised = msgspec.structs.replace(policy, revision=row["n"])
            tx.run(
                "INSERT INTO promotion_policy VALUES (?,?,?,?,?)",
                (model_id, revised.revision, revised.to_json().decode(), actor, tx.now_us),
            )
            tx.emit("policy.set", f"model:{model}", actor, policy=msgspec.to_builtins(revised))
            return revised

        return self._db.write(write)


def check_policy(policy: PromotionPolicy) -> None:
    """A ramp rises to 100 % and nothing is negative; raises InvalidInput with the field."""
    percents = [step.percent for step in policy.steps]
    if not percents or percents[-1] != 100 or sorted(set(percents)) != percents or percents[0] <= 0:
        raise InvalidInput(
            "The ramp's steps must rise and end at 100 %.", hint="For example 5, 25, 100.", field="steps"
        )
    negative = [f for f in ("margin", "shadow_seconds", "parity_tolerance", "max_error_rate") if getattr(policy, f) < 0]
    if negative or any(step.hold_seconds < 0 for step in policy.steps):
        raise InvalidInput(
            f"{(negative or ['hold_seconds'])[0]} is negative.", hint="Use 0 or more.", field=(negative or ["steps"])[0]
        )


def _model_id(tx: Tx, name: str) -> str | None:
    row = tx.one("SELECT id FROM model WHERE name = ?", (name,))
    return row["id"] if row else None


def _insert_model(tx: Tx, name: str, owner: str, purpose: str) -> str:
    model_id = new_id()
    tx.run("INSERT INTO model VALUES (?,?,?,?,?)", (model_id, name, owner, purpose, tx.now_us))
    tx.emit("model.created", f"model:{name}", owner)
    return model_id


_JSON_FIELDS = ("features", "inputs", "outputs", "metrics")
_PLAIN_FIELDS = (
    *("format", "run_id", "job_id", "dataset", "feature_service", "artifact", "size", "reference", "sample"),
    *("git_commit", "trained_by", "submitted_by", "description"),
)


def _insert_version(tx: Tx, model_id: str, number: int, new: NewVersion) -> None:
    values: dict[str, Any] = {
        "id": new_id(),
        "model_id": model_id,
        "version": number,
        "created_us": tx.now_us,
        **{name: getattr(new, name) for name in _PLAIN_FIELDS},
        **{name: msgspec.json.encode(getattr(new, name)).decode() for name in _JSON_FIELDS},
    }
    tx.run(
        f"INSERT INTO model_version ({', '.join(values)}) VALUES ({', '.join(':' + name for name in values)})", values
    )
    tx.many("INSERT INTO version_tag VALUES (?,?,?)", [(values["id"], key, value) for key, value in new.tags.items()])


def _model(row: Row) -> Model:
    return Model(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        purpose=row["purpose"],
        created_at=from_us(row["created_us"]),
        tags=msgspec.json.decode(row["tags"]),
        aliases=msgspec.json.decode(row["aliases"]),
        stages=msgspec.json.decode(row["stages"]),
    )


def _version(row: Row) -> ModelVersion:
    return msgspec.convert(
        {
            **{name: row[name] for name in ("id", "model", "version", "stage", *_PLAIN_FIELDS)},
            **{name: msgspec.json.decode(row[name]) for name in (*_JSON_FIELDS, "tags")},
            "created_at": from_us(row["created_us"]),
        },
        type=ModelVersion,
    )
