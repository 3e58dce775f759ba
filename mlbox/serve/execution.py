"""One version's part of an answer: loaded, run, counted. The model server has as many of them as versions answer a request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, TooMany, Unavailable
from mlbox.ids import new_id
from mlbox.records import TensorSpec
from mlbox.serve.answers import SCORE, Part, scores_among
from mlbox.serve.cache import Answers, key_of
from mlbox.serve.lanes import Ran, Work
from mlbox.serve.loading import Loaded, Loader
from mlbox.serve.predlog import Batch, PredictionLog
from mlbox.serve.routing import Route
from mlbox.serve.rows import Inputs, as_matrix
from mlbox.serve.statistics import Statistics
from mlbox.serve.tensors import Tensor, check_inputs, check_outputs
from mlbox.serve.warmup import Recent


class Asked(NamedTuple):
    """A request by tensors, checked against what one version takes."""

    model: str
    tensors: Sequence[Tensor]
    outputs: Sequence[str]
    rows: int
    """Of the log."""
    joinable: bool
    """Whether the first dimension of each tensor is that of rows."""
    caller: str
    priority: int
    timeout_ms: float
    specs: tuple[TensorSpec, ...]
    """What it was checked against."""


class Running(NamedTuple):
    """One version's work on some rows of a request, under way or done."""

    loaded: Loaded
    route: Route
    places: Sequence[int]
    work: Work
    named: Sequence[str]
    """The outputs of the answer, in their order."""
    caller: str


class Execution:
    """Has versions answer."""

    def __init__(self, loader: Loader, log: PredictionLog, clock: Clock, statistics: Statistics) -> None:
        self._loader = loader
        self._statistics = statistics
        self._log = log
        self._clock = clock
        self.recent = Recent()
        self.answers = Answers()

    def load(self, model: str, route: Route, rows: int) -> Loaded:
        """A version in memory; one that cannot be loaded failed on these rows."""
        try:
            return self._loader.get(model, route.version)
        except Unavailable:
            self._log.record_error(model, route.version, route.role, rows=rows)
            raise

    # -- by tensors -----------------------------------------------------------------------------------------------------------

    def begin(self, asked: Asked, route: Route, places: Sequence[int], tensors: Sequence[Tensor]) -> Running:
        """Have a version answer tensors, of the rows at these places; raises TooMany where too many wait for it."""
        loaded = self.load(asked.model, route, len(places))
        session = loaded.session
        if loaded.inputs is not asked.specs:
            check_inputs(loaded.inputs, tensors, asked.model)
        own = session.output_types
        outputs = () if route.role == "shadow" else asked.outputs
        wanted = list(own)
        if outputs:
            beside = session.tabular and SCORE not in own
            wanted = [name for name in outputs if not (beside and name == SCORE)]
            check_outputs(session.outputs, wanted, asked.model)
        self.recent.note(asked.model, tensors)
        work = Work(
            tensors,
            wanted,
            rows=len(places) if asked.joinable else None,
            priority=asked.priority,
            timeout_ms=asked.timeout_ms,
            last=route.role == "shadow",
        )
        self._recall(loaded, work)
        _start(loaded, work)
        return Running(loaded, route, places, work, outputs or wanted, asked.caller)

    def end(self, running: Running) -> Part:
        """What a version answered, and what the log takes of it. Waits for it; its failure counts against the version."""
        loaded, work = running.loaded, running.work
        ran = self._ran(running)
        session, version = loaded.session, loaded.version
        types = session.output_types
        answers = {name: Tensor(name, types[name], data) for name, data in zip(work.wanted, ran.outputs, strict=True)}
        if ran.scores is not None:
            answers.setdefault(SCORE, Tensor(SCORE, "FP64", ran.scores))
        named = version.features if session.tabular else ()
        rows = len(running.places)
        batch = self._batch(
            running,
            latency_ms=(time.perf_counter() - work.queued) * 1000,
            scores=ran.scores.tolist() if ran.scores is not None else scores_among(answers, rows),
            names=named,
            values=work.tensors[0].data if named else None,
        )
        return Part(running.places, [answers[name] for name in running.named], batch)

    # -- by rows ----------------------------------------------------------------------------------------------------------------

    def score(self, model: str, route: Route, inputs: Inputs, places: Sequence[int], caller: str) -> Batch:
        """Have a version score rows of features; what fails counts against it."""
        loaded = self.load(model, route, len(places))
        version, session = loaded.version, loaded.session
        if not session.tabular or not version.features:
            raise InvalidInput(
                f"{version.ref} takes tensors and no rows of features.",
                hint="Ask it by the Open Inference Protocol.",
                field="model",
            )
        values, looking = inputs.of(loaded.columns, places)
        tensors = [Tensor(session.inputs[0].name, "FP32", as_matrix(values))]
        self.recent.note(model, tensors)
        work = Work(tensors, (), rows=len(places), last=route.role == "shadow")
        self._recall(loaded, work)
        _start(loaded, work)
        running = Running(loaded, route, places, work, (), caller)
        ran = self._ran(running)
        assert ran.scores is not None
        return self._batch(
            running,
            latency_ms=(looking + time.perf_counter() - work.queued) * 1000,
            scores=ran.scores.tolist(),
            names=version.features,
            values=values,
            entities=[inputs.rows[place].entity for place in places],
        )

    # -- either -----------------------------------------------------------------------------------------------------------------

    def _ran(self, running: Running) -> Ran:
        work, future = running.work, running.work.future
        try:
            ran = work.result() if future is None else future.result()
            if work.key:
                most = running.loaded.lane.config.cache_bytes
                self.answers.put(running.loaded.version.model, work.key, ran, most=most)
            return ran
        except TooMany:
            raise
        except MlboxError:
            version = running.loaded.version
            self._log.record_error(version.model, version.version, running.route.role, rows=len(running.places))
            raise

    def _recall(self, loaded: Loaded, work: Work) -> None:
        """Answer a work by what is remembered, where the model's owner wants that."""
        if not loaded.lane.config.cache_bytes:
            return
        began, version = time.perf_counter_ns(), loaded.version
        key = key_of(version.artifact or version.id, work.tensors, work.wanted)
        found = self.answers.get(version.model, key)
        if found is None:
            work.key = key
        else:
            work.state, work.outcome = "done", found
        self._statistics.cached(
            version.model,
            version.version,
            hit=found is not None,
            rows=work.rows or 1,
            ns=time.perf_counter_ns() - began,
        )

    def _batch(self, running: Running, *, scores: list[float | None], **given: Any) -> Batch:
        version = running.loaded.version
        return Batch(
            model=version.model,
            version=version.version,
            role=running.route.role,
            at=self._clock.real(),
            domain_at=self._clock.now(),
            caller=running.caller,
            ids=[new_id() for _ in scores],
            scores=scores,
            **given,
        )


def _start(loaded: Loaded, work: Work) -> None:
    if work.state == "done":
        return
    if loaded.lane.quick(work.rows):
        loaded.lane.run_now([work])
    else:
        loaded.lane.submit(work)
