"""The program of a disposable process: load a model, run it, say what was seen. It may die, and nothing is lost.

Reads a task as JSON from standard input, `{"model", "rows"?, "width"?, "latency": {"batch", "runs"}?, "scores"?}`, and writes one
JSON object to standard output: what was found, or `error` with `message`, `hint`, `field`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

MEMORY_BYTES = 16 * 1024**3
CPU_SECONDS = 300


def main() -> None:
    """Do the task on standard input."""
    task = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    from mlbox.errors import MlboxError

    try:
        answer = examine(task)
    except MlboxError as err:
        answer = {"error": {"message": err.message, "hint": err.hint, "field": err.field}}
    except Exception as err:
        words = str(err).strip().splitlines() or [type(err).__name__]
        message = f"The model cannot be loaded and run: {words[0][:300]}"
        answer = {"error": {"message": message, "hint": "Export it again.", "field": "artifact"}}
    json.dump(answer, sys.stdout)


def examine(task: dict[str, Any]) -> dict[str, Any]:
    """Load the model, run it once, and measure what the task asks for."""
    import msgspec
    import numpy as np

    from mlbox.serve.runtime import Session

    content = Path(task["model"]).read_bytes()
    _refuse_external_data(content)
    session = Session(content)
    width = session.inputs[0].shape[1]
    if width == -1:
        width = task.get("width") or 1
    session.score(np.zeros((2, width), np.float32))
    answer: dict[str, Any] = {
        "inputs": msgspec.to_builtins(session.inputs),
        "outputs": msgspec.to_builtins(session.outputs),
        "size": len(content),
    }
    if task.get("latency"):
        answer["latency"] = _latency(session, width, **task["latency"])
    if task.get("scores"):
        rows = np.load(task["rows"], allow_pickle=False)
        np.save(task["scores"], session.score(rows), allow_pickle=False)
    return answer


def _refuse_external_data(content: bytes) -> None:
    """A model whose weights lie in other files would have the server open what the model names."""
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    from mlbox.errors import InvalidInput

    try:
        model = onnx.load_model_from_string(content)
    except Exception as err:
        raise InvalidInput(
            "The file is not an ONNX model.", hint="Export it with mlbox.export_onnx.", field="artifact"
        ) from err
    if not model.graph.node:
        raise InvalidInput("The ONNX model has no nodes.", hint="Export it again.", field="artifact")
    if any(uses_external_data(tensor) for tensor in _get_all_tensors(model)):
        raise InvalidInput(
            "The model keeps its weights in other files.", hint="Export it as one file.", field="artifact"
        )


def _latency(session: Any, width: int, batch: int, runs: int) -> dict[str, float]:
    import numpy as np

    rows = np.zeros((batch, width), np.float32)
    for _ in range(max(1, runs // 10)):
        session.score(rows)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.score(rows)
        times.append((time.perf_counter() - start) * 1000)
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50_ms": float(p50), "p95_ms": float(p95)}


if __name__ == "__main__":
    main()
