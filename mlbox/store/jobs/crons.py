"""Crons on disk: which jobs come again, and each time that they were asked for.

A firing is a row before it is a job, with the id that the job will have: after a crash it is taken up again, and a job that is
there already is not submitted twice. One cause gives one firing, however often it is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.errors import AlreadyExists, InvalidInput, NotFound, suggest
from mlbox.ids import new_id
from mlbox.records import Cron, CronSpec, CronTrigger, Event, Firing
from mlbox.store.cron_times import next_after
from mlbox.store.db import Database, Row, Tx

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CRON_SQL = """
SELECT cron.*, last.at_us AS last_us, last.job_id AS last_job, last.outcome AS last_outcome, last.reason AS last_reason
FROM cron LEFT JOIN firing AS last ON last.id = (SELECT max(id) FROM firing WHERE cron_id = cron.id)
"""
_VISIBLE = "visible('team', team)"
"""Only a team knows its crons, as it does its jobs."""
STORES: dict[Literal["dataset", "alert"], tuple[str, str]] = {
    "dataset": ("datasets", "dataset.created"),
    "alert": ("monitoring", "alert.fired"),
}
"""By kind of trigger: the store whose events tell of it, and the event's type."""


class Due(NamedTuple):
    """A firing that waits to become a job."""

    id: str
    cron: Cron
    cause: str
    at: datetime
    job_id: str


