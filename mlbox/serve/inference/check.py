"""Look at a model in a process that may die: onnxruntime ends the process on some legal models, and takes long on others.

Nothing of a model is loaded in the server before it was loaded and run here. What a file is refused for is an InvalidInput
that names it; a file that kills the process, or keeps it too long, is refused like any other.
"""

from __future__ import annotations

import atexit
import logging
import signal
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import BenchFigure, Record, RunArtifact, ServingConfig, TensorSpec
from mlbox.serve.inference.check_values import Known
from mlbox.store.registry.model_folders import ModelFolders, beside
from mlbox.store.sandbox.workers import ForkServer, Worker

if TYPE_CHECKING:
    import numpy as np

TIMEOUT_SECONDS = 120
MOST_AT_ONCE = 2
"""Processes that look at models at the same time; each may take gigabytes, and a busy box would time them wrongly."""
_slots = threading.BoundedSemaphore(MOST_AT_ONCE)
FORKS = ForkServer("mlbox.serve.inference.check_forks")
"""Of this process: it has loaded what a look at a model takes, and each look is a fork of it."""
atexit.register(FORKS.close)
_log = logging.getLogger(__name__)


class ModelCheck(Record, frozen=True, kw_only=True):
    """What a model says of itself, after it ran once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size: int
    """Bytes, of the file and of those in which it keeps weights."""
    external: tuple[str, ...] = ()
    """The files beside it in which it keeps weights."""
    memory: int
    """Bytes by which the process grew when it was loaded and run."""
    joins: bool
    """Whether rows are answered alike alone and together, so that requests may be joined."""
    branches: bool = False
    """Whether it loops or branches, so that how long a run takes depends on the values that it is given."""
    known: tuple[Known, ...] = ()
    """Values for columns of its inputs that take no others than some."""


class Comparison(Record, frozen=True, kw_only=True):
    """A model's answers beside those of a sample; None stands for what is no finite number."""

    difference: float | None
    """The largest absolute one, over all outputs that the sample has."""
    output: str
    """In which it is."""
    low: float | None
    """The least of the model's answers; of those that are texts, 0, and in `high` how many more than one there are."""
    high: float | None
    rows: int


@dataclass(frozen=True)
class Sample:
    """Rows [N, F] as float32, and what the source model answered, [N] as float64."""

    inputs: np.ndarray
    outputs: np.ndarray


class Leash:
    """Ends a look at a model that nobody waits for any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self.pulled = False

    def hold(self, worker: Worker) -> None:
        """This is the process that looks; waits until it has begun, since before that it cannot be ended."""
        _ = worker.pid
        with self._lock:
            self._worker = worker
            if self.pulled:
                worker.kill()

    def pull(self) -> None:
        """End it, and whatever is begun on this leash."""
        with self._lock:
            self.pulled = True
            if self._worker is not None:
                self._worker.kill()


def inspect_onnx(path: Path, *, width: int | None = None) -> ModelCheck:
    """Load a model and run it once; `width` is how many columns to try where the model takes any number.

    It may keep weights in the files beside it where it is in a folder of its own (see `model_folders`).

    Raises InvalidInput for a file that is no ONNX model, keeps weights elsewhere, has other tensors than mlbox serves,
    needs operators that are not onnxruntime's, fails, takes too long or kills its process.
    """
    return msgspec.convert(_examine({"model": str(path), "width": width}), type=ModelCheck)


def inspect_among(
    folders: ModelFolders, model: RunArtifact, files: Sequence[RunArtifact], *, width: int | None = None
) -> tuple[Path, ModelCheck]:
    """As `inspect_onnx`, of a model among a run's files, with those in which it keeps weights; and where it lies then."""
    path = folders.of(model.sha256, ())
    answer = _answer({"model": str(path), "width": width})
    named = set(answer.get("external", ())) if "error" in answer else set()
    found = [file for file in beside(model.path, files) if file.path in named]
    if named and len(found) == len(named):
        path = folders.of(model.sha256, found)
        return path, inspect_onnx(path, width=width)
    return path, msgspec.convert(_without_error(answer), type=ModelCheck)


