"""Predictions over HTTP against bare onnxruntime: what looking up, routing, logging and the protocol cost.

A real `mlbox serve` in a process of its own, one keep-alive connection, a gradient boosting model of 20 features. The raw limits
are the same model in onnxruntime in this process, and over the same connection `GET /livez`, which is HTTP alone, and
`GET /api/v1/whoami`, which is HTTP and the token; all are measured in turn. The ratios are told without a goal: nothing was
promised but the bound on p99.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.harness import Report, options
from bench.startup import _is_ready as is_ready
from bench.startup import _serving as serving
from bench.startup import memory_mb
from mlbox.serve.inference.runtime import Session

WIDTH = 20
ENTITIES = 5000
ROUND = 50
"""Calls of one kind before the next kind's turn."""
BATCH = 1000
NAMES = tuple(f"x{n}" for n in range(WIDTH))
MODEL = "bench"


class Http:
    """One keep-alive connection as a signed-in person."""

    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:500]!r}")
        return content

    def post(self, path: str, body: Any = None) -> Any:
        return msgspec.json.decode(self.send("POST", path, msgspec.json.encode(body or {})) or b"null")

    def close(self) -> None:
        self._connection.close()


class Kind(NamedTuple):
    """One kind of call, and its times in milliseconds."""

    name: str
    call: Callable[[], object]
    times: list[float]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    rounds = 20 if chosen.quick else 100
    report = Report(
        "serving",
        conditions={
            "features": str(WIDTH),
            "calls of each kind": f"{rounds * ROUND:,}",
            "rows of a batch": f"{BATCH:,}",
            "entities": f"{ENTITIES:,}",
        },
    )
    content, rows = trained()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (process, url, _):
        while not is_ready(url):
            time.sleep(0.05)
        token = (Path(folder) / "data" / "admin-token").read_text().strip()
        with contextlib.closing(Http(url, token)) as admin:
            put_in_production(admin, url, content, rows)
            _single(report, admin, Session(content), rows, rounds)
            _batch(report, admin, Session(content), rows, 5 if chosen.quick else 30)
            _together(report, url, token, rows, 3 if chosen.quick else 10)
        report.tell("server with the model, after all this, resident", memory_mb(process.pid)[0], "MB")
    report.skip("Triton and KServe on the same model", "they are not installed: `--setup` installs no peers yet")
    report.skip("CUDA", "this is measured on a processor; see docs/explanation/serving.md")
    return report.finish()


# -- the model on the box -----------------------------------------------------------------------------------------------


def trained() -> tuple[bytes, np.ndarray]:
    """A gradient boosting model as ONNX, and the rows of all entities."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import HistGradientBoostingClassifier

    random = np.random.default_rng(0)
    rows = random.normal(size=(ENTITIES, WIDTH)).astype(np.float32)
    target = rows[:, 0] + rows[:, 1] * rows[:, 2] + random.normal(size=ENTITIES) > 0
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(rows, target)
    made = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3})
    return made.SerializeToString(), rows


def put_in_production(admin: Http, url: str, content: bytes, rows: np.ndarray) -> None:
    """The whole road: a source, a view, labels, a dataset, a run, a version, its gates, another person's approval."""
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    key = {"name": "who", "dtype": "INT64"}
    numbers = [{"name": name, "dtype": "FP64"} for name in NAMES]
    admin.post(
        "/api/v1/sources",
        {"name": "s", "columns": [key, {"name": "moment", "dtype": "TIMESTAMP"}, *numbers], "event_time": "moment"},
    )
    times = pa.array([moment] * ENTITIES, pa.timestamp("us", "UTC"))
    who = pa.array(range(ENTITIES))
    columns = {"who": who, "moment": times, **{name: rows[:, n].astype(float) for n, name in enumerate(NAMES)}}
    admin.send("POST", "/api/v1/sources/s/rows?format=parquet", _parquet(columns))
    sql = f"SELECT who, {', '.join(NAMES)}, moment AS event_time FROM s"
    admin.post(
        "/api/v1/features/views",
        {"name": "v", "join_keys": [key], "features": numbers, "sql": sql, "sources": ["s"]},
    )
    admin.post("/api/v1/features/materialize")
    admin.post("/api/v1/labels", {"name": "l", "keys": [key], "value": {"name": "l", "dtype": "INT64"}})
    labels = {"who": who, "event_time": times, "known_at": times, "l": pa.array([n % 2 for n in range(ENTITIES)])}
    admin.send("POST", "/api/v1/labels/l/rows?format=parquet", _parquet(labels))
    spec = {"name": "d", "spine": "SELECT who, moment AS event_time FROM s", "label_set": "l"}
    admin.post("/api/v1/datasets", {**spec, "features": [f"v:{name}" for name in NAMES]})
    _approved(admin, url, _registered(admin, content, rows))


def _registered(admin: Http, content: bytes, rows: np.ndarray) -> int:
    run = admin.post("/api/v1/runs", {"experiment": "bench", "dataset": "d@v1", "git_commit": "b" * 40})["id"]
    admin.post(f"/api/v1/runs/{run}/log", {"metrics": [{"key": "auc", "value": 0.9}]})
    sample = io.BytesIO()
    np.savez(sample, inputs=rows[:50], outputs=Session(content).score(rows[:50]))
    admin.send("PUT", f"/api/v1/runs/{run}/artifacts/m.onnx", content)
    admin.send("PUT", f"/api/v1/runs/{run}/artifacts/s.npz", sample.getvalue())
    body = {"run_id": run, "artifact": "m.onnx", "sample": "s.npz", "description": "to measure"}
    version: int = admin.post(f"/api/v1/models/{MODEL}/versions", body)["version"]
    return version


