"""The model server: rows in, scores out, with the router asked, the features looked up, the answer logged.

It knows no wire protocol: `web` has an adapter for each over this one object.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlbox.clock import Clock
from mlbox.errors import MlboxError, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import Event, ModelVersion, Prediction, ServeRole, Stage
from mlbox.serve.background import Background
from mlbox.serve.loading import Loaded, Loader
from mlbox.serve.predlog import PredictionLog
from mlbox.serve.routing import Route, Routes
from mlbox.serve.rows import Inputs, PredictRow, Values, as_matrix, check_rows
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking
from mlbox.store.features import FeatureStore
from mlbox.store.promotions import HOW_TO_SERVE
from mlbox.store.registry import Registry

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ModelServer", "PredictRow"]
SERVING: tuple[Stage, ...] = ("Staging", "Production")
SHADOW_ROOM = 256
WARM_ROOM = 1000
_log = logging.getLogger(__name__)


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
            return self._predict(model, rows, caller, version)

    def _predict(self, model: str, rows: Sequence[PredictRow], caller: str, version: int | None) -> list[Prediction]:
        routes = self._routes_of(model, rows, version)
        inputs = Inputs(self._features, rows)
        answers: dict[int, Prediction] = {}
        for number in dict.fromkeys(route.version for route in routes):
            places = [place for place, route in enumerate(routes) if route.version == number]
            roles = [routes[place].role for place in places]
            answers |= zip(places, self._score(model, number, inputs, places, roles, caller), strict=True)
        found = [answers[place] for place in range(len(rows))]
        self._predictions.put(found)
        self._shadow(model, routes, inputs, caller)
        return found

    def _routes_of(self, model: str, rows: Sequence[PredictRow], version: int | None) -> list[Route]:
        if version is not None:
            return [Route(version=self.metadata(model, version).version, role="champion")] * len(rows)
        try:
            return [self._routes.route(model, row.key) for row in rows]
        except NotFound:
            self.metadata(model)  # which knows more to say about it
            raise

    def _score(
        self,
        model: str,
        version: int,
        inputs: Inputs,
        places: Sequence[int],
        roles: Sequence[ServeRole],
        caller: str,
    ) -> list[Prediction]:
        """Have one version score the rows at these places, in one run; what fails counts against it."""
        try:
            loaded = self._loader.get(model, version)
        except Unavailable:
            self._count_errors(model, version, roles)
            raise
        values, looking = inputs.of(loaded.columns, places)
        began = time.perf_counter()
        try:
            scores = loaded.session.score(as_matrix(values))
        except Exception as err:
            self._count_errors(model, version, roles)
            _log.exception("%s failed.", loaded.version.ref)
            raise Unavailable(
                f"{loaded.version.ref} failed on this input.", hint="The server's log has the details."
            ) from err
        latency_ms = (looking + time.perf_counter() - began) * 1000
        rows = [inputs.rows[place] for place in places]
        return self._predictions_of(loaded, rows, roles, values, scores, latency_ms, caller)

    def _count_errors(self, model: str, version: int, roles: Sequence[ServeRole]) -> None:
        for role, rows in Counter(roles).items():
            self._predictions.record_error(model, version, role, rows=rows)

    def _predictions_of(
        self,
        loaded: Loaded,
        rows: Sequence[PredictRow],
        roles: Sequence[ServeRole],
        values: Values,
        scores: np.ndarray,
        latency_ms: float,
        caller: str,
    ) -> list[Prediction]:
        version, at, domain_at = loaded.version, self._clock.real(), self._clock.now()
        return [
            Prediction(
                id=new_id(),
                model=version.model,
                version=version.version,
                role=role,
                at=at,
                domain_at=domain_at,
                caller=caller,
                entity=row.entity,
                features=dict(zip(version.features, given, strict=True)),
                score=score,
                latency_ms=latency_ms,
            )
            for row, role, given, score in zip(rows, roles, values, scores.tolist(), strict=True)
        ]

    def _shadow(self, model: str, routes: Sequence[Route], inputs: Inputs, caller: str) -> None:
        """Have other versions score the same rows, after the answer and beside it; never waits."""
        for number in dict.fromkeys(route.shadow for route in routes):
            if number is None:
                continue
            places = [place for place, route in enumerate(routes) if route.shadow == number]
            if not self._shadows.offer(functools.partial(self._watch, model, number, inputs, places, caller)):
                self.shadows_dropped += len(places)

    def _watch(self, model: str, version: int, inputs: Inputs, places: Sequence[int], caller: str) -> None:
        roles: list[ServeRole] = ["shadow"] * len(places)
        try:
            self._predictions.put(self._score(model, version, inputs, places, roles, caller))
        except Unavailable as err:  # counted where it was found
            _log.warning("The shadow %s/%s failed: %s", model, version, err)
        except MlboxError as err:  # the champion answered these rows, so it is the shadow that cannot
            _log.warning("The shadow %s/%s cannot answer what the champion can: %s", model, version, err)
            self._count_errors(model, version, roles)

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
