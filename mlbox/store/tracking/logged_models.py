"""Logged models: what a run made, with files, parameters, tags and measurements of its own, before anyone registers it.

    PENDING --finalize--> READY or FAILED

A logged model is as private as its experiment. Its files are kept by their hashes, as a run's are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import msgspec

from mlbox.clock import from_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import LoggedModel, LoggedModelStatus, ModelMetric, RunArtifact
from mlbox.store.artifacts import check_path
from mlbox.store.db import Database, Row, Tx
from mlbox.store.tracking.filters import Bound, Clause, Grammar, all_of, attribute, comparison, parse
from mlbox.store.tracking.keyset import Page, Term, after_row, sorting, token_of, values_of
from mlbox.store.tracking.run_filters import pair_condition
from mlbox.store.tracking.runs import require_run

MODEL_ID = re.compile("m-[0-9a-f]{32}")
MAX_NAME = 500
_NAMED = re.compile(r"[^/:.%\"']+")
_SQL = """
SELECT logged_model.*,
  (SELECT json_group_object(key, value) FROM logged_model_param WHERE model_id = logged_model.id) AS params,
  (SELECT json_group_object(key, value) FROM logged_model_tag WHERE model_id = logged_model.id) AS tags
FROM logged_model
"""
_VISIBLE = "visible('experiment', (SELECT name FROM experiment WHERE experiment.id = logged_model.experiment_id))"
_COLUMNS = {
    "name": "logged_model.name",
    "model_id": "logged_model.id",
    "model_type": "logged_model.type",
    "status": "logged_model.status",
    "source_run_id": "logged_model.run_id",
    "creation_timestamp": "logged_model.created_us / 1000",
    "last_updated_timestamp": "logged_model.updated_us / 1000",
}
MODELS = Grammar(
    entities={
        **dict.fromkeys(("metric", "metrics"), "metric"),
        **dict.fromkeys(("param", "params", "parameter", "parameters"), "param"),
        **dict.fromkeys(("tag", "tags"), "tag"),
        **dict.fromkeys(("attribute", "attributes", "attr"), "attribute"),
    },
    texts=frozenset({"name", "model_id", "model_type", "status", "source_run_id"}),
    numbers=frozenset({"creation_timestamp", "last_updated_timestamp"}),
    lists=frozenset({"name", "model_id", "model_type", "status", "source_run_id"}),
    aliases={"creation_time": "creation_timestamp", "last_updated_time": "last_updated_timestamp"},
)


class OrderBy(NamedTuple):
    """A field to order by, and for a metric the data that it was measured on."""

    field: str
    ascending: bool = True
    dataset_name: str = ""
    dataset_digest: str = ""


class LoggedModels:
    """The logged models of one box."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, model_id: str) -> LoggedModel:
        """One logged model; raises NotFound, also for one that is deleted."""
        row = self._db.one(f"{_SQL} WHERE id = ? AND deleted_us IS NULL AND {_VISIBLE}", (model_id,))
        if row is None:
            raise _no_model(model_id)
        return self._with_metrics([row])[0]

    def experiment_of(self, model_id: str) -> str:
        """The name of the experiment that a logged model is in; raises NotFound."""
        row = self._db.one(
            "SELECT experiment.name FROM logged_model JOIN experiment ON experiment.id = logged_model.experiment_id"
            f" WHERE logged_model.id = ? AND {_VISIBLE}",
            (model_id,),
        )
        if row is None:
            raise _no_model(model_id)
        name: str = row["name"]
        return name

    def latest_of_run(self, run_id: str, name: str) -> str | None:
        """The id of the latest model that a run logged under a name."""
        row = self._db.one(
            f"SELECT id FROM logged_model WHERE run_id = ? AND name = ? AND deleted_us IS NULL AND {_VISIBLE}"
            " ORDER BY created_us DESC, id DESC LIMIT 1",
            (run_id, name),
        )
        return row["id"] if row else None

    def search(
        self,
        experiment_ids: Sequence[str],
        filter: str = "",
        *,
        datasets: Sequence[tuple[str, str]] = (),
        order_by: Sequence[OrderBy] = (),
        limit: int = 100,
        after: Sequence[Any] | None = None,
    ) -> Page:
        """Logged models of these experiments, the newest first; `datasets` say on which data a filter's metrics count."""
        where, values = all_of(parse(filter, MODELS), lambda clause: _compile(clause, datasets))
        keys, bound, terms = _terms(order_by)
        beyond, place = after_row(terms, values_of(after)) if after is not None else ("1", [])
        rows = self._db.all(
            f"SELECT * FROM (SELECT found.*, {keys} FROM ({_SQL}"
            f" WHERE experiment_id IN ({','.join('?' * len(experiment_ids))}) AND deleted_us IS NULL AND {_VISIBLE}"
            f" AND {where}) AS found) WHERE {beyond} ORDER BY {sorting(terms)} LIMIT ?",
            [*bound, *experiment_ids, *values, *place, limit + 1],
        )
        shown = rows[:limit]
        more = [shown[-1][term.sql] for term in terms] if len(rows) > limit else None
        return Page(self._with_metrics(shown), token_of(more) if more is not None else None)

    def _with_metrics(self, rows: Sequence[Row]) -> list[LoggedModel]:
        metrics: dict[str, list[ModelMetric]] = {row["id"]: [] for row in rows}
        ids = list(metrics)
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            places = ",".join("?" * len(some))
            for row in self._db.all(f"SELECT * FROM logged_model_metric WHERE model_id IN ({places})", some):
                metrics[row["model_id"]].append(_metric(row))
        return [_model(row, metrics[row["id"]]) for row in rows]

    # -- writing ----------------------------------------------------------------------------------------------------

    def create(
        self,
        experiment_id: str,
        *,
        user: str,
        name: str = "",
        type: str = "",
        run_id: str | None = None,
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
    ) -> LoggedModel:
        """A new logged model, PENDING until it is finalized."""
        if len(name) > MAX_NAME or (name and not _NAMED.fullmatch(name)):
            raise InvalidInput(
                f"Invalid value {name[:80]!r} for parameter 'name' supplied.",
                hint="A model's name has at most 500 characters and none of / : . % ' \".",
                field="name",
            )
        for field, pairs, most in (("params", params, 6000), ("tags", tags, 8000)):
            _check_pairs(field, pairs, most)
        model_id = f"m-{new_id()}"

        def write(tx: Tx) -> None:
            row = tx.one("SELECT deleted_us FROM experiment WHERE id = ?", (experiment_id,))
            if row is None or row["deleted_us"] is not None:
                raise NotFound(f"No active Experiment with id={experiment_id[:80]} exists.", field="experiment_id")
            if run_id is not None:
                require_run(tx, run_id)
            tx.run(
                "INSERT INTO logged_model VALUES (?,?,?,?,'PENDING','',?,?,?,?,NULL)",
                (model_id, experiment_id, name or model_id, type, run_id, user, tx.now_us, tx.now_us),
            )
            tx.many("INSERT INTO logged_model_param VALUES (?,?,?)", [(model_id, k, v) for k, v in params.items()])
            tx.many("INSERT INTO logged_model_tag VALUES (?,?,?)", [(model_id, k, v) for k, v in tags.items()])

        self._db.write(write)
        return self.get(model_id)

    def finalize(self, model_id: str, status: str) -> LoggedModel:
        """Say whether its files are all there."""
        if status not in get_args(LoggedModelStatus):
            raise InvalidInput(f"Invalid value {status[:40]!r} for parameter 'status' supplied.", field="status")

        def write(tx: Tx) -> None:
            _require(tx, model_id)
            tx.run("UPDATE logged_model SET status = ?, updated_us = ? WHERE id = ?", (status, tx.now_us, model_id))

        self._db.write(write)
        return self.get(model_id)

    def set_tags(self, model_id: str, tags: Mapping[str, str]) -> LoggedModel:
        """Set tags."""
        _check_pairs("tags", tags, 8000)

        def write(tx: Tx) -> None:
            _require(tx, model_id)
            tx.many(
                "INSERT OR REPLACE INTO logged_model_tag VALUES (?,?,?)", [(model_id, k, v) for k, v in tags.items()]
            )
            tx.run("UPDATE logged_model SET updated_us = ? WHERE id = ?", (tx.now_us, model_id))

        self._db.write(write)
        return self.get(model_id)

    def delete_tag(self, model_id: str, key: str) -> None:
        """Take a tag away; raises NotFound."""

        def write(tx: Tx) -> None:
            _require(tx, model_id)
            if not tx.run("DELETE FROM logged_model_tag WHERE model_id = ? AND key = ?", (model_id, key)).rowcount:
                raise NotFound(f"No tag with key {key[:80]!r} found for model with ID {model_id!r}.", field="tag_key")

        self._db.write(write)

    def add_params(self, model_id: str, params: Mapping[str, str]) -> None:
        """Add parameters; raises InvalidInput for one that has another value."""
        _check_pairs("params", params, 6000)

        def write(tx: Tx) -> None:
            _require(tx, model_id)
            for key, value in params.items():
                row = tx.one("SELECT value FROM logged_model_param WHERE model_id = ? AND key = ?", (model_id, key))
                if row is not None and row["value"] != value:
                    raise InvalidInput(f"The parameter {key[:80]!r} has another value already.", field=f"params.{key}")
                tx.run("INSERT OR IGNORE INTO logged_model_param VALUES (?,?,?)", (model_id, key, value))

        self._db.write(write)

    def delete(self, model_id: str, *, actor: str) -> None:
        """Delete softly."""
        subject = f"experiment:{self.experiment_of(model_id)}"

        def write(tx: Tx) -> None:
            _require(tx, model_id)
            tx.run("UPDATE logged_model SET deleted_us = ? WHERE id = ?", (tx.now_us, model_id))
            tx.emit("experiment.model_deleted", subject, actor, model=model_id)

        self._db.write(write)

    # -- files ------------------------------------------------------------------------------------------------------

    def files(self, model_id: str) -> list[RunArtifact]:
        """A logged model's files, by path."""
        self.experiment_of(model_id)
        rows = self._db.all(
            "SELECT path, sha256, size FROM logged_model_file WHERE model_id = ? ORDER BY path", (model_id,)
        )
        return [RunArtifact(path=row["path"], sha256=row["sha256"], size=row["size"]) for row in rows]

    def add_file(self, model_id: str, path: str, sha256: str, size: int) -> None:
        """Name a kept file as one of the model's; a path given again takes the new file."""
        plain = check_path(path)

        def write(tx: Tx) -> None:
            _require(tx, model_id)
            row = (model_id, plain, sha256, size, tx.now_us)
            tx.run("INSERT OR REPLACE INTO logged_model_file VALUES (?,?,?,?,?)", row)

        self._db.write(write)

    def drop_file(self, model_id: str, path: str, *, actor: str) -> None:
        """Take a file, or all files below a folder, off a model; raises NotFound."""
        plain = check_path(path)
        subject = f"experiment:{self.experiment_of(model_id)}"

        def write(tx: Tx) -> None:
            _require(tx, model_id)
            below = (model_id, plain, f"{plain}/", f"{plain}0")
            done = tx.run(
                "DELETE FROM logged_model_file WHERE model_id = ? AND (path = ? OR (path > ? AND path < ?))", below
            )
            if not done.rowcount:
                raise NotFound(f"The model has no file {plain[:200]!r}.", field="path")
            tx.emit("experiment.model_file_deleted", subject, actor, model=model_id, path=plain)

        self._db.write(write)


