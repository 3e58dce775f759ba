"""Views in free Python: their function runs as a job, which reads what its sources had, and feeds the view with what it yields.

What was fed is kept like a source's rows, and everything after that is as it is for SQL: the view's table is computed from them,
and the online store from that. A row that does not say when it became known became so when its run was asked for: what the run
had seen was known then. A run feeds its view once, whatever attempts its job takes, and a row that says what the last one of its
entity and event said is left out: a run that looks at the same month every day adds a day.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import Clock, from_us
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.records import Column, Computation, FeatureView, Source
from mlbox.store.cron_times import next_after
from mlbox.store.db import Database, Row, Tx
from mlbox.store.features.freshness import UPSTREAM
from mlbox.store.features.ondemand import Transforms
from mlbox.store.features.viewtables import stamp_of
from mlbox.store.offline import views
from mlbox.store.offline.offline import one, quote
from mlbox.store.offline.usersql import SEQUENCE
from mlbox.store.sandbox.sql_worker import write_batches

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

EVENT, ARRIVAL = Column(name="event_time", dtype="TIMESTAMP"), Column(name="arrival_time", dtype="TIMESTAMP")
STATE = 'CREATE TABLE IF NOT EXISTS "state:fed" (job_id VARCHAR PRIMARY KEY, row_count BIGINT NOT NULL);'
_BATCH_ROWS = 50_000


def columns_of(view: FeatureView) -> tuple[Column, ...]:
    """What a view's function yields."""
    return (*view.join_keys, *view.features, EVENT, ARRIVAL)


class Functions(Transforms):
    """The feature store, with views that jobs feed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._offline.prepare(STATE)

    def write_known(self, view: FeatureView, name: str, as_of: datetime, path: Path) -> int:
        """Write what a view's function may see of one of its sources to an Arrow file; its number of rows.

        That is what was known and had happened at a moment, as far back as the function looks.
        """
        ref = next((one for one in view.sources if one.partition("@")[0] == name), None)
        if view.function is None or ref is None:
            raise NotFound(f"{view.ref} does not read {name!r:.80}.", field="source")
        upstream = self.view(ref) if "@" in ref else None
        if upstream is not None:
            self.refresh(upstream)
        window = view.function.window_seconds
        start = None if window is None else as_of - timedelta(seconds=window)

        def write(cursor: Cursor) -> int:
            relation = self._relation(cursor, ref)
            event = "_event" if upstream is not None else quote(self.declared(ref).event_time)
            known = f"{relation.arrival} <= {views.literal(as_of)} AND {event} <= {views.literal(as_of)}"
            since = f" AND {event} > {views.literal(start)}" if start else ""
            rows = cursor.sql(
                f"SELECT {relation.columns} FROM {quote(relation.table)} WHERE {known}{since} ORDER BY {event}"
            )
            return write_batches(rows.to_arrow_reader(_BATCH_ROWS), str(path))

        self._offline.write(lambda cursor: self._have_tables(cursor, msgspec.structs.replace(view, function=None)))
        return self._offline.snapshot(write)

    def feed_view(self, view: FeatureView, job_id: str, rows: pa.Table, *, as_of: datetime) -> int:
        """Take what a run of a view's function yielded, once; how many rows said something new."""
        kept = views.fed(view)

        def write(cursor: Cursor) -> int:
            done = one(cursor, 'SELECT row_count FROM "state:fed" WHERE job_id = ?', [job_id])
            if done is not None:
                return int(done[0])
            self._ensure_source(cursor, kept)
            fresh = _news(cursor, view, kept, rows)
            self._insert(cursor, kept, fresh, arrived=as_of)
            cursor.execute('INSERT INTO "state:fed" VALUES (?, ?)', [job_id, fresh.num_rows])
            return int(fresh.num_rows)

        return self._offline.write(write)

    def note_failed(self, ref: str, error: str) -> None:
        """Remember why a view could not be computed."""
        self._note_refreshed((), {ref: error})

    def stamp_of(self, view: FeatureView) -> str:
        """How often each of a view's sources was changed."""
        return self._offline.read(lambda cursor: stamp_of(cursor, view)) if self._offline.used else ""


