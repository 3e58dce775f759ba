"""The model server: rows in, scores out, with the router asked, the features looked up, the answer logged.

It knows no wire protocol: `web` has an adapter for each over this one object.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Collection, Sequence

import msgspec

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, NotFound, Refused, TooMany, Unavailable
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import Column, Event, ModelVersion, Prediction, ServingConfig, Stage, TensorSpec
from mlbox.serve import naming
from mlbox.serve.answers import Inferred, Part, groups, joined, taken
from mlbox.serve.background import Background
from mlbox.serve.execution import Asked, Execution, Running
from mlbox.serve.loading import Loader, inputs_of
from mlbox.serve.predlog import Batch, PredictionLog
from mlbox.serve.rates import Rates
from mlbox.serve.routing import Route, Routes
from mlbox.serve.rows import MAX_ROWS, Columns, Form, Inputs, PredictRow, check_rows
from mlbox.serve.statistics import Statistics
from mlbox.serve.tensors import Tensor, batch_of, check_inputs
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking, who
from mlbox.store.features import FeatureStore
from mlbox.store.promotions import HOW_TO_SERVE
from mlbox.store.registry import Registry
from mlbox.store.serving import EVENT

__all__ = ["ModelServer", "PredictRow"]
SERVING: tuple[Stage, ...] = ("Staging", "Production")
SHADOW_ROOM = 256
WARM_ROOM = 1000
_log = logging.getLogger(__name__)
Shadowed = Callable[[Sequence[int], Route], Batch]
"""Has the rows at these places answered along a route."""


class ModelServer:
    """All models that serve. With a bus, versions are loaded before they are asked for and dropped when they are retired."""

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
    ) -> None:
        self._registry = registry
        self._features = features
        self._routes = routes
        self._predictions = log
        self._clock = clock
        self.statistics = Statistics()
        self._rates = Rates()
        self._loader = Loader(
            registry,
            artifacts,
            self.statistics,
            configs=configs,
            recorded=lambda model: self._execution.recent.of(model),
            threads=threads,
            most=most_loaded,
        )
        self._execution = Execution(self._loader, log, clock, self.statistics)
        self._shadows = Background("mlbox-shadow", room=SHADOW_ROOM)
        self._warming = Background("mlbox-warm", room=WARM_ROOM)
        self._unsubscribe: Callable[[], None] = bus.subscribe(self._on_event) if bus else lambda: None
        self.check_staging: Callable[[str], None] = lambda model: None
        """Raises NotAuthorised unless whoever asks may ask a model's version in Staging."""
        self._asked_with: dict[tuple[str, ...], tuple[Column, ...]] = {}
        """By features, which are of a version and so never change, what they are looked up by."""
        self.shadows_dropped = 0
        """Rows that a shadow did not see, because it was too far behind."""

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
        check_rows(rows)
        model, version = self._named(model, version)
        self._admit(model, version, caller)
        with asking(None):  # who may ask a model may have it look at what it needs
            routes = self._routes_of(model, [row.key for row in rows], version)
            inputs = Inputs(self._features, rows)
            answers: dict[int, Prediction] = {}
            batches = []
            for route, places in groups(routes).items():
                scored = self._execution.score(model, route, inputs, places, caller)
                batches.append(scored)
                answers |= zip(places, scored.predictions(), strict=True)
            self._predictions.put(batches)
            self._shadow(model, routes, lambda at, route: self._execution.score(model, route, inputs, at, caller))
            return [answers[place] for place in range(len(rows))]

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
        model, version = self._named(model, version)
        self._admit(model, version, caller)
        with asking(None):
            asked, routes = self._ask(model, tensors, outputs, caller, version, keys, priority, timeout_ms)
            running = [self._begin(asked, routes, *group) for group in groups(routes).items()]
            return self._finish(asked, routes, [self._execution.end(one) for one in running])

    def _admit(self, model: str, version: int | None, caller: str) -> None:
        """Raise TooMany where whoever asks has asked too often."""
        config = self._loader.config(model)
        if not config.rate_limit:
            return
        asks = who()
        token = (asks.token_id or asks.name) if asks else caller
        try:
            self._rates.take(model, token, rate=config.rate_limit, burst=config.rate_burst)
        except TooMany:
            with contextlib.suppress(NotFound):
                number = version if version is not None else self._routes.route(model, "").version
                self.statistics.failed(model, number, reason="rate_limit")
            raise

    def is_at_hand(self, model: str, rows: int, tensors: Collection[str] | None) -> bool:
        """Whether an answer of so many rows costs less than a thread to make it in: it may be made on the event loop.

        Whoever may answer is in memory and quick. Features that are looked up, as they are unless one of the tensors is the
        model's own, are at hand as well; None says that none are. A model that is named in another way is not found here.
        """
        loaded = [self._loader.known(model, number) for number in self._routes.versions(model)]
        return bool(loaded) and all(
            one is not None
            and one.lane.quick(rows)
            and (
                tensors is None
                or any(spec.name in tensors for spec in one.inputs)
                or self._features.is_at_hand(one.version.features, rows)
            )
            for one in loaded
        )

    def _ask(
        self,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        caller: str,
        version: int | None,
        keys: Sequence[str],
        priority: int,
        timeout_ms: float,
    ) -> tuple[Asked, list[Route]]:
        """A request that was checked, and who answers it: one route for all rows, or one for each."""
        specs = self._inputs(model, version)
        check_inputs(specs, tensors, model)
        found = batch_of(specs, tensors)
        rows = 1 if found is None else _checked_rows(found, model, tensors[0].name)
        if len(keys) > 1 and len(keys) != found:
            raise InvalidInput(f"{len(keys)} keys for {rows} rows.", hint="Send one for each row.", field="keys")
        asked = Asked(model, tensors, outputs, rows, found is not None, caller, priority, timeout_ms, specs)
        return asked, self._routes_of(model, keys or [self._any_key(model)], version)

    def _any_key(self, model: str) -> str:
        """For a request that may meet any version, a new key, as far as there are several to meet."""
        return new_id() if len(self._routes.versions(model)) > 1 else ""

    def _begin(self, asked: Asked, routes: Sequence[Route], route: Route, places: Sequence[int]) -> Running:
        """Have a route's version answer its rows."""
        if len(routes) == 1 or len(places) == asked.rows:
            return self._execution.begin(asked, route, range(asked.rows), asked.tensors)
        return self._execution.begin(asked, route, places, taken(asked.tensors, places))

    def _finish(self, asked: Asked, routes: Sequence[Route], parts: Sequence[Part]) -> Inferred:
        self._predictions.put([part.batch for part in parts])
        self._shadow(
            asked.model,
            routes,
            lambda places, route: self._execution.end(self._begin(asked, routes, route, places)).batch,
        )
        return joined(parts, asked.rows)

    def inputs(self, model: str, version: int | None = None) -> tuple[TensorSpec, ...]:
        """The tensors that a model takes, as the version in Production does, or one that is named; raises as `metadata`."""
        return self._inputs(*self._named(model, version))

    def form(self, model: str, version: int | None = None) -> Form:
        """What rows for a model are made of, of the version that `inputs` speaks of; raises as it does."""
        model, version = self._named(model, version)
        with asking(None):
            number = version if version is not None else self._routes_of(model, [""], None)[0].version
            loaded = self._loader.known(model, number)
            columns = loaded.columns if loaded is not None else Columns(self._servable(model, number))
            if columns.names not in self._asked_with:
                self._asked_with[columns.names] = (
                    tuple(self._features.asked_with(columns.names)) if columns.names else ()
                )
            return Form(columns, self._asked_with[columns.names])

    def _inputs(self, model: str, version: int | None) -> tuple[TensorSpec, ...]:
        number = version if version is not None else self._routes_of(model, [""], None)[0].version
        loaded = self._loader.known(model, number)
        if loaded is not None:
            return loaded.inputs
        served = self._servable(model, number)
        return inputs_of(served, served.inputs)

    def _routes_of(self, model: str, keys: Sequence[str], version: int | None) -> list[Route]:
        if version is not None:
            return [Route(version=version, role="champion")] * len(keys)
        try:
            return [self._routes.route(model, key) for key in keys]
        except NotFound:
            self.metadata(model)  # which knows more to say about it
            raise

    # -- beside the answer --------------------------------------------------------------------------------------------

    def _shadow(self, model: str, routes: Sequence[Route], score: Shadowed) -> None:
        """Have other versions answer the same rows, after the answer and beside it; never waits."""
        for number in dict.fromkeys(route.shadow for route in routes):
            if number is None:
                continue
            places = [place for place, route in enumerate(routes) if route.shadow == number]
            route = Route(number, "shadow")
            if not self._shadows.offer(functools.partial(self._watch, model, route, places, score)):
                self.shadows_dropped += len(places)

    def _watch(self, model: str, route: Route, places: Sequence[int], score: Shadowed) -> None:
        try:
            with asking(None):
                self._predictions.put([score(places, route)])
        except Unavailable as err:  # counted where it was found
            _log.warning("The shadow %s/%s failed: %s", model, route.version, err)
        except MlboxError as err:  # the champion answered these rows, so it is the shadow that cannot
            _log.warning("The shadow %s/%s cannot answer what the champion can: %s", model, route.version, err)
            self._predictions.record_error(model, route.version, route.role, rows=len(places))

    # -- what serves ------------------------------------------------------------------------------------------------

    def metadata(self, model: str, version: int | None = None) -> ModelVersion:
        """The version in Production, or one that is named; raises NotFound, or Refused for one that may not serve."""
        model, version = self._named(model, version)
        if version is not None:
            return self._servable(model, version)
        found = self._registry.by_stage(model, "Production")
        if found is None:
            stages = self._registry.model(model).stages
            there = ", ".join(f"{model}/{number} in stage {stage}" for stage, number in stages.items())
            raise NotFound(
                f"No version of {model!r} is in Production; there is {there or 'none at all'}.",
                hint=f"`mlbox model promote {model}/{max(stages.values(), default=1)}` begins its way.",
                field="model",
            )
        return _checked(found)

    def _named(self, address: str, version: int | None) -> tuple[str, int | None]:
        """A model's name, and the version of it that an address or a request names, which may serve."""
        model, what = naming.parse(address)
        self._registry.see(model)
        if what and version is not None:
            raise InvalidInput(
                f"The request names version {version!s:.40} and {address!r:.80}.", hint="Name one.", field="version"
            )
        number = version if version is not None else naming.version_meant(self._registry, model, what)
        if number is not None and self._servable(model, number).stage == "Staging":
            self.check_staging(model)
        return model, number

    def _servable(self, model: str, version: int) -> ModelVersion:
        if not 0 < version < 2**63:
            raise NotFound(
                f"There is no version {version!s:.40} of {model!r}.",
                hint="`mlbox model ls` lists them.",
                field="version",
            )
        found = self._registry.version(model, version)
        if found.stage not in SERVING:
            raise Refused(
                f"{found.ref} is in stage {found.stage} and may not serve.",
                hint=f"`mlbox model promote {found.ref}` begins its way.",
                field="version",
            )
        return _checked(found)

    def ready(self, model: str, version: int | None = None) -> ModelVersion:
        """The same, once it is in memory; raises Unavailable when it cannot be loaded."""
        found = self.metadata(model, version)
        self.load(found)
        return found

    def load(self, version: ModelVersion) -> None:
        """Have a version in memory; raises Unavailable when it cannot be loaded."""
        self._loader.get(version.model, version.version)

    def unload(self, model: str, version: int) -> None:
        """Free a version's memory; it is loaded again when it is asked for."""
        self._loader.drop(model, version)

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
            self._loader.forget(str(event.data.get("former") or event.subject.removeprefix("model:")))
        if event.type not in ("model.stage", "model.archived"):
            return
        model, _, number = event.subject.removeprefix("model:").rpartition("/")
        if event.data.get("stage") in SERVING:
            self._warm(model, int(number))
        else:
            self._loader.drop(model, int(number))

    def close(self) -> None:
        """Stop shadowing and drop the models."""
        self._unsubscribe()
        self._shadows.close()
        self._warming.close()
        self._loader.close()


def _checked_rows(rows: int, model: str, name: str) -> int:
    if not 1 <= rows <= MAX_ROWS:
        raise InvalidInput(
            f"inference request batch-size must be <= {MAX_ROWS} for {model!r}, and is {rows}",
            hint="Split the request.",
            field=name,
        )
    return rows


def _checked(version: ModelVersion) -> ModelVersion:
    if not version.servable:
        raise Refused(
            f"{version.ref} is in {version.stage} for clients to load, and cannot be served: {version.unservable}",
            hint=HOW_TO_SERVE,
            field="version",
        )
    return version