class Crons:
    """All crons of one box."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._looked_at: datetime | None = None

    # -- what there is ----------------------------------------------------------------------------------------------

    def add(self, spec: CronSpec, *, owner: str, now: datetime) -> Cron:
        """A new cron; raises InvalidInput for a schedule that is none or never comes, AlreadyExists for a name that is taken."""
        check(spec, now)
        own, team = new_id(), spec.job.team

        def write(tx: Tx) -> None:
            if tx.one("SELECT 1 FROM cron WHERE team = ? AND name = ?", (team, spec.name)):
                raise AlreadyExists(
                    f"The team {team} has a cron {spec.name!r}.", hint="Remove it, or take another name.", field="name"
                )
            tx.run(
                "INSERT INTO cron (id, name, team, owner, spec, created_us, next_us) VALUES (?,?,?,?,?,?,?)",
                (own, spec.name, team, owner, spec.to_json().decode(), tx.now_us, _next_us(spec, now)),
            )
            tx.emit("cron.added", f"cron:{own}", owner, name=spec.name, team=team)

        self._db.write(write)
        return self.get(own)

    def get(self, name: str) -> Cron:
        """One cron by its id, or by a name that only one of those has which whoever asks may know of; raises NotFound."""
        rows = self._db.all(f"{_CRON_SQL} WHERE (cron.id = ? OR name = ?) AND {_VISIBLE}", (name, name))
        if len(rows) > 1:
            raise InvalidInput(f"{len(rows)} teams have a cron {name[:80]!r}.", hint="Name it by its id.", field="cron")
        if not rows:
            names = [cron.spec.name for cron in self.page(limit=1000)]
            hint = suggest(name, names, otherwise="`mlbox cron ls` lists them.")
            raise NotFound(f"There is no cron {name[:80]!r}.", hint=hint, field="cron")
        return _cron(rows[0])

    def page(self, *, limit: int = 100, after: str = "") -> list[Cron]:
        """Crons, oldest first, from above the id `after`."""
        rows = self._db.all(f"{_CRON_SQL} WHERE cron.id > ? AND {_VISIBLE} ORDER BY cron.id LIMIT ?", (after, limit))
        return [_cron(row) for row in rows]

    def firings(self, name: str, *, limit: int = 100, before: str = "~") -> list[Firing]:
        """The times that a cron asked for its job, newest first; raises NotFound."""
        rows = self._db.all(
            "SELECT * FROM firing WHERE cron_id = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (self.get(name).id, before, limit),
        )
        return [_firing(row) for row in rows]

    def remove(self, name: str, *, actor: str) -> None:
        """Forget a cron; its jobs stay. Raises NotFound."""
        cron = self.get(name)

        def write(tx: Tx) -> None:
            tx.run("DELETE FROM cron WHERE id = ?", (cron.id,))
            tx.emit("cron.removed", f"cron:{cron.id}", actor, name=cron.spec.name, team=cron.spec.job.team)

        self._db.write(write)

    def change(self, name: str, spec: CronSpec, *, actor: str, now: datetime) -> Cron:
        """Put another spec in a cron's place, from its next time on; raises NotFound, and otherwise as `add` does."""
        cron = self.get(name)
        check(spec, now)
        team = spec.job.team

        def write(tx: Tx) -> None:
            if tx.one("SELECT 1 FROM cron WHERE team = ? AND name = ? AND id <> ?", (team, spec.name, cron.id)):
                raise AlreadyExists(
                    f"The team {team} has a cron {spec.name!r}.", hint="Take another name.", field="name"
                )
            after = None if cron.paused else _next_us(spec, now)
            tx.run(
                "UPDATE cron SET name = ?, team = ?, spec = ?, next_us = ? WHERE id = ?",
                (spec.name, team, spec.to_json().decode(), after, cron.id),
            )
            tx.emit("cron.changed", f"cron:{cron.id}", actor, name=spec.name, team=team)

        self._db.write(write)
        return self.get(cron.id)

    def pause(self, name: str, paused: bool, *, actor: str, now: datetime) -> Cron:
        """Let a cron rest, or go on: what would have come in the meantime is not made up for. Raises NotFound."""
        cron = self.get(name)

        def write(tx: Tx) -> None:
            after = None if paused else _next_us(cron.spec, now)
            tx.run("UPDATE cron SET paused = ?, next_us = ? WHERE id = ?", (paused, after, cron.id))
            done = "cron.paused" if paused else "cron.resumed"
            tx.emit(done, f"cron:{cron.id}", actor, name=cron.spec.name, team=cron.spec.job.team)

        if cron.paused != paused:
            self._db.write(write)
        return self.get(cron.id)

    # -- what is due ------------------------------------------------------------------------------------------------

    def next_at(self) -> datetime | None:
        """When the next one asks for its job."""
        row = self._db.one("SELECT min(next_us) AS next_us FROM cron WHERE next_us IS NOT NULL")
        return from_us(row["next_us"]) if row is not None and row["next_us"] is not None else None

    def fire_due(self, now: datetime) -> None:
        """Note one firing for each cron whose time has come, and when its next time is."""

        def write(tx: Tx) -> None:
            for row in tx.all(f"{_CRON_SQL} WHERE next_us <= ?", (to_us(now),)):
                cron = _cron(row)
                at = _still_due(cron, now)
                if at is not None:
                    _note(tx, cron, f"schedule {at.isoformat()}", at)
                elif cron.next_at is not None:
                    late = round((now - cron.next_at).total_seconds())
                    cause = f"schedule {cron.next_at.isoformat()}"
                    _note(tx, cron, cause, cron.next_at, "skipped", f"it was due {late:,} s ago")
                tx.run("UPDATE cron SET next_us = ? WHERE id = ?", (_next_us(cron.spec, now), cron.id))

        if self._looked_at is None or now < self._looked_at:
            self._clock_went_back(now)
        self._looked_at = now
        if (first := self.next_at()) is not None and first <= now:
            self._db.write(write)

    def _clock_went_back(self, now: datetime) -> None:
        """Or may have: where it was ahead, crons must not wait until it is there again. What came already does not come twice."""

        def write(tx: Tx) -> None:
            for row in tx.all(f"{_CRON_SQL} WHERE next_us > ?", (to_us(now),)):
                next_us = _next_us(_cron(row).spec, now)
                if next_us is not None and next_us < row["next_us"]:
                    tx.run("UPDATE cron SET next_us = ? WHERE id = ?", (next_us, row["id"]))

        self._db.write(write)

    def fire(self, name: str, *, actor: str, now: datetime) -> None:
        """Ask for a cron's job now; raises NotFound."""
        cron = self.get(name)
        self._db.write(lambda tx: _note(tx, cron, f"{actor} {new_id()}", now))

    def followed(self, store: str) -> int | None:
        """Up to which event a store was followed; None for one that never was."""
        row = self._db.one("SELECT seq FROM followed WHERE store = ?", (store,))
        return None if row is None else int(row["seq"])

    def follow(self, store: str, upto: int, events: Sequence[Event], sees: Callable[[str, str, str], bool]) -> None:
        """Note a firing for each cron that one of these events of a store asks for, and that they were seen.

        `sees` says whether a user may know of what has a kind and a name: what is private to others asks for nothing.
        """

        def write(tx: Tx) -> None:
            crons = [_cron(row) for row in tx.all(f"{_CRON_SQL} WHERE NOT paused")] if events else []
            for cron in crons:
                on = cron.spec.on
                if on is None or STORES[on.kind][0] != store or not sees(cron.owner, *about(on)):
                    continue
                for event in events:
                    if event.at >= cron.created_at and asks(on, event):
                        _note(tx, cron, f"event {event.id}", event.at)
            tx.run("INSERT OR REPLACE INTO followed VALUES (?, ?)", (store, upto))

        self._db.write(write)

    def due(self) -> list[Due]:
        """Firings that wait to become jobs, oldest first."""
        rows = self._db.all("SELECT * FROM firing WHERE outcome = 'due' ORDER BY id")
        return [
            Due(row["id"], self.get(row["cron_id"]), row["cause"], from_us(row["at_us"]), row["job_id"]) for row in rows
        ]

    def settle(self, due: Due, outcome: Literal["submitted", "skipped", "refused"], reason: str = "") -> None:
        """Write down what became of a firing."""

        def write(tx: Tx) -> None:
            tx.run("UPDATE firing SET outcome = ?, reason = ? WHERE id = ?", (outcome, reason, due.id))
            if outcome != "submitted":
                name = due.cron.spec.name
                team = due.cron.spec.job.team
                tx.emit(f"cron.{outcome}", f"cron:{due.cron.id}", "mlbox", name=name, reason=reason, team=team)

        self._db.write(write)

    def firing_of(self, name: str, job_id: str) -> str | None:
        """The id of the firing, of a cron of this name, that a job was submitted for."""
        row = self._db.one(
            "SELECT f.id FROM firing f JOIN cron c ON c.id = f.cron_id"
            " WHERE json_extract(c.spec, '$.name') = ? AND f.job_id = ?",
            (name, job_id),
        )
        return row["id"] if row is not None else None

    def last_jobs(self, cron: Cron, *, but: str) -> list[str]:
        """The jobs that a cron submitted, newest first, but one."""
        rows = self._db.all(
            "SELECT job_id FROM firing WHERE cron_id = ? AND outcome = 'submitted' AND job_id <> ?"
            " ORDER BY id DESC LIMIT 100",
            (cron.id, but),
        )
        return [row["job_id"] for row in rows]