def _approved(admin: Http, url: str, version: int) -> None:
    path = f"/api/v1/promotions/{admin.post(f'/api/v1/models/{MODEL}/versions/{version}/promote')['id']}"
    while (found := msgspec.json.decode(admin.send("GET", path)))["state"] == "testing":
        time.sleep(0.2)
    if found["state"] != "waiting_approval":
        raise SystemExit(f"The gates refused the model: {[g for g in found['gates'] if not g['passed']]}")
    admin.post("/api/v1/users", {"name": "bea", "role": "approver"})
    secret = admin.post("/api/v1/tokens", {"user": "bea", "name": "bench"})["secret"]
    with contextlib.closing(Http(url, secret)) as bea:
        bea.post(f"{path}/approve")


def _parquet(columns: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


# -- measuring ----------------------------------------------------------------------------------------------------------


def _single(report: Report, box: Http, session: Session, rows: np.ndarray, rounds: int) -> None:
    entities = _cycle([{"entities": [{"who": n}]} for n in range(ENTITIES)])
    features = _cycle([{"features": [dict(zip(NAMES, row, strict=True))]} for row in rows.tolist()])
    tensors = _cycle([{"inputs": [_tensor(row)]} for row in rows[:, None].tolist()])
    singles = _cycle([rows[n : n + 1] for n in range(ENTITIES)])
    native, v2 = f"/api/v1/models/{MODEL}/predict", f"/v2/models/{MODEL}/infer"
    bare, live, asked, by_ids, by_features, over_v2 = _in_turn(
        rounds,
        Kind("bare onnxruntime", lambda: session.score(next(singles)), []),
        Kind("GET /livez", lambda: box.send("GET", "/livez"), []),
        Kind("GET /api/v1/whoami", lambda: box.send("GET", "/api/v1/whoami"), []),
        Kind("by entity ids", lambda: box.send("POST", native, next(entities)), []),
        Kind("by features", lambda: box.send("POST", native, next(features)), []),
        Kind("Open Inference Protocol v2", lambda: box.send("POST", v2, next(tensors)), []),
    )
    for kind in (bare, live, asked, by_ids, by_features, over_v2):
        report.tell(f"{kind.name}, p50", _quantile(kind, 50), "ms")
        report.tell(f"{kind.name}, p99", _quantile(kind, 99), "ms")
    ways = (by_ids, by_features, over_v2)
    report.at_most("the slowest of these ways to predict, p99", max(_quantile(k, 99) for k in ways), 20, "ms")
    limits = (("onnxruntime + GET /livez", live), ("onnxruntime + GET /api/v1/whoami", asked))
    for kind in ways:
        for name, limit in limits:
            ratio = _quantile(kind, 50) / (_quantile(bare, 50) + _quantile(limit, 50))
            report.tell(f"{kind.name} / ({name}), p50", ratio, "times")


def _batch(report: Report, box: Http, session: Session, rows: np.ndarray, repeats: int) -> None:
    part = rows[:BATCH]
    tensor = msgspec.json.encode({"inputs": [_tensor(part.tolist())]})
    entities = msgspec.json.encode({"entities": [{"who": n} for n in range(BATCH)]})
    bare, over_v2, by_ids = _in_turn(
        repeats,
        Kind("onnxruntime", lambda: session.score(part), []),
        Kind("v2", lambda: box.send("POST", f"/v2/models/{MODEL}/infer", tensor), []),
        Kind("ids", lambda: box.send("POST", f"/api/v1/models/{MODEL}/predict", entities), []),
        each=2,
    )
    report.tell(f"bare onnxruntime, {BATCH:,} rows", _quantile(bare, 50), "ms")
    report.tell(f"Open Inference Protocol v2, {BATCH:,} rows", _quantile(over_v2, 50), "ms")
    report.tell(f"by entity ids, {BATCH:,} rows", _quantile(by_ids, 50), "ms")
    report.tell(f"by entity ids, {BATCH:,} rows, for each row", _quantile(by_ids, 50) / BATCH * 1000, "µs")


def _together(report: Report, url: str, token: str, rows: np.ndarray, seconds: float) -> None:
    """As many single requests as eight connections can make; the clients share the processors with the server."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def work(seed: int) -> None:
        bodies = _cycle([{"entities": [{"who": n}]} for n in range(seed, ENTITIES, 8)])
        with contextlib.closing(Http(url, token)) as box:
            while (began := time.perf_counter()) < end:
                box.send("POST", f"/api/v1/models/{MODEL}/predict", next(bodies))
                times.append((time.perf_counter() - began) * 1000)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.tell("8 connections, by entity ids", len(times) / seconds, "requests/s")
    report.tell("8 connections, by entity ids, p99", float(np.percentile(times, 99)), "ms")


def _in_turn(rounds: int, *kinds: Kind, each: int = ROUND) -> tuple[Kind, ...]:
    """A round of each kind in turn, after one to warm up that does not count."""
    for number in range(rounds + 1):
        for kind in kinds:
            for _ in range(each):
                began = time.perf_counter()
                kind.call()
                if number:
                    kind.times.append((time.perf_counter() - began) * 1000)
    return kinds


def _quantile(kind: Kind, percent: int) -> float:
    return statistics.median(kind.times) if percent == 50 else float(np.percentile(kind.times, percent))


def _tensor(rows: list[list[float]]) -> dict[str, Any]:
    return {"name": "X", "datatype": "FP32", "shape": [len(rows), WIDTH], "data": rows}


def _cycle(bodies: list[Any]) -> Iterator[Any]:
    """Each in turn for ever, encoded beforehand where it is a body."""
    ready = [msgspec.json.encode(body) if isinstance(body, dict) else body for body in bodies]
    while True:
        yield from ready


if __name__ == "__main__":
    sys.exit(main())
