"""Registration by source: a version from wherever a client says its files are, among what this box keeps.

    runs:/RUN/PATH                       files of a run, or its logged model of that name
    models:/m-ID                         files of a logged model
    models:/NAME/3, models:/NAME@alias   files of another version, with its lineage
    mlflow-artifacts:/...                the same by where they are kept

Everything is resolved by id; nothing is opened. The version keeps the files that it found, by their hashes: what is logged
under the same names later changes nothing about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, Protocol
from urllib.parse import unquote

from mlbox.errors import InvalidInput, MlboxError, NotAuthorised, NotFound
from mlbox.records import ModelVersion, Record, Run, RunArtifact, TensorSpec
from mlbox.serve.inference.check import inspect_among, read_sample
from mlbox.serve.registration.registration import Registrar, check_columns, last_metrics
from mlbox.store.artifacts import Artifacts, check_path
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.registry.registry import NewVersion, Registry
from mlbox.store.tracking.logged_models import LoggedModels
from mlbox.store.tracking.tracking import Tracker

SAMPLE = "sample.npz"
COMMIT_TAGS = ("git_commit", "mlflow.source.git.commit")
DATASET_TAG = "dataset_version"
KEPT = "model-versions"
"""Where, below `mlflow-artifacts:/`, the files of a version are, by the version's id."""
_SCHEMES = ("runs", "models", "mlflow-artifacts")
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


class LoggedFiles(Record, frozen=True, kw_only=True):
    """What registration asks of a logged model: whose it is, the run that made it, and its files by path."""

    id: str
    run_id: str | None
    experiment: str
    user: str
    files: tuple[RunArtifact, ...]


class Logged(Protocol):
    """Where logged models and artifact addresses are known."""

    def files_of_model(self, model_id: str) -> LoggedFiles:
        """A logged model; raises NotFound."""

    def model_of_run(self, run_id: str, name: str) -> str | None:
        """The id of the latest model that a run logged under a name."""

    def locate(self, path: str) -> tuple[str, str, str]:
        """Whose file an artifact address names: `run` or `model`, its id, and the path within; raises NotFound."""


class Addresses:
    """Logged models, and where `mlflow-artifacts:/` keeps theirs and the runs'."""

    def __init__(self, models: LoggedModels) -> None:
        self._models = models

    def files_of_model(self, model_id: str) -> LoggedFiles:
        """A logged model; raises NotFound."""
        model = self._models.get(model_id)
        return LoggedFiles(
            id=model.id,
            run_id=model.run_id,
            experiment=self._models.experiment_of(model_id),
            user=model.user,
            files=tuple(self._models.files(model_id)),
        )

    def model_of_run(self, run_id: str, name: str) -> str | None:
        """The id of the latest model that a run logged under a name."""
        return self._models.latest_of_run(run_id, name)

    def locate(self, path: str) -> tuple[str, str, str]:
        """`EXPERIMENT/RUN/artifacts/PATH` or `EXPERIMENT/models/m-ID/artifacts/PATH`: whose it is, its id, and PATH."""
        parts = path.split("/")
        if len(parts) >= 3 and parts[2] == "artifacts":
            return "run", parts[1], "/".join(parts[3:])
        if len(parts) >= 4 and parts[1] == "models" and parts[3] == "artifacts":
            return "model", parts[2], "/".join(parts[4:])
        raise NotFound(f"There are no artifacts at {path[:200]!r}.", field="source")


class Source(Record, frozen=True, kw_only=True):
    """What a client asks to register."""

    source: str
    run_id: str | None = None
    model_id: str | None = None
    run_link: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class Found(NamedTuple):
    """What a source is."""

    files: Sequence[RunArtifact]
    run_id: str | None = None
    model_id: str | None = None
    user: str | None = None
    experiment: str | None = None
    version: ModelVersion | None = None


class Serving(NamedTuple):
    """What serving a version takes, or why it cannot be had."""

    unservable: str
    artifact: str | None = None
    sample: str | None = None
    features: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


