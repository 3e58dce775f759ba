"""When views were brought up to date, when they are to be again, and which have waited too long.

A schedule is a cron expression of five fields, in UTC and real time, or `upstream`: when a source was added to, or a view that it
reads was computed. Staleness is a matter of domain time, as age is everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from mlbox.clock import from_us, to_us
from mlbox.errors import InvalidInput
from mlbox.records import FeatureView, Freshness, ViewSpec
from mlbox.store.cron_times import next_after
from mlbox.store.db import Tx
from mlbox.store.features import changes
from mlbox.store.features.viewtables import ViewTables, built_of, is_fresh
from mlbox.store.offline.offline import one
from mlbox.store.offline.views import view_table

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

UPSTREAM = "upstream"
MAX_STALE_SECONDS = 10 * 366 * 86_400


class Refreshed(NamedTuple):
    """The last time that a view was brought up to date, in domain and in real time, and what went wrong since, if anything."""

    updated_us: int | None
    ran_us: int
    error: str


def check_schedule(spec: ViewSpec) -> None:
    """A schedule is one, and a limit of staleness makes sense; raises InvalidInput with the field."""
    if spec.schedule and spec.schedule != UPSTREAM:
        next_after(spec.schedule, datetime(2026, 1, 1, tzinfo=UTC))
    if spec.stale_after_seconds is not None and not 0 < spec.stale_after_seconds <= MAX_STALE_SECONDS:
        raise InvalidInput(
            f"{spec.stale_after_seconds} s is not between 1 s and 10 years.",
            hint="Leave it out for no limit.",
            field="stale_after_seconds",
        )


class Fresh(ViewTables):
    """Views, with what is known of how up to date they are."""

    def check_view(self, spec: ViewSpec) -> None:
        """As `Catalog.check_view`, and the schedule is one."""
        check_schedule(spec)
        super().check_view(spec)

    def _note_refreshed(self, done: Sequence[FeatureView], failed: Mapping[str, str]) -> None:
        """Remember which views were brought up to date, and why others were not."""
        now = to_us(self._clock.real())

        def write(tx: Tx) -> None:
            tx.many(
                "INSERT INTO refresh VALUES (?, ?, ?, '') ON CONFLICT (ref) DO UPDATE"
                " SET updated_us = excluded.updated_us, ran_us = excluded.ran_us, error = ''",
                [(view.ref, tx.domain_us, now) for view in done],
            )
            for ref, error in failed.items():
                before = tx.one("SELECT error FROM refresh WHERE ref = ?", (ref,))
                tx.run(
                    "INSERT INTO refresh VALUES (?, NULL, ?, ?) ON CONFLICT (ref) DO UPDATE"
                    " SET ran_us = excluded.ran_us, error = excluded.error",
                    (ref, now, error),
                )
                if before is None or before["error"] != error:  # told once, however often it is tried
                    tx.emit("view.failed", f"view:{ref}", "mlbox", error=error)

        if done or failed:
            self._db.write(write)

    def refreshed(self) -> dict[str, Refreshed]:
        """What is known of each view that was ever brought up to date, or tried to be."""
        rows = self._db.all("SELECT * FROM refresh")
        return {row["ref"]: Refreshed(row["updated_us"], row["ran_us"], row["error"]) for row in rows}

    def due(self) -> list[str]:
        """The views in SQL that their schedules ask for now."""
        known, now = self.refreshed(), self._clock.real()
        found = []
        for view in self.views():
            if view.function is not None:
                continue  # it takes a job
            if view.schedule == UPSTREAM:
                if self.is_behind(view):
                    found.append(view.ref)
            elif view.schedule:
                last = known.get(view.ref)
                if next_after(view.schedule, from_us(last.ran_us) if last else view.created_at) <= now:
                    found.append(view.ref)
        return found

    def is_behind(self, view: FeatureView) -> bool:
        """Whether what a view is made of changed since it was last computed."""
        return not self._offline.read(lambda cursor: is_fresh(cursor, view)) or any(
            self.is_behind(self.view(name)) for name in view.sources if "@" in name and view.function is None
        )

    def stale(self) -> dict[str, tuple[FeatureView, float]]:
        """By reference: the views with a limit of staleness, each with the seconds by which it is over it, below 0 if fresh."""
        known, now = self.refreshed(), self._clock.now()
        found = {}
        for view in self.views():
            if view.stale_after_seconds is not None:
                age = now - _updated(view, known.get(view.ref))
                found[view.ref] = (view, age.total_seconds() - view.stale_after_seconds)
        return found

    def freshness(self, ref: str) -> Freshness:
        """How up to date one view is; raises NotFound."""
        view = self.view(ref)
        last = self.refreshed().get(view.ref)
        rows, entities, latest = self._sizes(view) if self._offline.used else (0, 0, None)
        is_cron = view.schedule not in ("", UPSTREAM)
        after = from_us(last.ran_us) if last else view.created_at
        limit = view.stale_after_seconds
        return Freshness(
            view=view.ref,
            schedule=view.schedule,
            rows=rows,
            entities=entities,
            latest_event=latest,
            updated_at=from_us(last.updated_us) if last and last.updated_us is not None else None,
            next_at=next_after(view.schedule, after) if is_cron else None,
            stale=limit is not None and self._clock.now() - _updated(view, last) > timedelta(seconds=limit),
            error=last.error if last else "",
        )

    def _sizes(self, view: FeatureView) -> tuple[int, int, datetime | None]:
        def read(cursor: Cursor) -> tuple[int, int, datetime | None]:
            if built_of(cursor, view.ref) is None:
                return 0, 0, None
            found = one(cursor, f"SELECT count(*), max(_event) FROM {view_table(view.ref)}")
            written = changes.state_of(cursor, view.ref) is not None
            online = one(cursor, f"SELECT count(*) FROM {changes.online_table(view.ref)}") if written else (0,)
            assert found is not None
            assert online is not None
            return found[0], online[0], found[1].replace(tzinfo=UTC) if found[1] else None

        return self._offline.read(read)


def _updated(view: FeatureView, last: Refreshed | None) -> datetime:
    """Since when a view's age counts: from when it was defined, if it was never brought up to date."""
    return from_us(last.updated_us) if last is not None and last.updated_us is not None else view.created_at
