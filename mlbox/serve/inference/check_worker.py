"""The program of a disposable process: load what was uploaded, run it, say what was seen. It may die, and nothing is lost.

Reads a task as JSON from standard input and writes one JSON object to standard output: what was found, or `error` with
`message`, `hint`, `field`. A task is about a model, `{"model", "width"?, "rows"?, "scores"?,
"against"?, "bench"?, "replay"?}`, where `against` is a sample that its answers are compared with and `replay` what `check_replay`
takes; or about a sample, `{"sample", "inputs", "outputs"}`. `rows` is a file to read rows from, `scores`, `inputs` and `outputs`
are files to write arrays to. Either has
`folder`, an empty one to work in, and `stderr`, a file for what is said beside.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlbox.serve.inference.check_values import Known, known_values

MEMORY_BYTES = 16 * 1024**3
CPU_SECONDS = 300
FILE_BYTES = 1024**3
LEAST_MEMORY = 1024**2
"""What the smallest model is said to take."""
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Where onnxruntime itself has the operators; what is in others comes in libraries, which are never loaded."""


TRIED = "It is tried with zeros, the text 0, and the first category of each one-hot encoder: export it so that it takes these."
BRANCHING = frozenset({"Loop", "If"})
"""Operators with which values, and not shapes alone, decide how long a run takes."""


class Contents(NamedTuple):
    """What the file of a model says before it is loaded."""

    external: set[str]
    """The files beside it in which it keeps weights."""
    branches: bool
    """Whether it has one of `BRANCHING`."""
    known: list[Known]
    """Values for columns of its inputs that take no others than some."""


class ExternalData(Exception):
    """A model names files that are not in its folder."""

    def __init__(self, locations: set[str], missing: str) -> None:
        super().__init__(missing)
        self.locations = locations
        self.missing = missing


def main() -> None:
    """Do the task on standard input."""
    task = json.load(sys.stdin)
    os.chdir(task["folder"])
    words = os.open(task["stderr"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.dup2(words, sys.stderr.fileno())
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: FILE_BYTES,
    }
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not mix with the answer
    answer = examine_sample(task) if "sample" in task else examine_model(task)
    with os.fdopen(answers, "w") as file:
        json.dump(answer, file)


def examine_model(task: dict[str, Any]) -> dict[str, Any]:
    """Load the model, run it once, and measure what the task asks for."""
    from mlbox.errors import MlboxError

    try:
        return _examine(task)
    except ExternalData as err:
        message = f"The model keeps its weights in other files ({err.missing!r:.80}), which are not in its folder."
        hint = "Log them beside the model, under these names, or export one file."
        return _error(message, hint, "artifact") | {"external": sorted(err.locations)}
    except MlboxError as err:
        return _error(err.message, err.hint, err.field)
    except Exception as err:
        words = str(err).strip().splitlines() or [type(err).__name__]
        return _error(f"The model cannot be loaded and run: {words[0][:300]}", "Export it again.", "artifact")


def _error(message: str, hint: str, field: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "hint": hint, "field": field}}


def _examine(task: dict[str, Any]) -> dict[str, Any]:
    import msgspec
    import numpy as np

    before = _memory()
    session, contents, size = _load(Path(task["model"]))
    feeds = _trial(session, task.get("width") or 1, contents.known)
    answer: dict[str, Any] = {
        "inputs": msgspec.to_builtins(session.inputs),
        "outputs": msgspec.to_builtins(session.outputs),
        "size": size,
        "external": sorted(contents.external),
        "branches": contents.branches,
        "known": contents.known,
        "memory": max(_memory() - before, LEAST_MEMORY),
        "joins": session.batched and _rows_stand_alone(session, feeds),
    }
    if task.get("bench"):
        from mlbox.serve.inference.check_bench import measured

        answer["bench"] = measured(session, feeds, task["bench"], joins=answer["joins"], known=contents.known)
    if task.get("against"):
        from mlbox.serve.inference.check_sample import compared

        answer["compared"] = compared(session, Path(task["against"]))
    if task.get("scores"):
        rows = np.load(task["rows"], allow_pickle=False)
        np.save(task["scores"], session.score(rows), allow_pickle=False)
    if task.get("replay"):
        answer["replayed"] = _replayed(session, task["replay"])
    return answer


def _load(path: Path) -> tuple[Any, Contents, int]:
    """A model in memory, what its file says, and how many bytes that and the files beside it have on disk."""
    from mlbox.serve.inference.runtime import CPU, Session
    from mlbox.store.registry.model_folders import own_files

    content = path.read_bytes()
    found = _check_file(content, own_files(path))
    size = len(content) + sum(path.with_name(name).stat().st_size for name in found.external)
    return Session(path if found.external else content, providers=CPU), found, size


def _replayed(session: Any, job: dict[str, Any]) -> list[str]:
    """Ask the model, and another beside it, what was asked before; what the first failure of each said."""
    from mlbox.serve.inference.check_replay import Asked, replay

    asked = [Asked(session, job["folders"][0])]
    if job.get("beside"):
        beside, contents, _ = _load(Path(job["beside"]))
        _trial(beside, job["width"] or 1, contents.known)
        asked.append(Asked(beside, job["folders"][1]))
    replay(asked, job["seconds"])
    return [one.error for one in asked]


