"""Which predictions are held, how long each model's are kept, and what was removed of them: rows of the monitoring store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import HoldSpec, PredictionHold, PredictionRemoval, PredictionSampling
from mlbox.store.db import Database, Row, Tx

MOST_WORDS = 1000
MOST_KEYS = 20
TABLES = """
CREATE TABLE prediction_hold (
  id TEXT PRIMARY KEY, model TEXT, entity TEXT NOT NULL, since_us INTEGER, until_us INTEGER, reason TEXT NOT NULL,
  author TEXT NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER, released_us INTEGER, released_by TEXT
) STRICT;
CREATE TABLE prediction_days (model TEXT PRIMARY KEY, days REAL NOT NULL) STRICT;
CREATE TABLE prediction_removal (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT, entity TEXT, key TEXT NOT NULL, reason TEXT NOT NULL, actor TEXT NOT NULL,
  asked_us INTEGER NOT NULL, state TEXT NOT NULL, done_us INTEGER, predictions INTEGER NOT NULL, outcomes INTEGER NOT NULL
) STRICT;
CREATE INDEX prediction_removal_pending ON prediction_removal (id) WHERE state = 'pending';
"""
SAMPLING_TABLE = """
CREATE TABLE prediction_sampling (model TEXT PRIMARY KEY, sampling TEXT NOT NULL) STRICT;
"""
_VISIBLE = "visible('model', model)"


class PredictionRows:
    """Holds, days and removals. Their times are real, those of the predictions that a hold names are domain time."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    # -- holds --------------------------------------------------------------------------------------------------------

    def hold(self, spec: HoldSpec, *, actor: str) -> PredictionHold:
        """Hold what is all of what is named; raises InvalidInput for nothing, for no reason, and for an end that is past."""
        if spec.model is None and not spec.entity and spec.since is None and spec.until is None:
            raise InvalidInput("Nothing is named.", hint="Name a model, an entity, or a time.", field="model")
        check_entity(spec.entity)
        if spec.since is not None and spec.until is not None and spec.since >= spec.until:
            raise InvalidInput("The time ends before it begins.", hint="Give an `until` after `since`.", field="until")
        if spec.expires_at is not None and spec.expires_at <= self._clock.real():
            raise InvalidInput("The hold would be over already.", hint="Give a time ahead.", field="expires_at")
        check_reason(spec.reason, "A hold")

        def write(tx: Tx) -> str:
            own = new_id()
            text = msgspec.json.encode(dict(spec.entity), order="sorted").decode()
            times = [None if at is None else to_us(at) for at in (spec.since, spec.until)]
            end = None if spec.expires_at is None else to_us(spec.expires_at)
            tx.run(
                "INSERT INTO prediction_hold VALUES (?,?,?,?,?,?,?,?,?,NULL,NULL)",
                (own, spec.model, text, *times, spec.reason, actor, tx.now_us, end),
            )
            tx.emit(
                "predictions.held", _subject(spec.model), actor, hold=own, keys=sorted(spec.entity), reason=spec.reason
            )
            return own

        return self.get(self._db.write(write))

    def get(self, hold_id: str) -> PredictionHold:
        """One hold; raises NotFound."""
        row = self._db.one(f"SELECT * FROM prediction_hold WHERE id = ? AND {_VISIBLE}", (hold_id,))
        if row is None:
            raise NotFound(f"There is no hold {hold_id[:80]!r}.", hint="`mlbox predictions holds` lists them.")
        return self._hold(row)

    def release(self, hold_id: str, *, actor: str) -> PredictionHold:
        """End a hold now; one that was released stays as it is."""
        found = self.get(hold_id)

        def write(tx: Tx) -> None:
            done = tx.run(
                "UPDATE prediction_hold SET released_us = ?, released_by = ? WHERE id = ? AND released_us IS NULL",
                (tx.now_us, actor, found.id),
            )
            if done.rowcount:
                tx.emit("predictions.released", _subject(found.model), actor, hold=found.id)

        self._db.write(write)
        return self.get(hold_id)

    def holds(self, *, limit: int = 100, after: str | None = None) -> list[PredictionHold]:
        """All, newest first, those that are over too."""
        rows = self._db.all(
            f"SELECT * FROM prediction_hold WHERE id < ? AND {_VISIBLE} ORDER BY id DESC LIMIT ?", (after or "~", limit)
        )
        return [self._hold(row) for row in rows]

    def active(self, now: datetime) -> list[PredictionHold]:
        """Those that hold at a moment, whoever may see them."""
        rows = self._db.all(
            "SELECT * FROM prediction_hold WHERE released_us IS NULL AND (expires_us IS NULL OR expires_us > ?) ORDER BY id",
            (to_us(now),),
        )
        return [self._hold(row) for row in rows]

    def _hold(self, row: Row) -> PredictionHold:
        ends = [at for at in (row["released_us"], row["expires_us"]) if at is not None]
        return PredictionHold(
            id=row["id"],
            model=row["model"],
            entity=msgspec.json.decode(row["entity"]),
            since=_time(row["since_us"]),
            until=_time(row["until_us"]),
            reason=row["reason"],
            author=row["author"],
            created_at=from_us(row["created_us"]),
            expires_at=_time(row["expires_us"]),
            released_at=_time(row["released_us"]),
            released_by=row["released_by"] or "",
            active=all(at > to_us(self._clock.real()) for at in ends),
        )

    # -- days ---------------------------------------------------------------------------------------------------------

    def days(self) -> dict[str, float]:
        """Of the models that say themselves how long their predictions are kept."""
        return {row["model"]: row["days"] for row in self._db.all("SELECT * FROM prediction_days")}

    def keep(self, model: str, days: float | None, *, actor: str) -> None:
        """Keep a model's predictions for so many days, or, with None, as the setting says."""

        def write(tx: Tx) -> None:
            tx.run("DELETE FROM prediction_days WHERE model = ?", (model,))
            if days is not None:
                tx.run("INSERT INTO prediction_days VALUES (?,?)", (model, days))
            tx.emit("predictions.kept", _subject(model), actor, days=days)

        self._db.write(write)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def samplings(self) -> dict[str, PredictionSampling]:
        """Of the models of which not everything is kept."""
        rows = self._db.all("SELECT * FROM prediction_sampling")
        return {row["model"]: msgspec.json.decode(row["sampling"], type=PredictionSampling) for row in rows}

    def sample(self, model: str, sampling: PredictionSampling, *, actor: str) -> None:
        """Keep of a model's predictions what a sampling says, from now on."""

        def write(tx: Tx) -> None:
            tx.run("DELETE FROM prediction_sampling WHERE model = ?", (model,))
            if sampling != PredictionSampling():
                tx.run("INSERT INTO prediction_sampling VALUES (?,?)", (model, sampling.to_json().decode()))
            told = {"share": sampling.share, "roles": dict(sampling.roles)}
            tx.emit("predictions.sampled", _subject(model), actor, **told)

        self._db.write(write)

    # -- removals -----------------------------------------------------------------------------------------------------

    def begin_erasure(
        self, *, model: str | None, entity: Mapping[str, Any], key: str, reason: str, actor: str
    ) -> PredictionRemoval:
        """Write down that predictions of an entity are to go, before any does: a crash does not forget it."""
        text = msgspec.json.encode(dict(entity), order="sorted").decode()
        return self._begin("erasure", model, text, key, reason, actor)

    def begin_aging(self, model: str) -> PredictionRemoval:
        """Write down that predictions of a model are being removed by their age."""
        return self._begin("age", model, None, "", "", "system")

    def _begin(
        self, kind: str, model: str | None, entity: str | None, key: str, reason: str, actor: str
    ) -> PredictionRemoval:
        def write(tx: Tx) -> str:
            own = new_id()
            tx.run(
                "INSERT INTO prediction_removal VALUES (?,?,?,?,?,?,?,?,'pending',NULL,0,0)",
                (own, kind, model, entity, key, reason, actor, tx.now_us),
            )
            if kind == "erasure":
                tx.emit("predictions.erasure_asked", _subject(model), actor, removal=own, key=key, reason=reason)
            return own

        own = self._db.write(write)
        return next(one for one, _ in self.pending() if one.id == own)

    def pending(self) -> list[tuple[PredictionRemoval, dict[str, Any]]]:
        """What was begun and has not ended, the oldest first, with the entity that it is about."""
        rows = self._db.all("SELECT * FROM prediction_removal WHERE state = 'pending' ORDER BY id")
        return [(_removal(row), msgspec.json.decode(row["entity"] or "{}")) for row in rows]

    def end(self, removal: PredictionRemoval, state: str, *, predictions: int, outcomes: int = 0) -> PredictionRemoval:
        """Say what became of it; the entity is forgotten here too."""
        names = {"done": "predictions.erased" if removal.kind == "erasure" else "predictions.aged"}

        def write(tx: Tx) -> None:
            tx.run(
                "UPDATE prediction_removal SET state = ?, entity = NULL, done_us = ?, predictions = predictions + ?,"
                " outcomes = outcomes + ? WHERE id = ?",
                (state, tx.now_us, predictions, outcomes, removal.id),
            )
            told = {"removal": removal.id, "predictions": predictions}
            if removal.kind == "erasure":
                told |= {"key": removal.key, "outcomes": outcomes}
            tx.emit(names.get(state, "predictions.erasure_refused"), _subject(removal.model), removal.actor, **told)

        self._db.write(write)
        row = self._db.one("SELECT * FROM prediction_removal WHERE id = ?", (removal.id,))
        assert row is not None
        return _removal(row)

    def removals(self, *, limit: int = 100, after: str | None = None) -> list[PredictionRemoval]:
        """What was removed, newest first."""
        rows = self._db.all(
            f"SELECT * FROM prediction_removal WHERE id < ? AND {_VISIBLE} ORDER BY id DESC LIMIT ?",
            (after or "~", limit),
        )
        return [_removal(row) for row in rows]


