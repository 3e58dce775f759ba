"""The prediction log: nothing blocks, nothing flushed is lost."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from mlbox.errors import Unavailable
from mlbox.ids import new_id
from mlbox.records import Prediction, ServeRole
from mlbox.serve.predictions.files import MERGE_AT
from mlbox.serve.predictions.log import PredictionLog
from tests.serve.batches import batches

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    made = PredictionLog(tmp_path / "log", flush_seconds=3600)
    yield made
    made.close()


def row(n: int, *, version: int = 1, role: ServeRole = "champion", **features: float | None) -> Prediction:
    return Prediction(
        id=new_id(),
        model="m",
        version=version,
        role=role,
        at=NOW,
        domain_at=NOW + timedelta(hours=n),
        caller="ann",
        entity={"n": n},
        features=features or {"f": float(n)},
        score=n / 1000,
        latency_ms=float(n),
    )


def test_what_was_put_is_read_back_newest_first(log: PredictionLog) -> None:
    rows = [row(n) for n in range(5)]
    log.put(batches(rows[:2]))
    log.flush()
    log.put(batches(rows[2:]))
    assert log.recent("m") == rows[::-1]
    assert log.recent("m", 2) == rows[:2:-1]
    assert log.recent("other") == []


def test_the_window_is_the_last_served_rows_with_nan_for_missing(log: PredictionLog) -> None:
    log.put(batches([row(0, f=1.0, g=None), row(1, f=2.0, g=3.0), row(2, role="shadow", f=9.0, g=9.0)]))
    log.flush()
    log.put(batches([row(3, version=2, role="canary", f=None, h=4.0)]))
    window = log.window("m")
    assert window.rows == 3
    assert np.array_equal(window.features["f"], [1.0, 2.0, math.nan], equal_nan=True)
    assert np.array_equal(window.features["h"], [math.nan, math.nan, 4.0], equal_nan=True)
    assert log.window("m", limit=1).features["h"].tolist() == [4.0]
    assert log.window("m", since=NOW + timedelta(hours=1)).rows == 2
    assert log.window("other").rows == 0


def test_a_full_queue_drops_and_counts_and_does_not_block(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "log", queue_limit=10, flush_seconds=3600)
    log.put(batches([row(n) for n in range(8)]))
    log.put(batches([row(n) for n in range(8, 16)]))
    assert log.dropped == 6
    assert [p.entity["n"] for p in log.recent("m")] == list(range(9, -1, -1))
    log.close()


def test_traffic_counts_by_role_with_the_latency_of_the_last(log: PredictionLog) -> None:
    log.put(batches([row(n) for n in range(100)]))
    log.put(batches([row(0, version=2, role="canary")]))
    log.record_error("m", 2, "canary")
    found = log.traffic("m", 1, "champion")
    assert (found.count, found.errors, found.p95_ms) == (100, 0, 95.0)
    assert log.traffic("m", 2, "canary").errors == 1
    assert log.traffic("m", 3, "canary").count == 0
    assert log.counters() == {("m", 1, "champion"): (100, 0), ("m", 2, "canary"): (1, 1)}


def test_many_flushes_are_merged_and_keep_their_order(log: PredictionLog, tmp_path: Path) -> None:
    for n in range(MERGE_AT + 3):
        log.put(batches([row(n)]))
        log.flush()
    files = list((tmp_path / "log").rglob("*.parquet"))
    assert len(files) == 4
    assert [p.entity["n"] for p in log.recent("m", 1000)] == list(range(MERGE_AT + 2, -1, -1))


def test_a_merge_that_was_cut_short_leaves_each_row_once(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "log", flush_seconds=3600)
    kept: dict[Path, bytes] = {}
    for n in range(MERGE_AT):
        kept |= {path: path.read_bytes() for path in (tmp_path / "log").rglob("*.parquet")}
        log.put(batches([row(n)]))
        log.flush()
    log.close()
    for path, content in kept.items():  # as if the process had ended before it removed them
        path.write_bytes(content)
    (next(iter(kept)).parent / ".7-1.tmp").write_bytes(b"half")
    again = PredictionLog(tmp_path / "log", flush_seconds=3600)
    assert len(again.recent("m", 1000)) == MERGE_AT
    assert not list((tmp_path / "log").rglob(".*.tmp"))
    again.put(batches([row(99)]))
    assert again.recent("m", 1)[0].entity == {"n": 99}, "numbers go on where they were"
    again.close()


def test_a_disk_that_refuses_keeps_the_rows_for_the_next_try(log: PredictionLog, tmp_path: Path) -> None:
    blocked = tmp_path / "log" / "model=m"
    blocked.write_bytes(b"a file where a folder must be")
    log.put(batches([row(1)]))
    with pytest.raises(OSError, match="model=m"):
        log.flush()
    blocked.unlink()
    assert len(log.recent("m")) == 1


def test_many_threads_put_and_every_row_is_there_once(log: PredictionLog) -> None:
    def work(start: int) -> None:
        for n in range(start, start + 50):
            log.put(batches([row(n)]))
            if n % 10 == 0:
                log.flush()

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.entity["n"] for p in log.recent("m", 1000)) == list(range(400))


def test_observers_are_told_of_every_row(log: PredictionLog) -> None:
    seen: list[Prediction] = []
    log.on_prediction(lambda batch: seen.extend(batch.predictions()))
    rows = [row(n) for n in range(3)]
    log.put(batches(rows))
    assert seen == rows


def test_versions_stay_in_order_over_each_others_merged_files(log: PredictionLog) -> None:
    """One version writes at every flush and is merged; the other writes now and then, in between."""
    for n in range(2 * MERGE_AT + 5):
        log.put(batches([row(n), *([row(n, version=2, role="canary")] if n % 7 == 0 else [])]))
        log.flush()
    found = log.recent("m", 30)
    assert [p.id for p in found] == sorted((p.id for p in found), reverse=True)
    newest = [p.entity["n"] for p in found]
    assert newest[0] == 2 * MERGE_AT + 4
    assert newest == sorted(newest, reverse=True)
    assert {p.version for p in found} == {1, 2}
    assert len(log.recent("m", 1000)) == 2 * MERGE_AT + 5 + 10


def test_pages_follow_one_another_without_gap_or_repeat(log: PredictionLog) -> None:
    rows = [row(n, version=1 + n % 2) for n in range(50)]
    for first in range(0, 50, 5):
        log.put(batches(rows[first : first + 5]))
        log.flush()
    seen: list[Prediction] = []
    while page := log.recent("m", 7, after=seen[-1].id if seen else None):
        seen += page
    assert seen == rows[::-1]


def test_a_row_keeps_its_own_versions_features(log: PredictionLog) -> None:
    log.put(batches([row(0, f=1.0), row(1, version=2, role="canary", g=2.0)]))
    assert [p.features for p in log.recent("m")] == [{"g": 2.0}, {"f": 1.0}]


def test_a_model_is_found_by_its_own_name_only(log: PredictionLog) -> None:
    log.put(batches([row(0)]))
    assert [log.recent(name) for name in ("m/version=1", "..", "*", "")] == [[], [], [], []]


def test_only_what_comes_again_is_written_with_a_dictionary(log: PredictionLog, tmp_path: Path) -> None:
    log.put(batches([row(n, code=float(n % 3), value=n / 7) for n in range(300)]))
    log.flush()
    (file,) = tmp_path.rglob("*.parquet")
    group = pq.ParquetFile(file).metadata.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    coded = {column.path_in_schema for column in columns if column.has_dictionary_page}
    assert coded == {"model", "version", "role", "at_us", "caller", "f:code"}
    assert sorted(p.features["value"] or 0 for p in log.recent("m", 300)) == [n / 7 for n in range(300)]


def test_a_damaged_file_is_named_and_the_log_still_writes(log: PredictionLog, tmp_path: Path) -> None:
    log.put(batches([row(0)]))
    log.flush()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unavailable, match=r"model=m/version=1/0000000001-0000000001\.parquet cannot be read"):
        log.recent("m")
    for n in range(1, MERGE_AT + 5):
        log.put(batches([row(n)]))
        log.flush()
    path.write_bytes(whole)
    assert [p.entity["n"] for p in log.recent("m", 100)] == list(range(MERGE_AT + 4, -1, -1))


def test_a_batch_that_is_no_table_is_dropped_and_holds_up_no_other(log: PredictionLog) -> None:
    log.put(batches([msgspec.structs.replace(row(0), entity={"n": object()}), row(1, version=2)]))
    log.flush()
    assert (log.dropped, [p.version for p in log.recent("m")]) == (1, [2])
    log.check()


def test_what_could_not_be_written_is_written_once_when_it_can(log: PredictionLog, tmp_path: Path) -> None:
    """Of two versions in one flush the first is written; the second waits, and the first is not written again."""
    log.put(batches([row(0)]))
    log.flush()
    blocked = tmp_path / "log" / "model=m" / "version=2"
    blocked.write_bytes(b"a file where a folder must be")
    log.put(batches([row(1), row(2, version=2)]))
    with pytest.raises(OSError, match="version=2"):
        log.flush()
    assert [p.entity["n"] for p in log.recent("m")] == [1, 0], "reading goes on"
    blocked.unlink()
    assert [p.entity["n"] for p in log.recent("m")] == [2, 1, 0]


def test_what_was_flushed_outlives_a_kill(tmp_path: Path) -> None:
    """A real process, killed while it writes: every row that it said to be flushed is there, once."""
    program = """
import sys
from pathlib import Path
from tests.serve.test_predlog import batches, row
from mlbox.serve.predictions.log import PredictionLog
log = PredictionLog(Path(sys.argv[1]), flush_seconds=0.01)
for n in range(100_000):
    log.put(batches([row(n)]))
    if n % 3 == 0:
        log.flush()
        print(n, flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(next(process.stdout)) for _ in range(60)]
        process.kill()
        said += [int(line) for line in process.stdout if line.endswith("\n")]
    log = PredictionLog(tmp_path / "log", flush_seconds=3600)
    found = [p.entity["n"] for p in log.recent("m", 100_000)]
    log.close()
    assert found == list(range(found[0], -1, -1))
    assert found[0] >= said[-1]
