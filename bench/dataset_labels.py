"""Labels: taking them in, finding out which count, those that come again, and what has very many claims."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from bench.dataset_house import START, House, timed
from bench.harness import Report, median
from bench.memory import watched
from mlbox.records import Column, LabelSet, LabelSource
from mlbox.store.offline.offline import quote

BATCH = 10_000

SOURCES = tuple(LabelSource(name=name, kind="delayed", weight=1.0 + at) for at, name in enumerate("abc"))
DECLARED = LabelSet(
    name="late", keys=(Column(name="who", dtype="INT64"),), value=Column(name="y", dtype="INT64"), sources=SOURCES
)


def _fill(house: House, count: int) -> list[float]:
    """So many labels in batches, and the seconds that each batch took."""
    house.labels.apply(DECLARED, actor="bench")
    took = []
    for first in range(0, count, BATCH):
        rows, source = _claims(first, BATCH, count), "abc"[first // BATCH % 3]
        took.append(timed(lambda: house.labels.append("late", rows, source=source, actor="b")))  # noqa: B023
    assert house.labels.label_set("late").rows == count
    return took


def ingesting(report: Report, house: House, count: int) -> None:
    """Labels in batches, against `executemany` of the same rows."""
    took = _fill(house, count)
    rate = BATCH / median(took)
    report.tell(f"labels in batches of {BATCH:,}", rate, "rows/s")
    report.tell("the last batches / the first ones, time", median(took[-5:]) / median(took[:5]), "times")
    raw = _executemany(house)
    report.tell("executemany into the same table", raw, "rows/s")
    report.at_least("labels in batches / executemany into the same table", rate / raw, 0.4, "times")
    raw = _executemany_sqlite(house, BATCH)
    report.tell("executemany into SQLite, a commit for each batch", raw, "rows/s")
    report.at_least("labels in batches / executemany into SQLite, with an index", rate / raw, 0.4, "times")


def resolving(report: Report, house: House, count: int) -> None:
    """What counts of all labels, by each policy."""
    for first in range(0, count, 100_000):
        rows, source = _claims(first, min(100_000, count - first), count), "abc"[first // 100_000 % 3]
        house.labels.apply(DECLARED, actor="bench")
        house.labels.append("late", rows, source=source, actor="bench")
    for policy in ("latest", "priority", "majority", "weighted"):
        house.labels.apply(msgspec.structs.replace(DECLARED, policy=policy), actor="bench")
        took = [timed(lambda: house.labels.known("late", at=house.clock.now())) for _ in range(3)]
        report.at_most(f"resolving {count:,} labels, {policy}", median(took), 5, "s")


def duplicates(report: Report, house: House, count: int) -> None:
    """The same label over and over, batches that are there already, and an item of very many claims."""
    house.labels.apply(DECLARED, actor="bench")
    one = _claims(0, 1, count)
    same = pa.concat_tables([one] * count).combine_chunks()
    with watched() as watch:
        took = timed(lambda: house.labels.append("late", same, source="a", actor="bench"))
    assert house.labels.label_set("late").rows == 1
    report.tell(f"one label, {count:,} times at once", took, "s")
    report.tell("memory of the process meanwhile", watch.peak / 1e6, "MB")
    rows = _claims(0, BATCH, count)
    house.labels.append("late", rows, source="a", actor="b")
    again = timed(lambda: house.labels.append("late", rows, source="a", actor="b"))
    report.tell("a batch that is there already", BATCH / again, "rows/s")
    took = [timed(lambda: _crowd(house, crowd)) for crowd in (2_000, 4_000)]  # noqa: B023
    report.tell("what counted at each moment of an item of 4,000 claims", took[1], "s")
    report.at_most("the same / of an item of 2,000 claims", took[1] / took[0], 3, "times")


def _crowd(house: House, count: int) -> None:
    """A history that a team brings along: each claim of an item is known a second after the one before."""
    name = f"crowd{count}"
    house.labels.apply(msgspec.structs.replace(DECLARED, name=name, policy="majority"), actor="bench")
    seconds = int(START.timestamp()) + np.arange(count)
    rows = pa.table(
        {
            "who": np.zeros(count, int),
            "event_time": pa.array(np.full(count, seconds[0] * 10**6), pa.timestamp("us", "UTC")),
            "known_at": pa.array(seconds * 10**6, pa.timestamp("us", "UTC")),
            "y": np.arange(count) % 7 % 2,
            "annotator": pa.array(np.arange(count)).cast(pa.string()),
        }
    )
    house.labels.append(name, rows, source="a", backfill=True, actor="bench")
    house.offline.write(lambda cursor: house.labels.bring(cursor, house.labels.declared(name)))


def _claims(first: int, count: int, total: int) -> pa.Table:
    """Claims of an id of their own; three are about the same item."""
    numbers = np.arange(first, first + count)
    moments = int(START.timestamp() * 1e6) + numbers % (total // 3 + 1) * 1000
    return pa.table(
        {
            "who": numbers % (total // 3 + 1),
            "event_time": pa.array(moments, pa.timestamp("us", "UTC")),
            "y": numbers % 2,
            "id": pa.array(numbers).cast(pa.string()),
        }
    )


def _executemany(house: House) -> float:
    """Rows a second of what is in the table already, one by one into another of the same columns."""
    table, count = quote("label:late"), 2000

    def insert(cursor: Any) -> float:
        rows = cursor.execute(f"SELECT * FROM {table} LIMIT {count}").fetchall()
        cursor.execute(f"CREATE TABLE raw AS SELECT * FROM {table} LIMIT 0")
        marks = ", ".join("?" * len(rows[0]))
        took = timed(lambda: cursor.executemany(f"INSERT INTO raw VALUES ({marks})", rows))
        cursor.execute("DROP TABLE raw")
        return count / took

    return house.offline.write(insert)


def _executemany_sqlite(house: House, batch: int) -> float:
    rows = house.offline.rows(
        f"SELECT * REPLACE ((_digest >> 1)::BIGINT AS _digest) FROM {quote('label:late')} LIMIT {5 * batch}"
    )
    rows = [tuple(str(value) if hasattr(value, "year") else value for value in row) for row in rows]
    names = [f"c{at}" for at in range(len(rows[0]))]
    with contextlib.closing(sqlite3.connect(house.folder / "raw.sqlite", isolation_level=None)) as bare:
        bare.executescript(
            f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE raw ({', '.join(names)});"
            f"CREATE UNIQUE INDEX by_id ON raw ({names[5]}, {names[6]}, {names[10]})"
        )
        sql = f"INSERT INTO raw VALUES ({', '.join('?' * len(names))})"
        took = []
        for first in range(0, len(rows), batch):
            begin = time.perf_counter()
            bare.execute("BEGIN")
            bare.executemany(sql, rows[first : first + batch])
            bare.execute("COMMIT")
            took.append(time.perf_counter() - begin)
    return batch / median(took)
