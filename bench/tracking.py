"""Tracking against MLflow: the same requests of its REST protocol, to a real `mlflow server` on SQLite and to mlbox, in turn.

Both run with their defaults on this machine, each on an empty directory, mlbox with authentication and fsynced acknowledgement.
`--setup` installs MLflow into `.bench/mlflow`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import psutil

from bench import load
from bench.harness import Report, options
from bench.load import Load, Request, post

HOME = Path(__file__).parent.parent / ".bench" / "mlflow"
VERSION = "mlflow==3.17.2"
API = "/api/2.0/mlflow"
CLIENTS = 40
MLBOX = Path(sys.executable).with_name("mlbox")


class Peer(NamedTuple):
    """One running server."""

    name: str
    url: str
    token: str
    pid: int

    def ask(self, path: str, body: object) -> dict:
        """One POST."""
        return json.loads(load.each(self.url, self.token, [post(f"{API}/{path}", body)], clients=1)[0])

    def get(self, path: str) -> bytes:
        """One GET."""
        return load.each(self.url, self.token, [Request("GET", path)], clients=1)[0]

    def memory_mb(self) -> float:
        """Resident memory of the server and its processes."""
        process = psutil.Process(self.pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 1e6


class Sizes(NamedTuple):
    """How much of everything."""

    seconds: float
    rounds: int
    runs: int
    many_runs: int
    points: int
    artifact_mb: int
    drawn: int


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return setup()
    sizes = (
        Sizes(1.5, 2, 1000, 4000, 20_000, 256, 500_000)
        if chosen.quick
        else Sizes(4, 5, 10_000, 100_000, 100_000, 5120, 10_000_000)
    )
    report = Report("tracking", conditions={"clients": str(CLIENTS), **{k: str(v) for k, v in sizes._asdict().items()}})
    with tempfile.TemporaryDirectory() as folder, mlbox(Path(folder)) as ours:
        with mlflow(Path(folder)) as theirs:
            if theirs is None:
                report.skip("every ratio to MLflow", "MLflow is not installed: python -m bench.tracking --setup")
            peers = [ours, *([theirs] if theirs else [])]
            writes(report, peers, sizes)
            through_the_client(report, peers)
            reads(report, peers, sizes)
            artifacts(report, peers, sizes)
        only_ours(report, ours, sizes)
        report.at_most("server's memory after all of it", ours.memory_mb(), 250, "MB")
    return report.finish()


def setup() -> int:
    """MLflow in a venv of its own."""
    if not (HOME / "bin" / "mlflow").exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        subprocess.run([str(HOME / "bin/python"), "-m", "pip", "install", "--quiet", VERSION], check=True)
    return 0


# -- the two servers ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mlbox(folder: Path) -> Iterator[Peer]:
    """`mlbox serve` on an empty directory."""
    port = free_port()
    data = folder / "mlbox"
    with running([str(MLBOX), "serve", "--data-dir", str(data), "--port", str(port)], folder / "mlbox.log") as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/readyz", process)
        yield Peer("mlbox", url, (data / "admin-token").read_text().strip(), process.pid)


@contextlib.contextmanager
def mlflow(folder: Path) -> Iterator[Peer | None]:
    """`mlflow server` on SQLite in an empty directory; None where it is not installed."""
    program = HOME / "bin" / "mlflow"
    if not program.exists():
        yield None
        return
    port = free_port()
    command = [
        *(str(program), "server", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "mlflow-artifacts")),
    ]
    with running(command, folder / "mlflow.log") as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process, seconds=120)
        yield Peer("mlflow", url, "", process.pid)


@contextlib.contextmanager
def running(command: list[str], log: Path, *, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own, ended with all its children."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=env)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], *, seconds: float = 60) -> None:
    """Until a server answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server has ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise TimeoutError(url)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- writing ------------------------------------------------------------------------------------------------------------


