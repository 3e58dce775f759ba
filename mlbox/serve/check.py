"""Look at a model in a process that may die: onnxruntime ends the process on some legal models, and takes long on others.

Nothing of a model is loaded in the server before it was loaded and run here. What a file is refused for is an InvalidInput
that names it; a file that kills the process, or keeps it too long, is refused like any other.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Record, TensorSpec

if TYPE_CHECKING:
    import numpy as np

TIMEOUT_SECONDS = 120
MOST_AT_ONCE = 2
"""Processes that look at models at the same time; each may take gigabytes, and a busy box would time them wrongly."""
_slots = threading.BoundedSemaphore(MOST_AT_ONCE)
_log = logging.getLogger(__name__)


class ModelCheck(Record, frozen=True, kw_only=True):
    """What a model says of itself, after it ran once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size: int
    """Bytes."""
    memory: int
    """Bytes by which the process grew when it was loaded and run."""
    joins: bool
    """Whether rows are answered alike alone and together, so that requests may be joined."""


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
    needs operators that are not onnxruntime's, fails, takes too long or kills its process.
    """
    return msgspec.convert(_examine({"model": str(path), "width": width}), type=ModelCheck)


def measure_latency(path: Path, *, batch: int, runs: int, width: int | None = None) -> Latency:
    """Time a model on rows of zeros, after a warm-up; one core, as in the server."""
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
    """The rows and outputs that a training job kept for the parity gate.

    Raises InvalidInput for what is no .npz with the two arrays, and for one that is too large: a small archive can unpack to
    more than the box has, so it is unpacked where it may.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.npy"), Path(folder, "outputs.npy")
        _examine({"sample": str(path), "inputs": str(inputs), "outputs": str(outputs)})
        return Sample(inputs=np.load(inputs, allow_pickle=False), outputs=np.load(outputs, allow_pickle=False))


def _examine(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run the worker on a task, in an empty folder and without the server's environment."""
    field = "sample" if "sample" in task else "artifact"
    with _slots, tempfile.TemporaryDirectory() as folder:
        words = Path(folder, "stderr")
        try:
            done = _run(task, Path(folder), words)
        except subprocess.TimeoutExpired as err:
            raise InvalidInput(
                f"The {_noun(field)} took longer than {TIMEOUT_SECONDS} s to load and run.",
                hint="Export a smaller one.",
                field=field,
            ) from err
        answer = _decode(done.stdout)
        if done.returncode != 0 or answer is None:
            _log.warning("The process that looked at a %s ended: %s", _noun(field), _tail(words))
            raise InvalidInput(
                f"The {_noun(field)} ended its process ({_how(done.returncode)}).", hint="Export it again.", field=field
            )
    if "error" in answer:
        error = answer["error"]
        raise InvalidInput(error["message"], hint=error["hint"], field=error["field"])
    return answer


def _run(task: Mapping[str, Any], folder: Path, stderr: Path) -> subprocess.CompletedProcess[bytes]:
    empty = folder / "empty"
    empty.mkdir()
    with stderr.open("wb") as words:
        return subprocess.run(
            [sys.executable, "-m", "mlbox.serve.check_worker"],
            input=msgspec.json.encode(task),
            stdout=subprocess.PIPE,
            stderr=words,
            timeout=TIMEOUT_SECONDS,
            cwd=empty,
            env={"PATH": "", "PYTHONPATH": ":".join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
            check=False,
        )


def _decode(answer: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def _noun(field: str) -> str:
    return "sample" if field == "sample" else "model"


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _tail(words: Path) -> str:
    return words.read_bytes()[-2000:].decode(errors="replace").strip() or "without a word"
