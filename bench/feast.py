"""The feature store against Feast: online reads over HTTP, and the point-in-time join.

Online, Feast's own feature server on SQLite and `mlbox serve`, each one process with its defaults (Feast's worker is not
restarted, though), get the same bodies in turn: the protocol is Feast's. What is promised of a request holds for its median time,
with one client; the CPU time of either server is quoted, since it is what a busy machine does not change. The 99th percentile at
a steady rate is promised of quiet cores: where it is allowed, server and client come before all else on the machine (SCHED_FIFO),
and what it is without that is told beside it. Offline, Feast's duckdb store (through ibis) and ours join the same rows, each in
its own process, with its answer as an Arrow table; the answers are compared. `--setup` installs Feast into `.bench/feast`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bench import features, load
from bench.harness import Report, median, options
from bench.load import Request, post
from bench.tracking import free_port, mlbox, running, wait_for

HOME = Path(__file__).parent.parent / ".bench" / "feast"
VERSION = "feast[duckdb]==0.67.0"
SIDE = Path(__file__).with_name("feast_side.py")
VIEWS, WIDTH = 3, 20
PER_SECOND = 200
FEATURES = [f"wide:f{number}" for number in range(WIDTH)]


class Sizes(NamedTuple):
    """How much of everything."""

    entities: int
    rounds: int
    seconds: float
    rows: int
    asked: int
    repeats: int


class Peer(NamedTuple):
    """A running server, and where it answers."""

    name: str
    url: str
    token: str
    path: str
    pid: int

    def cpu(self) -> float:
        """CPU seconds of the server and its processes so far."""
        process = psutil.Process(self.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))

    def waited(self) -> float:
        """Seconds in which threads of the server could have run, and others had the CPU, so far."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(one.read_text().split()[1]) for one in threads) / 1e9


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return setup()
    sizes = Sizes(5_000, 3, 1.5, 1_000_000, 100_000, 3) if chosen.quick else Sizes(20_000, 5, 4, 1_000_000, 100_000, 5)
    report = Report("feature store against Feast", conditions={k: f"{v:,}" for k, v in sizes._asdict().items()})
    with tempfile.TemporaryDirectory() as folder:
        there = HOME.joinpath("bin", "feast").exists()
        repo = Path(folder) / "feast"
        repo.mkdir()
        joined = write_files(repo, sizes)
        if there:
            feast("apply", repo)
        else:
            report.skip("every ratio to Feast", "Feast is not installed: python -m bench.feast --setup")
        online(report, Path(folder), repo if there else None, sizes)
        join(report, Path(folder), repo if there else None, joined, sizes)
    return report.finish()


def setup() -> int:
    """Feast in a venv of its own."""
    if not (HOME / "bin" / "feast").exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        subprocess.run([str(HOME / "bin/python"), "-m", "pip", "install", "--quiet", VERSION], check=True)
    return 0


def feast(what: str, repo: Path) -> None:
    """Have Feast do something in its own environment."""
    subprocess.run([str(HOME / "bin/python"), "-P", str(SIDE), what, str(repo)], check=True, env=environment())


def environment() -> dict[str, str]:
    """Of Feast's processes: nothing is sent to anybody."""
    return {**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}


def write_files(repo: Path, sizes: Sizes) -> pa.Table:
    """What both read, as Parquet; the rows that the join asks about."""
    entities = max(1000, sizes.rows // 100)
    for number in range(VIEWS):
        sales = features.sales(sizes.rows, entities, seed=number)
        sales = sales.rename_columns(["who", f"amount{number}", "moment"])
        pq.write_table(_in_utc(sales, "moment"), repo / f"view{number}.parquet")
    asked = features.sales(sizes.asked, entities, seed=VIEWS)
    spine = pa.table({"who": asked["who"], "event_timestamp": asked["moment"]})
    pq.write_table(_in_utc(spine, "event_timestamp"), repo / "spine.parquet")
    random = np.random.default_rng(0)
    hour_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    columns = {ref.partition(":")[2]: random.random(sizes.entities) for ref in FEATURES}
    moments = pa.array([hour_ago] * sizes.entities, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"who": np.arange(sizes.entities), **columns, "moment": moments}), repo / "wide.parquet")
    return spine


