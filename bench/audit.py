"""The audit log: verifying a million events, and what the hash chain costs a write.

The raw limit of a verification is reading the same rows; of a write, the same insert without the chain.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import Report, interleave, median, options
from mlbox.clock import SystemClock
from mlbox.events import EventBus
from mlbox.store import audit, migrations
from mlbox.store.db import Database, Tx

GOAL_SECONDS = 10
DATA = '{"promotion":"01a2098aec3c7006877ae943298ca8fc","reason":"all gates passed","step":1}'


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    events, repeats = (1_000_000, 1) if chosen.quick else (1_000_000, 3)
    report = Report("audit log", conditions={"events": f"{events:,}", "repeats": str(repeats)})
    with tempfile.TemporaryDirectory() as folder:
        verification(report, Path(folder), events, repeats)
        writing(report, Path(folder))
    return report.finish()


def verification(report: Report, folder: Path, events: int, repeats: int) -> None:
    """A log of so many events, walked."""
    db = Database(folder / "jobs.sqlite", migrations.jobs, SystemClock(), EventBus())
    db.close()
    with sqlite3.connect(folder / "jobs.sqlite") as file:
        columns = f"{', '.join(audit.COLUMNS)}, previous, hash"
        file.executemany(f"INSERT INTO event ({columns}) VALUES ({','.join('?' * 11)})", rows(events))

    def walk() -> float:
        began = time.perf_counter()
        found = audit.verify_room(folder, "jobs")
        assert (found.problem, found.events) == ("", events)
        return time.perf_counter() - began

    def read() -> float:
        began = time.perf_counter()
        with audit.reading(folder / "jobs.sqlite") as file:
            assert sum(1 for _ in file.execute(f"SELECT {columns} FROM event ORDER BY seq")) == events
        return time.perf_counter() - began

    walked, bare = interleave(repeats, walk, read)
    report.at_most(f"verify {events:,} events", median(walked), GOAL_SECONDS, "s")
    report.tell("reading them", median(bare), "s")
    report.tell("verify / reading", median(walked) / median(bare), "times")


def rows(events: int) -> list[tuple[object, ...]]:
    """Events as the store writes them."""
    found, previous = [], audit.FIRST
    for seq in range(1, events + 1):
        values = (seq, f"{seq:032x}", "promotion.step", f"model:churn/{seq}", "mlbox", None, seq, seq, DATA)
        digest = audit.link(previous, values)
        found.append((*values, previous, digest))
        previous = digest
    return found


def writing(report: Report, folder: Path) -> None:
    """An event with and without its place in the chain, both in one open transaction."""
    db = Database(folder / "monitoring.sqlite", migrations.monitoring, SystemClock(), EventBus())
    count = 5000

    def chained(tx: Tx) -> float:
        began = time.perf_counter()
        for number in range(count):
            tx.emit("drift.checked", f"model:churn/{number}", "mlbox", features=3)
        return (time.perf_counter() - began) / count * 1e6

    def bare(tx: Tx) -> float:
        tx.run(
            "CREATE TABLE IF NOT EXISTS bare (id TEXT PRIMARY KEY, a TEXT, b TEXT, c TEXT, d INTEGER, e INTEGER, f TEXT)"
        )
        began = time.perf_counter()
        for number in range(count):
            name = f"{time.perf_counter_ns()}-{number}"
            tx.run("INSERT INTO bare VALUES (?,?,?,?,?,?,?)", (name, "drift.checked", "model", "mlbox", 1, 1, "{}"))
        return (time.perf_counter() - began) / count * 1e6

    ours, plain = interleave(5, lambda: db.write(chained), lambda: db.write(bare))
    report.tell("an event, chained", median(ours), "us")
    report.tell("a bare row", median(plain), "us")
    db.close()


if __name__ == "__main__":
    sys.exit(main())