def check_entity(entity: Mapping[str, Any]) -> None:
    """Raise InvalidInput unless each key has a value that a key can have."""
    if len(entity) > MOST_KEYS:
        raise InvalidInput(f"An entity has {MOST_KEYS} keys at most.", hint="Name fewer.", field="entity")
    for name, value in entity.items():
        if not name or not isinstance(value, str | int | float | bool) or value == "":
            raise InvalidInput(
                f"{name[:80]!r} has no value that a key can have.",
                hint="Such as customer=17: a text, a number or a truth value.",
                field="entity",
            )


def check_reason(reason: str, what: str) -> None:
    """Raise InvalidInput unless there is one."""
    if not reason.strip() or len(reason) > MOST_WORDS:
        raise InvalidInput(f"{what} has a reason, of {MOST_WORDS} characters at most.", hint="Say why.", field="reason")


def _removal(row: Row) -> PredictionRemoval:
    return PredictionRemoval(
        id=row["id"],
        kind=row["kind"],
        model=row["model"],
        key=row["key"],
        reason=row["reason"],
        actor=row["actor"],
        asked_at=from_us(row["asked_us"]),
        state=row["state"],
        done_at=_time(row["done_us"]),
        predictions=row["predictions"],
        outcomes=row["outcomes"],
    )


def _time(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


def _subject(model: str | None) -> str:
    return f"model:{model}" if model is not None else "box:predictions"
