"""Inference over HTTP: what a prediction costs the server, with authentication, routing, metrics and logs on.

A gradient boosting model of 200 trees and 30 features, one row a request, is asked by wrk from another processor, in JSON and in
binary. CPU per request is what the operating system says that the server's threads took, the event loop's and all together. In
the same run, in turn, a bare uvicorn app that runs the same model (`inference_side`), and onnxruntime alone. A convolutional
network of 12,288 inputs is compared with onnxruntime, and a model of 20 features is asked by entity. With two processors or more,
servers are held to the first and wrk to the second.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from bench.harness import Report, median, options
from bench.startup import is_ready, serving, wait_until_loaded
from bench.tracking import free_port, running

SIDE = Path(__file__).with_name("inference_side.py")
TREES, WIDTH, LOOKED_UP, ENTITIES = 200, 30, 20, 5000
IMAGE = (3, 64, 64)
BODIES = 64
"""Different requests of each kind, in turn."""
MANY = 64
SCRIPT = """
local bodies = {}
for n = 1, %d do
  local file = io.open("%s/" .. n, "rb")
  bodies[n] = file:read("*a")
  file:close()
end
wrk.method = "POST"
local at = 0
request = function()
  at = at %% #bodies + 1
  return wrk.format(nil, nil, {%s}, bodies[at])
end
"""


class Kind(NamedTuple):
    """One way to ask one server."""

    name: str
    url: str
    pid: int
    script: Path


class Seen(NamedTuple):
    """What a load found."""

    per_second: float
    p50_ms: float
    p99_ms: float
    loop_us: float
    """CPU of the thread of the event loop, for each request."""
    all_us: float
    """The same of all threads."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    rounds, seconds = (3, 2.0) if chosen.quick else (7, 5.0)
    sizes = {"trees": TREES, "features": WIDTH, "rounds": rounds, "seconds of each load": seconds, "connections": MANY}
    report = Report("inference over HTTP", conditions={name: f"{value:,}" for name, value in sizes.items()})
    held = _hold_to(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"gbm": boosted(WIDTH, TREES), "small": boosted(LOOKED_UP, TREES), "cnn": convolutional()}
        prepare(folder, models)
        with contextlib.ExitStack() as stack:
            process, url, _ = stack.enter_context(
                serving(folder, "--log-file", str(folder / "log"), "--grpc-port", "0")
            )
            while not is_ready(url):
                time.sleep(0.05)
            token = (folder / "data" / "admin-token").read_text().strip()
            wait_until_loaded(url, token, models)
            bare = stack.enter_context(_bare(folder, models["gbm"]))
            kinds = _kinds(folder, url, token, process.pid, bare)
            _raw(report, models)
            _together(report, kinds, rounds, seconds, held)
            _alone(report, kinds, rounds, seconds, held)
            _images(report, folder, url, token, process.pid, models["cnn"], rounds, seconds, held)
    report.skip("Triton", "it comes as a container only")
    report.skip("MLServer, LitServe, BentoML and mlflow models serve", "they are asked by bench.peers")
    report.skip("CUDA", "this is measured on a processor; see docs/explanation/serving.md")
    return report.finish()


# -- what is served -----------------------------------------------------------------------------------------------------


