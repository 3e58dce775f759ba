"""What was deleted and can be taken back: listed, found, restored."""

from __future__ import annotations

from datetime import timedelta

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import Deleted
from mlbox.store.datasets.versions import DatasetVersions
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry.curation import Curation
from mlbox.store.tracking.tracking import Tracker

_ACTOR = "(SELECT actor FROM event WHERE subject = {subject} AND type = '{type}' ORDER BY id DESC LIMIT 1)"
_EXPERIMENT_NAME = "(SELECT name FROM experiment WHERE id = {table}.experiment_id)"
_OF_TRACKING = {
    "run": (
        "SELECT id, name, deleted_us, "
        + _EXPERIMENT_NAME.format(table="run")
        + " AS home, "
        + _ACTOR.format(subject="'run:' || run.id", type="run.deleted")
        + " AS actor FROM run WHERE deleted_us > 0"
    ),
    "experiment": (
        "SELECT id, name, deleted_us, name AS home, "
        + _ACTOR.format(subject="'experiment:' || name", type="experiment.deleted")
        + " AS actor FROM experiment"
    ),
    "logged-model": (
        "SELECT id, name, deleted_us, "
        + _EXPERIMENT_NAME.format(table="logged_model")
        + " AS home, NULL AS actor FROM logged_model"
    ),
}
_ORIGINAL = "substr(name, instr(substr(name, 2), '~') + 2)"
"""A deleted model's own name: it is `~ID~NAME`, so that the name is free (see `Curation.delete`)."""
_OF_REGISTRY = {
    "model": f"SELECT * FROM (SELECT id, {_ORIGINAL} AS name, deleted_us, {_ORIGINAL} AS home, "
    + _ACTOR.format(subject=f"'model:' || {_ORIGINAL}", type="model.deleted")
    + " AS actor FROM model WHERE deleted_us IS NOT NULL AND removed_us IS NULL)",
    "version": "SELECT * FROM (SELECT v.id AS id, m.name || '/' || v.version AS name, v.deleted_us AS deleted_us,"
    " m.name AS home, "
    + _ACTOR.format(subject="'model:' || m.name || '/' || v.version", type="model.deleted")
    + " AS actor FROM model_version v JOIN model m ON m.id = v.model_id WHERE m.deleted_us IS NULL AND v.removed_us IS NULL)",
}
_OF_DATASETS = {
    # Its files are gone once the time is over, and its row stays, as its number is never given again.
    "dataset": "SELECT dataset.id AS id, name || '@v' || version AS name, deleted_us, name AS home, "
    + _ACTOR.format(subject="'dataset:' || dataset.name || '@v' || dataset.version", type="dataset.deleted")
    + " AS actor FROM dataset JOIN dataset_state ON dataset_state.id = dataset.id WHERE deleted_us > :oldest",
}
KINDS = (*_OF_TRACKING, *_OF_REGISTRY, *_OF_DATASETS)


class Bin:
    """The bin of one box."""

    def __init__(
        self,
        databases: dict[str, Database],
        tracker: Tracker,
        curation: Curation,
        datasets: DatasetVersions,
        clock: Clock,
        *,
        days: float,
    ) -> None:
        self._tracking, self._registry = databases["tracking"], databases["registry"]
        self._datasets = databases["datasets"]
        self._tracker = tracker
        self._curation = curation
        self._versions_of_data = datasets
        self._clock = clock
        self.kept_for = timedelta(days=days)

    def deleted(self, *, limit: int = 100, after: str | None = None) -> list[Deleted]:
        """What was deleted and can be taken back, the latest first, from below the item `after`."""
        at, _, last = (after or "").partition("~")
        if after and not at.isdigit():
            raise InvalidInput(f"{after[:80]!r} is no place in this list.", hint="Send a row's `place`.", field="after")
        given = {"at": int(at) if at else 1 << 62, "last": last, "limit": limit, "oldest": self._oldest()}
        found = [
            (row, kind)
            for kind in KINDS
            for row in self._of(kind)[0].all(_page(self._of(kind)[1], kind), {**given, "kind": kind})
        ]
        found.sort(key=lambda one: (-one[0]["deleted_us"], f"{one[1]}:{one[0]['id']}"))
        return [self._item(row, kind) for row, kind in found[:limit]]

    def _of(self, kind: str) -> tuple[Database, str]:
        """Where a kind is, and the SELECT of what of it was deleted; nothing for what is no kind."""
        for database, sources in (
            (self._tracking, _OF_TRACKING),
            (self._registry, _OF_REGISTRY),
            (self._datasets, _OF_DATASETS),
        ):
            if kind in sources:
                return database, sources[kind]
        return self._tracking, ""

    def _oldest(self) -> int:
        return to_us(self._clock.real() - self.kept_for)

    def _item(self, row: Row, kind: str) -> Deleted:
        item = f"{kind}:{row['id']}"
        at = from_us(row["deleted_us"])
        return Deleted(
            id=item,
            name=row["name"],
            owner=row["home"],
            deleted_at=at,
            deleted_by=row["actor"] or "",
            goes_at=at + self.kept_for,
            place=f"{row['deleted_us']}~{item}",
        )

    def find(self, item: str) -> Deleted:
        """One thing that was deleted, by `KIND:ID`; raises NotFound."""
        kind, _, own = item.partition(":")
        database, source = self._of(kind)
        visible = f"deleted_us IS NOT NULL AND visible('{_kind_of_home(kind)}', home)"
        sql = f"SELECT * FROM ({source}) WHERE id = :id AND {visible}"
        row = database.one(sql, {"id": own, "oldest": self._oldest()}) if source else None
        if row is None:
            raise NotFound(
                f"Nothing that was deleted is called {item[:100]!r}.", hint="`mlbox deleted` lists it.", field="item"
            )
        return self._item(row, kind)

    def restore(self, item: str, *, actor: str) -> Deleted:
        """Take a deletion back; raises NotFound, and Conflict where its name has been taken meanwhile."""
        found = self.find(item)
        kind, _, own = item.partition(":")
        if kind == "run":
            self._tracker.restore(own, actor=actor)
        elif kind == "experiment":
            self._tracker.groups.restore(own, actor=actor)
        elif kind == "logged-model":
            self._tracking.write(lambda tx: _restore_logged(tx, own, found.owner, actor))
        elif kind == "model":
            self._curation.restore(own, found.name, actor=actor)
        elif kind == "dataset":
            self._versions_of_data.restore(found.name, within=self.kept_for, actor=actor)
        else:
            self._curation.restore_version(own, found.name, actor=actor)
        return found


def _kind_of_home(kind: str) -> str:
    return "dataset" if kind in _OF_DATASETS else "model" if kind in _OF_REGISTRY else "experiment"


def _page(source: str, kind: str) -> str:
    return (
        f"SELECT * FROM ({source}) WHERE deleted_us IS NOT NULL AND visible('{_kind_of_home(kind)}', home)"
        " AND (deleted_us < :at OR (deleted_us = :at AND :kind || ':' || id > :last))"
        " ORDER BY deleted_us DESC, id LIMIT :limit"
    )


def _restore_logged(tx: Tx, model_id: str, experiment: str, actor: str) -> None:
    tx.run("UPDATE logged_model SET deleted_us = NULL WHERE id = ?", (model_id,))
    tx.emit("experiment.model_restored", f"experiment:{experiment}", actor, model=model_id)