_PUNCTUAL_SECONDS = 60
"""What comes within it is on time, whatever the server was busy with."""
_MOST_MISFIRE_SECONDS = 366 * 86_400


def check(spec: CronSpec, now: datetime) -> None:
    """Raise InvalidInput for a cron that makes no sense, naming the field."""
    if not _NAME.fullmatch(spec.name):
        raise InvalidInput(
            f"{spec.name!r:.80} is no name for a cron.", hint="Letters, digits, and _ . - between them.", field="name"
        )
    if not spec.schedule and spec.on is None:
        raise InvalidInput("Nothing asks for the job.", hint="Give a schedule, or `on`.", field="schedule")
    if not _PUNCTUAL_SECONDS <= spec.misfire_seconds <= _MOST_MISFIRE_SECONDS:
        raise InvalidInput(
            f"misfire_seconds is {spec.misfire_seconds}.",
            hint=f"Use {_PUNCTUAL_SECONDS} to {_MOST_MISFIRE_SECONDS:,}, which is a year.",
            field="misfire_seconds",
        )
    if spec.on is not None and not spec.on.name:
        raise InvalidInput(f"Which {spec.on.kind} is meant is missing.", hint="Name it.", field="on")
    if spec.schedule:
        next_after(spec.schedule, now, timezone=spec.timezone)


def asks(on: CronTrigger, event: Event) -> bool:
    """Whether an event is one that a trigger waits for."""
    if event.type != STORES[on.kind][1]:
        return False
    if on.kind == "dataset":
        return event.subject.removeprefix("dataset:").partition("@")[0] == on.name
    return bool(event.data.get("labels", {}).get("model") == on.name)


def about(on: CronTrigger) -> tuple[str, str]:
    """The kind and the name of what a trigger waits for, as privacy knows it."""
    return ("dataset" if on.kind == "dataset" else "model"), on.name


def _still_due(cron: Cron, now: datetime) -> datetime | None:
    """The first of the times that came since the last look which is not too late to make up for; None where all are."""
    spec = cron.spec
    assert cron.next_at is not None
    made_up = min(spec.misfire_seconds, _MOST_MISFIRE_SECONDS)  # a row may be older than that bound
    earliest = now - timedelta(seconds=made_up if spec.misfire == "once" else _PUNCTUAL_SECONDS)
    if cron.next_at >= earliest:
        return cron.next_at
    at = next_after(spec.schedule, earliest, timezone=spec.timezone)
    return at if at <= now else None


def _next_us(spec: CronSpec, now: datetime) -> int | None:
    return to_us(next_after(spec.schedule, now, timezone=spec.timezone)) if spec.schedule else None


def _note(
    tx: Tx, cron: Cron, cause: str, at: datetime, outcome: Literal["due", "skipped"] = "due", reason: str = ""
) -> None:
    tx.run(
        "INSERT OR IGNORE INTO firing VALUES (?,?,?,?,?,?,?)",
        (new_id(), cron.id, cause, to_us(at), new_id(), outcome, reason),
    )


def _cron(row: Row) -> Cron:
    outcome = row["last_outcome"] or ""
    return Cron(
        id=row["id"],
        owner=row["owner"],
        spec=msgspec.json.decode(row["spec"], type=CronSpec),
        created_at=from_us(row["created_us"]),
        paused=bool(row["paused"]),
        next_at=None if row["next_us"] is None else from_us(row["next_us"]),
        last_at=None if row["last_us"] is None else from_us(row["last_us"]),
        last_job=row["last_job"] if outcome == "submitted" else None,
        last_outcome=f"{outcome}: {row['last_reason']}" if row["last_reason"] else outcome,
    )


def _firing(row: Row) -> Firing:
    return Firing(
        cause=row["cause"],
        at=from_us(row["at_us"]),
        job_id=row["job_id"] if row["outcome"] == "submitted" else None,
        outcome=row["outcome"],
        reason=row["reason"],
    )
