"""Inference against other servers: LitServe, BentoML, MLServer and `mlflow models serve`, each with one worker and its defaults.

The gradient boosting model of `bench.inference`, one row a request in JSON, is asked by wrk over 16 connections, in turn with
ours, which has authentication, routing, metrics and logs on. CPU per request is that of all of a server's processes together, as
the operating system says, since that is what a busy machine changes least. `--setup` installs the peers into `.bench/peers`; what
is not there is skipped, and so is Triton, which comes as a container only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil

from bench.harness import Report, median, options
from bench.inference import BODIES, TREES, WIDTH, Kind, boosted, load, prepare, script
from bench.startup import is_ready, serving
from bench.tracking import free_port, running

SIDE = Path(__file__).with_name("peers_side.py")
HOME = SIDE.parents[1] / ".bench" / "peers"
VERSIONS = {
    "LitServe": ("litserve==0.2.19",),
    "BentoML": ("bentoml==1.4.40",),
    "MLServer": ("mlserver==1.7.1",),
    "mlflow models serve": ("mlflow==3.17.2", "onnx"),
}
START_SECONDS = 180
CONNECTIONS = 16
"""With more, the slower ones answer later than wrk waits on a busy machine."""
Command = Callable[[Path, Path, int, Path], tuple[list[str], dict[str, str]]]


class Way(NamedTuple):
    """How one server is started and asked."""

    command: Command
    path: str
    body: Callable[[list[float]], Any]
    """Of one row."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return setup()
    rounds, seconds = (3, 2.0) if chosen.quick else (7, 5.0)
    sizes = {
        "trees": TREES,
        "features": WIDTH,
        "rounds": rounds,
        "seconds of each load": seconds,
        "connections": CONNECTIONS,
    }
    report = Report("inference, other servers", conditions={name: f"{value:,}" for name, value in sizes.items()})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, model = Path(name), boosted(WIDTH, TREES)
        (folder / "gbm.onnx").write_bytes(model)
        kinds = [stack.enter_context(_ours(folder, model))]
        for peer, way in WAYS.items():
            with contextlib.suppress(FileNotFoundError):
                kinds.append(stack.enter_context(_peer(folder, peer, way)))
                continue
            report.skip(peer, "it is not installed: python -m bench.peers --setup")
        _compare(report, kinds, rounds, seconds)
    report.skip("Triton", "it comes as a container only, and none runs here")
    return report.finish()


def setup() -> int:
    """Each peer in a venv of its own."""
    for name, wanted in VERSIONS.items():
        python = _python(name)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted, "onnxruntime"], check=True)
    return 0


def _python(peer: str) -> Path:
    return HOME / peer.split()[0].lower() / "bin" / "python"


# -- the servers ----------------------------------------------------------------------------------------------------------------


def _litserve(python: Path, model: Path, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    return [str(python), str(SIDE), "litserve", str(port)], {"MODEL": str(model)}


def _bentoml(python: Path, model: Path, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    env = {"MODEL": str(model), "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    command = [*(str(python), "-m", "bentoml", "serve", "peers_side:Bento"), "--working-dir", str(SIDE.parent)]
    return [*command, "--host", "127.0.0.1", "--port", str(port)], env


def _mlserver(python: Path, model: Path, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({"name": "gbm", "implementation": "peers_side.Served"}))
    env = {"MODEL": str(model), "PYTHONPATH": str(SIDE.parent)}
    return [str(python.with_name("mlserver")), "start", str(folder)], env


def _mlflow(python: Path, model: Path, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    env = {**os.environ, "MODEL": str(model)}
    subprocess.run([str(python), str(SIDE), "mlflow", str(folder / "model")], check=True, capture_output=True, env=env)
    command = [str(python), "-m", "mlflow", "models", "serve", "--model-uri", str(folder / "model"), "--workers", "1"]
    # its own programs are found on the path
    path = f"{python.parent}:{os.environ['PATH']}"
    return [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)], {"PATH": path}


def _tensor(row: list[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, WIDTH], "data": row}]}


WAYS: Mapping[str, Way] = {
    "LitServe": Way(_litserve, "/predict", lambda row: {"data": row}),
    "BentoML": Way(_bentoml, "/predict", lambda row: {"data": row}),
    "MLServer": Way(_mlserver, "/v2/models/gbm/infer", _tensor),
    "mlflow models serve": Way(_mlflow, "/invocations", lambda row: {"inputs": [row]}),
}


@contextlib.contextmanager
def _ours(folder: Path, model: bytes) -> Iterator[Kind]:
    own = folder / "ours"
    own.mkdir()
    prepare(own, {"gbm": model, "small": boosted(20, 10)})
    with serving(own, "--grpc-port", "-1", "--log-file", str(own / "log")) as (process, url, _):
        while not is_ready(url):
            time.sleep(0.05)
        token = (own / "data" / "admin-token").read_text().strip()
        sent = _script(own, _tensor, Authorization=f"Bearer {token}")
        yield Kind("mlbox", f"{url}/v2/models/gbm/infer", process.pid, sent)


@contextlib.contextmanager
def _peer(folder: Path, name: str, way: Way) -> Iterator[Kind]:
    """One of the others, once it answers; raises FileNotFoundError where it is not installed."""
    python = _python(name)
    if not python.exists():
        raise FileNotFoundError(python)
    own, port = folder / name.split()[0], free_port()
    own.mkdir()
    command, env = way.command(python, folder / "gbm.onnx", port, own)
    url = f"http://127.0.0.1:{port}{way.path}"
    with running(command, own / "log", env={**os.environ, **env}) as process:
        _wait(url, way.body([0.5] * WIDTH), process, own / "log")
        yield Kind(name, url, process.pid, _script(own, way.body))


def _wait(url: str, body: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(url, json=body, timeout=30).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"{url} did not answer: {log.read_text()[-2000:]}")


def _script(folder: Path, body: Callable[[list[float]], Any], **headers: str) -> Path:
    rows = np.random.default_rng(2).normal(size=(BODIES, WIDTH)).astype(np.float32).tolist()
    sent = [json.dumps(body(row)).encode() for row in rows]
    return script(folder, "bodies", sent, {"Content-Type": "application/json", **headers})


# -- measuring ------------------------------------------------------------------------------------------------------------------


def _compare(report: Report, kinds: list[Kind], rounds: int, seconds: float) -> None:
    cpu: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    rates: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind in kinds:
            before = family_cpu(kind.pid)
            seen = load(kind, CONNECTIONS, seconds if number else 1, held=False)
            took = family_cpu(kind.pid) - before
            if number:
                cpu[kind.name].append(took / (seen.per_second * round(seconds)) * 1e6)
                rates[kind.name].append(seen.per_second)
    ours = median(cpu["mlbox"])
    for name, found in cpu.items():
        report.tell(f"{name}: CPU of all processes", median(found), "µs a request")
        report.tell(f"{name}: requests", median(rates[name]), "a second")
        if name != "mlbox":
            report.at_least(f"{name} / mlbox: CPU", median(found) / ours, 1, "times")


def family_cpu(pid: int) -> float:
    """Seconds on a processor of a process and of all that it started."""
    found = 0.0
    for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found += times.user + times.system
    return found


if __name__ == "__main__":
    sys.exit(main())
