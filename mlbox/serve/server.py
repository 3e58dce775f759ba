"""The model server: rows in, scores out, with the router asked, the features looked up, the answer logged.

It knows no wire protocol: `web` has an adapter for each over this one object.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import Event, ModelVersion, Prediction, Stage, TensorSpec
from mlbox.serve.answers import SCORE, Inferred, Part, groups, joined, outputs_of, scores_among, taken
from mlbox.serve.background import Background
from mlbox.serve.loading import Loaded, Loader, inputs_of
from mlbox.serve.predlog import Batch, PredictionLog
from mlbox.serve.routing import Route, Routes
from mlbox.serve.rows import MAX_ROWS, Inputs, PredictRow, as_matrix, check_rows
from mlbox.serve.statistics import Statistics
from mlbox.serve.tensors import Tensor, batch_of, check_inputs, check_outputs
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking
from mlbox.store.features import FeatureStore
from mlbox.store.promotions import HOW_TO_SERVE
from mlbox.store.registry import Registry

if TYPE_CHECKING:
    pass

__all__ = ["ModelServer", "PredictRow"]
SERVING: tuple[Stage, ...] = ("Staging", "Production")
SHADOW_ROOM = 256
WARM_ROOM = 1000
_log = logging.getLogger(__name__)


T = TypeVar("T")


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
        threads: int = 1,
        most_loaded: int = 64,
    ) -> None:
        self._registry = registry
        self._features = features
        self._routes = routes
        self._predictions = log
        self._clock = clock
        self._loader = Loader(registry, artifacts, threads=threads, most=most_loaded)
        self._shadows = Background("mlbox-shadow", room=SHADOW_ROOM)
        self._warming = Background("mlbox-warm", room=WARM_ROOM)
        self._unsubscribe: Callable[[], None] = bus.subscribe(self._on_event) if bus else lambda: None
        self.statistics = Statistics()
        self.shadows_dropped = 0
        """Rows that a shadow did not see, because it was too far behind."""

    def held_gb(self) -> dict[str, float]:
        """GiB of the box's own memory that models take, under the name "": with what jobs take it is one budget."""
        return {"": self._loader.size() / 2**30}

    # -- predicting -------------------------------------------------------------------------------------------------

    def predict(
        self, model: str, *, rows: Sequence[PredictRow], caller: str, version: int | None = None
    ) -> list[Prediction]:
        """Score rows, in their order. A version that is named answers alone, as champion, and counts for no rollout.

        Raises NotFound when nothing serves or an entity is unknown to every view, InvalidInput naming the field, and
        Unavailable when a model fails. Either all rows are answered and logged, or none.
        """
        check_rows(rows)
        self._registry.see(model)
        with asking(None):  # who may ask a model may have it look at what it needs
            routes = self._routes_of(model, [row.key for row in rows], version)
            inputs = Inputs(self._features, rows)
            answers: dict[int, Prediction] = {}
            batches = []
            for route, places in groups(routes).items():
                scored = self._score_rows(model, route, inputs, places, caller)
                batches.append(scored)
                answers |= zip(places, scored.predictions(), strict=True)
            self._predictions.put(batches)
            self._shadow(model, routes, lambda at, route: self._score_rows(model, route, inputs, at, caller))
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
    ) -> Inferred:
        """Run a model on tensors; all its outputs by default. `score` may be named as well where rows have one.

        `keys`, one for all rows or one for each, decide which version answers, as in `predict`; without, any may. Raises as
        `predict` does.
        """
        self._registry.see(model)
        with asking(None):
            rows = self._rows_of(model, tensors, keys, version)
            routes = self._routes_of(model, keys or [new_id()], version)
            together = len(routes) == 1 and rows > 1

            def run(places: Sequence[int], route: Route, outputs: Sequence[str]) -> Part:
                whole = together or len(places) == rows
                found, batch = self._run(
                    model,
                    route,
                    tensors if whole else taken(tensors, places),
                    outputs,
                    rows if whole else len(places),
                    caller,
                )
                return Part(range(rows) if whole else places, found, batch)

            parts = [run(places, route, outputs) for route, places in groups(routes).items()]
            self._predictions.put([part.batch for part in parts])
            self._shadow(model, routes, lambda places, route: run(places, route, ()).batch)
        return joined(parts, rows)

    def _rows_of(self, model: str, tensors: Sequence[Tensor], keys: Sequence[str], version: int | None) -> int:
        """How many rows tensors have, which are the rows of the log; keys must be one for all, or one for each."""
        specs = self.inputs(model, version)
        check_inputs(specs, tensors, model)
        rows = batch_of(specs, tensors)
        if len(keys) > 1 and len(keys) != rows:
            raise InvalidInput(
                f"{len(keys)} keys for {1 if rows is None else rows} rows.", hint="Send one for each row.", field="keys"
            )
        if rows is not None and not 1 <= rows <= MAX_ROWS:
            raise InvalidInput(
                f"inference request batch-size must be <= {MAX_ROWS} for {model!r}, and is {rows}",
                hint="Split the request.",
                field=tensors[0].name,
            )
        return 1 if rows is None else rows

    def inputs(self, model: str, version: int | None = None) -> tuple[TensorSpec, ...]:
        """The tensors that a model takes, as the version in Production does, or one that is named; raises as `metadata`."""
        self._registry.see(model)
        number = version if version is not None else self._routes_of(model, [""], None)[0].version
        loaded = self._loader.known(model, number)
        if loaded is not None and (version is None or loaded.version.stage in SERVING):
            return loaded.inputs
        served = self.metadata(model, number)
        return inputs_of(served, served.inputs)

    def _routes_of(self, model: str, keys: Sequence[str], version: int | None) -> list[Route]:
        if version is not None:
            return [Route(version=self.metadata(model, version).version, role="champion")] * len(keys)
        try:
            return [self._routes.route(model, key) for key in keys]
        except NotFound:
            self.metadata(model)  # which knows more to say about it
            raise

    # -- one version --------------------------------------------------------------------------------------------------

    def _score_rows(self, model: str, route: Route, inputs: Inputs, places: Sequence[int], caller: str) -> Batch:
        """Have one version score the rows at these places, in one run; what fails counts against it."""
        loaded = self._load_for(model, route, len(places))
        if not loaded.session.tabular or not loaded.version.features:
            raise InvalidInput(
                f"{loaded.version.ref} takes tensors and no rows of features.",
                hint="Ask it by the Open Inference Protocol.",
                field="model",
            )
        values, looking = inputs.of(loaded.columns, places)
        began = time.perf_counter()
        scores = self._guarded(loaded, route, len(places), lambda: loaded.session.score(as_matrix(values)))
        rows = [inputs.rows[place] for place in places]
        return self._batch(
            loaded,
            route,
            caller,
            latency_ms=(looking + time.perf_counter() - began) * 1000,
            scores=scores.tolist(),
            names=loaded.version.features,
            values=values,
            entities=[row.entity for row in rows],
        )

    def _run(
        self, model: str, route: Route, tensors: Sequence[Tensor], outputs: Sequence[str], rows: int, caller: str
    ) -> tuple[list[Tensor], Batch]:
        """Have one version answer tensors, in one run."""
        loaded = self._load_for(model, route, rows)
        session = loaded.session
        check_inputs(loaded.inputs, tensors, model)
        own = [spec.name for spec in session.outputs]
        beside = session.tabular and SCORE not in own
        wanted = [name for name in outputs if not (beside and name == SCORE)] if outputs else own
        check_outputs(session.outputs, wanted, model)
        began = time.perf_counter()
        scores, found = self._guarded(loaded, route, rows, lambda: outputs_of(session, tensors, wanted))
        types = {spec.name: spec.dtype for spec in session.outputs}
        answers = {name: Tensor(name, types[name], data) for name, data in zip(wanted, found, strict=True)}
        if scores is not None:
            answers.setdefault(SCORE, Tensor(SCORE, "FP64", scores))
        named = loaded.version.features if session.tabular else ()
        batch = self._batch(
            loaded,
            route,
            caller,
            latency_ms=(time.perf_counter() - began) * 1000,
            scores=scores.tolist() if scores is not None else scores_among(answers, rows),
            names=named,
            values=tensors[0].data if named else None,
        )
        return [answers[name] for name in (outputs or wanted)], batch

    def _load_for(self, model: str, route: Route, rows: int) -> Loaded:
        try:
            return self._loader.get(model, route.version)
        except Unavailable:
            self._predictions.record_error(model, route.version, route.role, rows=rows)
            raise

    def _guarded(self, loaded: Loaded, route: Route, rows: int, run: Callable[[], T]) -> T:
        """Run a model; what it fails on counts against it, and is told of in our words."""
        began, name = time.perf_counter_ns(), (loaded.version.model, loaded.version.version)
        try:
            found = run()
            self.statistics.executed(*name, rows=rows, infer_ns=time.perf_counter_ns() - began)
            return found
        except Exception as err:
            self.statistics.failed(*name, ns=time.perf_counter_ns() - began)
            self._predictions.record_error(loaded.version.model, route.version, route.role, rows=rows)
            _log.exception("%s failed.", loaded.version.ref)
            raise Unavailable(
                f"{loaded.version.ref} failed on this input.", hint="The server's log has the details."
            ) from err

    def _batch(self, loaded: Loaded, route: Route, caller: str, *, scores: list[float | None], **given: Any) -> Batch:
        return Batch(
            model=loaded.version.model,
            version=loaded.version.version,
            role=route.role,
            at=self._clock.real(),
            domain_at=self._clock.now(),
            caller=caller,
            ids=[new_id() for _ in scores],
            scores=scores,
            **given,
        )

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
        """The version in Production, or one that is named and in Staging or Production; raises NotFound."""
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

    def _servable(self, model: str, version: int) -> ModelVersion:
        if not 0 < version < 2**63:
            raise NotFound(
                f"There is no version {version!s:.40} of {model!r}.",
                hint="`mlbox model ls` lists them.",
                field="version",
            )
        found = self._registry.version(model, version)
        if found.stage not in SERVING:
            raise NotFound(
                f"{found.ref} is in stage {found.stage} and does not serve.",
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

    def _on_event(self, event: Event) -> None:
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


def _checked(version: ModelVersion) -> ModelVersion:
    if not version.servable:
        raise NotFound(
            f"{version.ref} is in {version.stage} for clients to load, and cannot be served: {version.unservable}",
            hint=HOW_TO_SERVE,
            field="version",
        )
    return version
