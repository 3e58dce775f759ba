"""Monitoring: what it costs to record a prediction, to check many features and to write the log, beside the peer.

Recording is what a request's thread spends on handing 30 features over, and what all threads spend until they are on disk,
merged into larger files, and in the window that drift is measured on. A check is of 300 features x 10,000
values against 10,000: D alone, and all that is reported beside it. The peer is Evidently's drift preset on the same data, in
a venv of its own that `--setup` makes; where it is missing, that figure is skipped. Scrapes are in `bench.scrape`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import stats

from bench import scrape
from bench.harness import Report, median, options
from mlbox.clock import from_us, to_us
from mlbox.ids import new_id
from mlbox.records import ModelVersion
from mlbox.serve.monitoring.cells import Grid, Ring
from mlbox.serve.monitoring.judge import results
from mlbox.serve.monitoring.live_window import LiveWindow
from mlbox.serve.predictions.batches import Batch, prepare
from mlbox.serve.predictions.files import FEATURE, Files
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.served_spans import served_spans

FEATURES, ROWS = 300, 10_000
RECORDED = 30
FLUSHED = 5_000
"""Predictions of a flush: what a second brings at a quarter of the goal."""
HOME = Path(__file__).parent.parent / ".bench" / "evidently"
VERSIONS = ("evidently>=0.7,<0.8", "pandas<3")
"""The peer, and with what it can be imported: of pandas it uses what version 3 no longer has."""
PEER_SIDE = """
import json, sys, time, numpy as np, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
a, b = (np.load(f"{sys.argv[1]}/{side}.npy") for side in ("reference", "current"))
frames = [pd.DataFrame(side.T, columns=[f"f{n}" for n in range(len(side))]) for side in (b, a)]
began = time.process_time()
Report([DataDriftPreset(method="ks")]).run(*frames)
print(json.dumps(time.process_time() - began))
"""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return setup()
    predictions = 20_000 if chosen.quick else 200_000
    report = Report(
        "monitoring",
        conditions={
            "check": f"{FEATURES} features x {ROWS:,} against {ROWS:,}",
            "recorded": f"{predictions:,} predictions of {RECORDED} features, in batches of 1 and of 64",
        },
    )
    _record(report, predictions)
    _check(report, 3 if chosen.quick else 9)
    _query(report, 1_000_000 if chosen.quick else 10_000_000)
    scrape.measure(report, 10 if chosen.quick else 40)
    return report.finish()


def setup() -> int:
    """Evidently in a venv of its own."""
    if not (HOME / "bin" / "evidently").exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        subprocess.run([str(HOME / "bin" / "python"), "-m", "pip", "install", "--quiet", *VERSIONS], check=True)
    return 0


# -- recording ----------------------------------------------------------------------------------------------------------


def _record(report: Report, predictions: int) -> None:
    rows = np.random.default_rng(0).normal(size=(predictions, RECORDED))
    names = tuple(f"v@v1:f{n}" for n in range(RECORDED))
    prepare()  # as a server does before it answers
    for size in (1, 64):
        batches = [_batch(names, rows[at : at + size]) for at in range(0, predictions - size + 1, size)]
        count = sum(len(batch.ids) for batch in batches)
        cost = _recorded(batches, _window(dict.fromkeys(names, rows[:ROWS, 0])))
        own, cpu, wall = (seconds / count * 1e6 for seconds in cost)
        if size == 1:
            report.at_most("recording on the request's thread", own, 5, "µs/prediction")
            report.at_most("recording in all threads", cpu, 20, "µs/prediction")
        else:
            report.tell(f"recording on the request's thread, batches of {size}", own, "µs/prediction")
            report.tell(f"recording in all threads, batches of {size}", cpu, "µs/prediction")
            report.at_least("log, written and fsynced", 1e6 / wall, 20_000, "predictions/s")


def _recorded(batches: Sequence[Batch], window: LiveWindow) -> tuple[float, float, float]:
    """Seconds of the thread that puts batches, of all threads together, and of the clock on the wall."""
    own = 0.0
    with tempfile.TemporaryDirectory() as folder:
        log = PredictionLog(Path(folder), queue_limit=2 * FLUSHED, flush_seconds=3600)
        cpu, wall = time.process_time(), time.perf_counter()
        for at in range(0, len(batches), step := max(1, FLUSHED // len(batches[0].ids))):
            began = time.thread_time()
            for batch in batches[at : at + step]:
                log.put([batch])
            own += time.thread_time() - began
            log.flush()
        window.follow(log, from_us(0))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        assert not log.dropped
        assert window.ring.rows == min(ROWS, sum(len(batch.ids) for batch in batches))
        log.close()
    return own, cpu, wall


def _batch(names: tuple[str, ...], values: np.ndarray) -> Batch:
    now = from_us(1_800_000_000_000_000)
    ids = [new_id() for _ in values]
    return Batch("m", 1, "champion", now, now, "ann", 1.0, ids, [0.5] * len(ids), names, values)


# -- asking the log ------------------------------------------------------------------------------------------------------


def _query(report: Report, rows: int) -> None:
    """Thirty days of one model by day, of files as large as merging makes them."""
    end = from_us(1_800_000_000_000_000)
    begin = end - timedelta(days=30)
    with tempfile.TemporaryDirectory() as folder:
        files, count = Files(Path(folder)), rows // 20
        for place in range(20):
            files.append("m", 1, _served(place, count, to_us(begin), to_us(end) - to_us(begin), 20 * count))
        log = PredictionLog(Path(folder))
        day = timedelta(days=1)

        def ask() -> None:
            found = served_spans(log, "m", since=begin, until=end, every=day)
            assert sum(one.predictions for one in found) == 20 * count

        took = []
        for _ in range(3):
            began = time.perf_counter()
            ask()
            took.append(time.perf_counter() - began)
        log.close()
    name = f"a query over 30 days of {20 * count:,} rows"
    if 20 * count >= 10_000_000:
        report.at_most(name, median(took), 1, "s")
    else:
        report.tell(name, median(took), "s")


def _served(place: int, count: int, begin_us: int, whole_us: int, rows: int) -> pa.Table:
    """One file's rows of the log, spread evenly over its part of the time."""
    rng = np.random.default_rng(place)
    numbers = np.arange(place * count, (place + 1) * count)
    return pa.table(
        {
            "id": pa.array([f"{number:032x}" for number in numbers]),
            "model": pa.array(["m"] * count),
            "version": pa.array(np.ones(count, np.int64)),
            "role": pa.array(["champion"] * count),
            "at_us": begin_us + numbers * (whole_us // rows),
            "domain_us": begin_us + numbers * (whole_us // rows),
            "caller": pa.array(["ann"] * count),
            "entity": pa.array(["{}"] * count),
            "score": rng.random(count),
            "latency_ms": rng.random(count),
            f"{FEATURE}v@v1:f0": rng.normal(size=count),
        }
    )


# -- checking -----------------------------------------------------------------------------------------------------------


def _check(report: Report, repeats: int) -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(FEATURES, ROWS))
    current = rng.normal(loc=rng.uniform(0, 0.5, size=(FEATURES, 1)), size=(FEATURES, ROWS))
    ring = Ring([Grid(values) for values in reference], ROWS)
    began = time.process_time()
    ring.push(current)
    report.tell("reducing values to cells", (time.process_time() - began) / current.size * 1e6, "µs/value")
    distances = median([_cpu(lambda: [ring.compare(n) for n in range(FEATURES)]) for _ in range(repeats)])
    report.at_most("D of all features", distances * 1000, 100, "ms")
    window = _window({f"v@v1:f{n}": values for n, values in enumerate(reference)})
    window.ring.push(current)
    at = from_us(1_800_000_000_000_000)
    full = median([_cpu(lambda: results(window, at, 100, lambda _: None)) for _ in range(repeats)])
    report.at_most("full report, CPU", full * 1000, 1000, "ms")
    some = 20
    theirs = (
        _cpu(lambda: [stats.ks_2samp(reference[n], current[n], method="asymp") for n in range(some)]) / some * FEATURES
    )
    report.tell("scipy ks_2samp of all features, from a part", theirs * 1000, "ms")
    report.tell("scipy / D of all features", theirs / distances, "times")
    _beside_the_peer(report, reference, current, full)


def _window(reference: dict[str, np.ndarray]) -> LiveWindow:
    version = ModelVersion(
        id="m",
        model="m",
        version=1,
        stage="Production",
        run_id=None,
        features=tuple(reference),
        trained_by="",
        submitted_by="",
        created_at=from_us(1_800_000_000_000_000),
    )
    return LiveWindow(version, reference, ROWS)


def _cpu(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _beside_the_peer(report: Report, reference: np.ndarray, current: np.ndarray, ours: float) -> None:
    python = HOME / "bin" / "python"
    if not python.exists():
        report.skip("Evidently / full report", "Evidently is not installed: python -m bench.monitoring --setup")
        return
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/reference.npy", reference)
        np.save(f"{folder}/current.npy", current)
        done = subprocess.run([str(python), "-c", PEER_SIDE, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        report.skip("Evidently / full report", (done.stderr.strip().splitlines() or ["it failed"])[-1][:200])
        return
    theirs = float(json.loads(done.stdout.splitlines()[-1]))
    report.tell("Evidently's drift preset, CPU", theirs, "s")
    report.at_least("Evidently / full report", theirs / ours, 20, "times")


if __name__ == "__main__":
    sys.exit(main())
