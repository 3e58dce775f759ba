"""The house that the benchmarks of datasets and labels move into: the stores of a box in a folder, and rows to put in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import Column
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.db import Database
from mlbox.store.features.features import FeatureStore
from mlbox.store.features.online import Online
from mlbox.store.labels.history import LabelHistory
from mlbox.store.offline.offline import Offline
from mlbox.store.sandbox.ingest import Uploads

START = parse_time("2026-01-01T00:00Z")
MEMORY = "2GB"
DAYS = 20
FLOATS, COUNTS = [f"f{n}" for n in range(20)], [f"n{n}" for n in range(6)]
KINDS = {
    "who": "STRING",
    "moment": "TIMESTAMP",
    **dict.fromkeys(FLOATS, "FP64"),
    **dict.fromkeys(COUNTS, "INT64"),
    "ok": "BOOL",
    "city": "STRING",
}
COLUMNS = tuple(Column(name=name, dtype=dtype) for name, dtype in KINDS.items())  # type: ignore[arg-type]
BLOCK = 250_000


class House:
    """The stores of a box in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.clock = ManualClock(START + timedelta(days=DAYS + 1))
        bus = EventBus()
        self.dbs = [
            Database(folder / f"{name}.sqlite", getattr(migrations, name), self.clock, bus)
            for name in ("features", "datasets")
        ]
        self.offline = Offline(folder / "offline.duckdb", memory=MEMORY)
        self.online = Online(folder / "online")
        self.artifacts = Artifacts(folder / "artifacts")
        self.features = FeatureStore(self.dbs[0], self.offline, self.online, self.clock)
        self.labels = LabelHistory(self.dbs[1], self.offline, self.clock, sources=self.features)
        self.datasets = Datasets(self.dbs[1], self.offline, self.features, self.labels, self.artifacts, self.clock)
        self.uploads = Uploads(folder / "uploads", most_bytes=1 << 40)

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        for db in self.dbs:
            db.close()

    def kept_bytes(self) -> int:
        """What the files of all versions take, each once."""
        files = {file.sha256: file.size for version in self.datasets.versions() for file in version.files}
        return sum(files.values())

    def aside_bytes(self) -> int:
        """What is kept beside them, to go on from the last one."""
        return sum(file.stat().st_size for file in (self.folder / "artifacts").glob("??/*")) - self.kept_bytes()


def facts(first: int, count: int, total: int) -> pa.Table:
    """Some of `total` rows that are spread over all days, in the order of their time."""
    random = np.random.default_rng(first)
    moments = int(START.timestamp() * 1e6) + np.arange(first, first + count) * (DAYS * 86_400_000_000 // total)
    columns: dict[str, Any] = {"moment": pa.array(moments, pa.timestamp("us"))}
    columns["who"] = pa.array(random.integers(0, 100_000, count)).cast(pa.string())
    columns |= {name: random.random(count) for name in FLOATS}
    columns |= {name: random.integers(0, 100, count) for name in COUNTS}
    columns |= {"ok": random.random(count) < 0.5, "city": pa.array(random.integers(0, 50, count)).cast(pa.string())}
    return pa.table(columns).select(list(KINDS))


def blocks(total: int) -> Iterator[pa.Table]:
    """All of `total` rows."""
    for first in range(0, total, BLOCK):
        yield facts(first, min(BLOCK, total - first), total)


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