def writes(report: Report, peers: list[Peer], sizes: Sizes) -> None:
    """create-run, log-metric and log-batch by 40 clients."""
    kinds: dict[str, Callable[[str, list[str]], Callable[[int], Request]]] = {
        "create-run": lambda experiment, runs: (
            lambda n: post(
                f"{API}/runs/create",
                {"experiment_id": experiment, "start_time": 1_700_000_000_000 + n, "run_name": f"r{n}"},
            )
        ),
        "log-metric": lambda experiment, runs: (
            lambda n: post(
                f"{API}/runs/log-metric",
                {
                    "run_id": runs[n % len(runs)],
                    "key": "loss",
                    "value": n * 0.001,
                    "timestamp": 1_700_000_000_000 + n,
                    "step": n,
                },
            )
        ),
        "log-batch of 1,000": lambda experiment, runs: lambda n: batch(runs[n % len(runs)], n, 1000),
    }
    homes = {peer.name: home_of(peer) for peer in peers}
    for kind, make in kinds.items():
        found: dict[str, list[Load]] = {peer.name: [] for peer in peers}
        for _ in range(sizes.rounds):
            for peer in peers:
                request = make(*homes[peer.name])
                found[peer.name].append(load.run(peer.url, peer.token, request, clients=CLIENTS, seconds=sizes.seconds))
        compare(report, kind, found)


def home_of(peer: Peer) -> tuple[str, list[str]]:
    """An experiment, and runs in it to log to."""
    experiment = peer.ask("experiments/create", {"name": f"bench-{random.getrandbits(40):x}"})["experiment_id"]
    runs = [
        peer.ask("runs/create", {"experiment_id": experiment, "start_time": 1_700_000_000_000})["run"]["info"]["run_id"]
        for _ in range(CLIENTS)
    ]
    return experiment, runs


def batch(run: str, n: int, size: int) -> Request:
    """A log-batch of new points in ten series."""
    metrics = [
        {"key": f"m{at % 10}", "value": at * 0.1, "timestamp": 1_700_000_000_000 + n, "step": n * size + at}
        for at in range(size)
    ]
    return post(f"{API}/runs/log-batch", {"run_id": run, "metrics": metrics})


def compare(report: Report, kind: str, found: dict[str, list[Load]]) -> None:
    """Throughput and median latency, and their ratios."""
    rate = {name: statistics.median(one.per_second for one in loads) for name, loads in found.items()}
    p50 = {name: statistics.median(one.p50_ms for one in loads) for name, loads in found.items()}
    for name in found:
        report.tell(f"{kind}: {name}", rate[name], "per s")
        report.tell(f"{kind}: {name}, median", p50[name], "ms")
        report.tell(f"{kind}: {name}, answered with an error", sum(one.failed for one in found[name]), "requests")
    if "mlflow" in found:
        report.at_least(f"{kind}: throughput over MLflow's", rate["mlbox"] / rate["mlflow"], 10, "times")
        report.at_most(f"{kind}: median latency over MLflow's", p50["mlbox"] / p50["mlflow"], 1 / 3, "times")


CLIENT = """
import sys, time
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("client")
from mlflow import MlflowClient
from mlflow.entities import Metric
client = MlflowClient()
with mlflow.start_run() as run:
    mlflow.log_metric("warm", 1)
    began = time.perf_counter()
    for step in range(200):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    single = 200 / (time.perf_counter() - began)
    began = time.perf_counter()
    for n in range(10):
        client.log_batch(run.info.run_id, [Metric(f"m{i % 10}", i, 1700000000000 + n, n * 1000 + i) for i in range(1000)])
    print("RATES", single, 10 / (time.perf_counter() - began))
"""