def _in_utc(table: pa.Table, name: str) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, name, table.column(name).cast(pa.timestamp("us", "UTC")))


# -- online -----------------------------------------------------------------------------------------------------------------


def online(report: Report, folder: Path, repo: Path | None, sizes: Sizes) -> None:
    """Reads of 1 and of 100 entities, by one client beside Feast, and at a steady rate when Feast is gone."""
    with _mlbox(folder) as ours:
        with contextlib.ExitStack() as stack:
            peers = [ours, *([stack.enter_context(_feast(folder, repo))] if repo else [])]
            answers = [_values(load.each(peer.url, peer.token, [_ask(peer, [1, 7, 10**9])])[0]) for peer in peers]
            assert answers[0] == answers[-1], "the two servers do not agree"
            for width in (1, 100):
                _compare(report, peers, width, sizes)
        for width in (1, 100):
            _at_a_steady_rate(report, ours, width, sizes)


def _at_a_steady_rate(report: Report, ours: Peer, width: int, sizes: Sizes) -> None:
    """On quiet cores, of which this is promised: where it is allowed, server and client come before all else; and without."""
    what = f"reads of {width} x {WIDTH}, {PER_SECOND} a second"
    seconds = sizes.seconds * 3

    def measure() -> tuple[load.Load, float]:
        waited = ours.waited()
        found = load.paced(ours.url, ours.token, _asks(ours, width, sizes), PER_SECOND, seconds=seconds)
        return found, (ours.waited() - waited) / (PER_SECOND * seconds) * 1000

    beside, waited = measure()
    before = ours.cpu()
    with load.before_others(ours.pid) as quiet:
        found = measure()[0] if quiet else beside
    if quiet:
        report.tell(f"{what}: CPU of mlbox", 100 * (ours.cpu() - before) / seconds, "%")
    report.tell(f"{what}: the load's own lateness, p99", found.late_ms, "ms")
    report.tell(f"{what}: median", found.p50_ms, "ms")
    where = " on quiet cores" if quiet else ""
    report.at_most(f"{what}: p99{where}", found.p99_ms, 5, "ms")
    report.tell(f"{what}: p99 beside whatever else runs here", beside.p99_ms, "ms")
    report.tell(f"{what}: of that, others kept mlbox from each by, in the mean", waited, "ms")


@contextlib.contextmanager
def _mlbox(folder: Path) -> Iterator[Peer]:
    with mlbox(folder) as server:
        rows = (folder / "feast" / "wide.parquet").read_bytes()
        key = [{"name": "who", "dtype": "INT64"}]
        values = [{"name": f"f{number}", "dtype": "FP64"} for number in range(WIDTH)]
        names = ", ".join(column["name"] for column in values)
        columns = [*key, *values, {"name": "moment", "dtype": "TIMESTAMP"}]
        view = {"name": "wide", "join_keys": key, "features": values, "sources": ["facts"], "ttl_seconds": 7 * 86_400}
        view["sql"] = f"SELECT who, {names}, moment AS event_time FROM facts"
        for request in (
            post("/api/v1/sources", {"name": "facts", "columns": columns, "event_time": "moment"}),
            Request("POST", "/api/v1/sources/facts/rows?format=parquet", rows, "application/octet-stream"),
            post("/api/v1/features/views", view),
            post("/api/v1/features/materialize", {}),
        ):
            load.each(server.url, server.token, [request])
        yield Peer("mlbox", server.url, server.token, "/feast/get-online-features", server.pid)


@contextlib.contextmanager
def _feast(folder: Path, repo: Path) -> Iterator[Peer]:
    port = free_port()
    serve = [
        "serve",
        "--port",
        str(port),
        "--no-access-log",
        "--max-requests",
        "0",
    ]  # else it restarts every 1,000 requests
    command = [str(HOME / "bin/feast"), "-c", str(repo), *serve]
    with running(command, folder / "feast.log", env=environment()) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process, seconds=120)
        yield Peer("feast", url, "", "/get-online-features", process.pid)


