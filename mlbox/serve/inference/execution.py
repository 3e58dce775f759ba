"""One version's part of an answer: loaded, run, counted. The model server has as many of them as versions answer a request."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, TooMany, Unavailable
from mlbox.ids import new_ids
from mlbox.records import TensorSpec
from mlbox.serve.inference.answers import SCORE, Part, Running, groups, taken
from mlbox.serve.inference.cache import Answers, key_of
from mlbox.serve.inference.loading import Loaded, Loader
from mlbox.serve.inference.rows import MAX_ROWS, Inputs, Values, as_matrix
from mlbox.serve.inference.statistics import Statistics
from mlbox.serve.inference.tab import Entry, Moment
from mlbox.serve.inference.targets import Target, Targets
from mlbox.serve.inference.tensor_sample import TensorSample
from mlbox.serve.inference.tensors import Tensor, batch_of, check_inputs, check_outputs, scores_among
from mlbox.serve.inference.warmup import Recent
from mlbox.serve.inference.work import Apart, Left, Ran, Work
from mlbox.serve.predictions.batches import Batch, Given
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.routing import Route

if TYPE_CHECKING:
    import numpy as np


class Ask(NamedTuple):
    """A request by tensors."""

    target: Target
    tensors: Sequence[Tensor]
    caller: str
    outputs: Sequence[str] = ()
    """Those that are wanted, all by default."""
    keys: Sequence[str] = ()
    """What decides which version answers, one for all rows or one for each; without, any may."""
    priority: int = 0
    timeout_ms: float = math.inf


class AskRows(NamedTuple):
    """A request by rows of features, of which some are still to be looked up."""

    target: Target
    inputs: Inputs
    caller: str
    routes: list[Route]
    """One for all rows, or one for each."""


class Begun(NamedTuple):
    """A request that was checked, and what is to run for it."""

    ask: Ask | AskRows
    rows: int
    """Of the log."""
    routes: list[Route]
    """One for all rows, or one for each."""
    running: list[Running]
    specs: tuple[TensorSpec, ...] = ()
    """What its tensors were checked against."""
    joinable: bool = True
    """Whether the first dimension of each tensor is that of rows."""


class Execution:
    """Has versions answer."""

    def __init__(self, loader: Loader, log: PredictionLog, clock: Clock, statistics: Statistics) -> None:
        self._loader = loader
        self._statistics = statistics
        self._log = log
        self._clock = clock
        self.recent = Recent()
        self.sample = TensorSample(clock)
        self.answers = Answers()

    def load(self, model: str, route: Route, rows: int) -> Loaded:
        """A version in memory; one that cannot be loaded failed on these rows."""
        try:
            return self._loader.get(model, route.version)
        except Unavailable:
            self._log.record_error(model, route.version, route.role, rows=rows)
            raise

    # -- by tensors -----------------------------------------------------------------------------------------------------------

    def begin(self, ask: Ask, targets: Targets) -> Begun:
        """A request that was checked, with the works that it takes; raises what is wrong with it."""
        target, tensors, keys = ask.target, ask.tensors, ask.keys
        specs = targets.inputs(target)
        check_inputs(specs, tensors, target.model)
        found = batch_of(specs, tensors)
        rows = 1 if found is None else _checked_rows(found, target.model, tensors[0].name)
        if len(keys) > 1 and len(keys) != found:
            raise InvalidInput(f"{len(keys)} keys for {rows} rows.", hint="Send one for each row.", field="keys")
        routes = [target.alone[0]] if target.alone is not None and not keys else targets.routes(target, keys)
        return self._with_works(Begun(ask, rows, routes, [], specs, found is not None))

    def _with_works(self, begun: Begun) -> Begun:
        if len(begun.routes) == 1:
            begun.running.append(self._work(begun, begun.routes[0], range(begun.rows)))
        else:
            begun.running.extend([self._work(begun, *group) for group in groups(begun.routes).items()])
        return begun

    def _work(self, begun: Begun, route: Route, places: Sequence[int]) -> Running:
        """A version's work on the rows at these places."""
        ask, shadow = begun.ask, route.role == "shadow"
        if isinstance(ask, AskRows):
            return self._work_on_rows(ask, route, places)
        model = ask.target.model
        tensors = ask.tensors if len(places) == begun.rows else taken(ask.tensors, places)
        loaded = self._loaded(ask.target, route, len(places))
        if loaded.inputs is not begun.specs:
            check_inputs(loaded.inputs, tensors, model)
        named = () if shadow else ask.outputs
        wanted = wanted_of(loaded, named, model)
        work = Work(
            tensors,
            wanted,
            rows=len(places) if begun.joinable else None,
            priority=ask.priority,
            timeout_ms=ask.timeout_ms,
            last=shadow,
        )
        self._recall(loaded, work)
        running = Running(loaded, route, places, work, named or wanted, ask.caller)
        return running._replace(keys=keys_of(ask.keys, places)) if ask.keys and self._log.samples(model) else running

    def _loaded(self, target: Target, route: Route, rows: int) -> Loaded:
        if target.alone is None or target.alone[0] is not route:
            return self.load(target.model, route, rows)
        loaded = target.alone[1]
        loaded.used = time.perf_counter()
        return loaded

    def start(self, every: Sequence[Running]) -> None:
        """Have works run: those that are quick here and now, those of one version together; others in their lanes."""
        quick: dict[Loaded, list[Work]] = {}
        ids, at = new_ids(sum([len(running.places) for running in every])), 0
        for running in every:
            work, loaded = running.work, running.loaded
            work.ids, at = ids[at : at + len(running.places)], at + len(running.places)
            if work.state == "done":
                continue
            if not loaded.version.features and not work.last:  # a shadow's are the same once more
                self.sample.note(loaded.version.model, work.tensors, work.rows or 1)
            if loaded.lane.quick(work.rows):
                quick.setdefault(loaded, []).append(work)
                continue
            loaded.lane.offer(work)
        for loaded, works in quick.items():
            loaded.lane.run_now(works)
            if isinstance(works[0].outcome, Ran):
                self.recent.note(loaded.version.model, works[0].tensors)

    def end(self, begun: Begun) -> tuple[Begun, list[Part]] | MlboxError:
        """What versions answered a request, or why one did not. Waits for them; a failure counts against the version."""
        try:
            return begun, [self._part(running) for running in begun.running]
        except MlboxError as err:
            return err

    def singles(self, ask: AskRows) -> tuple[Begun, Entry]:
        """Requests of a row each, in one run of the quick version that answers whatever is asked of its model.

        Raises what is wrong with one of them, or Apart, and nothing has happened then.
        """
        assert ask.target.alone is not None
        route, loaded = ask.target.alone
        rows = len(ask.inputs.rows)
        begun = Begun(ask, rows, [route], [], loaded.inputs)
        running = self._work(begun, route, range(rows))
        work = running.work
        ran, runs = loaded.lane.run_rows({tensor.name: tensor.data for tensor in work.tensors}, work.wanted, rows)
        work.ids = new_ids(rows)
        return begun, Entry(shown(running, ran), runs)

    def settled(self, entries: Sequence[Entry], moment: Moment) -> list[Batch]:
        """Count answers to requests of a row each; what the log takes of them."""
        alike: dict[Any, list[Entry]] = {}
        for entry in entries:
            running = entry.part.running
            alike.setdefault(
                (running.loaded, running.route.role, running.caller, running.values is not None), []
            ).append(entry)
        return [self._settled(some, moment) for some in alike.values()]

    def _settled(self, entries: Sequence[Entry], moment: Moment) -> Batch:
        version, lane = entries[0].part.running.loaded.version, entries[0].part.running.loaded.lane
        lane.count([run for entry in entries for run in entry.runs])
        shapes = {entry.part.running.work.shape: entry.part.running.work.tensors for entry in entries}
        for tensors in shapes.values():
            self.recent.note(version.model, [tensor._replace(data=tensor.data[:1]) for tensor in tensors])
        if not version.features:
            for entry in entries:
                self.sample.note_each(version.model, entry.part.running.work.tensors, len(entry.part.ids))
        return self.logged([entry.part for entry in entries], single=True, moment=moment)

    def _part(self, running: Running) -> Part:
        return shown(running, self._ran(running))

    def batches(self, parts: Sequence[Part]) -> list[Batch]:
        """What the log takes: requests of a row each that one version answered for one caller are one batch."""
        alike: dict[Any, list[Part]] = {}
        for part in parts:
            running = part.running
            single = len(part.ids) == 1
            by_row = running.values is not None
            key = (running.loaded, running.route.role, running.caller, by_row) if single else id(part)
            alike.setdefault(key, []).append(part)
        return [self.logged(some, single=len(some) > 1) for some in alike.values()]

    def logged(self, parts: Sequence[Part], *, single: bool, moment: Moment | None = None) -> Batch:
        """The same of some that are alike; `single` says that each row is a request."""
        first = parts[0].running
        version, named = first.loaded.version, first.loaded.named
        every = [part.running for part in parts]
        return Batch(
            model=version.model,
            version=version.version,
            role=first.route.role,
            at=moment.real if moment else self._clock.real(),
            domain_at=moment.domain if moment else self._clock.now(),
            caller=first.caller,
            latency_ms=_latencies(parts) if single else parts[0].latency_ms,
            ids=[own for part in parts for own in part.ids],
            scores=[score for part in parts for score in part.scores],
            names=named,
            values=_values_of(every) if named else None,
            entities=[entity for one in every for entity in one.entities],
            keys=[key for one in every for key in one.keys],
        )

    def rehearsed(self, begun: Begun, route: Route, places: Sequence[int], answered: Sequence[Part]) -> Batch:
        """What the log takes of a version that answers beside a request, for nobody; a sample has both or neither.

        What it does not take, though the champion did, is an error of its own.
        """
        try:
            running = self._work(begun, route, places)
        except InvalidInput:
            self._log.record_error(begun.ask.target.model, route.version, route.role, rows=len(places))
            raise
        if not running.keys and self._log.samples(running.loaded.version.model):
            ids = {place: own for part in answered for place, own in zip(part.running.places, part.ids, strict=True)}
            running = running._replace(keys=[ids[place] for place in places])
        self.start([running])
        return self.logged([self._part(running)], single=False)

    # -- by rows ----------------------------------------------------------------------------------------------------------------

    def begin_rows(self, ask: AskRows) -> Begun | MlboxError:
        """A request with the works that it takes, once its features are looked up; or what is wrong with it."""
        routes = ask.routes[:1] if len(set(ask.routes)) == 1 else ask.routes
        try:
            return self._with_works(Begun(ask, len(ask.inputs.rows), routes, []))
        except MlboxError as err:
            return err

    def _work_on_rows(self, ask: AskRows, route: Route, places: Sequence[int]) -> Running:
        loaded = self._loaded(ask.target, route, len(places))
        version, session = loaded.version, loaded.session
        if not session.tabular or not version.features:
            raise InvalidInput(
                f"{version.ref} takes tensors and no rows of features.",
                hint="Ask it by the Open Inference Protocol.",
                field="model",
            )
        values, looking = ask.inputs.of(loaded.columns, places)
        tensors = [Tensor(session.inputs[0].name, "FP32", as_matrix(values))]
        work = Work(tensors, (), rows=len(places), last=route.role == "shadow")
        self._recall(loaded, work)
        entities = [ask.inputs.rows[place].entity for place in places]
        keys = [ask.inputs.rows[place].key for place in places] if self._log.samples(version.model) else ()
        return Running(loaded, route, places, work, (SCORE,), ask.caller, values, entities, looking, keys)

    # -- either -----------------------------------------------------------------------------------------------------------------

    def _ran(self, running: Running) -> Ran:
        work, future = running.work, running.work.future
        try:
            ran = work.result() if future is None else future.result()
            if future is not None:
                self.recent.note(running.loaded.version.model, work.tensors)
            if work.key:
                most = running.loaded.lane.config.cache_bytes
                self.answers.put(running.loaded.version.model, work.key, ran, most=most)
            return ran
        except (TooMany, Apart):
            raise
        except MlboxError as err:
            version = running.loaded.version
            if isinstance(err, Left) and not err.is_blamed(self._loader.usual_seconds(version.model, work.rows)):
                raise
            self._log.record_error(
                version.model,
                version.version,
                running.route.role,
                rows=len(running.places),
                given=given_of(running),
            )
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