def boosted(width: int, trees: int) -> bytes:
    """A gradient boosting model as ONNX."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import HistGradientBoostingClassifier

    random = np.random.default_rng(0)
    rows = random.normal(size=(ENTITIES, width)).astype(np.float32)
    target = rows[:, 0] + rows[:, 1] * rows[:, 2] + random.normal(size=ENTITIES) > 0
    model = HistGradientBoostingClassifier(max_iter=trees, early_stopping=False, random_state=0).fit(rows, target)
    made = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3})
    content: bytes = made.SerializeToString()
    return content


def convolutional() -> bytes:
    """A small convolutional network as ONNX: three convolutions of 3 x 3 and stride 2, 10 classes."""
    from onnx import TensorProto, checker, helper, numpy_helper

    random, nodes, weights, last, channels = np.random.default_rng(0), [], [], "image", IMAGE[0]
    for number, size in enumerate((32, 64, 128)):
        kernel = random.normal(size=(size, channels, 3, 3), scale=0.1).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{number}"))
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last, channels = f"r{number}", size
    weights.append(numpy_helper.from_array(random.normal(size=(channels, 10)).astype(np.float32), "w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["classes"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *IMAGE])
    classes = helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "cnn", [image], [classes], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def prepare(folder: Path, models: dict[str, bytes]) -> None:
    """A data directory with these models in Production, and the features of `small` online."""
    from mlbox.records import Column, GateResult, ViewSpec
    from mlbox.settings import Settings
    from mlbox.store.registry.registry import NewVersion
    from mlbox.web.box import Box

    box = Box(Settings(data_dir=str(folder / "data")), url="http://127.0.0.1:1")
    key = Column(name="who", dtype="INT64")
    numbers = tuple(Column(name=f"x{n}", dtype="FP64") for n in range(LOOKED_UP))
    box.features.add_source(
        "s", (key, Column(name="moment", dtype="TIMESTAMP"), *numbers), "moment", None, actor="admin"
    )
    moments = pa.array(
        [datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)] * ENTITIES, pa.timestamp("us", "UTC")
    )
    values = np.random.default_rng(1).normal(size=(ENTITIES, LOOKED_UP))
    columns = {column.name: values[:, n] for n, column in enumerate(numbers)}
    box.features.append("s", pa.table({"who": np.arange(ENTITIES), "moment": moments, **columns}), actor="admin")
    sql = f"SELECT who, {', '.join(columns)}, moment AS event_time FROM s"
    box.features.apply_view(
        ViewSpec(name="v", join_keys=(key,), features=numbers, sql=sql, sources=("s",)), actor="admin"
    )
    box.features.materialize()
    passed = GateResult(gate="size", passed=True, required="", measured="", at=box.clock.real())
    features = {"small": tuple(f"v@v1:{name}" for name in columns), "gbm": tuple(f"g@v1:x{n}" for n in range(WIDTH))}
    for name, content in models.items():
        artifact, size = box.artifacts.put([content])
        given = {"trained_by": "admin", "submitted_by": "admin", "features": features.get(name, ())}
        version = box.registry.register(NewVersion(model=name, artifact=artifact, size=size, **given))
        promotion = box.promotions.propose(version, actor="admin")
        box.promotions.record_gates(promotion.id, [passed])
        box.promotions.decide(promotion.id, approver="bea", decision="approve")
    box.close()


@contextlib.contextmanager
def _bare(folder: Path, model: bytes) -> Iterator[tuple[str, int]]:
    path, port = folder / "gbm.onnx", free_port()
    path.write_bytes(model)
    with running([sys.executable, str(SIDE), str(path), str(port)], folder / "bare.log") as process:
        while not listens(port):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/", process.pid


def listens(port: int) -> bool:
    """Whether anybody answers there."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


# -- what is asked ------------------------------------------------------------------------------------------------------


def _kinds(folder: Path, url: str, token: str, pid: int, bare: tuple[str, int]) -> list[Kind]:
    random = np.random.default_rng(2)
    rows = [random.normal(size=(1, WIDTH)).astype(np.float32) for _ in range(BODIES)]
    ids = [[{"name": "who", "datatype": "INT64", "shape": [1], "data": [n]}] for n in range(BODIES)]
    auth, json = {"Authorization": f"Bearer {token}"}, {"Content-Type": "application/json"}
    inputs = [[{"name": "X", "datatype": "FP32", "shape": [1, WIDTH], "data": row[0].tolist()}] for row in rows]
    in_json = [msgspec.json.encode({"inputs": one}) for one in inputs]
    by_ids = [msgspec.json.encode({"inputs": one}) for one in ids]
    native = [msgspec.json.encode({"entities": [{"who": n}]}) for n in range(BODIES)]
    in_binary, headers = binary("X", rows)
    infer = f"{url}/v2/models/gbm/infer"
    return [
        Kind("bare uvicorn app, JSON", bare[0], bare[1], script(folder, "bare", in_json, json)),
        Kind("mlbox, JSON", infer, pid, script(folder, "json", in_json, {**auth, **json})),
        Kind("mlbox, binary", infer, pid, script(folder, "binary", in_binary, {**auth, **headers})),
        Kind(
            f"mlbox, by entity, {LOOKED_UP} features, v2",
            f"{url}/v2/models/small/infer",
            pid,
            script(folder, "ids", by_ids, {**auth, **json}),
        ),
        Kind(
            f"mlbox, by entity, {LOOKED_UP} features, native",
            f"{url}/api/v1/models/small/predict",
            pid,
            script(folder, "native", native, {**auth, **json}),
        ),
    ]