def _terms(order_by: Sequence[OrderBy]) -> tuple[str, list[str], list[Term]]:
    """Columns that say where a row stands in an order, the values in them, and the order by these columns.

    What has no value comes last. The newest first, and then the id, make the order total, so that a page can begin anywhere.
    """
    columns: list[str] = []
    bound: list[str] = []
    terms: list[Term] = []
    for number, order in enumerate(order_by):
        if order.field.startswith("metrics."):
            given = [order.field.removeprefix("metrics."), *filter(None, (order.dataset_name, order.dataset_digest))]
            names = [n for n in ("dataset_name", "dataset_digest") if getattr(order, n)]
            column = (
                "(SELECT value FROM logged_model_metric WHERE model_id = found.id AND key = ?"
                f"{''.join(f' AND {name} = ?' for name in names)} ORDER BY at_us DESC, step DESC LIMIT 1)"
            )
        else:
            given = []
            column = _COLUMNS[attribute(MODELS, order.field)[0]].replace("logged_model.", "found.")
        columns += [f"({column} IS NULL) AS absent{number}", f"coalesce({column}, 0) AS key{number}"]
        bound += [*given, *given]
        terms += [Term(f"absent{number}", True), Term(f"key{number}", order.ascending)]
    columns += ["created_us AS newest", "id AS own"]
    return ", ".join(columns), bound, [*terms, Term("newest", False), Term("own", True)]


