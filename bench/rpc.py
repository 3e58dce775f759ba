"""Inference by gRPC: what a call costs the server, beside a bare grpc.aio handler that runs the same model.

A gradient boosting model of 200 trees and 30 features, one row a call, raw, asked in turn by as many clients as the figure says,
from another process. CPU per call is what the operating system says that all threads of the server took, those of grpc's C core
among them. The bare handler checks nothing and knows nobody; ours has authentication, routing, metrics and the prediction log on.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.harness import Report, median, options
from bench.inference import TREES, WIDTH, boosted, cpu_ns, listens, prepare
from bench.startup import is_ready, serving, wait_until_loaded
from bench.tracking import free_port, running

SIDE = Path(__file__).with_name("rpc_side.py")


class Served(NamedTuple):
    """One of the two."""

    name: str
    place: str
    pid: int
    token: str


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    rounds, seconds = (4, 2.0) if chosen.quick else (9, 5.0)
    sizes = {"trees": TREES, "features": WIDTH, "rounds": rounds, "seconds of each load": seconds}
    report = Report("inference by gRPC", conditions={name: f"{value:,}" for name, value in sizes.items()})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, model = Path(name), boosted(WIDTH, TREES)
        prepare(folder, {"gbm": model, "small": boosted(20, 10)})
        (folder / "gbm.onnx").write_bytes(model)
        port, log = free_port(), folder / "log"
        bare = [sys.executable, "-m", "bench.rpc_side", str(folder / "gbm.onnx"), str(port)]
        side = stack.enter_context(running(bare, folder / "bare.log"))
        flags = ("--log-file", str(log), "--grpc-port", str(our_port := free_port()))
        process, url, _ = stack.enter_context(serving(folder, *flags))
        while not (is_ready(url) and listens(port) and listens(our_port)):
            time.sleep(0.05)
        token = (folder / "data" / "admin-token").read_text().strip()
        wait_until_loaded(url, token, ["gbm", "small"])
        both = [
            Served("bare grpc.aio handler", f"127.0.0.1:{port}", side.pid, token),
            Served("mlbox", f"127.0.0.1:{our_port}", process.pid, token),
        ]
        for clients in (1, 32):
            _compare(report, both, clients, rounds, seconds)
    return report.finish()


def _compare(report: Report, both: Sequence[Served], clients: int, rounds: int, seconds: float) -> None:
    took: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for at, one in enumerate(both):
            found = _call_us(one, clients, seconds if number else 1)
            if number:
                took[at].append(found)
    bare, ours = (median(each) for each in took)
    report.tell(f"{both[0].name}, {clients} at a time: CPU of a call", bare, "µs")
    report.tell(f"{both[1].name}, {clients} at a time: CPU of a call", ours, "µs")
    pairs = [mine / theirs for theirs, mine in zip(*took, strict=True)]
    report.at_most(f"mlbox / bare handler, {clients} at a time: CPU of a call", median(pairs), 1.3, "times")


def _call_us(one: Served, clients: int, seconds: float) -> float:
    command = [sys.executable, "-m", "bench.rpc_side", "load", one.place, one.token, "gbm", "X", str(WIDTH)]
    before = cpu_ns(one.pid)
    ran = subprocess.run([*command, str(clients), str(seconds)], capture_output=True, text=True, check=True)
    after = cpu_ns(one.pid)
    calls = int(re.findall(r"\d+", ran.stdout)[-1])
    return sum(ns - before.get(thread, 0) for thread, ns in after.items()) / calls / 1000


if __name__ == "__main__":
    sys.exit(main())
