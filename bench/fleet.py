"""Many models on one server: 300 in Production of which 50 are in memory, and one of 50 MB that comes and goes.

What the server's memory is with so many, what a request costs its client when it goes to one model, or to each of the 50 in turn;
and how much the memory grew after the model of 50 MB was loaded and unloaded again and again. Memory is the resident set of the
server's process, latency that of one client on one connection.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import psutil

from bench.harness import Report, interleave, median, options
from bench.inference import prepare
from bench.startup import is_ready, serving

FEATURES, SIDE = 30, 3600
SEEN_AFTER = 10
"""Cycles after which memory is taken to have settled."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    many, loaded, cycles = (60, 20, 60) if chosen.quick else (300, 50, 500)
    sizes = {"models": many, "in memory": loaded, "cycles": cycles}
    report = Report("many models", conditions={name: f"{value:,}" for name, value in sizes.items()})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        models = {f"m{n}": linear(n) for n in range(many)} | {"large": large()}
        prepare(folder, models | {"small": linear(0, 20)})
        flags = ("--grpc-port", "-1", "--log-file", str(folder / "log"), "--max-models", str(loaded))
        process, url, _ = stack.enter_context(serving(folder, *flags))
        while not is_ready(url):
            time.sleep(0.05)
        client = Client(url, (folder / "data" / "admin-token").read_text().strip())
        server = psutil.Process(process.pid)
        names = [f"m{n}" for n in range(loaded)]
        _fleet(report, client, server, names)
        _cycles(report, client, server, cycles)
    return report.finish()


class Client:
    """One connection."""

    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        given = {"name": "X", "datatype": "FP32", "shape": [1, FEATURES], "data": [0.5] * FEATURES}
        self._body = msgspec.json.encode({"inputs": [given]})

    def post(self, path: str, body: bytes) -> bytes:
        """The answer to a request, which must be a good one."""
        self._connection.request("POST", path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {content[:300]!r}")
        return content

    def index(self) -> list[dict[str, str]]:
        """The versions that may serve."""
        return msgspec.json.decode(self.post("/v2/repository/index", b"{}"), type=list[dict[str, str]])

    def ms(self, names: Sequence[str], requests: int) -> list[float]:
        """How long requests took, to each model in turn."""
        took = []
        for number in range(requests):
            began = time.perf_counter()
            self.post(f"/v2/models/{names[number % len(names)]}/infer", self._body)
            took.append((time.perf_counter() - began) * 1000)
        return took


def linear(number: int, width: int = FEATURES) -> bytes:
    """A small model, unlike those of other numbers."""
    weights = np.random.default_rng(number).normal(size=(width, 1)).astype(np.float32)
    return _product(weights, width)


def large() -> bytes:
    """One of 50 MB."""
    return _product(np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32), SIDE)


def _product(weights: np.ndarray, width: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "w"], ["score"])],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _fleet(report: Report, client: Client, server: psutil.Process, names: Sequence[str]) -> None:
    _settled(client)
    began = time.monotonic()
    for name in names:
        client.post(f"/v2/repository/models/{name}/load", b"{}")
    report.tell(
        "loading one that had to give way before",
        (time.monotonic() - began) / len(names) * 1000,
        "ms",
    )
    index = client.index()
    report.tell("models that may serve", len(index), "")
    report.tell("of them in memory", sum(one["state"] == "READY" for one in index), "")
    report.tell("memory of the server", server.memory_info().rss / 2**20, "MiB")
    one, each = interleave(5, lambda: median(client.ms(names[:1], 400)), lambda: median(client.ms(names, 400)))
    report.tell("p50 of requests to one model", median(one), "ms")
    report.tell(f"p50 of requests to each of {len(names)} in turn", median(each), "ms")


def _settled(client: Client) -> None:
    """Wait until the server has loaded what it loads at its start; those loaded first give way to those after them."""
    before: set[str] = set()
    while before != (now := {one["name"] for one in client.index() if one["state"] == "READY"}) or not now:
        before = now
        time.sleep(3)


def _cycles(report: Report, client: Client, server: psutil.Process, cycles: int) -> None:
    seen = []
    for number in range(cycles):
        client.post("/v2/repository/models/large/load", b"{}")
        client.post("/v2/repository/models/large/unload", b"{}")
        if number >= SEEN_AFTER:
            seen.append(server.memory_info().rss / 2**20)
    few = max(1, len(seen) // 10)
    first, last = median(seen[:few]), median(seen[-few:])
    report.tell("memory after the first loads and unloads of 50 MB", first, "MiB")
    report.at_most(f"it grew over {len(seen)} more by", (last / first - 1) * 100, 5, "%")


if __name__ == "__main__":
    sys.exit(main())
