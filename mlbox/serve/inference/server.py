"""The model server: rows in, scores out, with the router asked, the features looked up, the answer logged.

It knows no wire protocol: `web` has an adapter for each over this one object.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from mlbox.clock import Clock
from mlbox.errors import MlboxError, NotFound, TooMany, Unavailable
from mlbox.events import EventBus
from mlbox.records import Event, ModelVersion, Prediction, ServingConfig, TensorSpec
from mlbox.serve.inference.answers import Inferred, Part, joined, scores_of
from mlbox.serve.inference.background import Background
from mlbox.serve.inference.devices import Devices
from mlbox.serve.inference.execution import Ask, AskRows, Begun, Execution, given_of
from mlbox.serve.inference.loading import Holding, Loader
from mlbox.serve.inference.quarantine import Quarantine
from mlbox.serve.inference.rates import Rates
from mlbox.serve.inference.rows import Form, Inputs, PredictRow, check_rows
from mlbox.serve.inference.singles import Singles
from mlbox.serve.inference.statistics import Statistics
from mlbox.serve.inference.tab import Entry, Moment, Tab
from mlbox.serve.inference.targets import SERVING, Target, Targets
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.warmup import Feeds
from mlbox.serve.inference.workers import Workers
from mlbox.serve.predictions.batches import Given, prepare
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.routing import Beside, Route, Routes
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking, who
from mlbox.store.features.features import FeatureStore
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.serving import EVENT

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ModelServer", "PredictRow"]
SHADOW_ROOM = 256
WARM_ROOM = 1000
_log = logging.getLogger(__name__)


class ModelServer:
    """All models that serve. With a bus, versions are loaded before they are asked for and dropped when they are retired.

    The one that another replaced in Production stays, as long as there is room: Production goes back to it at once.
    """

    def __init__(
        self,
        registry: Registry,
        artifacts: Artifacts,
        features: FeatureStore,
        routes: Routes,
        log: PredictionLog,
        clock: Clock,
        *,
        bus: EventBus | None = None,
        configs: Callable[[str], ServingConfig] = lambda _: ServingConfig(),
        threads: int = 1,
        most_loaded: int = 64,
        workers: Workers | None = None,
        devices: Devices | None = None,
        arena: int = 0,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._registry = registry
        self._features = features
        self._routes = routes
        self._predictions = log
        self._clock = clock
        self.statistics = Statistics(clock)
        self._rates = Rates()
        self._loader = Loader(
            registry,
            artifacts,
            self.statistics,
            configs=configs,
            recorded=self.recorded,
            threads=threads,
            most=most_loaded,
            workers=workers,
            devices=devices,
            arena=arena,
            check=quarantine.check if quarantine else lambda model, version: None,
        )
        self._execution = Execution(self._loader, log, clock, self.statistics)
        self.targets = Targets(registry, routes, self._loader, features, self._execution.load)
        self._quarantine = quarantine
        if quarantine:
            quarantine.drop = self._loader.drop
        self.sample = self._execution.sample
        """Some of the requests of models of tensors."""
        self.tab = Tab(clock, self._settle)
        """What was answered, and is still to be counted."""
        self.statistics.settle = self.sample.settle = log.settle = self.tab.settle
        self._shadows = Background("mlbox-shadow", room=SHADOW_ROOM)
        self._warming = Background("mlbox-warm", room=WARM_ROOM)
        self._unsubscribe: Callable[[], None] = (
            bus.subscribe(self._on_event, [EVENT, "model."]) if bus else lambda: None
        )
        self.shadows_dropped = 0
        """Rows that a shadow did not see, because it was too far behind."""

    def recorded(self, model: str) -> list[Feeds]:
        """A few of a model's latest requests of tensors: what its next version is warmed with."""
        self.tab.settle()
        return self._execution.recent.of(model)

    def held_gb(self) -> dict[str, float]:
        """GiB of the box's own memory that models take, under the name "": with what jobs take it is one budget."""
        return {"": self.held_bytes() / 2**30}

    def held_bytes(self) -> int:
        """The same in bytes."""
        return self._loader.size()

    # -- predicting -------------------------------------------------------------------------------------------------

    def predict(
        self, model: str, *, rows: Sequence[PredictRow], caller: str, version: int | None = None
    ) -> list[Prediction]:
        """Score rows, in their order. A version that is named answers alone, as champion, and counts for no rollout.

        Raises NotFound when nothing serves or an entity is unknown to every view, InvalidInput naming the field, and
        Unavailable when a model fails. Either all rows are answered and logged, or none.
        """
        ask = self.ask_rows(model, rows, caller, version)
        with asking(None):
            (ended,) = self._ended([ask])
            if isinstance(ended, MlboxError):
                raise ended
            begun, parts = ended
            batches = self._execution.batches(parts)
            self._predictions.put(batches)
            self._shadow(begun, parts)
            answers: dict[int, Prediction] = {}
            for part, batch in zip(parts, batches, strict=True):
                answers |= zip(part.running.places, batch.predictions(), strict=True)
            return [answers[place] for place in range(len(rows))]

    def ask_rows(self, model: str, rows: Sequence[PredictRow], caller: str, version: int | None = None) -> AskRows:
        """Check a request by rows, and say who is to answer it; nothing is looked up then. Raises as `predict` does."""
        check_rows(rows)
        target = self.targets.find(model, version)
        self._admit(target, caller)
        with asking(None):  # who may ask a model may have it look at what it needs
            if target.alone is not None:
                routes = [target.alone[0]] * len(rows)
            else:
                routes = self.targets.routes(target, [row.key for row in rows])
            return AskRows(target, Inputs(self._features, rows), caller, routes)

    def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        *,
        caller: str,
        version: int | None = None,
        outputs: Sequence[str] = (),
        keys: Sequence[str] = (),
        priority: int = 0,
        timeout_ms: float = math.inf,
    ) -> Inferred:
        """Run a model on tensors; all its outputs by default. `score` may be named as well where rows have one.

        `keys`, one for all rows or one for each, decide which version answers, as in `predict`; without, any may. `priority`
        is 1 for the first in the queue, 0 for the model's default. Raises as `predict` does; TooMany where too many wait, and
        TimedOut, or Unavailable for what never ran, past the timeout.
        """
        target = self.targets.find(model, version)
        begun = self.begin(Ask(target, tensors, caller, outputs, keys, priority, timeout_ms))
        (found,) = self.run([begun])
        if isinstance(found, MlboxError):
            raise found
        return found

    def crowd(self, model: str) -> Target | None:
        """Who answers requests of a row each, of as many as come at a time; None where each is to be asked by itself.

        Whoever answers is one quick version, which limits no rates and remembers no answers: these ask for each request.
        """
        target = self.targets.find(model)
        if target.alone is None or target.version is not None:
            return None
        config = self._loader.config(target.model)
        plain = not config.rate_limit and not config.cache_bytes
        return target if plain and target.alone[1].lane.quick(1) else None

    def singles(self, target: Target, rows: Sequence[PredictRow], caller: str) -> AskRows:
        """Requests of a row each, for `answer_singles`; raises InvalidInput for odd ids."""
        check_rows(rows)
        assert target.alone is not None
        return AskRows(target, Inputs(self._features, rows), caller, [target.alone[0]])

    def answer_singles(self, ask: AskRows) -> Inferred:
        """Answer requests of a row each that are for whoever `crowd` says, in one run.

        Raises where something is wrong with one of them, and nothing has happened then: each is to be asked by itself.
        """
        with asking(None):
            begun, entry = self._execution.singles(ask)
            self.tab.add(entry)
            return self._answered(begun, [entry.part])

    def answer_rows(self, singles: Singles, data: np.ndarray) -> Inferred:
        """The same for rows of one tensor."""
        entry = singles.run(data)
        self.tab.add(entry)
        if singles.route.shadow is not None:
            self._shadow(singles.begun(entry), [entry.part])
        return singles.inferred(entry)

    def _settle(self, entries: Sequence[Entry], moment: Moment) -> None:
        with asking(None):
            self._predictions.put(self._execution.settled(entries, moment))

    def begin(self, ask: Ask) -> Begun:
        """Check a request, and say who is to answer it, for whoever asks; nothing has run then. Raises as `infer` does."""
        self._admit(ask.target, ask.caller)
        with asking(None):
            return self._execution.begin(ask, self.targets)

    def run(self, asked: Sequence[Begun | AskRows]) -> list[Inferred | MlboxError]:
        """Answer requests, or say what became of each: those that a quick version answers in one run of it."""
        with asking(None):
            found = self._ended(asked)
            every = [part for ended in found if not isinstance(ended, MlboxError) for part in ended[1]]
            self._predictions.put(self._execution.batches(every))
            return [ended if isinstance(ended, MlboxError) else self._answered(*ended) for ended in found]

    def _ended(self, asked: Sequence[Begun | AskRows]) -> list[tuple[Begun, list[Part]] | MlboxError]:
        rows = [one for one in asked if isinstance(one, AskRows)]
        Inputs.look_up_together([(one.inputs, one.target.alone[1].columns.names) for one in rows if one.target.alone])
        every = [self._execution.begin_rows(one) if isinstance(one, AskRows) else one for one in asked]
        self._execution.start([work for one in every if isinstance(one, Begun) for work in one.running])
        return [self._execution.end(one) if isinstance(one, Begun) else one for one in every]

    def _answered(self, begun: Begun, parts: list[Part]) -> Inferred:
        if len(begun.routes) > 1 or begun.routes[0].shadow is not None:
            self._shadow(begun, parts)
        return joined(parts, begun.rows)

    def _admit(self, target: Target, caller: str) -> None:
        """Raise TooMany where whoever asks has asked too often."""
        model = target.model
        config = self._loader.config(model)
        if not config.rate_limit:
            return
        asks = who()
        token = (asks.token_id or asks.name) if asks else caller
        try:
            self._rates.take(model, token, rate=config.rate_limit, burst=config.rate_burst)
        except TooMany:
            with contextlib.suppress(NotFound):
                number = target.version if target.version is not None else self._routes.route(model, "").version
                self.statistics.failed(model, number, reason="rate_limit")
            raise

    def inputs(self, model: str, version: int | None = None) -> tuple[TensorSpec, ...]:
        """The tensors that a model takes, as the version in Production does, or one that is named; raises as `metadata`."""
        return self.targets.inputs(self.targets.find(model, version))

    def known_inputs(self, model: str) -> tuple[TensorSpec, ...]:
        """The same as far as that is known without loading a version; raises as it does."""
        return self.targets.known_inputs(self.targets.find(model))

    def form(self, model: str, version: int | None = None) -> Form:
        """What rows for a model are made of, of the version that `inputs` speaks of; raises as it does."""
        return self.targets.form(self.targets.find(model, version))

    # -- beside the answer --------------------------------------------------------------------------------------------

    def _shadow(self, begun: Begun, parts: Sequence[Part]) -> None:
        """Have other versions answer the same rows, after the answer and beside it; never waits."""
        routes = begun.routes
        for number in dict.fromkeys(route.shadow for route in routes):
            if number is None:
                continue
            all_rows: Sequence[int] = range(begun.rows)
            places = all_rows if len(routes) == 1 else [at for at in all_rows if routes[at].shadow == number]
            if not self._shadows.offer(functools.partial(self._watch, begun, parts, Route(number, "shadow"), places)):
                self.shadows_dropped += len(places)

    def _watch(self, begun: Begun, parts: Sequence[Part], route: Route, places: Sequence[int]) -> None:
        model = begun.ask.target.model
        answered, took = scores_of(parts, places), max(part.latency_ms for part in parts)
        given = given_of(parts[0].running) if len(parts) == 1 else Given(len(places))
        beside: Sequence[float | None] | None = None
        beside_ms = 0.0
        try:
            with asking(None):
                batch = self._execution.rehearsed(begun, route, places, parts)
            self._predictions.put([batch])
            beside, (beside_ms,) = batch.scores, batch.by_request
        except MlboxError as err:  # counted where it was found
            _log.warning("The shadow %s/%s cannot answer what the champion can: %s", model, route.version, err)
        self._routes.paired(model, route.version, Beside(given, answered, took, beside, beside_ms))

    # -- what serves ------------------------------------------------------------------------------------------------

    def metadata(self, model: str, version: int | None = None) -> ModelVersion:
        """As `Targets.metadata`; while it is in memory, one that was registered without its tensors has those of its file."""
        found = self.targets.metadata(model, version)
        if found.inputs and found.outputs:
            return found
        loaded = self._loader.known(found.model, found.version)
        if loaded is None:
            return found
        file = loaded.session
        return replace(found, inputs=found.inputs or file.inputs, outputs=found.outputs or file.outputs)

    def ready(self, model: str, version: int | None = None) -> ModelVersion:
        """The same, once it is in memory; raises Unavailable when it cannot be loaded, or was unloaded and not asked since."""
        found = self.metadata(model, version)
        if self._loader.is_put_out(found.model, found.version):
            raise Unavailable(
                f"{found.ref} is unloaded.", hint="Load it; it also comes back when it is asked for answers."
            )
        self.load(found)
        return found

    def load(self, version: ModelVersion) -> None:
        """Have a version in memory; raises Unavailable when it cannot be loaded."""
        self._loader.get(version.model, version.version)

    def unload(self, model: str, version: int) -> None:
        """Free a version's memory; it is not ready then, and is loaded again when it is asked for answers."""
        self._loader.put_out(model, version)

    def held(self, version: ModelVersion) -> Holding:
        """What a version takes, and where it runs, while it is in memory."""
        return self._loader.held(version.model, version.version)

    def loading(self) -> set[tuple[str, int]]:
        """The versions that are being loaded."""
        return self._loader.loading()

    def loaded(self) -> list[ModelVersion]:
        """The versions in memory."""
        return self._loader.loaded()

    def warm(self) -> None:
        """Begin to load all that serves, one after the other, and return at once."""
        for version in [v for stage in SERVING for v in self._registry.in_stage(stage) if v.servable]:
            self._warm(version.model, version.version)

    def _warm(self, model: str, version: int) -> None:
        def load() -> None:
            try:
                prepare()
                if self._registry.version(model, version).servable:
                    self._loader.get(model, version)
            except MlboxError as err:
                _log.warning("%s/%s was not loaded ahead: %s", model, version, err)

        self._warming.offer(load)

    def configure(self, model: str, config: ServingConfig) -> None:
        """Have a model's versions go by another configuration from now on; no request fails of it."""
        self._loader.configure(model, config)
        self._execution.answers.shrink(model, config.cache_bytes)

    def give_room(self, room: Callable[[int], float]) -> None:
        """Hold models to so many bytes, told what they take now: the other side of `held_gb`."""
        self._loader.room = room

    def pending(self) -> dict[tuple[str, int], int]:
        """Requests that wait, by version in memory."""
        return self._loader.pending()

    def _on_event(self, event: Event) -> None:
        if event.type == EVENT:
            config = msgspec.convert(event.data["config"], type=ServingConfig)
            self.configure(event.subject.removeprefix("model:"), config)
        if event.type in ("model.deleted", "model.renamed", "model.restored"):
            former = str(event.data.get("former") or event.subject.removeprefix("model:"))
            self._loader.forget(former)
            self.sample.forget(former)
        if self._quarantine and (released := self._quarantine.on_event(event)):
            self._loader.drop(*released)  # and with it that it could not be loaded lately
            self._warm(*released)
        model, _, number = event.subject.removeprefix("model:").rpartition("/")
        if event.type not in ("model.stage", "model.archived", "model.deleted") or not model:
            return
        if event.data.get("stage") in SERVING:
            self._warm(model, int(number))
        elif "replaced_by" in event.data:
            self._loader.keep_former(model, int(number), int(event.data["replaced_by"]))
        else:
            self._loader.drop(model, int(number))

    def close(self) -> None:
        """Stop shadowing and drop the models."""
        self._unsubscribe()
        self.tab.soon = None
        self.tab.settle()
        self._shadows.close()
        self._warming.close()
        self._loader.close()
