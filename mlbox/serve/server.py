"""The model server: rows in, scores out, with the router asked, the features looked up, the answer logged.

It knows no wire protocol: `web` has an adapter for each over this one object.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.ids import new_id
from mlbox.records import ModelVersion, Prediction, Record, ServeRole
from mlbox.serve.predlog import PredictionLog
from mlbox.serve.routing import Route, Routes
from mlbox.serve.runtime import Session
from mlbox.store.artifacts import Artifacts
from mlbox.store.catalog import suggest
from mlbox.store.features import FeatureStore
from mlbox.store.registry import Registry

if TYPE_CHECKING:
    import numpy as np

SHADOW_QUEUE = 256
MAX_ROWS = 10_000
_log = logging.getLogger(__name__)


class PredictRow(Record, frozen=True, kw_only=True):
    """One row to score: by the entity's ids, or by features; `key` decides which version answers."""

    key: str
    entity: dict[str, Any] = {}
    features: dict[str, Any] | None = None
    """Numbers, by full reference, or by name where that is unambiguous; None is a missing value."""


class _Loaded:
    """A version in memory."""

    def __init__(self, version: ModelVersion, session: Session) -> None:
        self.version = version
        self.session = session
        self.places = {name: index for index, name in enumerate(version.features)}
        bare = [name.partition(":")[2] for name in version.features]
        self.places |= {name: index for index, name in enumerate(bare) if bare.count(name) == 1}