def through_the_client(report: Report, peers: list[Peer]) -> None:
    """The same through mlflow's own client, whose own cost is part of it."""
    if len(peers) < 2:
        return
    found: dict[str, list[list[float]]] = {peer.name: [] for peer in peers}
    for _ in range(2):
        for peer in peers:
            env = {**os.environ, "MLFLOW_TRACKING_TOKEN": peer.token} if peer.token else dict(os.environ)
            done = subprocess.run(
                [str(HOME / "bin" / "python"), "-c", CLIENT, peer.url],
                env=env,
                capture_output=True,
                text=True,
                check=True,
            )
            rates = next(line for line in done.stdout.splitlines() if line.startswith("RATES"))
            found[peer.name].append([float(word) for word in rates.split()[1:]])
    for at, kind in enumerate(("log_metric", "log_batch of 1,000")):
        rate = {name: statistics.median(values[at] for values in runs) for name, runs in found.items()}
        for name in found:
            report.tell(f"client's {kind}: {name}", rate[name], "per s")
        report.at_least(f"client's {kind}: over MLflow's", rate["mlbox"] / rate["mlflow"], 3, "times")


# -- reading ------------------------------------------------------------------------------------------------------------


def populate(peer: Peer, runs: int) -> str:
    """An experiment of runs, each with a metric and a parameter."""
    experiment = peer.ask("experiments/create", {"name": f"many-{random.getrandbits(40):x}"})["experiment_id"]
    made = load.each(
        peer.url,
        peer.token,
        [
            post(f"{API}/runs/create", {"experiment_id": experiment, "start_time": 1_700_000_000_000 + n})
            for n in range(runs)
        ],
        clients=4,
    )
    rng = random.Random(0)
    logs = [
        post(
            f"{API}/runs/log-batch",
            {
                "run_id": json.loads(answer)["run"]["info"]["run_id"],
                "metrics": [{"key": "auc", "value": rng.random(), "timestamp": 1_700_000_000_000, "step": 0}],
                "params": [{"key": "lr", "value": str(rng.random())}],
            },
        )
        for answer in made
    ]
    load.each(peer.url, peer.token, logs, clients=4)
    return experiment


def search(experiment: str) -> Request:
    """The best hundred runs among those above a bound."""
    return post(
        f"{API}/runs/search",
        {
            "experiment_ids": [experiment],
            "filter": "metrics.auc > 0.5",
            "order_by": ["metrics.auc DESC"],
            "max_results": 100,
        },
    )


def seconds_of(peer: Peer, request: Request) -> float:
    """How long one request takes."""
    began = time.perf_counter()
    load.each(peer.url, peer.token, [request], clients=1)
    return time.perf_counter() - began


def in_turn(peers: list[Peer], requests: dict[str, Request], rounds: int) -> dict[str, float]:
    """The median of each peer's own request, in seconds."""
    took: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(rounds + 1):
        for peer in peers:
            took[peer.name].append(seconds_of(peer, requests[peer.name]))
    return {name: statistics.median(values[1:]) for name, values in took.items()}


def reads(report: Report, peers: list[Peer], sizes: Sizes) -> None:
    """A search with a filter and an order, and a long history."""
    found = in_turn(peers, {peer.name: search(populate(peer, sizes.runs)) for peer in peers}, max(5, sizes.rounds))
    for name, seconds in found.items():
        report.tell(f"search of {sizes.runs:,} runs: {name}", seconds * 1000, "ms")
    if "mlflow" in found:
        report.at_least("search: MLflow's time over ours", found["mlflow"] / found["mlbox"], 5, "times")
    histories = {}
    for peer in peers:
        run = home_of(peer)[1][0]
        points = [single_series(run, first) for first in range(0, sizes.points, 1000)]
        load.each(peer.url, peer.token, points, clients=4)
        histories[peer.name] = run
    took: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(4):
        for peer in peers:
            took[peer.name].append(history_seconds(peer, histories[peer.name], sizes.points))
    medians = {name: statistics.median(values[1:]) for name, values in took.items()}
    for name, seconds in medians.items():
        report.tell(f"history of {sizes.points:,} points: {name}", seconds * 1000, "ms")
    if "mlflow" in medians:
        report.at_least("history: MLflow's time over ours", medians["mlflow"] / medians["mlbox"], 10, "times")


