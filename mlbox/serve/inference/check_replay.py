"""Requests that are asked of models one by one, by a disposable process, in files that it shares with whoever asks.

What came of a request is there as soon as it came: a model that ends its process leaves what it answered before, and at which
request it was.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.serve.inference.tensors import NUMPY, Tensor, check_inputs, scores_among

if TYPE_CHECKING:
    import numpy as np

    from mlbox.serve.inference.runtime import Session

WAITING, ASKED, ANSWERED, FAILED = range(4)
"""What became of a request."""
MOST_ERROR = 300
Answer = tuple[Any, int]
"""The score of each of a request's rows, NaN for none, and a digest of all outputs, 0 for none."""


class Sheet:
    """What came of each request [N] of one model: `marks`, `times` in milliseconds, `digests` of the outputs; and the `scores` of
    all their rows, those of a request from its place in `starts` [N + 1] on. NaN where there is none."""

    def __init__(self, folder: Path | str, mode: Any = "r") -> None:
        import numpy as np

        self.marks, self.times, self.digests, self.scores = (
            np.load(Path(folder, f"{name}.npy"), mmap_mode=mode, allow_pickle=False)
            for name in ("marks", "times", "digests", "scores")
        )
        self.starts: np.ndarray = np.load(Path(folder, "starts.npy"), allow_pickle=False)

    def rows(self, place: int) -> slice:
        """Where a request's rows are."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))


def lay(folder: Path, rows: np.ndarray) -> None:
    """Make a sheet of rows [N, F], a request each, of which none was asked."""
    import numpy as np

    folder.mkdir()
    np.save(folder / "rows.npy", rows.astype(np.float32), allow_pickle=False)
    _lay(folder, np.arange(len(rows) + 1))


class _Place(NamedTuple):
    """Where a tensor's bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    at: int
    size: int


def lay_tensors(folder: Path, requests: Sequence[tuple[Sequence[Tensor], int]]) -> None:
    """Make a sheet of requests of tensors, each with its number of rows, of which none was asked."""
    import numpy as np

    folder.mkdir()
    places, at = [], 0
    with (folder / "tensors").open("wb") as file:
        for tensors, _ in requests:
            own = []
            for tensor in tensors:
                content = (
                    msgspec.json.encode(tensor.data.reshape(-1).tolist()) if _is_text(tensor) else tensor.data.tobytes()
                )
                own.append(_Place(tensor.name, tensor.dtype, tensor.data.shape, at, len(content)))
                at += file.write(content)
            places.append(own)
    (folder / "places").write_bytes(msgspec.json.encode(places))
    _lay(folder, np.cumsum([0, *(rows for _, rows in requests)]))


def _is_text(tensor: Tensor) -> bool:
    return tensor.dtype == "BYTES"


def _lay(folder: Path, starts: np.ndarray) -> None:
    import numpy as np

    requests = len(starts) - 1
    np.save(folder / "starts.npy", starts.astype(np.int64), allow_pickle=False)
    np.save(folder / "marks.npy", np.full(requests, WAITING, np.uint8), allow_pickle=False)
    np.save(folder / "times.npy", np.full(requests, np.nan), allow_pickle=False)
    np.save(folder / "digests.npy", np.zeros(requests, np.int64), allow_pickle=False)
    np.save(folder / "scores.npy", np.full(int(starts[-1]), np.nan), allow_pickle=False)


class Asked:
    """A model that is asked the requests of a sheet."""

    def __init__(self, session: Session, folder: str) -> None:
        self._sheet = Sheet(folder, "r+")
        self._answer = _of_rows(session, folder) if Path(folder, "rows.npy").exists() else _of_tensors(session, folder)
        self.error = ""
        self.requests = len(self._sheet.marks)

    def ask(self, place: int) -> None:
        """One request."""
        sheet = self._sheet
        sheet.marks[place] = ASKED
        rows = sheet.rows(place)
        began = time.perf_counter()
        try:
            scores, digest = self._answer(place, rows.stop - rows.start)
        except Exception as err:  # of any kind: what a model may do, it may do to its callers
            self.error = self.error or (str(err).strip().splitlines() or [type(err).__name__])[0][:MOST_ERROR]
            sheet.marks[place] = FAILED
            return
        sheet.times[place] = (time.perf_counter() - began) * 1000
        sheet.scores[rows], sheet.digests[place] = scores, digest
        sheet.marks[place] = ANSWERED


def _of_rows(session: Session, folder: str) -> Callable[[int, int], Answer]:
    import numpy as np

    rows = np.load(Path(folder, "rows.npy"), mmap_mode="r", allow_pickle=False)
    return lambda place, _: (session.score(rows[place : place + 1]), 0)


def _of_tensors(session: Session, folder: str) -> Callable[[int, int], Answer]:
    """As the model server has a request of tensors answered, and takes scores from the answer."""
    content = Path(folder, "tensors").read_bytes()
    places = msgspec.json.decode(Path(folder, "places").read_bytes(), type=list[list[_Place]])
    types = session.output_types

    def answer(place: int, rows: int) -> Answer:
        tensors = [_tensor(one, content) for one in places[place]]
        check_inputs(session.inputs, tensors, "model")
        scores, outputs = session.answer({tensor.name: tensor.data for tensor in tensors}, list(types))
        found = [Tensor(name, types[name], data) for name, data in zip(types, outputs, strict=True)]
        if scores is not None:
            return scores, _digest(found)
        return [math.nan if score is None else score for score in scores_among(found, rows)], _digest(found)

    return answer


def _tensor(place: _Place, content: bytes) -> Tensor:
    import numpy as np

    own = content[place.at : place.at + place.size]
    if place.dtype == "BYTES":
        data = np.array(msgspec.json.decode(own, type=list[str]), object)
    else:
        data = np.frombuffer(own, NUMPY[place.dtype])
    return Tensor(place.name, place.dtype, data.reshape(place.shape))


def _digest(outputs: Sequence[Tensor]) -> int:
    """The same for the very same outputs."""
    found = hashlib.sha256()
    for one in outputs:
        content = msgspec.json.encode(one.data.reshape(-1).tolist()) if _is_text(one) else one.data.tobytes()
        found.update(msgspec.json.encode((one.name, one.dtype, one.data.shape, len(content))) + content)
    return int.from_bytes(found.digest()[:8], "big", signed=True) or 1


def replay(asked: Sequence[Asked], seconds: float) -> None:
    """Ask the newest first, each of all models by turns, so that none has the machine to itself; until the time is over."""
    end = time.monotonic() + seconds
    for place in reversed(range(asked[0].requests)):
        for one in asked if place % 2 else reversed(asked):
            one.ask(place)
        if time.monotonic() > end:
            return
