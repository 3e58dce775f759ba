"""What an address comes to: the model, who answers for it, and what that takes.

What a name alone comes to is kept, where one version in memory answers whatever is left open, until routes or the versions in
memory change: then it costs a request one look into a dictionary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from mlbox.errors import InvalidInput, NotAuthorised, NotFound, Refused
from mlbox.ids import new_id
from mlbox.records import Column, ModelVersion, Stage, TensorSpec
from mlbox.serve.inference import naming
from mlbox.serve.inference.loading import Loaded, Loader, inputs_of
from mlbox.serve.inference.rows import Columns, Form
from mlbox.serve.predictions.routing import Route, Routes
from mlbox.store.asking import asking
from mlbox.store.features.features import FeatureStore
from mlbox.store.registry.promotions import HOW_TO_SERVE
from mlbox.store.registry.registry import Registry, no_version

MOST_BESIDE = 1024
SERVING: tuple[Stage, ...] = ("Staging", "Production")


class Target(NamedTuple):
    """What an address comes to, for who may know of it."""

    model: str
    version: int | None
    """The one that was named, and answers alone; None for whoever serves."""
    alone: tuple[Route, Loaded] | None = None
    """Who answers whatever key, where that is one version, and in memory."""


class Targets:
    """Finds them."""

    def __init__(
        self,
        registry: Registry,
        routes: Routes,
        loader: Loader,
        features: FeatureStore,
        load: Callable[[str, Route, int], Loaded],
    ) -> None:
        """`load` has a version of a model loaded for so many rows, and counts them as errors where that fails."""
        self._registry = registry
        self._routes = routes
        self._loader = loader
        self._features = features
        self._load = load
        self.check_staging: Callable[[str], None] = lambda model: None
        """Raises NotAuthorised unless whoever asks may ask a model's version in Staging."""
        self._kept: tuple[tuple[int, int], dict[str, Target]] = (0, 0), {}
        self._beside: dict[Any, Any] = {}
        self._asked_with: dict[tuple[str, ...], tuple[Column, ...]] = {}
        """By features, which are of a version and so never change, what they are looked up by."""

    # -- who answers ----------------------------------------------------------------------------------------------------------

    def find(self, address: str, version: int | None = None) -> Target:
        """What an address comes to, and the version that the request names beside it, if it does."""
        kept = self._current().get(address) if version is None else None
        if kept is None:
            return Target(*self._named(address, version))
        self._registry.see(address)
        return kept

    def _current(self) -> dict[str, Target]:
        now = (self._routes.generation, self._loader.generation)
        then, kept = self._kept
        if now != then:
            kept = {}
            self._kept, self._beside = (now, kept), {}
        return kept

    def beside(self) -> dict[Any, Any]:
        """What others keep that follows from the targets as they are now: it goes when they do, and with it their models."""
        self._current()
        if len(self._beside) >= MOST_BESIDE:
            self._beside = {}
        return self._beside

    def routes(self, target: Target, keys: Sequence[str] = ()) -> list[Route]:
        """Who answers each key; without any, the one version that answers all rows."""
        model, version = target.model, target.version
        if version is not None:
            return [Route(version=version, role="champion")] * (len(keys) or 1)
        kept = self._current()
        try:
            among = self._routes.versions(model)
            found = [self._routes.route(model, key) for key in keys or [new_id() if len(among) > 1 else ""]]
        except NotFound:
            self.metadata(model)  # which knows more to say about it
            raise
        if len(among) == 1 and model not in kept:
            loaded = self._loader.known(model, found[0].version)
            if loaded is not None:
                kept[model] = Target(model, None, (found[0], loaded))
        return found

    def is_at_hand(self, model: str, rows: int, tensors: Collection[str] | None) -> bool:
        """Whether an answer of so many rows costs less than a thread to make it in: it may be made on the event loop.

        Whoever may answer is in memory and quick. Features that are looked up, as they are unless one of the tensors is the
        model's own, are at hand as well; None says that none are. A model that is named in another way is not found here.
        """
        kept = self._current().get(model)
        if kept is not None and kept.alone is not None:
            loaded: list[Loaded | None] = [kept.alone[1]]
        else:
            loaded = [self._loader.known(model, number) for number in self._routes.versions(model)]
        for one in loaded:
            if one is None or not one.lane.quick(rows):
                return False
            looks_up = tensors is not None and one.takes.isdisjoint(tensors)
            if looks_up and not self._features.is_at_hand(one.version.features, rows):
                return False
        return bool(loaded)

    # -- what that takes ------------------------------------------------------------------------------------------------------

    def inputs(self, target: Target) -> tuple[TensorSpec, ...]:
        """The tensors that it takes, as the version in Production does, or one that is named; raises as `metadata`.

        A version that was registered without them is loaded to be asked. Where that fails, raises Unavailable, and it failed on
        one row: until it says what it takes, nobody knows which dimension of a tensor is that of rows.
        """
        known = self.known_inputs(target)
        return known or self._load(target.model, self._route(target), 1).inputs

    def known_inputs(self, target: Target) -> tuple[TensorSpec, ...]:
        """The same without loading anything: none of a version not in memory that was registered without them."""
        if target.alone is not None:
            return target.alone[1].inputs
        number = self._route(target).version
        loaded = self._loader.known(target.model, number)
        if loaded is not None:
            return loaded.inputs
        served = self.servable(target.model, number)
        return inputs_of(served, served.inputs)

    def form(self, target: Target) -> Form:
        """What rows for it are made of, of the version that `inputs` speaks of; raises as it does."""
        with asking(None):
            number = self._route(target).version
            loaded = self._loader.known(target.model, number)
            columns = loaded.columns if loaded is not None else Columns(self.servable(target.model, number))
            if columns.names not in self._asked_with:
                self._asked_with[columns.names] = (
                    tuple(self._features.asked_with(columns.names)) if columns.names else ()
                )
            return Form(columns, self._asked_with[columns.names])

    def _route(self, target: Target) -> Route:
        return target.alone[0] if target.alone is not None else self.routes(target, [""])[0]

    # -- what may serve -------------------------------------------------------------------------------------------------------

    def metadata(self, model: str, version: int | None = None) -> ModelVersion:
        """The version in Production, or one that is named; raises NotFound, or Refused for one that may not serve."""
        model, version = self._named(model, version)
        if version is not None:
            return self.servable(model, version)
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

    def numbers(self, address: str) -> list[int]:
        """The versions of a model that whoever asks may ask by number; none where the address is of one version already."""
        model, what = naming.parse(address)
        if what:
            return []
        found = [
            self._registry.by_stage(model, stage) for stage in SERVING if stage != "Staging" or self._may_stage(model)
        ]
        return sorted(version.version for version in found if version is not None and version.servable)

    def _may_stage(self, model: str) -> bool:
        with contextlib.suppress(NotAuthorised):
            self.check_staging(model)
            return True
        return False

    def _named(self, address: str, version: int | None) -> tuple[str, int | None]:
        """A model's name, and the version of it that an address or a request names, which may serve."""
        model, what = naming.parse(address)
        self._registry.see(model)
        if what and version is not None:
            raise InvalidInput(
                f"The request names version {version!s:.40} and {address!r:.80}.", hint="Name one.", field="version"
            )
        number = version if version is not None else naming.version_meant(self._registry, model, what)
        if number is not None and self.servable(model, number).stage == "Staging":
            self.check_staging(model)
        return model, number

    def servable(self, model: str, version: int) -> ModelVersion:
        """A version that may serve; raises NotFound, or Refused."""
        if not 0 < version < 2**63:
            raise no_version(model, version)
        found = self._registry.version(model, version)
        if found.stage not in SERVING:
            raise Refused(
                f"{found.ref} is in stage {found.stage} and may not serve.",
                hint=f"`mlbox model promote {found.ref}` begins its way.",
                field="version",
            )
        return _checked(found)


def _checked(version: ModelVersion) -> ModelVersion:
    if not version.servable:
        raise Refused(
            f"{version.ref} is in {version.stage} for clients to load, and cannot be served: {version.unservable}",
            hint=HOW_TO_SERVE,
            field="version",
        )
    return version
