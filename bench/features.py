"""The feature store: online reads, materialization, point-in-time joins and uploads.

The raw limit of an online read is one bare SELECT of the same rows from the same table; of a point-in-time join, an ASOF JOIN
with the same rules, written by hand, over the same tables; of a view's computation, its own SQL; of an upload, pyarrow alone in
the process that asks. Each is measured in the same run, in turn with ours. Feast is measured in `bench.feast`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bench.harness import Report, interleave, median, options
from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import Column, ViewSpec
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features.features import FeatureStore
from mlbox.store.features.online import Online
from mlbox.store.offline.offline import Offline
from mlbox.store.sandbox.ingest import Uploads

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


def sales(rows: int, entities: int, seed: int = 0) -> pa.Table:
    """Rows of random entities at random moments, the same ones each time."""
    random = np.random.default_rng(seed)
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
    rows, entities, repeats = (200_000, 5_000, 5) if chosen.quick else (2_000_000, 50_000, 5)
    sizes = {"rows": f"{rows:,}", "entities": f"{entities:,}", "features": str(len(FEATURES)), "repeats": str(repeats)}
    report = Report("feature store", conditions=sizes)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(Path(folder), rows, entities)) as house:
        _upload(report, house, repeats)
        _history(report, house, repeats)
        _materialize(report, house, repeats)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Wide(Path(folder))) as wide:
        _online(report, wide, *((20_000, 300) if chosen.quick else (200_000, 2000)))
        _push(report, wide, "whose SQL computes")
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Wide(Path(folder), computes=False)) as wide:
        _push(report, wide, "that picks columns")
    sizes = (1_000_000, 100_000, 3) if chosen.quick else (10_000_000, 1_000_000, 3)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Joined(Path(folder), sizes[0])) as joined:
        _joins(report, joined, *sizes[1:])
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
        house.offline.write(lambda cursor: cursor.execute('DELETE FROM "view:state"'))

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


class Wide:
    """A view of 20 features of many entities, each of which has one row; its SQL computes, or only picks columns."""

    def __init__(self, folder: Path, *, computes: bool = True) -> None:
        self.folder = folder
        self.clock = ManualClock(START + timedelta(days=1))
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.store = FeatureStore(self.db, self.offline, self.online, self.clock)
        features = tuple(Column(name=f"f{number}", dtype="FP64") for number in range(20))
        columns = (KEY, *features, Column(name="moment", dtype="TIMESTAMP"))
        self.store.add_source("facts", columns, "moment", None, actor="bench")
        first = "coalesce(f0, 0) AS f0" if computes else "f0"
        rest = ", ".join(column.name for column in features[1:])
        sql = f"SELECT who, {first}, {rest}, moment AS event_time FROM facts"
        spec = ViewSpec(name="wide", join_keys=(KEY,), features=features, sql=sql, sources=("facts",))
        self.store.apply_view(spec, actor="bench")
        self.refs = tuple(f"wide@v1:{column.name}" for column in features)

    def rows(self, entities: int, at: timedelta = timedelta()) -> pa.Table:
        """A row for each entity."""
        random = np.random.default_rng(0)
        values = {ref.partition(":")[2]: random.random(entities) for ref in self.refs}
        moments = pa.array([START.replace(tzinfo=None) + at] * entities, pa.timestamp("us"))
        return pa.table({"who": np.arange(entities), **values, "moment": moments})

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()


def _online(report: Report, wide: Wide, entities: int, calls: int) -> None:
    store = wide.store
    store.append("facts", wide.rows(entities), actor="bench")
    took = _timed(lambda: store.materialize("wide"))()
    report.at_least(f"materialize, {entities:,} entities of 20 features", entities / took, 30_000, "rows/s")
    random = np.random.default_rng(1)
    bare = sqlite3.connect(wide.folder / "online" / "cache.db", isolation_level=None)
    bare.execute("PRAGMA mmap_size=268435456")
    for width in (1, 100):
        asked = [[{"who": int(who)} for who in random.integers(0, entities, width)] for _ in range(calls)]
        others = random.integers(0, entities, (calls, width))  # not the same: the second to read would find them cached
        keys = [[f"wide@v1|[{who}]" for who in some] for some in others]
        marks = f"SELECT key, value FROM Cache WHERE key IN ({','.join('?' * width)}) AND raw = 1"
        assert len(bare.execute(marks, keys[0]).fetchall()) == len(set(keys[0])), "an entity is not online"
        ours: list[float] = []
        raw: list[float] = []
        for some, their_keys in zip(asked, keys, strict=True):
            ours.append(_timed(lambda some=some: store.online_vectors(wide.refs, some))())
            raw.append(_timed(lambda sql=marks, k=their_keys: bare.execute(sql, k).fetchall())())
        p50 = statistics.median(ours)
        report.tell(f"a bare SELECT of {width} rows of 20 features, p50", statistics.median(raw) * 1e6, "µs")
        if width == 1:
            report.at_most("online read of 1 entity x 20 features, p50", p50 * 1e6, 20, "µs")
        else:
            report.tell(f"online read of {width} entities x 20 features, p50", p50 * 1e6, "µs")
            report.at_most(
                f"online read of {width} x 20 / a bare SELECT, p50", p50 / statistics.median(raw), 2, "times"
            )
    bare.close()
    _reads_meanwhile(report, wide, entities)


def _push(report: Report, wide: Wide, kind: str) -> None:
    one = wide.rows(1, timedelta(hours=2))
    pushes = [_timed(lambda: wide.store.push("facts", one, actor="bench"))() for _ in range(30)]
    report.tell(f"a push of one row, offline and online, of a view {kind}, p50", median(pushes) * 1000, "ms")


def _reads_meanwhile(report: Report, wide: Wide, entities: int) -> None:
    """How long a read takes while all entities are written anew."""
    store = wide.store
    random = np.random.default_rng(2)

    def read() -> float:
        some = [{"who": int(who)} for who in random.integers(0, entities, 100)]
        return _timed(lambda: store.online_vectors(wide.refs, some))()

    idle = [read() for _ in range(500)]
    store.append("facts", wide.rows(entities, timedelta(hours=1)), actor="bench")
    writer = threading.Thread(target=store.materialize, args=("wide",))
    writer.start()
    busy = []
    while writer.is_alive():
        busy.append(read())
    writer.join()
    report.at_most("the same read while all are materialized / idle, p50", median(busy) / median(idle), 2, "times")


class Joined:
    """Three views of many rows each, of one entity, as their sources have them."""

    def __init__(self, folder: Path, rows: int, *, distinct: bool = False) -> None:
        self.folder = folder
        self.clock = ManualClock(START + timedelta(days=DAYS))
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb", memory="1GB")
        self.online = Online(folder / "online")
        self.store = FeatureStore(self.db, self.offline, self.online, self.clock)
        self.entities = max(1000, rows // 100)
        columns = (KEY, AMOUNT, Column(name="moment", dtype="TIMESTAMP"))
        sql = "SELECT who, amount, moment AS event_time FROM facts{0}"
        for number in range(3):
            self.store.add_source(f"facts{number}", columns, "moment", None, actor="bench")
            self.store.append(f"facts{number}", sales(rows, self.entities, number if distinct else 0), actor="bench")
            spec = ViewSpec(
                name=f"view{number}",
                join_keys=(KEY,),
                features=(AMOUNT,),
                sql=sql.format(number),
                sources=(f"facts{number}",),
                ttl_seconds=7 * 86_400,
            )
            self.store.refresh(self.store.apply_view(spec, actor="bench"))
        self.refs = [f"view{number}@v1:amount" for number in range(3)]

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()


def _joins(report: Report, joined: Joined, asked: int, repeats: int) -> None:
    """A point-in-time join under a memory limit of 1 GB, against the same rules by hand in the same engine."""
    moments = sales(asked, joined.entities)
    spine = pa.table({"who": moments["who"], "event_time": moments["moment"]})
    values = ", ".join(
        f"CASE WHEN spine.event_time - v{n}._event <= INTERVAL 7 DAYS THEN v{n}.amount END AS v{n}" for n in range(3)
    )
    joins = " ".join(
        f'ASOF LEFT JOIN "view:view{n}@v1" v{n} ON spine.who = v{n}.who AND spine.event_time >= v{n}._event'
        for n in range(3)
    )
    by_hand = f"SELECT spine.*, {values} FROM spine {joins}"

    def hand() -> pa.Table:
        def read(cursor: Any) -> pa.Table:
            cursor.register("spine", spine)
            return cursor.sql(by_hand).to_arrow_table()

        return joined.offline.read(read)

    here = joined.store.historical(joined.refs, spine, event_time="event_time")
    there = hand()
    assert here.num_rows == there.num_rows == asked
    for number, ref in enumerate(joined.refs):
        sums = [np.nansum(column.to_numpy()) for column in (here[ref], there[f"v{number}"])]
        assert np.isclose(*sums), f"{ref} is not what the join by hand gives"
        assert here[ref].null_count == there[f"v{number}"].null_count, f"{ref} has other nulls than the join by hand"
    ours, raw = interleave(
        repeats,
        _cpu(lambda: joined.store.historical(joined.refs, spine, event_time="event_time")),
        _cpu(hand),
    )
    report.tell(f"point in time, {asked:,} rows and three views, CPU", median(ours), "s")
    report.at_most("the same under 1 GB / an ASOF JOIN by hand, CPU", median(ours) / median(raw), 1.3, "times")


def _cpu(call: Callable[[], Any]) -> Callable[[], float]:
    def measure() -> float:
        begin = time.process_time()
        call()
        return time.process_time() - begin

    return measure


def _cpu_of_workers(call: Callable[[], Any]) -> float:
    """CPU seconds of what the fork server forks for a call: on a busy machine wall time says more of its neighbours."""

    def spent() -> float:
        (forks,) = psutil.Process().children()
        times = forks.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    before = spent()
    call()
    return spent() - before


def _timed(call: Callable[[], Any]) -> Callable[[], float]:
    def measure() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return measure


if __name__ == "__main__":
    sys.exit(main())
