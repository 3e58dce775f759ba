"""Look at a model in a process that may die: onnxruntime ends the process on some legal models, and takes long on others.

Nothing of a model is loaded in the server before it was loaded and run here.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Record, TensorSpec

if TYPE_CHECKING:
    import numpy as np

TIMEOUT_SECONDS = 120


class ModelCheck(Record, frozen=True, kw_only=True):
    """What a model says of itself, after it ran once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size: int
    """Bytes."""


class Latency(Record, frozen=True, kw_only=True):
    """How long one run takes, in milliseconds."""

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Sample:
    """Rows [N, F] as float32, and what the source model answered, [N] as float64."""

    inputs: np.ndarray
    outputs: np.ndarray


def inspect_onnx(path: Path, *, width: int | None = None) -> ModelCheck:
    """Load a model and run it once; `width` is how many columns to try where the model takes any number.

    Raises InvalidInput for a file that is no ONNX model, keeps weights elsewhere, has other tensors than mlbox serves,
    fails, takes too long or kills its process.
    """
    return msgspec.convert(_examine({"model": str(path), "width": width}), type=ModelCheck)


def measure_latency(path: Path, *, batch: int, runs: int, width: int | None = None) -> Latency:
    """Time a model on rows of zeros, after a warm-up."""
    task = {"model": str(path), "width": width, "latency": {"batch": batch, "runs": runs}}
    return msgspec.convert(_examine(task)["latency"], type=Latency)


def score_onnx(path: Path, rows: np.ndarray) -> np.ndarray:
    """A model's scores [N] as float64 of rows [N, F]."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "rows.npy"), Path(folder, "scores.npy")
        np.save(asked, np.asarray(rows, np.float32), allow_pickle=False)
        _examine({"model": str(path), "width": rows.shape[1], "rows": str(asked), "scores": str(answered)})
        scores: np.ndarray = np.load(answered, allow_pickle=False)
        return scores


def read_sample(path: Path) -> Sample:
    """The rows and outputs that a training job kept for the parity gate; raises InvalidInput."""
    import numpy as np

    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return Sample(
                inputs=arrays["inputs"].astype(np.float32), outputs=arrays["outputs"].astype(np.float64).reshape(-1)
            )
    except (ValueError, KeyError, OSError, EOFError, BadZipFile, TypeError, AttributeError) as err:
        raise InvalidInput(
            "The sample is no .npz with the arrays `inputs` and `outputs`.",
            hint="`mlbox.export_onnx` writes one.",
            field="sample",
        ) from err


def _examine(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run the worker on a task, in an empty folder and without the server's environment."""
    command = [sys.executable, "-m", "mlbox.serve.check_worker"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command,
                input=msgspec.json.encode(task),
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                cwd=folder,
                env={"PATH": "", "PYTHONPATH": ":".join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
                check=False,
            )
        except subprocess.TimeoutExpired as err:
            raise InvalidInput(
                f"The model took longer than {TIMEOUT_SECONDS} s to load and run.",
                hint="Export a smaller one.",
                field="artifact",
            ) from err
    if done.returncode != 0:
        raise InvalidInput(
            f"The model ended its process ({_how(done.returncode)}).", hint="Export it again.", field="artifact"
        )
    answer: dict[str, Any] = msgspec.json.decode(done.stdout)
    if "error" in answer:
        error = answer["error"]
        raise InvalidInput(error["message"], hint=error["hint"], field=error["field"])
    return answer


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
