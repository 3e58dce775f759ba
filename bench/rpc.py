"""Inference over gRPC: what a prediction costs the server, beside a bare grpc.aio handler that runs the same model.

A gradient boosting model of 200 trees and 30 features, one row a request, raw tensors, with authentication, routing, metrics and
logs on. CPU is that of all threads of the server, as the operating system counts it; the two servers are asked in turn.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.harness import Report, median, options
from bench.inference import TREES, WIDTH, boosted, prepare
from bench.startup import is_ready, serving
from bench.tracking import free_port, running

SIDE = Path(__file__).with_name("rpc_side.py")
CALLS = 32
GOAL = 1.3


class Seen(NamedTuple):
    """What a load found."""

    cpu_us: float
    p50_ms: float
    per_second: float


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    rounds, seconds = (3, 2.0) if chosen.quick else (7, 5.0)
    sizes = {
        "trees": TREES,
        "features": WIDTH,
        "rounds": rounds,
        "seconds of each load": seconds,
        "calls at a time": CALLS,
    }
    report = Report("inference over gRPC", conditions={name: f"{value:,}" for name, value in sizes.items()})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        model = boosted(WIDTH, TREES)
        prepare(folder, {"gbm": model})
        (folder / "gbm.onnx").write_bytes(model)
        port, bare = free_port(), free_port()
        process, url, _ = stack.enter_context(
            serving(folder, "--log-file", str(folder / "log"), "--grpc-port", str(port))
        )
        command = [sys.executable, str(SIDE), "serve", str(folder / "gbm.onnx"), str(bare)]
        other = stack.enter_context(running(command, folder / "bare.log"))
        while not is_ready(url):
            time.sleep(0.05)
        token = (folder / "data" / "admin-token").read_text().strip()
        found: dict[str, list[Seen]] = {"bare": [], "mlbox": []}
        for _ in range(rounds):
            found["bare"].append(_load(f"127.0.0.1:{bare}", other.pid, token, seconds))
            found["mlbox"].append(_load(f"127.0.0.1:{port}", process.pid, token, seconds))
    cost = {name: median([seen.cpu_us for seen in all_]) for name, all_ in found.items()}
    for name, all_ in found.items():
        report.tell(f"{name}: CPU of a request", cost[name], "µs")
        report.tell(f"{name}: p50 at {CALLS} calls", median([seen.p50_ms for seen in all_]), "ms")
        report.tell(f"{name}: answers", median([seen.per_second for seen in all_]), "/s")
    report.at_most("mlbox / bare handler, CPU of a request", cost["mlbox"] / cost["bare"], GOAL, "x")
    report.skip("Triton by gRPC", "it is not installed")
    return report.finish()


def _load(place: str, pid: int, token: str, seconds: float) -> Seen:
    command = [sys.executable, str(SIDE), "load", place, token, str(seconds), str(CALLS)]
    before = _cpu_us(pid)
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    took = _cpu_us(pid) - before
    count, p50 = ran.stdout.split()
    return Seen(took / int(count), float(p50), int(count) / seconds)


def _cpu_us(pid: int) -> float:
    """Of a process so far, with its threads that have ended: gRPC's come and go."""
    times = psutil.Process(pid).cpu_times()
    return (times.user + times.system) * 1e6


if __name__ == "__main__":
    sys.exit(main())