def binary(name: str, tensors: Sequence[np.ndarray]) -> tuple[list[bytes], dict[str, str]]:
    """Bodies of binary requests, and their headers."""
    given = {"name": name, "datatype": "FP32", "shape": list(tensors[0].shape)}
    given["parameters"] = {"binary_data_size": tensors[0].nbytes}
    head = msgspec.json.encode({"inputs": [given], "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return [head + tensor.tobytes() for tensor in tensors], headers


def script(folder: Path, name: str, bodies: Sequence[bytes], headers: dict[str, str]) -> Path:
    """What has wrk send these bodies in turn."""
    here = folder / name
    here.mkdir()
    for number, body in enumerate(bodies, 1):
        (here / str(number)).write_bytes(body)
    table = ", ".join(f'["{key}"] = "{value}"' for key, value in headers.items())
    path = folder / f"{name}.lua"
    path.write_text(SCRIPT % (len(bodies), here, table))
    return path


# -- measuring ----------------------------------------------------------------------------------------------------------


def _hold_to(cpu: int) -> bool:
    """Hold this process and those that it starts to one processor, where there is another for wrk."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return False
    os.sched_setaffinity(0, {cpus[cpu]})
    return True


def load(kind: Kind, connections: int, seconds: float, held: bool) -> Seen:
    """wrk's figures, and what the server's threads took of a processor meanwhile."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--latency", "-s", str(kind.script), kind.url]
    before = cpu_ns(kind.pid)
    ran = subprocess.run(
        ["taskset", "-c", "1", *command] if held else command, capture_output=True, text=True, check=True
    )
    after = cpu_ns(kind.pid)
    if "Non-2xx" in ran.stdout or "Socket errors" in ran.stdout:
        raise SystemExit(f"{kind.name}: {ran.stdout}")
    found = {name: float(re.search(pattern, ran.stdout)[1]) for name, pattern in PATTERNS.items()}  # type: ignore[index]
    latency = {part: _ms(*re.search(rf" {part}%\s+([\d.]+)(us|ms|s)", ran.stdout).groups()) for part in (50, 99)}  # type: ignore[union-attr]
    took = {thread: ns - before.get(thread, 0) for thread, ns in after.items()}
    requests = found["requests"]
    loop = took[kind.pid] / requests / 1000
    return Seen(found["per_second"], latency[50], latency[99], loop, sum(took.values()) / requests / 1000)


PATTERNS = {"requests": r"(\d+) requests in", "per_second": r"Requests/sec:\s+([\d.]+)"}


def _ms(number: str, unit: str) -> float:
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def cpu_ns(pid: int) -> dict[int, int]:
    """Nanoseconds on a processor of each thread of a process so far; the event loop's is the one with the process's number."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return found


def _raw(report: Report, models: dict[str, bytes]) -> None:
    rows = np.random.default_rng(3).normal(size=(1, WIDTH)).astype(np.float32)
    report.tell("onnxruntime alone, gradient boosting, a row", _run_us(models["gbm"], rows), "µs")


def _run_us(model: bytes, rows: np.ndarray) -> float:
    """CPU time of one run in this process, as fast as it gets."""
    run = _runner(model, rows)
    times = []
    for _ in range(7):
        began = time.process_time()
        for _ in range(200):
            run()
        times.append((time.process_time() - began) / 200 * 1e6)
    return min(times)


def _runner(model: bytes, rows: np.ndarray) -> Callable[[], Any]:
    import onnxruntime as ort

    options_ = ort.SessionOptions()
    options_.intra_op_num_threads = 1
    options_.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options_, providers=["CPUExecutionProvider"])
    wanted, feeds = [session.get_outputs()[-1].name], {session.get_inputs()[0].name: rows}
    return lambda: session.run(wanted, feeds)


def _in_turn(kinds: Sequence[Kind], connections: int, rounds: int, seconds: float, held: bool) -> dict[str, Seen]:
    """The middle of each figure, over rounds in which each kind has its turn; one more to warm up."""
    seen: dict[str, list[Seen]] = {kind.name: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind in kinds:
            found = load(kind, connections, seconds if number else 1, held)
            if number:
                seen[kind.name].append(found)
    return {name: Seen(*map(median, zip(*every, strict=True))) for name, every in seen.items()}


def _together(report: Report, kinds: Sequence[Kind], rounds: int, seconds: float, held: bool) -> None:
    found = _in_turn(kinds, MANY, rounds, seconds, held)
    bare, *ours = found.items()
    report.tell(f"{bare[0]}: CPU of the event loop", bare[1].loop_us, "µs")
    report.tell(f"{bare[0]}: requests", bare[1].per_second, "a second")
    report.tell(f"{bare[0]}: p99 of {MANY} connections", bare[1].p99_ms, "ms")
    most = {"mlbox, JSON": (40, 55), "mlbox, binary": (35, 55)}
    for name, seen in ours:
        loop, every = most.get(name, (60, None))
        report.at_most(f"{name}: CPU of the event loop", seen.loop_us, loop, "µs")
        if every is None:
            report.tell(f"{name}: CPU of all threads", seen.all_us, "µs")
        else:
            report.at_most(f"{name}: CPU of all threads", seen.all_us, every, "µs")
        report.tell(f"{name}: requests", seen.per_second, "a second")
        report.tell(f"{name}: p99 of {MANY} connections", seen.p99_ms, "ms")
    ratio = found["mlbox, JSON"].loop_us / bare[1].loop_us
    report.at_most("mlbox, JSON / bare uvicorn app: CPU of the event loop", ratio, 0.67, "times")


def _alone(report: Report, kinds: Sequence[Kind], rounds: int, seconds: float, held: bool) -> None:
    for name, seen in _in_turn(kinds, 1, rounds, seconds, held).items():
        if name.startswith("bare"):
            report.tell(f"{name}: p50 of one connection", seen.p50_ms, "ms")
        else:
            report.at_most(f"{name}: p50 of one connection", seen.p50_ms, 0.25, "ms")


def _images(
    report: Report, folder: Path, url: str, token: str, pid: int, model: bytes, rounds: int, seconds: float, held: bool
) -> None:
    """All threads' CPU of a request, by eight connections so that none waits, against that of a run in this process."""
    images = [np.random.default_rng(n).normal(size=(1, *IMAGE)).astype(np.float32) for n in range(8)]
    bodies, headers = binary("image", images)
    sending = script(folder, "images", bodies, {"Authorization": f"Bearer {token}", **headers})
    kind = Kind("mlbox, convolutional network, binary", f"{url}/v2/models/cnn/infer", pid, sending)
    raw, ours = [], []
    for number in range(rounds + 1):
        raw.append(_run_us(model, images[0]))
        ours.append(load(kind, 8, seconds if number else 1, held))
    took = median([seen.all_us for seen in ours[1:]])
    report.tell("onnxruntime alone, convolutional network", median(raw[1:]), "µs")
    report.tell(f"{kind.name}: CPU of all threads", took, "µs")
    report.tell(f"{kind.name}: p50 of 8 connections", median([seen.p50_ms for seen in ours[1:]]), "ms")
    report.at_most(f"{kind.name} / onnxruntime alone", took / median(raw[1:]), 1.35, "times")


if __name__ == "__main__":
    sys.exit(main())