class SourceRegistrar:
    """Turns sources into versions."""

    def __init__(
        self,
        registry: Registry,
        registrar: Registrar,
        tracker: Tracker,
        logged: Logged,
        datasets: Datasets,
        artifacts: Artifacts,
    ) -> None:
        self._registry = registry
        self._registrar = registrar
        self._tracker = tracker
        self._logged = logged
        self._datasets = datasets
        self._artifacts = artifacts
        self._folders = ModelFolders(artifacts)

    def register(self, model: str, ask: Source, *, actor: str, job_id: str | None = None) -> ModelVersion:
        """A new version of a model that exists; raises InvalidInput for a source that is not of this box.

        With `job_id`, whose token asks, NotAuthorised for what is not of its own run.
        """
        self._registry.model(model)
        found = self.find(ask)
        run = self._tracker.run(found.run_id) if found.run_id else None
        if job_id is not None and (run is None or run.job_id != job_id):
            raise NotAuthorised("A job's token may register its own run's artifacts only.", hint="Use a user's token.")
        self._artifacts.keep(file.sha256 for file in found.files)
        if found.version is not None:
            return self._registry.register(_copy(model, found, ask, actor))
        dataset = self._dataset(run, ask.tags)
        serving = self._serving(found.files, dataset)
        return self._registry.register(
            NewVersion(
                model=model,
                format="other" if serving.unservable else "onnx",
                run_id=run.id if run else None,
                experiment=self._tracker.experiment_of(run.id) if run else found.experiment,
                job_id=run.job_id if run else None,
                dataset=dataset,
                features=serving.features,
                inputs=serving.inputs,
                outputs=serving.outputs,
                artifact=serving.artifact,
                sample=serving.sample,
                reference=self._reference(serving, found.files, dataset),
                size=sum(file.size for file in found.files),
                metrics=last_metrics(run) if run else {},
                git_commit=_commit(run),
                trained_by=run.user if run else found.user or actor,
                submitted_by=actor,
                description=ask.description,
                tags=ask.tags,
                source=ask.source,
                run_link=ask.run_link,
                logged_model=found.model_id,
                lineage="recorded" if run and run.job_id else "declared",
                unservable=serving.unservable,
                files=tuple(found.files),
            )
        )

    def dataset_named(self, value: str) -> str | None:
        """The dataset version that a tag names, if there is one."""
        if "@v" not in value:
            return None
        try:
            return self._datasets.version(value).ref
        except (NotFound, InvalidInput):
            return None

    def _dataset(self, run: Run | None, tags: Mapping[str, str]) -> str | None:
        if run is not None and run.dataset:
            return run.dataset
        claims = [(run.tags if run else {}).get(DATASET_TAG), tags.get(DATASET_TAG)]
        return next((ref for claim in claims if claim and (ref := self.dataset_named(claim))), None)

    # -- where it is ------------------------------------------------------------------------------------------------

    def find(self, ask: Source) -> Found:
        """What a source names; raises InvalidInput for one that is not allowed or names nothing of this box."""
        scheme, colon, rest = ask.source.partition(":")
        path = unquote(rest).strip("/")
        odd = rest.startswith("//") or not rest.startswith("/") or any(mark in rest for mark in ("?", "#"))
        if not colon or scheme not in _SCHEMES or odd or not path or len(ask.source) > 2000:
            _refuse(ask.source, f"It begins with one of {', '.join(f'{name}:/' for name in _SCHEMES)}")
        check_path(path, field="source")
        ways: dict[str, Callable[[str, Source], Found]] = {
            "runs": self._in_run,
            "models": self._in_model,
            "mlflow-artifacts": self._in_artifacts,
        }
        found = ways[scheme](path, ask)
        if ask.run_id and found.run_id != ask.run_id:
            _refuse(ask.source, f"It is not of the run {ask.run_id[:80]!r} that run_id names")
        if ask.model_id and found.model_id != ask.model_id:
            _refuse(ask.source, f"It is not of the logged model {ask.model_id[:80]!r} that model_id names")
        return found

    def _in_run(self, path: str, ask: Source) -> Found:
        run_id, _, inside = path.partition("/")
        files = _below(self._tracker.artifacts_of(run_id), inside)
        model_id = ask.model_id or (None if files else self._logged.model_of_run(run_id, inside))
        if model_id is not None:
            return self._of_logged(model_id, "")
        return Found(files, run_id=run_id)

    def _in_model(self, path: str, ask: Source) -> Found:
        if _MODEL_ID.fullmatch(path.partition("/")[0]):
            model_id, _, inside = path.partition("/")
            return self._of_logged(model_id, inside)
        return self._of_version(self._version(path, ask))

    def _in_artifacts(self, path: str, ask: Source) -> Found:
        if path.startswith(f"{KEPT}/"):
            return self._of_version(self._registry.version_of_id(path.split("/")[1]))
        try:
            kind, name, inside = self._logged.locate(path)
        except NotFound:
            _refuse(ask.source, "An mlflow-artifacts path lies in the artifacts of a run or of a logged model")
        if kind == "model":
            return self._of_logged(name, inside)
        return Found(_below(self._tracker.artifacts_of(name), inside), run_id=name)

    def _of_logged(self, model_id: str, inside: str) -> Found:
        logged = self._logged.files_of_model(model_id)
        return Found(_below(logged.files, inside), logged.run_id, logged.id, logged.user, logged.experiment)

    def _of_version(self, version: ModelVersion) -> Found:
        files = self._registry.files(version.model, version.version)
        return Found(files, version.run_id, version.logged_model, version.trained_by, version=version)

    def _version(self, path: str, ask: Source) -> ModelVersion:
        name, at, alias = path.partition("@")
        if at:
            return self._registry.by_alias(name, alias)
        name, _, number = path.partition("/")
        if not number.isdigit() or len(number) > 18:
            _refuse(ask.source, "A model is named with a version or an alias: models:/NAME/3 or models:/NAME@alias")
        return self._registry.version(name, int(number))

    # -- whether it serves ------------------------------------------------------------------------------------------

    def _serving(self, files: Sequence[RunArtifact], dataset: str | None) -> Serving:
        models = [file for file in files if file.path.endswith(".onnx")]
        if len(models) != 1:
            return Serving("it has no ONNX file." if not models else f"it has {len(models)} ONNX files.")
        samples = [file for file in files if file.path.rpartition("/")[2] == SAMPLE]
        if not samples:
            return Serving(f"it has no {SAMPLE} by which to prove that the ONNX file answers as the model did.")
        try:
            return self._inspected(models[0], files, samples[0], dataset)
        except MlboxError as err:
            return Serving(err.message)

    def _inspected(
        self, model: RunArtifact, files: Sequence[RunArtifact], sample: RunArtifact, dataset: str | None
    ) -> Serving:
        features = self._registrar.features_of(self._datasets.version(dataset) if dataset else None)
        if not features:
            return Serving("it names no features, and its run no dataset to take them from.")
        rows = read_sample(self._artifacts.path(sample.sha256)).inputs
        _, found = inspect_among(self._folders, model, files, width=len(features))
        check_columns(found, features)
        if rows.ndim != 2 or rows.shape[1] != len(features):
            return Serving(f"its sample has {list(rows.shape)} rows and columns, and it has {len(features)} features.")
        return Serving("", model.sha256, sample.sha256, features, found.inputs, found.outputs)

    def _reference(self, serving: Serving, files: Sequence[RunArtifact], dataset: str | None) -> str | None:
        if serving.unservable or serving.artifact is None or dataset is None:
            return None
        path = self._folders.among(serving.artifact, files)
        return self._registrar.reference_of(path, self._datasets.version(dataset), serving.features)


