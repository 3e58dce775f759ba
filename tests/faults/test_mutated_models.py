"""Mutated ONNX files through upload: each is answered, with its reason, and the server is the same process afterwards."""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import Server
from tests.models import linear

MANY = int(os.environ.get("MLBOX_MUTATED_MODELS", "10000"))
CLIENTS = 4
"""That upload at the same time: an upload waits for the disk."""


def seeds() -> list[bytes]:
    """Small legal models of several kinds."""
    text = [helper.make_tensor_value_info(name, TensorProto.STRING, ["N"]) for name in ("a", "b")]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", 3])
    table = helper.make_tensor("table", TensorProto.FLOAT, [4, 3], np.arange(12, dtype=np.float32))
    graphs = [
        helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", text[:1], text[1:]),
        helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["rows"])], "g", [ids], [rows], [table]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    models = [linear([1.0, 2.0]), *(helper.make_model(graph, opset_imports=opsets, ir_version=8) for graph in graphs)]
    return [model.SerializeToString() for model in models]


def mutated(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Bytes changed, lost, doubled, cut off, or taken from another model."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(data)), rng.randint(1, 16)
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[at:]
            case _:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                data[at : at + length] = other[start : start + length]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


@pytest.fixture
def run(server: Server) -> str:
    made = server.http.post("/api/v1/runs", json={"experiment": "e"})
    assert made.status_code == 201, made.text
    found: str = made.json()["id"]
    return found


def upload(http: httpx.Client, run: str, content: bytes, number: int) -> httpx.Response:
    path = f"m/{number}.onnx"
    kept = http.put(f"/api/v1/runs/{run}/artifacts/{path}", content=content)
    assert kept.status_code < 300, kept.text
    return http.post("/api/v1/models/odd/versions", json={"run_id": run, "artifact": path}, timeout=300)


def said_of(http: httpx.Client, run: str, content: bytes, number: int) -> str:
    """The first words of the answer to an upload."""
    answer = upload(http, run, content, number)
    if answer.status_code < 300:
        return "registered"
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["message"], error
    assert error["hint"], error
    return " ".join(error["message"].split()[:4])


def mutate(server: Server, run: str, count: int) -> Counter[str]:
    """Upload so many, some at a time, and count the answers."""
    rng, models = random.Random(8), seeds()
    contents = [mutated(rng, rng.choice(models), models) for _ in range(count)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        return Counter(pool.map(lambda n: said_of(server.http, run, contents[n], n), range(count)))


def alive(server: Server, pid: int) -> None:
    assert server.process.poll() is None
    assert server.process.pid == pid
    assert server.http.get("/readyz").status_code == 200


def test_mutated_models_are_answered_and_the_server_is_the_same(server: Server, run: str) -> None:
    pid = server.process.pid
    assert all(onnx.load_model_from_string(model).graph.node for model in seeds())
    found = mutate(server, run, 60)
    assert sum(found.values()) == 60
    assert len(found) >= 3, found
    alive(server, pid)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_mutated_models_leave_the_server_as_it_was(server: Server, run: str) -> None:
    pid = server.process.pid
    found = mutate(server, run, MANY)
    print(found.most_common(20))
    assert sum(found.values()) == MANY
    alive(server, pid)
