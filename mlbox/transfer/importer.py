"""Puts what a source has into a box, through the box's own API: its roles, names, quotas and gates hold as for anyone.

Each thing that is put there is tagged with where it came from, and a run or logged model that is whole with `mlbox.import`.
Begun again, an import skips what is whole and completes the rest: points and parameters that are there count once, and files
that are there are not sent again. What is whole was compared with its source: parameters, points by count and hash, files by
their SHA-256.

What is never taken over is a decision: a version that was in Production there has to be promoted and approved here.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from mlbox.client import BYTES, Client
from mlbox.errors import Conflict, MlboxError, NotFound, Unavailable
from mlbox.records import Model, ModelVersion, Run, RunArtifact
from mlbox.transfer.items import (
    ExperimentItem,
    File,
    LoggedModelItem,
    ModelItem,
    RunItem,
    Source,
    Sum,
    VersionItem,
    wire_value,
)
from mlbox.transfer.rest import API, PROXIED, Rest

FROM, STATE, STAGE = "mlbox.imported_from", "mlbox.import", "mlbox.imported_stage"
WHOLE = "whole"
THREADS = 4
FILE_TRIES = 4
POINTS_AT_ONCE, PAIRS_AT_ONCE = 1000, 100
ENDED = ("FINISHED", "FAILED", "KILLED")
_RUN_ID = re.compile("[0-9a-f]{32}")
_RUN_FILES = re.compile(r"(?:^runs:/|/)([0-9a-f]{32})/(?:artifacts/?)?(.*)$")
_MODEL_FILES = re.compile(r"(?:^models:/|/models/)(m-[0-9a-f]{32})(?:/artifacts)?(?:/(.*))?$")
_NO_NAME = re.compile(r"[^A-Za-z0-9._\-]+")


class Wanted(NamedTuple):
    """What to import; None means all."""

    experiments: Collection[str] | None = None
    models: Collection[str] | None = None
    into: str = ""
    """The team that owns it here: names begin with it."""


class Line(msgspec.Struct, kw_only=True):
    """What became of one kind of thing."""

    kind: str
    found: int = 0
    """At the source."""
    imported: int = 0
    whole_before: int = 0
    problems: int = 0


class Result(msgspec.Struct, kw_only=True):
    """What an import did."""

    lines: list[Line]
    problems: list[str] = []
    notes: list[str] = []

    @property
    def ok(self) -> bool:
        """True when everything that was found is here, and is what it was there."""
        return not self.problems


class Importer:
    """One import."""

    def __init__(
        self,
        client: Client,
        token: str,
        source: Source,
        wanted: Wanted,
        *,
        dry_run: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._client = client
        self._here = Rest(client.url, token=token)
        self._source = source
        self._wanted = wanted
        self._dry_run = dry_run
        self._tell = tell
        self._lines = {kind: Line(kind=kind) for kind in ("experiments", "runs", "logged models", "models", "versions")}
        self.result = Result(lines=list(self._lines.values()))
        self._runs: dict[str, str] = {}
        """Ids here by ids there."""
        self._models: dict[str, str] = {}

    def run(self) -> Result:
        """Import all that is wanted; what fails is in the result, and keeps nothing else from it."""
        wanted = self._wanted
        with ThreadPoolExecutor(THREADS, thread_name_prefix="mlbox-import") as pool:
            for experiment in self._source.experiments():
                if wanted.experiments is None or experiment.name in wanted.experiments:
                    self._experiment(experiment, pool)
        for model in self._source.models():
            if wanted.models is None or model.name in wanted.models:
                self._guarded("models", model.name, functools.partial(self._model, model))
        self._here.close()
        return self.result

    def _guarded(self, kind: str, name: str, work: Callable[[], bool]) -> None:
        """Do one thing and count it; `work` says whether there was anything to do."""
        line = self._lines[kind]
        line.found += 1
        if self._dry_run:
            return
        try:
            done = work()
        except MlboxError as err:
            line.problems += 1
            self.result.problems.append(f"{kind.removesuffix('s')} {name}: {err}")
        else:
            line.imported += done
            line.whole_before += not done

    # -- experiments and runs ---------------------------------------------------------------------------------------

    def _experiment(self, experiment: ExperimentItem, pool: ThreadPoolExecutor) -> None:
        name = self._name(experiment.name)
        self._guarded("experiments", name, lambda: self._make_experiment(experiment, name))
        runs, futures = self._source.runs(experiment), []
        while some := list(islice(runs, 10 * THREADS)):  # not all of a hundred thousand at once
            futures = [
                pool.submit(self._guarded, "runs", run.id, functools.partial(self._run, run, name)) for run in some
            ]
            for future in futures:
                future.result()
            self._tell(f"{experiment.name}: {self._lines['runs'].found:,} runs")
        known = {} if self._dry_run else self._known_models(name)
        for model in self._source.logged_models(experiment):
            self._guarded("logged models", model.id, functools.partial(self._logged, model, name, known))

    def _make_experiment(self, experiment: ExperimentItem, name: str) -> bool:
        try:
            found = self._ask("GET", "experiments/get-by-name", experiment_name=name)["experiment"]
        except NotFound:
            tags = [{"key": key, "value": value} for key, value in {**experiment.tags, FROM: self._source.name}.items()]
            self._ask("POST", "experiments/create", name=name, tags=tags)
            return True
        if found["lifecycle_stage"] != "active":
            raise Conflict(f"The experiment {name!r} is deleted here.", hint="Restore it, or use --into.")
        return False

    def _run(self, run: RunItem, experiment: str) -> bool:
        run_id, there = self._begin(run, experiment)
        self._runs[run.id] = run_id
        if there is not None and there.tags.get(STATE) == WHOLE:
            return False
        for some in _parts(run.params.items(), PAIRS_AT_ONCE):
            self._client.request("POST", f"/api/v1/runs/{run_id}/log", body={"params": dict(some)})
        tags = _own_tags(run.tags)
        for some in _parts(tags.items(), PAIRS_AT_ONCE):
            self._client.request("POST", f"/api/v1/runs/{run_id}/log", body={"tags": dict(some)})
        sent = self._send_points(run, run_id)
        if run.datasets:
            self._ask("POST", "runs/log-inputs", run_id=run_id, datasets=list(run.datasets))
        problem = self._send_run_files(run, run_id)
        self._compare(run, run_id, sent)
        if run.status in ENDED:
            self._ask("POST", "runs/update", run_id=run_id, status=run.status, end_time=run.ended_ms or run.started_ms)
            if problem is None:
                self._ask("POST", "runs/set-tag", run_id=run_id, key=STATE, value=WHOLE)
        if problem is not None:
            raise problem
        return True

    def _begin(self, run: RunItem, experiment: str) -> tuple[str, Run | None]:
        """The run's id here, and the run if an earlier import began it. Where another has its id, it gets one of ours."""
        derived = hashlib.sha256(f"{self._source.name} {run.id}".encode()).hexdigest()[:32]
        for run_id in [run.id, derived] if _RUN_ID.fullmatch(run.id) else [derived]:
            try:
                found = self._client.get(f"/api/v1/runs/{run_id}", Run)
            except NotFound:
                found = None
            if found is not None and found.tags.get(FROM) == self._source.name:
                return run_id, found
            if found is None:
                body = {
                    "id": run_id,
                    "experiment": experiment,
                    "name": run.name,
                    "tags": {FROM: self._source.name},
                    "started_ms": run.started_ms,
                }
                try:
                    self._client.request("POST", "/api/v1/runs", body=body)
                except Conflict:  # there is one that this user may not see
                    continue
                return run_id, None
        raise Conflict("Its id is taken here.", hint="Import it as the user who imported it before.")

    def _send_points(self, run: RunItem, run_id: str) -> Sum:
        total = Sum()
        for key in run.metrics:
            points = self._source.points(run, key)
            while some := list(islice(points, POINTS_AT_ONCE)):
                for point in some:
                    total.add(key, point)
                metrics = [
                    {"key": key, "value": wire_value(value), "timestamp": at, "step": step} for step, at, value in some
                ]
                self._ask("POST", "runs/log-batch", run_id=run_id, metrics=metrics)
        return total

    def _compare(self, run: RunItem, run_id: str, sent: Sum) -> None:
        here = self._client.get(f"/api/v1/runs/{run_id}", Run)
        if any(here.params.get(key) != value for key, value in run.params.items()):
            raise Conflict(
                "Its parameters are not what they are at the source.", hint="Delete it here, and import it again."
            )
        kept = Sum()
        for key in run.metrics:
            for point in self._here.points(RunItem(id=run_id, experiment=""), key):
                kept.add(key, point)
        if kept != sent:
            raise Conflict(
                f"It has {kept.count:,} points here and {sent.count:,} at the source, or others.",
                hint="Does it still run there? Import it again when it has ended.",
            )

    def _send_run_files(self, run: RunItem, run_id: str) -> MlboxError | None:
        try:
            files = self._source.files(run)
        except (NotFound, Unavailable) as err:  # such as a store that the server itself cannot read
            return err
        there = {file.path: file for file in self._client.get(f"/api/v1/runs/{run_id}/artifacts", list[RunArtifact])}
        for file in files:
            known = there.get(file.path)
            if known is not None and known.size == file.size and file.sha256 in ("", known.sha256):
                continue
            body, sent = self._send_file(run, file, f"/api/v1/runs/{run_id}/artifacts/{quote(file.path)}")
            kept = msgspec.json.decode(body, type=RunArtifact)
            _check_file(file, kept.sha256, kept.size, sent)
        return None

    def _send_file(self, owner: RunItem | LoggedModelItem, file: File, address: str) -> tuple[bytes, str]:
        """Pass a file on, anew where the source breaks off; the answer, and the SHA-256 of what was sent."""
        tries = 0
        while True:
            digest = hashlib.sha256()
            try:
                content = _hashed(self._source.read(owner, file), digest)
                return self._client.send("PUT", address, content=content, headers=BYTES), digest.hexdigest()
            except Unavailable:
                tries += 1
                if tries == FILE_TRIES:
                    raise

    # -- logged models ----------------------------------------------------------------------------------------------

    def _known_models(self, experiment: str) -> dict[str, LoggedModelItem]:
        """What earlier imports made of this experiment's logged models, by where they came from."""
        try:
            found = self._ask("GET", "experiments/get-by-name", experiment_name=experiment)["experiment"]
        except NotFound:
            return {}
        here = ExperimentItem(id=found["experiment_id"], name=experiment)
        return {model.tags[FROM]: model for model in self._here.logged_models(here) if FROM in model.tags}

    def _logged(self, model: LoggedModelItem, experiment: str, known: dict[str, LoggedModelItem]) -> bool:
        origin = f"{self._source.name} {model.id}"
        there = known.get(origin)
        if there is None:
            there = self._make_logged(model, experiment, origin)
        self._models[model.id] = there.id
        if there.tags.get(STATE) == WHOLE:
            return False
        files = self._source.files(model)
        kept = {file.path: file.size for file in self._here.files(there)}
        for file in files:
            if kept.get(file.path) == file.size:
                continue
            place = f"{there.address.removeprefix(PROXIED)}/{quote(file.path)}"
            _, sent = self._send_file(model, file, f"/api/2.0/mlflow-artifacts/artifacts/{place}")
            back = hashlib.sha256()
            size = sum(len(piece) for piece in _hashed(self._here.read(there, file), back))
            _check_file(file, back.hexdigest(), size, sent)
        if there.status != "LOGGED_MODEL_READY":
            self._ask("PATCH", f"logged-models/{there.id}", status="LOGGED_MODEL_READY")
        if model.run_id in self._runs:
            output = {"model_id": there.id, "step": 0}
            self._ask("POST", "runs/outputs", run_id=self._runs[model.run_id], models=[output])
        tags = [{"key": key, "value": value} for key, value in {**_own_tags(model.tags), STATE: WHOLE}.items()]
        self._ask("PATCH", f"logged-models/{there.id}/tags", tags=tags)
        return True

    def _make_logged(self, model: LoggedModelItem, experiment: str, origin: str) -> LoggedModelItem:
        home = self._ask("GET", "experiments/get-by-name", experiment_name=experiment)["experiment"]
        made = self._ask(
            "POST",
            "logged-models",
            experiment_id=home["experiment_id"],
            name=model.name,
            model_type=model.type,
            source_run_id=self._runs.get(model.run_id, ""),
            params=[{"key": key, "value": value} for key, value in model.params.items()],
            tags=[{"key": FROM, "value": origin}],
        )["model"]["info"]
        return LoggedModelItem(
            id=made["model_id"],
            experiment=experiment,
            name=model.name,
            status=made["status"],
            tags={FROM: origin},
            address=made["artifact_uri"],
        )

    # -- models -----------------------------------------------------------------------------------------------------

    def _model(self, model: ModelItem) -> bool:
        name = self._model_name(model.name)
        made = False
        try:
            here = self._client.get(f"/api/v1/models/{name}", Model)
        except NotFound:
            self._ask("POST", "registered-models/create", name=name, description=model.description)
            here, made = self._client.get(f"/api/v1/models/{name}", Model), True
        if FROM not in here.tags:  # set last: without it the others may not all be there
            for key, value in {**_own_tags(model.tags), FROM: f"{self._source.name} {model.name}"}.items():
                self._ask("POST", "registered-models/set-tag", name=name, key=key, value=value)
        there = {
            version.tags[FROM]: version.version
            for version in self._client.get(f"/api/v1/models/{name}/versions", list[ModelVersion], limit=1000)
            if FROM in version.tags
        }
        for version in model.versions:
            ref = f"{name}/{version.version}"
            work = functools.partial(self._version, model.name, name, version, there, here.aliases)
            self._guarded("versions", ref, work)
        return made

    def _version(
        self, origin: str, name: str, version: VersionItem, there: dict[str, int], aliases: Mapping[str, int]
    ) -> bool:
        mark = f"{self._source.name} {origin}/{version.version}"
        number = there.get(mark)
        made = number is None
        if number is None:
            number = self._register(name, version, mark)
        for alias in version.aliases:
            if alias not in aliases:  # one that is there stands for what somebody chose here
                self._ask("POST", "registered-models/alias", name=name, alias=alias, version=str(number))
        if number != version.version:
            self.result.notes.append(f"{origin}/{version.version} is {name}/{number} here.")
        if version.stage in ("Staging", "Production"):
            self.result.notes.append(
                f"{origin}/{version.version} was in {version.stage}: `mlbox model promote {name}/{number}`,"
                " and a second person approves it here."
            )
        return made

    def _register(self, name: str, version: VersionItem, mark: str) -> int:
        stage = {STAGE: version.stage} if version.stage != "None" else {}
        tags = {**_own_tags(version.tags), **stage, FROM: mark}
        made = self._ask(
            "POST",
            "model-versions/create",
            name=name,
            source=self._source_here(version),
            run_id=self._runs.get(version.run_id, ""),
            description=version.description,
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        return int(made["model_version"]["version"])

    def _source_here(self, version: VersionItem) -> str:
        """Where a version's files are in this box; raises NotFound for what was not imported."""
        model = _MODEL_FILES.search(version.source)
        if model is not None and model[1] in self._models:
            inside = f"/{model[2]}" if model[2] else ""
            return f"models:/{self._models[model[1]]}{inside}"
        run = _RUN_FILES.search(version.source)
        if run is not None and run[1] in self._runs:
            return f"runs:/{self._runs[run[1]]}/{run[2]}"
        raise NotFound(
            f"Its files are at {version.source[:200]}, which this import did not bring.",
            hint="Import the experiment of its run, too, or register the files by hand.",
        )

    def _name(self, name: str) -> str:
        return f"{self._wanted.into}.{name}" if self._wanted.into else name

    def _model_name(self, name: str) -> str:
        """The name here: what a model's name may not have becomes a dash."""
        plain = self._name(_NO_NAME.sub("-", name).lstrip("._-") or "model")
        if (
            plain != self._name(name)
            and (note := f"The model {name!r} is called {plain!r} here.") not in self.result.notes
        ):
            self.result.notes.append(note)
        return plain

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        address = f"{API}/{path}"
        if method == "GET":
            answer = self._client.request("GET", address, query=given)
        else:
            answer = self._client.request(method, address, body=given)
        found: dict[str, Any] = msgspec.json.decode(answer)
        return found


def _own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """A thing's tags without those that an import to its source left there."""
    return {key: value for key, value in tags.items() if key not in (FROM, STATE)}


def _parts(items: Any, size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _hashed(pieces: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _check_file(file: File, kept: str, size: int, sent: str) -> None:
    if kept != sent or (file.sha256 and kept != file.sha256) or (file.size and size != file.size):
        raise Conflict(
            f"The file {file.path} is not here what it is at the source: {size:,} of {file.size:,} bytes.",
            hint="Import it again.",
        )
