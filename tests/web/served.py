"""A running server with a model `score` of one feature `spend:amount` in Production, got there over HTTP."""

from __future__ import annotations

import io
import math
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlbox.records import GateResult
from mlbox.settings import Settings
from mlbox.web.box import Box
from tests.conftest import Server, wait_for
from tests.models import linear, mixed

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
KEY = {"name": "who", "dtype": "STRING"}


def parquet(**columns: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def ok(answer: Any) -> Any:
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.content else None


class Site:
    """A server with one model `score` of one feature `spend:amount` in Production."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = server.http
        self.post = lambda path, body=None: ok(self.http.post(path, json=body or {}))
        self.put = lambda path, content: ok(self.http.put(path, content=content))
        self._data()
        self.first = self.register(1.0)
        self.post("/api/v1/models/score/card", {"intended_use": "to score", "limitations": "of one feature"})

    def _data(self) -> None:
        columns = [KEY, {"name": "moment", "dtype": "TIMESTAMP"}, {"name": "amount", "dtype": "FP64"}]
        self.post("/api/v1/sources", {"name": "sales", "columns": columns, "event_time": "moment"})
        times = pa.array([NOW - timedelta(minutes=n) for n in range(60)], pa.timestamp("us", "UTC"))
        who = [f"u{n % 20}" for n in range(60)]
        rows = parquet(who=who, moment=times, amount=[float(n) for n in range(60)])
        ok(self.http.post("/api/v1/sources/sales/rows", content=rows, params={"format": "parquet"}))
        view = {
            "name": "spend",
            "join_keys": [KEY],
            "features": [{"name": "amount", "dtype": "FP64"}],
            "sql": "SELECT who, amount, moment AS event_time FROM sales",
            "sources": ["sales"],
        }
        self.post("/api/v1/features/views", view)
        self.post("/api/v1/features/materialize")
        self.post("/api/v1/labels", {"name": "good", "keys": [KEY], "value": {"name": "good", "dtype": "INT64"}})
        labels = parquet(who=who, event_time=times, known_at=times, good=[n % 2 for n in range(60)])
        ok(self.http.post("/api/v1/labels/good/rows", content=labels, params={"format": "parquet"}))
        spec = {"name": "sales", "spine": "SELECT who, moment AS event_time FROM sales", "features": ["spend:amount"]}
        self.dataset = self.post("/api/v1/datasets", {**spec, "label_set": "good"})

    def register(self, weight: float) -> dict[str, Any]:
        run = self.post("/api/v1/runs", {"experiment": "e", "dataset": "sales@v1", "git_commit": "c" * 40})["id"]
        ok(self.http.post(f"/api/v1/runs/{run}/log", json={"metrics": [{"key": "auc", "value": 0.8}]}))
        self.put(f"/api/v1/runs/{run}/artifacts/m.onnx", linear([weight]).SerializeToString())
        inputs = np.array([[1.0], [2.0]], np.float32)
        sample = io.BytesIO()
        np.savez(sample, inputs=inputs, outputs=1 / (1 + np.exp(-weight * inputs[:, 0])))
        self.put(f"/api/v1/runs/{run}/artifacts/s.npz", sample.getvalue())
        body = {"run_id": run, "artifact": "m.onnx", "sample": "s.npz", "description": "to score"}
        return self.post("/api/v1/models/score/versions", body)

    def promote(self, version: int) -> dict[str, Any]:
        made = self.post(f"/api/v1/models/score/versions/{version}/promote")
        return wait_for(
            lambda: (p := self.http.get(f"/api/v1/promotions/{made['id']}").json())["state"] != "testing" and p,
            what="the gates",
        )

    def user(self, name: str, role: str) -> dict[str, str]:
        self.post("/api/v1/users", {"name": name, "role": role})
        secret = self.post("/api/v1/tokens", {"user": name, "name": "t"})["secret"]
        return {"Authorization": f"Bearer {secret}"}

    def infer(self, *inputs: dict[str, Any], **more: Any) -> Any:
        return self.http.post("/v2/models/score/infer", json={"inputs": list(inputs), **more})


def open_site(folder: Path, *flags: str) -> Site:
    """The server, once the first version was refused to its trainer and approved by another."""
    server = Server(folder, *flags)
    try:
        made = Site(server)
        promotion = made.promote(1)
        assert promotion["state"] == "waiting_approval", promotion["gates"]
        grace = made.user("grace", "approver")
        path = f"/api/v1/promotions/{promotion['id']}/approve"
        refused = server.http.post(path, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "refused")
        assert ok(server.http.post(path, json={}, headers=grace))["state"] == "completed"
    except BaseException:
        server.stop()
        raise
    return made


def with_mixed(folder: Path) -> None:
    """A data directory with `score` in Production, and `mixed`, a model of several tensors, in Staging."""
    made = open_site(folder)
    try:
        run = made.post("/api/v1/runs", {"experiment": "e"})["id"]
        made.put(f"/api/v1/runs/{run}/artifacts/m.onnx", mixed().SerializeToString())
        made.post("/api/v1/models/mixed/versions", {"run_id": run, "artifact": "m.onnx"})
    finally:
        made.server.stop()
    with closing(Box(Settings(data_dir=str(folder), gpus="none"), url="http://localhost")) as inside:
        proposed = inside.promotions.propose(inside.registry.version("mixed", 1), actor="ann")
        passed = GateResult(gate="size", passed=True, required="", measured="", at=datetime.now(UTC))
        inside.promotions.record_gates(proposed.id, [passed])


def tensor(*values: Any, shape: list[int] | None = None, datatype: str = "FP32", name: str = "input") -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": [len(values), 1] if shape is None else shape,
        "data": list(values),
    }


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def is_told(answer: Any) -> bool:
    """Whether a 5xx is Triton's own answer: of what this server is without, or of an unloaded model that is not ready."""
    if answer.status_code == 503:
        return bool(answer.request.url.path.endswith("/ready") and " is unloaded." in answer.text)
    return bool(answer.status_code == 501 and "This server has no " in answer.text)