def _below(files: Sequence[RunArtifact], inside: str) -> list[RunArtifact]:
    """The files under a folder, by their path within it; a file that is named itself keeps its name."""
    if not inside:
        return list(files)
    alone = [file for file in files if file.path == inside]
    if alone:
        return [RunArtifact(path=inside.rpartition("/")[2], sha256=alone[0].sha256, size=alone[0].size)]
    folder = f"{inside}/"
    return [
        RunArtifact(path=file.path.removeprefix(folder), sha256=file.sha256, size=file.size)
        for file in files
        if file.path.startswith(folder)
    ]


def _copy(model: str, found: Found, ask: Source, actor: str) -> NewVersion:
    """Another version of what a version is: with its files and its past, and no approval of its own."""
    former = found.version
    assert former is not None
    same = [
        *("format", "run_id", "job_id", "dataset", "feature_service", "features", "inputs", "outputs", "artifact"),
        *("size", "reference", "sample", "metrics", "git_commit", "trained_by", "logged_model", "lineage"),
    ]
    return NewVersion(
        model=model,
        submitted_by=actor,
        description=ask.description or former.description,
        tags=former.tags | ask.tags,
        source=ask.source,
        run_link=ask.run_link or former.run_link,
        unservable=former.unservable,
        files=tuple(found.files),
        **{name: getattr(former, name) for name in same},
    )


def _commit(run: Run | None) -> str | None:
    if run is None:
        return None
    return run.git_commit or next((run.tags[tag] for tag in COMMIT_TAGS if run.tags.get(tag)), None)


def _refuse(source: str, why: str) -> NoReturn:
    raise InvalidInput(
        f"Invalid model version source: {source[:200]!r}. {why}.",
        hint="Log the model to a run of this box and register runs:/RUN/PATH.",
        field="source",
    )
