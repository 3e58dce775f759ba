"""Inference in processes of its own (setting `workers`): what the way to another process costs, and what it gains.

Two servers over copies of one data directory, one that runs models itself and one with two workers, are asked in turn by wrk: a
gradient boosting model, which is quicker than the way to it, and a convolutional network, which is not. CPU per request is that
of the server and of its workers together. Then a worker is killed under load: how long until it is back, and what failed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import psutil

from bench.harness import Report, median, options
from bench.inference import BODIES, IMAGE, TREES, WIDTH, Kind, binary, boosted, convolutional, load, prepare, script
from bench.startup import is_ready, serving

WORKERS = 2
LOADS = (("gbm", "X", (WIDTH,), 1), ("gbm", "X", (WIDTH,), 64), ("cnn", "image", IMAGE, 8))
NAMES = {"gbm": "gradient boosting", "cnn": "convolutional network"}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    rounds, seconds = (3, 1.0) if chosen.quick else (7, 5.0)
    sizes = {"trees": TREES, "workers": WORKERS, "rounds": rounds, "seconds of each load": seconds}
    report = Report("workers", conditions={name: f"{value:,}" for name, value in sizes.items()})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        inside, apart = folder / "inside", folder / "apart"
        inside.mkdir()
        prepare(inside, {"gbm": boosted(WIDTH, TREES), "small": boosted(20, 10), "cnn": convolutional()})
        shutil.copytree(inside, apart)
        servers = [
            stack.enter_context(_server(inside)),
            stack.enter_context(_server(apart, "--workers", str(WORKERS))),
        ]
        for what in LOADS:
            _compare(report, folder, servers, rounds, seconds, *what)
        _kill(report, *servers[1])
    return report.finish()


@contextlib.contextmanager
def _server(folder: Path, *flags: str) -> Iterator[tuple[str, int, str]]:
    with serving(folder, "--grpc-port", "-1", "--log-file", str(folder / "log"), *flags) as (process, url, _):
        while not is_ready(url):
            time.sleep(0.05)
        yield url, process.pid, (folder / "data" / "admin-token").read_text().strip()


def _compare(
    report: Report,
    folder: Path,
    servers: Sequence[tuple[str, int, str]],
    rounds: int,
    seconds: float,
    model: str,
    name: str,
    shape: tuple[int, ...],
    connections: int,
) -> None:
    random = np.random.default_rng(0)
    bodies, headers = binary(name, [random.normal(size=(1, *shape)).astype(np.float32) for _ in range(BODIES)])
    kinds = [
        Kind(
            where, f"{url}/v2/models/{model}/infer", pid, script(folder, f"{model}-{where}-{connections}", bodies, more)
        )
        for where, (url, pid, token) in zip(("inside", "apart"), servers, strict=True)
        for more in [{"Authorization": f"Bearer {token}", **headers}]
    ]
    rates: list[list[float]] = [[], []]
    p50: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for at, kind in enumerate(kinds):
            before = _family_cpu(kind.pid)
            seen = load(kind, connections, seconds if number else 1, held=False)
            took = _family_cpu(kind.pid) - before
            if number:
                rates[at].append(seen.per_second)
                p50[at].append(seen.p50_ms)
                cpu[at].append(took / (seen.per_second * round(seconds)) * 1e6)
    what = f"{NAMES[model]}, {connections} connections"
    for at, where in enumerate(("in the server", f"in {WORKERS} workers")):
        report.tell(f"{what}, {where}: requests", median(rates[at]), "a second")
        report.tell(f"{what}, {where}: p50", median(p50[at]), "ms")
        report.tell(f"{what}, {where}: CPU of all processes", median(cpu[at]), "µs a request")
    report.tell(f"{what}: requests, workers / server", median(rates[1]) / median(rates[0]), "times")


def _family_cpu(pid: int) -> float:
    """Seconds on a processor of a process and of all that it started."""
    every = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    found = 0.0
    for one in every:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found += times.user + times.system
    return found


def _kill(report: Report, url: str, pid: int, token: str) -> None:
    """Kill a worker while clients ask, until another is in its place."""
    failed, asked, going = [0], [0], threading.Event()

    def ask() -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
            inputs = [{"name": "X", "datatype": "FP32", "shape": [1, WIDTH], "data": [0.5] * WIDTH}]
            while not going.is_set():
                answer = client.post(f"{url}/v2/models/gbm/infer", json={"inputs": inputs})
                asked[0] += 1
                failed[0] += answer.status_code != 200

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    times = []
    for _ in range(2):  # a third within five minutes would put the version in quarantine
        before = _workers(pid)
        began = time.monotonic()
        os.kill(min(before), signal.SIGKILL)
        while len(_workers(pid) - {min(before)}) < WORKERS:
            time.sleep(0.01)
        times.append(time.monotonic() - began)
        time.sleep(1)
    going.set()
    for thread in threads:
        thread.join()
    report.at_most("a worker that was killed is back", max(times), 2, "s")
    report.at_most(f"of {asked[0]:,} requests meanwhile failed", failed[0], 0, "")


def _workers(pid: int) -> set[int]:
    return {one.pid for one in psutil.Process(pid).children(recursive=True) if one.name() == "mlbox-infer"}


if __name__ == "__main__":
    sys.exit(main())
