"""The feature store: online reads, materialization, point-in-time joins and uploads.

The raw limit of an online read is one bare SELECT of the same packed rows from a SQLite file; of a point-in-time join, one bare
ASOF JOIN of the same rows in an unhardened DuckDB; of a view's computation, its own SQL; of an upload, pyarrow alone in the
process that asks. Each is measured in the same run, in turn with ours.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.harness import Report, interleave, median, options
from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import Column, ViewSpec
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features import FeatureStore
from mlbox.store.ingest import Uploads
from mlbox.store.offline import Offline
from mlbox.store.online import Online

START = parse_time("2026-01-01T00:00Z")
DAYS = 90
KEY, AMOUNT = Column(name="who", dtype="INT64"), Column(name="amount", dtype="FP64")
FEATURES = tuple(Column(name=name, dtype="FP64") for name in ("total", "mean", "most"))
SQL = (
    "SELECT who, moment AS event_time, sum(amount) OVER week AS total, avg(amount) OVER week AS mean,"
    " max(amount) OVER week AS most FROM sales"
    " WINDOW week AS (PARTITION BY who ORDER BY moment RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW)"
)
REFS = tuple(f"spend@v1:{column.name}" for column in FEATURES)


class House:
    """A store of its own in a folder, with a quarter of a year of sales."""

    def __init__(self, folder: Path, rows: int, entities: int) -> None:
        self.clock = ManualClock(START + timedelta(days=DAYS - 10))
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.store = FeatureStore(self.db, self.offline, self.online, self.clock)
        self.uploads = Uploads(folder / "uploads", most_bytes=1 << 30)
        self.sales = sales(rows, entities)
        columns = (KEY, AMOUNT, Column(name="moment", dtype="TIMESTAMP"))
        self.store.add_source("sales", columns, "moment", None, actor="bench")
        self.store.append("sales", self.sales, actor="bench")
        spec = ViewSpec(
            name="spend", join_keys=(KEY,), features=FEATURES, sql=SQL, sources=("sales",), ttl_seconds=DAYS * 86_400
        )
        self.view = self.store.apply_view(spec, actor="bench")

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()


def sales(rows: int, entities: int) -> pa.Table:
    """Rows of random entities at random moments, the same ones each time."""
    random = np.random.default_rng(0)
    start = int(START.timestamp() * 1e6)
    moments = np.sort(random.integers(start, start + DAYS * 86_400 * 10**6, rows))
    return pa.table(
        {
            "who": random.integers(0, entities, rows),
            "amount": random.random(rows),
            "moment": pa.array(moments, pa.timestamp("us")),
        }
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    rows, entities, repeats = (200_000, 5_000, 5) if chosen.quick else (2_000_000, 50_000, 9)
    sizes = {"rows": f"{rows:,}", "entities": f"{entities:,}", "features": str(len(FEATURES)), "repeats": str(repeats)}
    report = Report("feature store", conditions=sizes)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(Path(folder), rows, entities)) as house:
        _upload(report, house, repeats)
        _history(report, house, repeats)
        _materialize(report, house, repeats)
        _online(report, house, entities, 300 if chosen.quick else 2000)
    report.skip("Feast on the same data", "it is not installed: `--setup` installs no peers yet")
    return report.finish()


def _upload(report: Report, house: House, repeats: int) -> None:
    body = pa.BufferOutputStream()
    pq.write_table(house.sales, body)
    sent = body.getvalue().to_pybytes()

    def ours(body: bytes = sent) -> pa.Table:
        with house.uploads.begin() as upload:
            upload.write(body)
            return house.uploads.parse(upload, "parquet", house.store.source("sales").columns, required=["moment"])

    assert ours().select(house.sales.column_names).equals(house.sales), "an upload is not what was sent"
    tiny = pa.BufferOutputStream()
    pq.write_table(house.sales.slice(0, 1), tiny)
    one_row = tiny.getvalue().to_pybytes()
    whole, one, raw = interleave(
        repeats,
        lambda: _cpu_of_workers(ours),
        lambda: _cpu_of_workers(lambda: ours(one_row)),
        _timed(lambda: pq.read_table(pa.BufferReader(sent))),
    )
    report.tell("upload: CPU of the process that parses it", median(whole) * 1000, "ms")
    report.tell("upload of 1 row: the same, which is what a process costs", median(one) * 1000, "ms")
    report.tell("pyarrow alone, reading all rows", median(raw) * 1000, "ms")


def _history(report: Report, house: House, repeats: int) -> None:
    spine = pa.table({"who": house.sales["who"], "event_time": house.sales["moment"]})
    bare = duckdb.connect()
    bare.register("sales", house.sales)
    bare.execute("CREATE TABLE sales_kept AS SELECT * FROM sales")
    bare.execute(f"CREATE TABLE spend AS {SQL.replace('FROM sales', 'FROM sales_kept')}")
    bare.register("spine", spine)
    values = ", ".join(f"spend.{column.name}" for column in FEATURES)
    asof = f"SELECT spine.*, {values} FROM spine ASOF LEFT JOIN spend ON spine.who = spend.who"
    asof += " AND spine.event_time >= spend.event_time"
    built = f"CREATE OR REPLACE TABLE spend AS {SQL.replace('FROM sales', 'FROM sales_kept')}"

    ordered = f"{asof} ORDER BY spine.event_time, spine.who"
    there = bare.sql(ordered).to_arrow_table()
    here = house.store.historical(REFS, spine, event_time="event_time")
    here = here.sort_by([("event_time", "ascending"), ("who", "ascending")])
    for ref, column in zip(REFS, FEATURES, strict=True):
        assert np.allclose(here[ref], there[column.name], equal_nan=True), f"{ref} is not what the bare join gives"

    def forget() -> None:
        house.offline.write(lambda cursor: cursor.execute('DELETE FROM "state:view"'))

    def build() -> float:
        forget()
        return _timed(lambda: house.store.historical(REFS, spine.slice(0, 1), event_time="event_time"))()

    ours, raw = interleave(repeats, build, _timed(lambda: bare.execute(built)))
    report.tell("computing the view", median(ours), "s")
    report.at_most("computing the view / its SQL alone", median(ours) / median(raw), 3, "times")
    ours, raw = interleave(
        repeats,
        _timed(lambda: house.store.historical(REFS, spine, event_time="event_time")),
        _timed(lambda: bare.sql(asof).to_arrow_table()),
    )
    report.tell("point in time, a row of the spine for each sale", median(ours), "s")
    report.at_most("point in time / a bare ASOF JOIN", median(ours) / median(raw), 3, "times")
    bare.close()


def _materialize(report: Report, house: House, repeats: int) -> None:
    first = _timed(house.store.materialize)()
    report.tell("materialize, every entity", first, "s")
    idle = [_timed(house.store.materialize)() for _ in range(repeats)]
    report.at_most("materialize, nothing changed", median(idle) * 1000, 50, "ms")
    hours = []
    for _ in range(repeats):
        house.clock.advance(house.clock.now() + timedelta(hours=1))
        hours.append(_timed(house.store.materialize)())
    report.tell("materialize, an hour later", median(hours) * 1000, "ms")


def _online(report: Report, house: House, entities: int, calls: int) -> None:
    random = np.random.default_rng(1)
    with _bare_sqlite(house, entities) as reader:
        for width in (1, 32):
            asked = [[{"who": int(who)} for who in random.integers(0, entities, width)] for _ in range(calls)]
            keys = [[f"spend@v1|[{entity['who']}]" for entity in some] for some in asked]
            marks = f"SELECT key, value FROM rows WHERE key IN ({','.join('?' * width)})"
            ours: list[float] = []
            raw: list[float] = []
            for some, their_keys in zip(asked, keys, strict=True):
                ours.append(_timed(lambda some=some: house.store.online_features(REFS, some))())
                raw.append(_timed(lambda sql=marks, k=their_keys: reader.execute(sql, k).fetchall())())
            p50, p99 = statistics.median(ours), statistics.quantiles(ours, n=100)[98]
            limit = 500 if width == 32 else 100
            report.at_most(f"online read of {width} entities, p50", p50 * 1e6, limit, "µs")
            report.at_most(f"online read of {width} entities, p99", p99 * 1e6, 5 * limit, "µs")
            report.tell(f"a bare SELECT of {width} rows, p50", statistics.median(raw) * 1e6, "µs")
            report.at_most(f"online read of {width} / a bare SELECT, p50", p50 / statistics.median(raw), 4, "times")


@contextlib.contextmanager
def _bare_sqlite(house: House, entities: int) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        bare = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        bare.execute("CREATE TABLE rows (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        keys = [f"spend@v1|[{who}]" for who in range(entities)]
        values = house.online.get(keys)
        assert None not in values, "an entity is not online: the two reads would not do the same work"
        bare.execute("BEGIN")
        bare.executemany("INSERT INTO rows VALUES (?, ?)", zip(keys, values, strict=True))
        bare.execute("COMMIT")
        yield bare
        bare.close()


def _cpu_of_workers(call: Callable[[], Any]) -> float:
    """CPU seconds of the processes that a call starts and awaits: on a busy machine wall time says more of its neighbours."""
    before = os.times()
    call()
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def _timed(call: Callable[[], Any]) -> Callable[[], float]:
    def measure() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return measure


if __name__ == "__main__":
    sys.exit(main())