def _check_file(content: bytes, beside: frozenset[str]) -> Contents:
    """What an ONNX model says; raises InvalidInput for weights in files that are not beside it, and for custom operators.

    Every tensor counts, wherever it is in the model, and a file is named as it lies there: not by a path that leads to it too.
    """
    import onnx

    from mlbox.errors import InvalidInput

    try:
        model = onnx.load_model_from_string(content)
    except Exception as err:
        raise InvalidInput(
            "The file is not an ONNX model.", hint="Export it with mlbox.export_onnx.", field="artifact"
        ) from err
    if not model.graph.node:
        raise InvalidInput("The ONNX model has no nodes.", hint="Export it again.", field="artifact")
    own = {function.domain for function in model.functions}
    external: set[str] = set()
    branches = False
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (message.external_data or message.data_location):
            external.add({entry.key: entry.value for entry in message.external_data}.get("location", ""))
        if not isinstance(message, onnx.NodeProto):
            continue
        branches = branches or message.op_type in BRANCHING
        if message.domain not in KNOWN_DOMAINS | own:
            raise InvalidInput(
                f"The model has the custom operator {message.op_type!r:.80} of {message.domain!r:.80}.",
                hint="Export with standard operators.",
                field="artifact",
            )
    if external - beside:
        raise ExternalData(external, min(external - beside))
    return Contents(external, branches, known_values(model))


def _messages(root: Any) -> Iterator[Any]:
    """A message and all within it: initializers, attributes, subgraphs and functions, wherever a later format puts them."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def _memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _trial(session: Any, width: int, known: Sequence[Known]) -> Callable[[int], dict[str, Any]]:
    """Run the model on generated inputs of one row and of two, and give what makes such inputs of any number of rows.

    Two sizes, because a model may hold to the one that it was exported with. Other free dimensions are tried in a few sizes,
    because an image of one pixel is too small for most models that take images.
    """
    from mlbox.errors import InvalidInput, MlboxError
    from mlbox.serve.inference.warmup import FREE_SIZES, generated
    from mlbox.serve.inference.work import Unfit, failure_of

    first: Exception | None = None
    for size in (width,) if session.tabular else FREE_SIZES:
        feeds = functools.partial(_generated, generated, session.inputs, size, known)
        try:
            for rows in (1, 2) if session.batched or session.tabular else (1,):
                _run(session, feeds, rows)
        except Exception as err:
            first = first or err
            continue
        return feeds
    assert first is not None
    if isinstance(refused := failure_of("The model", first), Unfit) and not isinstance(first, MlboxError):
        raise InvalidInput(refused.message, hint=TRIED, field="artifact") from first
    raise first


def _generated(
    generate: Callable[..., dict[str, Any]], inputs: Any, size: int, known: Sequence[Known], rows: int
) -> dict[str, Any]:
    return generate(inputs, rows, size, known=known)


def _run(session: Any, feeds: Callable[[int], dict[str, Any]], rows: int) -> object:
    return session.answer(feeds(rows), ())


def _rows_stand_alone(session: Any, feeds: Callable[[int], dict[str, Any]]) -> bool:
    """Whether two rows of random numbers are answered alike together and each for itself.

    Where the model mixes rows, as a batch normalisation in training mode does, joining requests would mix their callers' data.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    both = {name: _random(rng, data) for name, data in feeds(2).items()}
    try:
        together = session.run(both)
        parts = [session.run({name: data[n : n + 1] for name, data in both.items()}) for n in (0, 1)]
    except Exception:
        return False
    alone = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
    return all(_alike(a, b) for a, b in zip(together, alone, strict=True))


def _random(rng: Any, data: Any) -> Any:
    """Random numbers in the place of zeros: what is no zero is a category, and the model may take no other."""
    import numpy as np

    if data.dtype.kind != "f":
        return data
    return np.where(data == 0, rng.standard_normal(data.shape), data).astype(data.dtype)


def _alike(a: Any, b: Any) -> bool:
    import numpy as np

    if a.shape != b.shape:
        return False
    return np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) if a.dtype.kind == "f" else np.array_equal(a, b)


def examine_sample(task: dict[str, Any]) -> dict[str, Any]:
    """Unpack a sample and write its arrays, `inputs` as float32 and `outputs` as float64 [N]."""
    import numpy as np

    from mlbox.errors import MlboxError
    from mlbox.serve.inference.check_sample import WRITES_ONE, arrays_of

    try:
        arrays = arrays_of(Path(task["sample"]))
        inputs, outputs = arrays["inputs"].astype(np.float32), arrays["outputs"].astype(np.float64)
    except MlboxError as err:
        return _error(err.message, err.hint, err.field)
    except Exception as err:  # an array that is missing, or of no numbers
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return _error("The sample is no .npz with the arrays `inputs` and `outputs`.", WRITES_ONE, "sample")
    np.save(task["inputs"], inputs, allow_pickle=False)
    np.save(task["outputs"], outputs.reshape(-1), allow_pickle=False)
    return {}