def single_series(run: str, first: int) -> Request:
    """A thousand points of one series."""
    metrics = [
        {"key": "loss", "value": at * 0.1, "timestamp": 1_700_000_000_000 + at, "step": at}
        for at in range(first, first + 1000)
    ]
    return post(f"{API}/runs/log-batch", {"run_id": run, "metrics": metrics})


def history_seconds(peer: Peer, run: str, points: int) -> float:
    """Every point of a series, page by page as the client asks."""
    began, token, count = time.perf_counter(), "", 0
    while True:
        path = f"{API}/metrics/get-history?run_id={run}&metric_key=loss&max_results=25000"
        answer = json.loads(peer.get(path + (f"&page_token={quote(token)}" if token else "")))
        count += len(answer.get("metrics", ()))
        token = answer.get("next_page_token", "")
        if not token:
            break
    assert count == points, (peer.name, count, points)
    return time.perf_counter() - began


# -- artifacts ----------------------------------------------------------------------------------------------------------


def artifacts(report: Report, peers: list[Peer], sizes: Sizes) -> None:
    """One large file up and down."""
    block = os.urandom(1 << 20)
    for peer in peers:
        experiment, runs = home_of(peer)
        path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{runs[0]}/artifacts/big.bin"
        count = sizes.artifact_mb if peer.name == "mlbox" else min(sizes.artifact_mb, 512)
        before = peer.memory_mb()
        up = load.send(peer.url, peer.token, path, block, count)
        down, size = load.fetch(peer.url, peer.token, path, block)
        assert size == count << 20, (size, count)
        for way, seconds in (("up", up), ("down", down)):
            rate = count * 1.048576 / seconds
            if peer.name == "mlbox":
                report.at_least(f"artifact {way}: mlbox", rate, 200, "MB/s")
            else:
                report.tell(f"artifact {way}: {peer.name}", rate, "MB/s")
        if peer.name == "mlbox":
            report.at_most(f"memory grown by {count:,} MiB each way: mlbox", peer.memory_mb() - before, 32, "MB")


# -- mlbox alone --------------------------------------------------------------------------------------------------------


def only_ours(report: Report, ours: Peer, sizes: Sizes) -> None:
    """The same query over ten times the runs."""
    few = in_turn([ours], {ours.name: search(populate(ours, sizes.many_runs // 10))}, 5)[ours.name]
    many = in_turn([ours], {ours.name: search(populate(ours, sizes.many_runs))}, 5)[ours.name]
    report.tell(f"search of {sizes.many_runs:,} runs: mlbox", many * 1000, "ms")
    report.at_most(f"search of {sizes.many_runs:,} runs over {sizes.many_runs // 10:,}", many / few, 2, "times")
    curves(report, ours, sizes.drawn)


def curves(report: Report, ours: Peer, total: int) -> None:
    """A picture of one series among many points: all of them its own, or spread over a thousand series."""
    run = home_of(ours)[1][0]
    load.each(ours.url, ours.token, [single_series(run, first) for first in range(0, total, 1000)], clients=4)
    many = home_of(ours)[1][0]
    load.each(ours.url, ours.token, [thousand_series(many, n) for n in range(total // 1000)], clients=4)
    third, tenth = total // 3, total // 10
    for what, path in {
        f"curve of {total:,} points in one series": f"{run}/curves/loss",
        f"curve of a tenth of {total:,} points in one series": f"{run}/curves/loss?first={third}&last={third + tenth}",
        f"curve of one of 1,000 series, {total:,} points in all": f"{many}/curves/m500",
    }.items():
        request = Request("GET", f"/api/v1/runs/{path}")
        took = [seconds_of(ours, request) for _ in range(6)][1:]
        report.at_most(what, statistics.median(took) * 1000, 100, "ms")


def thousand_series(run: str, step: int) -> Request:
    """One point of each of a thousand series."""
    metrics = [
        {"key": f"m{at}", "value": at * 0.1 + step, "timestamp": 1_700_000_000_000, "step": step} for at in range(1000)
    ]
    return post(f"{API}/runs/log-batch", {"run_id": run, "metrics": metrics})


if __name__ == "__main__":
    sys.exit(main())
