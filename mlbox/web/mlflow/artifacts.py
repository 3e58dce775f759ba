"""MLflow's artifacts: files of runs, of logged models and of model versions, streamed over the content-addressed store.

An address below `mlflow-artifacts:/` is looked up by the ids in it and opens nothing. A version's files stay as they were
registered, so those can only be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from litestar import Request, Response

from mlbox.errors import NotAuthorised, NotFound
from mlbox.records import Principal, RunArtifact
from mlbox.serve.registration.sources import KEPT
from mlbox.store.artifacts import check_path
from mlbox.web.box import Box
from mlbox.web.downloads import send_file
from mlbox.web.mlflow import scope, wire
from mlbox.web.mlflow.runs import address
from mlbox.web.mlflow.wire import PREFIXES, Message, delete, get, paths, put
from mlbox.web.uploads import receive_artifact

FILES = [f"{prefix}/2.0/mlflow-artifacts/artifacts/{{path:path}}" for prefix in PREFIXES]
FOLDERS = [f"{prefix}/2.0/mlflow-artifacts/artifacts" for prefix in PREFIXES]


class ListFiles(Message, frozen=True, kw_only=True):
    """A folder below `mlflow-artifacts:/`."""

    path: str = ""


class ListOfRun(Message, frozen=True, kw_only=True):
    """A folder of a run."""

    run_id: str = ""
    run_uuid: str = ""
    path: str = ""


class Place(NamedTuple):
    """Whose files an address names, and the path within."""

    kind: str
    """run, model or version"""
    id: str
    path: str


def place_of(box: Box, path: str) -> Place:
    """What an address names; raises InvalidInput or NotFound."""
    plain = check_path(path.strip("/"))
    parts = plain.split("/")
    if parts[0] == KEPT and len(parts) > 1:
        return Place("version", parts[1], "/".join(parts[2:]))
    return Place(*box.addresses.locate(plain))


def files_at(box: Box, principal: Principal, place: Place) -> list[RunArtifact]:
    """All files of whatever an address names, once whoever asks may read them."""
    if place.kind == "version":
        scope.no_job(principal)
        version = box.registry.version_of_id(place.id)
        return list(box.registry.files(version.model, version.version))
    if place.kind == "model":
        scope.model(box, principal, "run.read", place.id)
        return box.logged_models.files(place.id)
    return box.tracker.artifacts_of(scope.run(box, principal, "run.read", place.id))


def listing(files: Iterable[RunArtifact], folder: str) -> list[dict[str, Any]]:
    """What is right below a folder: files, then folders, by path from the top."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if not file.path.startswith(prefix):
            continue
        name, slash, _ = file.path[len(prefix) :].partition("/")
        path = f"{prefix}{name}"
        found.setdefault(
            path, {"path": path, "is_dir": True} if slash else {"path": path, "is_dir": False, "file_size": file.size}
        )
    return [found[path] for path in sorted(found)]


@get(paths("artifacts/list"), action="run.read")
async def list_of_run(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """What is right below a folder of a run."""
    asked = await wire.decode(request, ListOfRun)
    folder = check_path(asked.path) if asked.path.strip("/") else ""

    def work() -> dict[str, Any]:
        run_id = scope.run(box, principal, "run.read", asked.run_id or asked.run_uuid)
        root = address(box.tracker.run(run_id).experiment_id, run_id)
        return {"root_uri": root, "files": listing(box.tracker.artifacts_of(run_id), folder)}

    return await box.call(work)


@get(FOLDERS, action="run.read")
async def list_files(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """What is right below a folder, by its name in there; nothing below a file."""
    asked = await wire.decode(request, ListFiles)

    def work() -> dict[str, Any]:
        place = place_of(box, asked.path)
        found = listing(files_at(box, principal, place), place.path)
        return {"files": [{**file, "path": file["path"].rpartition("/")[2]} for file in found]}

    return await box.call(work)


# -- up -----------------------------------------------------------------------------------------------------------------


def _writable(box: Box, principal: Principal, path: str) -> tuple[Place, str]:
    """The place that an address names, once whoever asks may write there, and the experiment that it is kept under."""
    place = place_of(box, path)
    if place.kind == "version":
        raise NotAuthorised("The files of a model version stay as they were registered.", hint="Register another.")
    check_path(place.path)
    if place.kind == "model":
        scope.model(box, principal, "run.write", place.id)
        return place, box.logged_models.experiment_of(place.id)
    run_id = scope.run(box, principal, "run.write", place.id)
    return place, box.tracker.experiment_of(run_id)


@put(FILES, action="run.write", request_max_body_size=None)
async def upload(request: Request[Any, Any, Any], box: Box, principal: Principal, path: str) -> dict[str, Any]:
    """Keep the body as a file, streamed; a broken upload leaves nothing behind."""
    place, owner = await box.call(_writable, box, principal, path)
    sha256, size = await receive_artifact(box, request, box.settings.max_artifact, owner=owner)
    add = box.logged_models.add_file if place.kind == "model" else box.tracker.add_artifact
    await box.call(add, place.id, place.path, sha256, size)
    return {}


@delete(FILES, action="run.write")
async def remove(request: Request[Any, Any, Any], box: Box, principal: Principal, path: str) -> dict[str, Any]:
    """Take a file, or all below a folder, off a run or a logged model."""

    def work() -> dict[str, Any]:
        scope.no_job(principal)
        place, _ = _writable(box, principal, path)
        drop = box.logged_models.drop_file if place.kind == "model" else box.tracker.drop_artifact
        drop(place.id, place.path, actor=principal.name)
        return {}

    return await box.call(work)


# -- down ---------------------------------------------------------------------------------------------------------------


def _find(box: Box, principal: Principal, path: str) -> tuple[Path, RunArtifact]:
    place = place_of(box, path)
    for file in files_at(box, principal, place):
        if file.path == place.path:
            return box.artifacts.path(file.sha256), file
    raise NotFound(f"There is no artifact at {path.strip('/')[:200]!r}.", hint="List its folder.", field="path")


@get(FILES, action="run.read")
async def download(request: Request[Any, Any, Any], box: Box, principal: Principal, path: str) -> Response[Any]:
    """A file, or the part of it that the header Range asks for."""
    where, file = await box.call(_find, box, principal, path)
    return send_file(box, request, where, file.sha256, file.size)


handlers: list[Any] = [list_of_run, list_files, upload, remove, download]
