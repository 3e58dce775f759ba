"""Where one prediction comes from, back to the raw labels, where the rooms meet: what whoever asks may not see is left out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from mlbox.errors import NotFound
from mlbox.records import DatasetVersion, FeatureLineage, Job, ModelVersion
from mlbox.store.features.feature_catalogue import Definitions
from mlbox.store.offline.offline import one
from mlbox.web.box import Box

T = TypeVar("T")
MOST_PARENTS = 20


def lineage_of(box: Box, prediction: str) -> FeatureLineage:
    """From sources, labels and code over dataset, run and model version to a prediction and the label that it met.

    Raises NotFound, with the same words, for one that there is not and for one of a model that one may not see.
    """
    model, number, _ = located(box, prediction)
    walk = Definitions(prediction)
    here = walk.add("prediction", prediction)
    version = _seen(lambda: box.registry.version(model, number))
    if version is not None:
        walk.edges.setdefault((walk.add("model", version.ref, version.features), here))
        _add_training(walk, box, version)
        _add_views(walk, box, tuple(full.partition(":")[0] for full in version.features), here)
    _add_outcome(walk, box, model, prediction, here)
    return FeatureLineage(ref=prediction, nodes=tuple(walk.nodes.values()), edges=tuple(walk.edges))


def located(box: Box, prediction: str) -> tuple[str, int, datetime]:
    """Model, version and moment of a prediction that whoever asks may see; raises NotFound."""
    found = box.predictions.located({prediction}).get(prediction)
    if found is None or _seen(lambda: box.registry.model(found[0])) is None:
        raise NotFound(
            f"There is no prediction {prediction[:80]!r}.",
            hint="The page of an endpoint lists the last ones; the log keeps them as long as it is told to.",
            field="id",
        )
    return found


def _seen(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except NotFound:
        return None


def _add_training(walk: Definitions, box: Box, version: ModelVersion) -> None:
    """What trained it, from which code, on which data."""
    made = f"model:{version.ref}"
    run = version.run_id and _seen(lambda: box.tracker.run(version.run_id or ""))
    if run:
        made = _before(walk, "run", run.id, made)
    job = _job(box, version.job_id)
    if job is not None:
        made = _before(walk, "job", job.id, made)
    code = version.git_commit or (job and (job.spec.git_commit or job.spec.snapshot))
    if code:
        _before(walk, "code", code, made)
    dataset = version.dataset and _seen(lambda: box.datasets.version(version.dataset or ""))
    if dataset:
        _add_dataset(walk, box, dataset, made)


def _job(box: Box, job_id: str | None) -> Job | None:
    if not job_id or not box.scheduler.visible_jobs({job_id}):
        return None
    return _seen(lambda: box.scheduler.job(job_id))


def _before(walk: Definitions, kind: str, name: str, user: str) -> str:
    node = walk.add(kind, name)
    walk.edges.setdefault((node, user))
    return node


def _add_dataset(walk: Definitions, box: Box, dataset: DatasetVersion, user: str) -> None:
    known = f"dataset:{dataset.ref}" in walk.nodes
    node = _before(walk, "dataset", dataset.ref, user)
    if known:
        return
    _add_views(walk, box, dataset.views, node)
    if dataset.label_set:
        _add_labels(walk, box, dataset.label_set, node)
    for ref in dataset.parents[:MOST_PARENTS]:
        parent = _seen(functools.partial(box.datasets.version, ref))
        if parent is not None:
            _add_dataset(walk, box, parent, node)


def _add_views(walk: Definitions, box: Box, refs: tuple[str, ...], user: str) -> None:
    for ref in dict.fromkeys(refs):
        found = _seen(functools.partial(box.catalogue.definitions, ref))
        if found is None:
            continue
        kind = next(node.kind for node in found.nodes.values() if node.name == ref)
        walk.edges.setdefault((walk.add(kind, ref), user))
        above = _above(found, f"{kind}:{ref}")
        for name in above:
            walk.nodes.setdefault(name, found.nodes[name])
        for origin, used_by in found.edges:
            if origin in above and (used_by in above or used_by == f"{kind}:{ref}"):
                walk.edges.setdefault((origin, used_by))


def _above(found: Definitions, node: str) -> set[str]:
    """All that a node of a walk comes from."""
    above: set[str] = set()
    waiting = [node]
    while waiting:
        user = waiting.pop()
        for origin, used_by in found.edges:
            if used_by == user and origin not in above:
                above.add(origin)
                waiting.append(origin)
    return above


def _add_labels(walk: Definitions, box: Box, name: str, user: str) -> None:
    """A label set, and who says what is in it."""
    labels = _seen(lambda: box.labels.declared(name))
    if labels is not None:
        node = _before(walk, "labels", labels.name, user)
        for source in labels.sources:
            _before(walk, "label source", f"{labels.name}/{source.name}", node)


def _add_outcome(walk: Definitions, box: Box, model: str, prediction: str, here: str) -> None:
    """The label that the prediction met, if one is known."""
    labels = _seen(lambda: box.labels.declared(box.performance.label_set(model)))
    if labels is None:
        return
    tables = box.outcomes.join(model, labels)
    row = box.offline.read(
        lambda cursor: one(cursor, f"SELECT _value, _tied FROM {tables.met} WHERE _id = ?", [prediction])
    )
    if row is not None and not row[1]:
        met = walk.add("label", f"{labels.value.name} = {row[0]}")
        walk.edges.setdefault((here, met))
        _add_labels(walk, box, labels.name, met)
