"""What a feature goes into beyond its definition, where the rooms meet: datasets, models and endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from mlbox.records import DatasetVersion, FeatureLineage, ModelVersion, Trained, ViewProfile
from mlbox.store.features.feature_catalogue import Definitions, taken
from mlbox.web.box import Box

MOST_DATASETS = 2000
"""Dataset versions that are looked through, the newest first."""
MOST_MODELS = 500
MOST_NODES = 300
MOST_TRAININGS = 5
_PAGE = 500
_OF_DATASET = "model_version.dataset = ?"


def lineage(box: Box, ref: str) -> FeatureLineage:
    """From the sources of a view or transform to the endpoints that answer with it."""
    walk = box.catalogue.definitions(ref)
    _add_datasets(walk, box)
    models = _add_models(walk, box)
    _add_endpoints(walk, box, models)
    kept = dict(list(walk.nodes.items())[:MOST_NODES])
    edges = [edge for edge in walk.edges if edge[0] in kept and edge[1] in kept]
    return FeatureLineage(ref=walk.ref, nodes=tuple(kept.values()), edges=tuple(edges), cut=len(kept) < len(walk.nodes))


def _add_datasets(walk: Definitions, box: Box) -> None:
    for dataset in _datasets(box):
        used = [view for view in dataset.views if view in walk.downstream]
        if used:
            node = walk.add("dataset", dataset.ref, taken(walk.ref, [column.name for column in dataset.columns]))
            for origin in _origins(walk, dataset.feature_service, used):
                walk.edges.setdefault((origin, node))


def _add_models(walk: Definitions, box: Box) -> list[ModelVersion]:
    found = []
    for version in _models(box, walk.downstream):
        node = walk.add("model", version.ref, taken(walk.ref, version.features))
        used = [view for view in walk.downstream if any(full.startswith(f"{view}:") for full in version.features)]
        for origin in _origins(walk, version.feature_service, used, version.dataset):
            walk.edges.setdefault((origin, node))
        found.append(version)
    return found


def _add_endpoints(walk: Definitions, box: Box, models: Iterable[ModelVersion]) -> None:
    by_number = {(version.model, version.version): version for version in models}
    for endpoint in box.rollouts.endpoints():
        for number in (endpoint.champion, endpoint.candidate):
            version = by_number.get((endpoint.model, number or 0))
            if version is not None:
                node = walk.add("endpoint", endpoint.model, taken(walk.ref, version.features))
                walk.edges.setdefault((f"model:{version.ref}", node))


def _origins(walk: Definitions, service: str | None, used: list[str], dataset: str | None = None) -> list[str]:
    """What stands before a dataset or a model: the dataset, else the service, else the views themselves."""
    for node in (f"dataset:{dataset}", f"service:{service}"):
        if node in walk.nodes:
            return [node]
    return [f"{walk.downstream[view]}:{view}" for view in used]


def _datasets(box: Box) -> Iterator[DatasetVersion]:
    after: str | None = None
    for _ in range(MOST_DATASETS // _PAGE):
        found = box.datasets.versions(limit=_PAGE, after=after)
        yield from found
        if len(found) < _PAGE:
            return
        after = found[-1].id


def _models(box: Box, views: Iterable[str]) -> list[ModelVersion]:
    """The newest model versions with a feature of one of the views."""
    of_view = "substr(value, 1, instr(value, ':') - 1) IN (SELECT value FROM json_each(?))"
    condition = f"EXISTS (SELECT 1 FROM json_each(model_version.features) WHERE {of_view})"
    values = [msgspec.json.encode(list(views)).decode()]
    return box.registry.select_versions(condition, values, "model_version.id DESC", MOST_MODELS)


def profile(box: Box, ref: str, *, refresh: bool = False) -> ViewProfile:
    """How a view's values are spread now, and in the newest of the datasets that have it."""
    now = box.profiles.now(ref, refresh=refresh)
    trainings: list[Trained] = []
    shown = 0
    for dataset in _datasets(box):
        if now.ref in dataset.views:
            found = box.profiles.at_training(now, dataset)
            models = tuple(
                v.ref for v in box.registry.select_versions(_OF_DATASET, [dataset.ref], "model_version.id", 20)
            )
            trainings += [msgspec.structs.replace(one, models=models) for one in found.values()]
            shown += 1
            if shown == MOST_TRAININGS:
                break
    return msgspec.structs.replace(now, trainings=tuple(trainings))
