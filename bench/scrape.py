"""What a scrape of /metrics costs with 3,000 series of drift, and for how long it keeps the event loop from others.

A server over a box with 100 models of 30 features in Production, all checked for drift, runs in a thread here; a timer of a
millisecond on its loop says how late it comes while pages are fetched. A page is cold after a check: then all of it is rendered
anew. Where it is allowed this process comes before all others, so that what is late is late by the server's own doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import tempfile
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import uvicorn
import uvloop

from bench.harness import Report, median
from bench.load import before_others
from mlbox.ids import new_id
from mlbox.records import GateResult
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.serve.predictions.batches import Batch
from mlbox.settings import Settings
from mlbox.store.registry.registry import NewVersion
from mlbox.web.app import create_app
from mlbox.web.box import Box
from mlbox.web.server import GC_THRESHOLD, bind, local_url

MODELS, FEATURES, ROWS = 100, 30, 200
TICK = 0.001


def measure(report: Report, scrapes: int) -> None:
    """Cold and warm pages, in turn, and the loop meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        box = Box(Settings(data_dir=folder, gpus="none", grpc_port=-1), url="http://localhost")
        try:
            models = _fill(box)
            with _served(box) as (url, loop):
                _scrape(report, box, models, Page(url, box), loop, scrapes)
        finally:
            box.close()


class Loop:
    """The loop's timer: when it came, and after how long."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float]] = []

    async def tick(self) -> None:
        """Note it for ever."""
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            self.gaps.append((now, now - last))
            last = now

    def late(self, begin: float, end: float) -> float:
        """The longest time, within a span, that it came too late by; in seconds."""
        return max((gap for at, gap in self.gaps if begin <= at <= end + 2 * TICK), default=0.0) - TICK


class Page:
    """`/metrics`, fetched on one connection."""

    def __init__(self, url: str, box: Box) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        self._headers = {"Authorization": f"Bearer {box.access.create_token('admin', 'bench', actor='admin')[1]}"}

    def fetch(self) -> bytes:
        """All of it."""
        self._connection.request("GET", "/metrics", headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body[:300]
        return body


def _scrape(report: Report, box: Box, models: list[str], page: Page, loop: Loop, scrapes: int) -> None:
    series = page.fetch().count(b"\nml_feature_drift_ks_statistic{")
    assert series == MODELS * FEATURES, f"there are {series} series of drift"
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    took: dict[str, list[float]] = {"cold": [], "warm": []}
    late: dict[str, list[float]] = {"cold": [], "warm": [], "idle": []}
    with before_others() as quiet:
        for number in range(scrapes):
            box.monitor.check(models[number % len(models)])
            for kind in ("cold", "warm", "idle"):
                time.sleep(0.02)
                began = time.perf_counter()
                if kind == "idle":
                    time.sleep(0.05)
                else:
                    page.fetch()
                    took[kind].append(time.perf_counter() - began)
                ended = time.perf_counter()
                time.sleep(0.02)
                late[kind].append(loop.late(began, ended))
    report.conditions["/metrics"] = f"{series:,} series of drift of {MODELS} models, {scrapes} times"
    for kind, name in (("cold", "after a check"), ("warm", "with no check since")):
        report.tell(f"/metrics {name}", median(took[kind]) * 1000, "ms")
    where = " on quiet cores" if quiet else ""
    report.tell("the loop's timer comes late by at most, when nothing is asked", max(late["idle"]) * 1000, "ms")
    for kind, name in (("cold", "after a check"), ("warm", "with no check since")):
        what = f"the loop's timer comes late by at most, during /metrics {name}{where}"
        report.at_most(what, max(late[kind]) * 1000, 5, "ms")


def _fill(box: Box) -> list[str]:
    """Models in Production with references, predictions and a check each."""
    names = tuple(f"view@v1:f{number}" for number in range(FEATURES))
    rng = np.random.default_rng(0)
    training = pa.table({name: rng.normal(size=500) for name in names})
    reference = store_reference(box.artifacts, make_reference(training, names))
    passed = GateResult(gate="size", passed=True, required="", measured="", at=box.clock.real())
    models = [f"model-{number:03}" for number in range(MODELS)]
    for model in models:
        given = NewVersion(model=model, features=names, reference=reference, trained_by="ann", submitted_by="ann")
        promotion = box.promotions.propose(box.registry.register(given), actor="ann")
        box.promotions.record_gates(promotion.id, [passed])
        box.promotions.decide(promotion.id, approver="bea", decision="approve")
        now, ids, values = box.clock.now(), [new_id() for _ in range(ROWS)], rng.normal(size=(ROWS, FEATURES))
        batch = Batch(model, 1, "champion", now, now, "ann", 1.0, ids, rng.random(ROWS).tolist(), names, values)
        box.predictions.put([batch])
        box.monitor.check(model)
    return models


@contextlib.contextmanager
def _served(box: Box) -> Iterator[tuple[str, Loop]]:
    """The app, with its loop in a thread of its own."""
    listener, loop = bind("127.0.0.1", 0), Loop()
    server = uvicorn.Server(uvicorn.Config(create_app(box), log_config=None, log_level="warning", access_log=False))

    async def serve() -> None:
        ticking = asyncio.create_task(loop.tick())
        await server.serve(sockets=[listener])
        ticking.cancel()

    thread = threading.Thread(target=lambda: uvloop.run(serve()), name="bench-server")
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield local_url(listener), loop
    finally:
        server.should_exit = True
        thread.join()