def _compile(clause: Clause, datasets: Sequence[tuple[str, str]]) -> Bound:
    if clause.entity == "attribute":
        return comparison(_COLUMNS[clause.key], clause.comparator, clause.value)
    sql, values = pair_condition(f"logged_model_{clause.entity} WHERE model_id = logged_model.id", clause)
    if clause.entity != "metric" or not datasets:
        return sql, values
    known = " OR ".join("(dataset_name = ? AND (? = '' OR dataset_digest = ?))" for _ in datasets)
    more = [text for name, digest in datasets for text in (name, digest, digest)]
    return f"{sql[:-1]} AND ({known}))", [*values, *more]


def _require(tx: Tx, model_id: str) -> Row:
    row = tx.one("SELECT * FROM logged_model WHERE id = ? AND deleted_us IS NULL", (model_id,))
    if row is None:
        raise _no_model(model_id)
    return row


def _no_model(model_id: str) -> NotFound:
    return NotFound(f"Logged model with ID '{model_id[:80]}' not found.", field="model_id")


def _check_pairs(field: str, pairs: Mapping[str, str], most: int) -> None:
    for key, value in pairs.items():
        if not 0 < len(key) <= 250 or len(value) > most:
            raise InvalidInput(
                f"Invalid value {key[:80]!r} for parameter '{field}' supplied.",
                hint=f"Keys have 1 to 250 characters, and values at most {most:,}.",
                field=field,
            )


def _metric(row: Row) -> ModelMetric:
    return ModelMetric(
        **{name: row[name] for name in ("key", "step", "run_id", "dataset_name", "dataset_digest")},
        value=math.nan if row["value"] is None else row["value"],
        at=from_us(row["at_us"]),
    )


def _model(row: Row, metrics: Sequence[ModelMetric]) -> LoggedModel:
    return LoggedModel(
        **{name: row[name] for name in ("id", "experiment_id", "name", "type", "status", "message", "run_id", "user")},
        created_at=from_us(row["created_us"]),
        updated_at=from_us(row["updated_us"]),
        params=msgspec.json.decode(row["params"]),
        tags=msgspec.json.decode(row["tags"]),
        metrics=tuple(metrics),
    )
