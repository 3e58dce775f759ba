"""Registration: a run's artifact becomes a model version that knows where it came from.

Everything that the gates and the server will rely on is found out here, once, from the things themselves: the tensors from
the file (in a disposable process), the trainer, commit and dataset from the run, the reference for drift from the dataset.
A caller names what to register and may not claim any of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mlbox.errors import InvalidInput
from mlbox.records import DatasetVersion, ModelVersion, Record, Run, RunArtifact
from mlbox.serve.inference.check import ModelCheck, compare_onnx, inspect_among, read_sample, score_onnx
from mlbox.serve.inference.runtime import not_tabular
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.registry.registry import NewVersion, Registry
from mlbox.store.tracking.tracking import Tracker


class Registration(Record, frozen=True, kw_only=True):
    """What to register: paths among the run's artifacts, and what the columns of the input mean."""

    run_id: str
    artifact: str
    """Path of the ONNX file."""
    sample: str | None = None
    """Path of the .npz with `inputs` and the source model's `outputs`, or `input/NAME` and `output/NAME`, for the parity gate."""
    features: tuple[str, ...] = ()
    """Feature references in the order of the input's columns; by default the service's, or the dataset's."""
    feature_service: str | None = None
    metrics: dict[str, float] = {}
    """By default the last finite value of each metric of the run."""
    description: str = ""
    tags: dict[str, str] = {}


class FeatureNames(Protocol):
    """What registration asks of the feature store."""

    def resolve(self, refs: Sequence[str]) -> tuple[str, ...]:
        """Full references for views' features and services; raises NotFound."""


class Registrar:
    """Turns run artifacts into versions."""

    def __init__(
        self, registry: Registry, tracker: Tracker, datasets: Datasets, features: FeatureNames, artifacts: Artifacts
    ) -> None:
        self._folders = ModelFolders(artifacts)
        self._registry = registry
        self._tracker = tracker
        self._datasets = datasets
        self._features = features
        self._artifacts = artifacts

    def register(self, model: str, ask: Registration, *, actor: str) -> ModelVersion:
        """A new version of a model; raises InvalidInput for a file that is no usable ONNX model or does not fit."""
        run = self._tracker.run(ask.run_id)
        artifact = self._tracker.artifact(run.id, ask.artifact)
        dataset = self._datasets.version(run.dataset) if run.dataset else None
        features = self._feature_names(ask, dataset)
        logged = self._tracker.artifacts_of(run.id)
        model_file, found = inspect_among(self._folders, artifact, logged, width=len(features))
        check_columns(found, features)
        files = (artifact, *self._external(found, artifact, run.id))
        self._artifacts.keep([file.sha256 for file in files])
        return self._registry.register(
            NewVersion(
                model=model,
                run_id=run.id,
                experiment=self._tracker.experiment_of(run.id),
                job_id=run.job_id,
                dataset=dataset.ref if dataset else None,
                dataset_hash=dataset.hash if dataset else None,
                feature_service=ask.feature_service or (dataset.feature_service if dataset else None),
                features=features,
                inputs=found.inputs,
                outputs=found.outputs,
                artifact=artifact.sha256,
                size=found.size,
                reference=self._reference(model_file, dataset, features),
                sample=self._sample(ask, run, model_file, len(features)),
                metrics=ask.metrics or last_metrics(run),
                git_commit=run.git_commit,
                trained_by=run.user,
                submitted_by=actor,
                description=ask.description,
                tags=ask.tags,
                source=f"runs:/{run.id}/{artifact.path}",
                lineage="recorded" if run.job_id else "declared",
                files=files,
            )
        )

    def _external(self, found: ModelCheck, artifact: RunArtifact, run_id: str) -> list[RunArtifact]:
        """The files of a run that a model keeps weights in."""
        folder = artifact.path.rpartition("/")[0]
        return [self._tracker.artifact(run_id, f"{folder}/{name}" if folder else name) for name in found.external]

    def features_of(self, dataset: DatasetVersion | None) -> tuple[str, ...]:
        """The features that a dataset's columns are; raises InvalidInput where there are none."""
        return self._feature_names(Registration(run_id="", artifact=""), dataset)

    def reference_of(self, model: Path, dataset: DatasetVersion, features: tuple[str, ...]) -> str | None:
        """What drift of a model is measured against, from the dataset it was trained on; its SHA-256."""
        return self._reference(model, dataset, features)

    def _feature_names(self, ask: Registration, dataset: DatasetVersion | None) -> tuple[str, ...]:
        named = ask.features or ((ask.feature_service,) if ask.feature_service else ())
        if named:
            return self._features.resolve(named)
        return tuple(column.name for column in dataset.columns if ":" in column.name) if dataset else ()

    def _reference(self, model: Path, dataset: DatasetVersion | None, features: tuple[str, ...]) -> str | None:
        if dataset is None or not features:
            return None
        absent = sorted(set(features) - {column.name for column in dataset.columns})
        if absent:
            raise InvalidInput(
                f"{dataset.ref}, which the run trained on, has no column {absent[0]!r}.",
                hint="Name the features that the model was trained with.",
                field="features",
            )
        table = self._datasets.open_table(dataset.ref)
        content = make_reference(table, features, scorer=lambda rows: score_onnx(model, rows))
        return store_reference(self._artifacts, content)

    def _sample(self, ask: Registration, run: Run, model: Path, width: int) -> str | None:
        if ask.sample is None:
            return None
        artifact = self._tracker.artifact(run.id, ask.sample)
        if not width:
            compare_onnx(model, self._artifacts.path(artifact.sha256))
            return artifact.sha256
        sample = read_sample(self._artifacts.path(artifact.sha256))
        if sample.inputs.ndim != 2 or sample.inputs.shape[1] != width or len(sample.outputs) != len(sample.inputs):
            raise InvalidInput(
                f"The sample's inputs are {list(sample.inputs.shape)} and its outputs {list(sample.outputs.shape)};"
                f" [N, {width}] and [N] are wanted.",
                hint="`mlbox.export_onnx` writes a sample that fits.",
                field="sample",
            )
        return artifact.sha256


def check_columns(found: ModelCheck, features: Sequence[str]) -> None:
    """Raise InvalidInput unless features that are named are the columns of a tabular model, and all of them."""
    if not features:
        return
    problem = not_tabular(found.inputs, found.outputs)
    if problem is not None:
        raise InvalidInput(
            f"Features are named, and {problem.message[0].lower()}{problem.message[1:]}",
            hint="Name no features for a model of other tensors.",
            field="features",
        )
    width = found.inputs[0].shape[1]
    if width not in (-1, len(features)):
        raise InvalidInput(
            f"The model takes {width} columns, and {len(features)} features are named.",
            hint="Name the features in the order of the input's columns.",
            field="features",
        )


def last_metrics(run: Run) -> dict[str, float]:
    """The last finite value of each metric, without those of the machine."""
    values = {name: metric.value for name, metric in run.metrics.items() if not name.startswith("system/")}
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