def compare_onnx(path: Path, sample: Path, *, width: int | None = None) -> Comparison:
    """Run a model on a sample's inputs; raises InvalidInput, naming what, for a sample that does not fit it."""
    task = {"model": str(path), "width": width, "against": str(sample)}
    return msgspec.convert(_examine(task)["compared"], type=Comparison)


def bench_onnx(
    path: Path,
    *,
    config: ServingConfig,
    rows: Sequence[int],
    concurrency: Sequence[int],
    width: int | None = None,
    seconds: float = 0.5,
) -> tuple[str, tuple[BenchFigure, ...]]:
    """Where a model ran, and a figure for each number of rows and of requests at a time, each measured for some seconds."""
    bench = {"config": msgspec.to_builtins(config), "rows": rows, "concurrency": concurrency, "seconds": seconds}
    found = _examine({"model": str(path), "width": width, "bench": bench})["bench"]
    return found["provider"], msgspec.convert(found["figures"], type=tuple[BenchFigure, ...])


def score_onnx(path: Path, rows: np.ndarray) -> np.ndarray:
    """A model's scores [N] as float64 of rows [N, F]."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "rows.npy"), Path(folder, "scores.npy")
        np.save(asked, np.asarray(rows, np.float32), allow_pickle=False)
        _examine({"model": str(path), "width": rows.shape[1], "rows": str(asked), "scores": str(answered)})
        scores: np.ndarray = np.load(answered, allow_pickle=False)
        return scores


def replay_onnx(
    path: Path,
    folder: Path,
    *,
    width: int,
    seconds: float,
    beside: tuple[Path, Path, int] | None = None,
    leash: Leash | None = None,
) -> list[str]:
    """Ask a model one by one the rows in a folder, for so many seconds at most, and another one beside it by turns.

    The folder is one that `check_replay.lay` made, and there is what came of each, also where this raises InvalidInput. `beside`
    is another model with its folder and width. What the first failure of each said.
    """
    job: dict[str, Any] = {"folders": [str(folder)], "seconds": seconds}
    if beside is not None:
        other, of_other, columns = beside
        job |= {"beside": str(other), "width": columns, "folders": [str(folder), str(of_other)]}
    task = {"model": str(path), "width": width, "replay": job}
    found: list[str] = _without_error(_answer(task, leash or Leash()))["replayed"]
    return found


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
    """What a worker answers to a task; raises InvalidInput for what it refuses."""
    return _without_error(_answer(task))


def _without_error(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        error = answer["error"]
        raise InvalidInput(error["message"], hint=error["hint"], field=error["field"])
    return answer


def _answer(task: Mapping[str, Any], leash: Leash | None = None) -> dict[str, Any]:
    """Have a worker do a task, in an empty folder and without the server's environment."""
    field = "sample" if "sample" in task else "artifact"
    with _slots, tempfile.TemporaryDirectory() as folder, FORKS.worker("check") as worker:
        if leash is not None:
            leash.hold(worker)
        words = Path(folder, "stderr")
        empty = Path(folder, "empty")
        empty.mkdir()
        worker.send(msgspec.json.encode({**task, "folder": str(empty), "stderr": str(words)}))
        said = worker.answer(TIMEOUT_SECONDS)
        code = worker.wait()
        if said is None:
            raise InvalidInput(
                f"The {_noun(field)} took longer than {TIMEOUT_SECONDS} s to load and run.",
                hint="Export a smaller one.",
                field=field,
            )
        answer = _decode(said)
        if code != 0 or answer is None:
            _log.warning("The process that looked at a %s ended: %s", _noun(field), _tail(words))
            raise InvalidInput(
                f"The {_noun(field)} ended its process ({_how(code)}).", hint="Export it again.", field=field
            )
    return answer


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
    if not words.exists():
        return "without a word"
    return words.read_bytes()[-2000:].decode(errors="replace").strip() or "without a word"