def _news(cursor: Cursor, view: FeatureView, kept: Source, rows: pa.Table) -> pa.Table:
    """The rows that do not say what the last one of their entity and event said."""
    same = (*view.join_keys, EVENT)
    on = " AND ".join(f"new.{quote(one.name)} = old.{quote(one.name)}" for one in same)
    said = " AND ".join(
        f"new.{quote(one.name)} IS NOT DISTINCT FROM old.{quote(one.name)}" for one in (*view.features, ARRIVAL)
    )
    cursor.register("fed", rows)
    last = (
        f"SELECT * FROM {views.source_table(kept.name)} old SEMI JOIN fed new ON {on}"
        f" QUALIFY row_number() OVER (PARTITION BY {views.names(same)} ORDER BY {SEQUENCE} DESC) = 1"
    )
    found = cursor.sql(f"SELECT new.* FROM fed new ANTI JOIN ({last}) old ON {on} AND {said}").to_arrow_table()
    cursor.unregister("fed")
    return found


class ViewRuns:
    """Which jobs compute which views, and since when."""

    def __init__(self, db: Database, features: Functions, clock: Clock) -> None:
        self._db = db
        self._features = features
        self._clock = clock

    def begin(self, view: FeatureView, job_id: str, *, actor: str) -> Computation:
        """Note that a job is about to compute a view, as of now; raises InvalidInput for a view in SQL."""
        if view.function is None:
            raise InvalidInput(
                f"{view.ref} is computed by SQL, which takes no job.", hint="Materialize it.", field="view"
            )
        stamp = self._features.stamp_of(view)

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO computation VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (job_id, view.ref, tx.domain_us, tx.now_us, stamp, actor),
            )
            tx.emit("view.asked", f"view:{view.ref}", actor, job=job_id)

        self._db.write(write)
        return self.of_job(job_id)

    def forget(self, job_id: str) -> None:
        """Take back what was begun and never became a job."""
        self._db.write(lambda tx: tx.run("DELETE FROM computation WHERE job_id = ?", (job_id,)))

    def of_job(self, job_id: str) -> Computation:
        """What a job computes; raises NotFound where it computes no view."""
        row = self._db.one("SELECT * FROM computation WHERE job_id = ?", (job_id,))
        if row is None:
            raise NotFound(
                f"The job {job_id[:80]} computes no view.", hint="Begin it with `mlbox feature run`.", field="job"
            )
        return _computation(row)

    def last(self, ref: str) -> Computation | None:
        """The last run of a view version."""
        row = self._last(ref)
        return _computation(row) if row is not None else None

    def _last(self, ref: str) -> Row | None:
        return self._db.one("SELECT * FROM computation WHERE ref = ? ORDER BY asked_us DESC LIMIT 1", (ref,))

    def finish(self, run: Computation, rows: pa.Table) -> Computation:
        """Feed a run's view with what it yielded, and bring the view up to date; once, whatever is sent again."""
        view = self._features.view(run.view)
        count = self._features.feed_view(view, run.job_id, rows, as_of=run.as_of)

        def write(tx: Tx) -> None:
            before = tx.one("SELECT rows FROM computation WHERE job_id = ?", (run.job_id,))
            if before is None:
                raise Conflict(f"The run of {run.view} was taken back.", hint="Begin another.")
            if before["rows"] is None:
                tx.run("UPDATE computation SET rows = ? WHERE job_id = ?", (count, run.job_id))
                tx.emit("view.computed", f"view:{run.view}", run.asked_by, job=run.job_id, rows=count)

        self._db.write(write)
        self._features.materialize(run.view, actor=run.asked_by)
        return self.of_job(run.job_id)

    def due(self) -> list[FeatureView]:
        """The views whose schedules ask for a run now."""
        return [view for view in self._features.views() if view.function is not None and self._is_due(view)]

    def _is_due(self, view: FeatureView) -> bool:
        last = self._last(view.ref)
        if view.schedule == UPSTREAM:
            stamp = self._features.stamp_of(view)
            return bool(stamp) and (last is None or last["stamp"] != stamp)
        if not view.schedule:
            return False
        after = from_us(last["asked_us"]) if last else view.created_at
        return next_after(view.schedule, after) <= self._clock.real()


def _computation(row: Row) -> Computation:
    return Computation(
        job_id=row["job_id"], view=row["ref"], as_of=from_us(row["as_of_us"]), asked_by=row["actor"], rows=row["rows"]
    )