def wanted_of(loaded: Loaded, named: Sequence[str], model: str) -> Sequence[str]:
    """What a version is run for where these outputs are wanted, or none is named; raises InvalidInput for one that it has not."""
    if not named:
        return loaded.outputs
    beside = loaded.session.tabular and SCORE not in loaded.outputs
    wanted = [name for name in named if not (beside and name == SCORE)]
    check_outputs(loaded.session.outputs, wanted, model)
    return wanted


def shown(running: Running, ran: Ran) -> Part:
    """What came of a version's work."""
    loaded, work, named = running.loaded, running.work, running.named
    types, outputs = loaded.session.output_types, ran.outputs
    if named is work.wanted:
        found = [Tensor(name, types[name], data) for name, data in zip(named, outputs, strict=True)]
    else:  # the score is beside them
        by_name = {name: Tensor(name, types[name], data) for name, data in zip(work.wanted, outputs, strict=True)}
        if ran.scores is not None:
            by_name.setdefault(SCORE, Tensor(SCORE, "FP64", ran.scores))
        found = [by_name[name] for name in named]
    scores = ran.scores.tolist() if ran.scores is not None else scores_among(found, len(running.places))
    seconds = running.looking + time.perf_counter() - work.queued
    return Part(running, found, scores, work.ids, seconds * 1000)


def _latencies(parts: Sequence[Part]) -> list[float]:
    return [part.latency_ms for part in parts for _ in part.ids]


def _values_of(every: Sequence[Running]) -> np.ndarray | Values:
    """The features of works as they were looked up, or as tensors brought them."""
    import numpy as np

    if every[0].values is None:
        tensors = [one.work.tensors[0].data for one in every]
        return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
    return [row for one in every for row in one.values or ()]


def keys_of(keys: Sequence[str], places: Sequence[int]) -> list[str]:
    """The key of each of these rows, of a request with one for all or one for each."""
    return [keys[0]] * len(places) if len(keys) == 1 else [keys[place] for place in places]


def given_of(running: Running) -> Given:
    """What a work's rows were made of."""
    named = running.loaded.named
    return Given(len(running.places), named, _values_of([running]) if named else None, running.entities)


def _checked_rows(rows: int, model: str, name: str) -> int:
    if not rows:
        raise InvalidInput(f"The input {name!r:.80} for {model!r} has no rows.", hint="Send at least one.", field=name)
    if rows > MAX_ROWS:
        raise InvalidInput(
            f"inference request batch-size must be <= {MAX_ROWS} for {model!r}, and is {rows}",
            hint="Split the request.",
            field=name,
        )
    return rows
