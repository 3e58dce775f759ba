"""In the disposable process: how quick a model is through its lane, by rows of a request and by requests at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlbox.errors import MlboxError
from mlbox.records import ServingConfig
from mlbox.serve.inference.check_values import Known
from mlbox.serve.inference.lanes import Lane
from mlbox.serve.inference.runtime import Session
from mlbox.serve.inference.statistics import Statistics
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.warmup import warm
from mlbox.serve.inference.watch import Watch
from mlbox.serve.inference.work import Work

if TYPE_CHECKING:
    import numpy as np

LEAST_RUNS = 20
"""Of each figure, however long they take."""
Feeds = Callable[[int], Mapping[str, "np.ndarray"]]


def measured(
    session: Session, feeds: Feeds, task: Mapping[str, Any], *, joins: bool, known: Sequence[Known]
) -> dict[str, Any]:
    """A figure for each number of rows and of requests at a time."""
    config = ServingConfig(**task["config"])
    watch = Watch()
    speed = warm(session, session.inputs, known=known)
    lane = Lane("model/1", session, config, Statistics(), watch, joins=joins, speed=speed)
    sizes = task["rows"] if session.batched or session.tabular else [1]
    figures = [
        _figure(lane, session, feeds(rows), rows, concurrency, task["seconds"])
        for rows in sizes
        for concurrency in task["concurrency"]
    ]
    lane.close()
    watch.close()
    return {"provider": session.providers[0], "figures": figures}


def _figure(
    lane: Lane, session: Session, feeds: Mapping[str, np.ndarray], rows: int, concurrency: int, seconds: float
) -> dict[str, Any]:
    import numpy as np

    types = {spec.name: spec.dtype for spec in session.inputs}
    tensors = [Tensor(name, types[name], data) for name, data in feeds.items()]
    wanted = [spec.name for spec in session.outputs]
    times: list[float] = []
    failed: list[MlboxError] = []

    def ask(until: float) -> None:
        own: list[float] = []
        try:
            while time.perf_counter() < until or len(own) < max(1, LEAST_RUNS // concurrency):
                start = time.perf_counter()
                lane.run(Work(tensors, wanted, rows=rows if session.batched or session.tabular else None))
                own.append(time.perf_counter() - start)
        except MlboxError as err:
            failed.append(err)
        times.extend(own)

    began = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(began + seconds,)) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failed:
        raise failed[0]
    p50, p95, p99 = np.percentile(np.array(times) * 1000, [50, 95, 99])
    return {
        "rows": rows,
        "concurrency": concurrency,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "rows_per_second": len(times) * rows / took,
        "requests": len(times),
    }