class ModelServer:
    """All models that serve."""

    def __init__(
        self,
        registry: Registry,
        artifacts: Artifacts,
        features: FeatureStore,
        routes: Routes,
        log: PredictionLog,
        clock: Clock,
        *,
        threads: int = 1,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._features = features
        self._routes = routes
        self._predictions = log
        self._clock = clock
        self._threads = threads
        self._loaded: dict[tuple[str, int], _Loaded] = {}
        self._loading = threading.Lock()
        self._shadows = ThreadPoolExecutor(1, thread_name_prefix="mlbox-shadow")
        self._shadow_room = threading.Semaphore(SHADOW_QUEUE)
        self.shadows_dropped = 0
        """Requests that a shadow did not see, because it was too far behind."""

    # -- predicting -------------------------------------------------------------------------------------------------

    def predict(
        self, model: str, *, rows: Sequence[PredictRow], caller: str, version: int | None = None
    ) -> list[Prediction]:
        """Score rows, in their order. A version that is named answers alone, and counts for no rollout.

        Raises NotFound when nothing serves or an entity is unknown to every view, InvalidInput naming the field, and
        Unavailable when a model fails.
        """
        if not rows or len(rows) > MAX_ROWS:
            raise InvalidInput(f"{len(rows)} rows; 1 to {MAX_ROWS:,} are taken.", hint="Split them.", field="rows")
        if version is not None:
            routes = [Route(version=self._servable(model, version).version, role="champion")] * len(rows)
        else:
            routes = [self._routes.route(model, row.key) for row in rows]
        answers: dict[int, Prediction] = {}
        for route in dict.fromkeys(routes):
            places = [place for place, own in enumerate(routes) if own == route]
            chosen = [rows[place] for place in places]
            made = self._score(self._load(model, route.version), route.role, chosen, caller)
            answers |= dict(zip(places, made, strict=True))
            if route.shadow is not None:
                self._shadow(model, route.shadow, chosen, caller)
        found = [answers[place] for place in range(len(rows))]
        self._predictions.put(found)
        return found

    def _score(self, loaded: _Loaded, role: ServeRole, rows: Sequence[PredictRow], caller: str) -> list[Prediction]:
        began = time.perf_counter()
        values = self._values(loaded, rows)
        version = loaded.version
        try:
            scores = loaded.session.score(_matrix(values))
        except Exception as err:
            self._predictions.record_error(version.model, version.version, role)
            _log.exception("%s failed.", version.ref)
            raise Unavailable(f"{version.ref} failed on this input.", hint="The server's log has the details.") from err
        latency_ms = (time.perf_counter() - began) * 1000
        at, domain_at = self._clock.real(), self._clock.now()
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
                score=float(score),
                latency_ms=latency_ms,
            )
            for row, given, score in zip(rows, values, scores, strict=True)
        ]

    def _shadow(self, model: str, version: int, rows: Sequence[PredictRow], caller: str) -> None:
        """Have another version score the same rows after the answer; never waits."""
        if not self._shadow_room.acquire(blocking=False):
            self.shadows_dropped += len(rows)
            return

        def watch() -> None:
            try:
                self._predictions.put(self._score(self._load(model, version), "shadow", rows, caller))
            except Exception as err:
                self._predictions.record_error(model, version, "shadow")
                _log.warning("The shadow %s/%s failed: %s", model, version, err)
            finally:
                self._shadow_room.release()

        self._shadows.submit(watch)

    # -- features ---------------------------------------------------------------------------------------------------

    def _values(self, loaded: _Loaded, rows: Sequence[PredictRow]) -> list[list[float | None]]:
        """Each row's features in the order of the model's columns."""
        looked_up = [index for index, row in enumerate(rows) if row.features is None]
        found: dict[int, list[float | None]] = {}
        if looked_up:
            online = self._features.online_features(loaded.version.features, [rows[i].entity for i in looked_up])
            for index, row in zip(looked_up, online, strict=True):
                if all(status == "NOT_FOUND" for status in row.statuses.values()):
                    raise NotFound(
                        f"No view knows the entity {rows[index].entity!r:.200}.",
                        hint="Check its ids, or materialize the views.",
                        field=f"entities.{index}",
                    )
                found[index] = [_number(row.values[name], name) for name in loaded.version.features]
        return [
            found[index] if row.features is None else _given(loaded, row.features, index)
            for index, row in enumerate(rows)
        ]

    # -- loading ----------------------------------------------------------------------------------------------------

    def metadata(self, model: str, version: int | None = None) -> ModelVersion:
        """The version that serves, or the one that is named; raises NotFound."""
        if version is not None:
            return self._servable(model, version)
        found = self._registry.by_stage(model, "Production")
        if found is None:
            stages = self._registry.model(model).stages
            raise NotFound(
                f"No version of {model!r} is in Production.",
                hint=f"There is {', '.join(f'{model}/{n} in {stage}' for stage, n in stages.items())}.",
                field="model",
            )
        return found

    def _servable(self, model: str, version: int) -> ModelVersion:
        found = self._registry.version(model, version)
        if found.stage not in ("Staging", "Production"):
            raise NotFound(
                f"{found.ref} is in stage {found.stage} and does not serve.",
                hint=f"`mlbox model promote {found.ref}` begins its way.",
                field="version",
            )
        return found

    def _load(self, model: str, version: int) -> _Loaded:
        loaded = self._loaded.get((model, version))
        if loaded is not None:
            return loaded
        with self._loading:
            if (model, version) not in self._loaded:
                self._loaded[model, version] = self._open(self._registry.version(model, version))
            return self._loaded[model, version]

    def _open(self, version: ModelVersion) -> _Loaded:
        """Load a version, which registration and its gates have loaded and run in processes that may die."""
        if version.artifact is None:
            raise NotFound(f"{version.ref} has no artifact to serve.", field="version")
        try:
            session = Session(self._artifacts.path(version.artifact), threads=self._threads)
        except Exception as err:
            raise Unavailable(f"{version.ref} cannot be loaded: {err}.", hint="Register it again.") from err
        return _Loaded(version, session)

    def unload(self, model: str, version: int) -> None:
        """Free a version's memory; it is loaded again when it is asked for."""
        self._loaded.pop((model, version), None)

    def loaded(self) -> list[ModelVersion]:
        """The versions in memory."""
        return [loaded.version for loaded in list(self._loaded.values())]

    def close(self) -> None:
        """Stop shadowing and drop the models."""
        self._shadows.shutdown(cancel_futures=True)
        self._loaded.clear()


def _given(loaded: _Loaded, features: Mapping[str, Any], row: int) -> list[float | None]:
    """Features that the caller gave, in the model's order; all of them must be there, and None is a missing value."""
    values: dict[int, float | None] = {}
    for name, value in features.items():
        field = f"features.{row}.{name}"
        place = loaded.places.get(name)
        if place is None:
            raise InvalidInput(
                f"{loaded.version.ref} has no feature {name!r:.200}.", hint=suggest(name, loaded.places), field=field
            )
        if place in values:
            raise InvalidInput(f"The feature {name!r} is given twice.", hint="Give each once.", field=field)
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise InvalidInput(
                f"{name!r} is {value!r:.60}, and a finite number is wanted.",
                hint="Send null for a missing value.",
                field=field,
            )
        values[place] = None if value is None else float(value)
    for place, name in enumerate(loaded.version.features):
        if place not in values:
            raise InvalidInput(
                f"The feature {name!r} is missing.",
                hint="Send null for a missing value.",
                field=f"features.{row}.{name}",
            )
    return [values[place] for place in range(len(loaded.version.features))]


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise InvalidInput(f"The feature {name} is text, and a model takes numbers.", field=name)
    return float(value)


def _matrix(values: Sequence[Sequence[float | None]]) -> np.ndarray:
    import numpy as np

    return np.array([[np.nan if v is None else v for v in row] for row in values], dtype=np.float32)
