"""What a lane runs: one request for one version, and what it was answered with."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.errors import InvalidInput, MlboxError, Unavailable
from mlbox.serve.inference.arena import is_full
from mlbox.serve.inference.remote import Died
from mlbox.serve.inference.tensors import Tensor
from mlbox.store.asking import THERE

if TYPE_CHECKING:
    import numpy as np


IMPATIENT_TIMES = 3
"""Whoever leaves after so many times what a run usually takes has waited for too long; sooner, he had other reasons."""
IMPATIENT_SECONDS = 0.1
"""At least: that somebody left is seen some 20 ms later, and what is usual of joined requests is a share of their run."""


class Ran(NamedTuple):
    """What a work was answered with."""

    scores: np.ndarray | None
    """Of each row, where the model has one."""
    outputs: list[np.ndarray]
    """Those that were wanted, in their order."""


class Apart(Unavailable):
    """A run for requests of a row each failed, and nothing has happened: each is to be asked by itself."""


class NotByRow(Exception):
    """A model that was given joined rows answered with another number of them."""


class Left(MlboxError):
    """Whoever asked has gone, so that nobody reads this: it did not run, or not to its end.

    The version is to blame where that took clearly longer than its model usually does.
    """

    status = 499
    code = "left"
    waited = 0.0
    """Seconds until then, in the queue and in the run; 0 where it was not even queued."""

    def is_blamed(self, usual: float) -> bool:
        """Whether a version is to blame, whose model usually takes so many seconds; 0 says that this is not known."""
        return usual > 0 and self.waited > max(IMPATIENT_TIMES * usual, IMPATIENT_SECONDS)


class Unfit(InvalidInput):
    """The model ran, and refused the values that it was given; that is counted against its version."""


_REFUSED = re.compile(
    r"\[ONNXRuntimeError\] : (?:1|2|6) : \w+ : Non-zero status code returned while running (\w+) node\..*?Status Message: (.*)",
    re.DOTALL,
)
"""What onnxruntime says where an operator refuses what it is given, such as an index past the end of a table, a text that is no
number, or sizes that do not fit together: which of FAIL, INVALID_ARGUMENT and RUNTIME_EXCEPTION it is follows from who wrote the
operator. What the file and the version do not agree about names no operator, and is not among it."""
_PLACE = re.compile(r"/\S+:\d+ .*?\) (?:\[with .*?\] )?(?:.* was false\. )?", re.DOTALL)
"""Where in its own source a condition did not hold, before the words for people."""
_OF_THE_MACHINE = re.compile(
    r"bad_alloc|allocat|out of memory|CUDA|CUDNN|CUBLAS|TensorRT|terminate flag", re.IGNORECASE
)
"""What an operator says that failed for other reasons than what it was given."""


def failure_of(ref: str, err: Exception) -> MlboxError:
    """What a request is answered with on which a version failed."""
    if isinstance(err, Unavailable):  # it did not run, and that says why
        return err
    if isinstance(err, InvalidInput):  # of what it gave for this
        return Unfit(f"{ref} failed on this input: {err.message}", hint=err.hint)
    if is_full(err):
        return Unavailable(
            f"{ref} wants more memory for this input than runs may take.",
            hint="Send fewer rows at a time, or raise models_memory_gb.",
        )
    if (refused := _REFUSED.match(str(err))) and not _OF_THE_MACHINE.search(refused[2]):
        words = _PLACE.sub("", refused[2].strip(), count=1).rstrip(".")
        return Unfit(
            f"{ref} does not take these values: {words:.300} ({refused[1]:.60}).",
            hint="Send values that the model knows.",
        )
    what = "ended the process that ran it, twice," if isinstance(err, Died) else "failed"
    return Unavailable(f"{ref} {what} on this input.", hint="The server's log has the details.")


class Work:
    """One request for one version: tensors that were checked, and the outputs that are wanted of them."""

    __slots__ = (
        *("again", "deadline", "future", "ids", "key", "last", "outcome", "presence", "priority", "queued", "rows"),
        *("state", "tensors", "wanted"),
    )

    def __init__(
        self,
        tensors: Sequence[Tensor],
        wanted: Sequence[str],
        *,
        rows: int | None,
        priority: int = 0,
        timeout_ms: float = math.inf,
        last: bool = False,
    ) -> None:
        self.tensors = tensors
        self.wanted = wanted
        self.rows = rows
        """None where the first dimension is not that of rows, and it can be joined with no other."""
        self.priority = priority
        self.last = last
        """Comes after every other, whatever its priority."""
        self.queued = time.perf_counter()
        self.deadline = self.queued + timeout_ms / 1000
        self.presence = THERE
        """Of whoever waits for it, once it is queued."""
        self.state = "new"
        self.again = False
        """Whether the process that ran it died of it, or of what was joined with it: then it runs once more, alone."""
        self.ids: Sequence[str] = ()
        """Of the predictions that its rows come to."""
        self.key = b""
        """Under which its answer is to be remembered; empty for not at all."""
        self.outcome: Ran | MlboxError | None = None
        self.future: Future[Ran] | None = None

    def result(self) -> Ran:
        """What it was answered with; raises why it was not."""
        if isinstance(self.outcome, Ran):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome

    @property
    def shape(self) -> Any:
        """Works of the same can be joined: the tensors without their rows. One that can be joined with no other is its own."""
        if self.rows is None:
            return id(self)
        if len(self.tensors) == 1:
            return self.tensors[0].data.shape[1:]
        return tuple(sorted((tensor.name, tensor.data.shape[1:]) for tensor in self.tensors))


def feeds_of(works: Sequence[Work]) -> dict[str, np.ndarray]:
    """The inputs of works of one shape."""
    if len(works) == 1:
        return {tensor.name: tensor.data for tensor in works[0].tensors}
    import numpy as np

    if len(works[0].tensors) == 1:
        return {works[0].tensors[0].name: np.concatenate([work.tensors[0].data for work in works])}
    by_name = [{tensor.name: tensor.data for tensor in work.tensors} for work in works]
    return {name: np.concatenate([feeds[name] for feeds in by_name]) for name in by_name[0]}


def split(
    works: Sequence[Work], wanted: Sequence[str], scores: np.ndarray | None, outputs: Sequence[np.ndarray]
) -> list[Ran]:
    """Each work's rows out of a joined run's."""
    check_rows_of(outputs, sum(work.rows or 0 for work in works))
    found = dict(zip(wanted, outputs, strict=True))
    rans, at = [], 0
    for work in works:
        end = at + (work.rows or 0)
        own = None if scores is None else scores[at:end]
        rans.append(Ran(own, [found[name][at:end] for name in work.wanted]))
        at = end
    return rans


def check_rows_of(outputs: Sequence[np.ndarray], rows: int) -> None:
    """Raise NotByRow unless each output has as many rows as went in."""
    for output in outputs:
        if not output.shape or output.shape[0] != rows:
            raise NotByRow