def _ask(peer: Peer, who: list[int]) -> Request:
    return post(peer.path, {"features": FEATURES, "entities": {"who": who}})


def _asks(peer: Peer, width: int, sizes: Sizes) -> Callable[[int], Request]:
    random = np.random.default_rng(width)
    ready = [_ask(peer, random.integers(0, sizes.entities, width).tolist()) for _ in range(500)]
    return lambda n: ready[n % len(ready)]


def _values(answer: bytes) -> dict[str, list[Any]]:
    found = json.loads(answer)
    names = found["metadata"]["feature_names"]
    return {name: result["values"] for name, result in zip(names, found["results"], strict=True)}


def _compare(report: Report, peers: list[Peer], width: int, sizes: Sizes) -> None:
    p50: dict[str, list[float]] = {peer.name: [] for peer in peers}
    cpu: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for turn in range(sizes.rounds + 1):
        for peer in peers:
            before, began = peer.cpu(), time.perf_counter()
            found = load.run(peer.url, peer.token, _asks(peer, width, sizes), clients=1, seconds=sizes.seconds)
            count = found.per_second * (time.perf_counter() - began)
            if turn:
                p50[peer.name].append(found.p50_ms)
                cpu[peer.name].append((peer.cpu() - before) / count * 1000)
    what = f"read of {width} x {WIDTH}"
    for name, times in p50.items():
        report.tell(f"{what}: {name}, median", median(times), "ms")
        report.tell(f"{what}: {name}, CPU of the server", median(cpu[name]), "ms")
    if "feast" in p50:
        report.at_least(f"{what}: Feast's median over ours", median(p50["feast"]) / median(p50["mlbox"]), 5, "times")
        report.at_least(f"{what}: Feast's CPU over ours", median(cpu["feast"]) / median(cpu["mlbox"]), 5, "times")


# -- point in time ----------------------------------------------------------------------------------------------------------


def join(report: Report, folder: Path, repo: Path | None, spine: pa.Table, sizes: Sizes) -> None:
    """The same point-in-time join, in turn."""
    what = f"{sizes.asked:,} rows x {VIEWS} views of {sizes.rows:,}"
    (folder / "join").mkdir()
    with contextlib.ExitStack() as stack:
        house = stack.enter_context(contextlib.closing(features.Joined(folder / "join", sizes.rows, distinct=True)))
        theirs = stack.enter_context(_joiner(repo)) if repo else None
        ours_cpu: list[float] = []
        theirs_cpu: list[float] = []
        for turn in range(sizes.repeats + 1):
            began = time.process_time()
            found = house.store.historical(house.refs, spine, event_time="event_timestamp")
            ours_cpu += [time.process_time() - began][: turn > 0]
            if theirs:
                answer = theirs()
                _check(answer, [found[ref] for ref in house.refs])
                theirs_cpu += [answer["cpu"]][: turn > 0]
    report.tell(f"{what}: mlbox, CPU", median(ours_cpu), "s")
    if theirs_cpu:
        report.tell(f"{what}: Feast's duckdb store, CPU", median(theirs_cpu), "s")
        report.at_least(f"{what}: Feast's CPU over ours", median(theirs_cpu) / median(ours_cpu), 4, "times")


@contextlib.contextmanager
def _joiner(repo: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """A process of Feast's that joins when it is asked to."""
    command = [str(HOME / "bin/python"), "-P", str(SIDE), "join", str(repo)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True, env=environment()) as process:

        def ask() -> dict[str, Any]:
            process.stdin.write("go\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        try:
            yield ask
        finally:
            process.stdin.close()


def _check(answer: dict[str, Any], columns: list[pa.ChunkedArray]) -> None:
    """Both have the same answer, but for the order of the sum."""
    assert answer["rows"] == len(columns[0])
    assert answer["nulls"] == [column.null_count for column in columns], "Feast has other nulls"
    assert np.allclose(answer["sums"], [np.nansum(column.to_numpy()) for column in columns]), "Feast has other values"


if __name__ == "__main__":
    sys.exit(main())
