"""A server that speaks MLflow's REST as a source: MLflow 2 and 3, and a box."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from mlbox.errors import InvalidInput, MlboxError, NotAuthenticated, NotAuthorised, NotFound, Unavailable
from mlbox.transfer.items import (
    ExperimentItem,
    File,
    LoggedModelItem,
    ModelItem,
    Point,
    RunItem,
    VersionItem,
    value_of,
)

API = "/api/2.0/mlflow"
PROXIED = "mlflow-artifacts:/"
TRIES = 5
TIMEOUT_SECONDS = 120
PAGE = 200
POINTS = 10_000
CHUNK = 1 << 20


class Rest:
    """One server, read only. Requests that fail with 5xx or break are sent again, later each time."""

    def __init__(self, url: str, *, token: str | None = None, pause_seconds: float = 0.5) -> None:
        """Without a token it signs in as MLflow's client does: MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."""
        self.name = url.rstrip("/")
        self._pause = pause_seconds
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") if token is None else None
        token = os.environ.get("MLFLOW_TRACKING_TOKEN") if token is None else token
        auth = httpx.BasicAuth(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
        try:
            self._http = httpx.Client(
                base_url=self.name,
                auth=auth,
                headers={"Authorization": f"Bearer {token}"} if token and not user else {},
                timeout=TIMEOUT_SECONDS,
                trust_env=False,
            )
        except (httpx.InvalidURL, UnicodeError) as err:
            raise InvalidInput(f"{url!r} is not an address.", hint="Write it like http://mlflow:5000.") from err

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- runs -------------------------------------------------------------------------------------------------------

    def experiments(self) -> Iterator[ExperimentItem]:
        """All that are not deleted."""
        for found in self._pages(
            "POST", "experiments/search", "experiments", max_results=PAGE, view_type="ACTIVE_ONLY"
        ):
            yield ExperimentItem(id=found["experiment_id"], name=found["name"], tags=_pairs(found.get("tags")))

    def runs(self, experiment: ExperimentItem) -> Iterator[RunItem]:
        """An experiment's, oldest first, but for deleted ones."""
        wanted = {
            "experiment_ids": [experiment.id],
            "run_view_type": "ACTIVE_ONLY",
            "order_by": ["attributes.start_time ASC"],
            "max_results": PAGE,
        }
        for found in self._pages("POST", "runs/search", "runs", **wanted):
            info, data = found["info"], found.get("data", {})
            yield RunItem(
                id=info["run_id"],
                experiment=experiment.name,
                name=info.get("run_name", ""),
                user=info.get("user_id", ""),
                status=info.get("status", "FINISHED"),
                started_ms=_int(info.get("start_time")),
                ended_ms=_int(info.get("end_time")),
                params=_pairs(data.get("params")),
                tags=_pairs(data.get("tags")),
                metrics=tuple(sorted(metric["key"] for metric in data.get("metrics", ()))),
                datasets=tuple(found.get("inputs", {}).get("dataset_inputs", ())),
                address=info.get("artifact_uri", ""),
            )

    def points(self, run: RunItem, key: str) -> Iterator[Point]:
        """A metric's points, each once."""
        for found in self._pages(
            "GET", "metrics/get-history", "metrics", run_id=run.id, metric_key=key, max_results=POINTS
        ):
            yield int(found.get("step", 0)), int(found["timestamp"]), value_of(found["value"])

    def logged_models(self, experiment: ExperimentItem) -> Iterator[LoggedModelItem]:
        """An experiment's; none where the server is older than they are."""
        try:
            for found in self._pages(
                "POST", "logged-models/search", "models", experiment_ids=[experiment.id], max_results=50
            ):
                info, data = found["info"], found.get("data", {})
                yield LoggedModelItem(
                    id=info["model_id"],
                    experiment=experiment.name,
                    name=info["name"],
                    type=info.get("model_type", ""),
                    status=info.get("status", "LOGGED_MODEL_READY"),
                    run_id=info.get("source_run_id", ""),
                    params=_pairs(data.get("params")),
                    tags=_pairs(info.get("tags")),
                    address=info.get("artifact_uri", ""),
                )
        except NotFound:
            return

    # -- files ------------------------------------------------------------------------------------------------------

    def files(self, owner: RunItem | LoggedModelItem) -> list[File]:
        """All files, folder by folder; raises NotFound where the server does not pass them on."""
        if isinstance(owner, LoggedModelItem) and not owner.address.startswith(PROXIED):
            raise NotFound(f"The server does not pass on what is at {owner.address}.", hint="Copy it by hand.")
        found: list[File] = []
        folders = [""]
        while folders:
            for entry in self._folder(owner, folders.pop()):
                if entry.get("is_dir"):
                    folders.append(entry["path"])
                else:
                    found.append(File(entry["path"], int(entry.get("file_size") or 0)))
        return sorted(found)

    def _folder(self, owner: RunItem | LoggedModelItem, folder: str) -> list[dict[str, Any]]:
        if isinstance(owner, RunItem):
            query = {"run_id": owner.id, **({"path": folder} if folder else {})}
            listed: list[dict[str, Any]] = self._ask("GET", f"{API}/artifacts/list", query).get("files", [])
            return listed
        inside = f"{owner.address.removeprefix(PROXIED)}/{folder}".strip("/")
        listed = self._ask("GET", "/api/2.0/mlflow-artifacts/artifacts", {"path": inside}).get("files", [])
        return [{**entry, "path": f"{folder}/{entry['path']}".lstrip("/")} for entry in listed]

    def read(self, owner: RunItem | LoggedModelItem, file: File) -> Iterator[bytes]:
        """A file's content; a transfer that breaks raises Unavailable."""
        if owner.address.startswith(PROXIED):
            inside = f"{owner.address.removeprefix(PROXIED).strip('/')}/{file.path}"
            path, query = f"/api/2.0/mlflow-artifacts/artifacts/{quote(inside)}", {}
        else:  # the server's own page reads any store that the server can
            path, query = "/get-artifact", {"run_id": owner.id, "path": file.path}
        try:
            with self._http.stream("GET", path, params=query) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                yield from answer.iter_bytes(CHUNK)
        except httpx.HTTPError as err:
            raise Unavailable(f"{self.name} broke off while sending {file.path}: {err}.", hint="Run it again.") from err

    # -- models -----------------------------------------------------------------------------------------------------

    def models(self) -> Iterator[ModelItem]:
        """The registered models, each with its versions."""
        for found in self._pages("GET", "registered-models/search", "registered_models", max_results=100):
            name = found["name"]
            escaped = name.replace("'", "''")
            versions = [
                VersionItem(
                    version=int(one["version"]),
                    source=one.get("source", ""),
                    run_id=one.get("run_id", ""),
                    model_id=one.get("model_id", ""),
                    stage=one.get("current_stage", "None"),
                    description=one.get("description", ""),
                    tags=_pairs(one.get("tags")),
                )
                for one in self._pages(
                    "GET", "model-versions/search", "model_versions", filter=f"name='{escaped}'", max_results=PAGE
                )
            ]
            aliases: dict[int, list[str]] = {}
            for alias in found.get("aliases", ()):
                aliases.setdefault(int(alias["version"]), []).append(alias["alias"])
            yield ModelItem(
                name=name,
                description=found.get("description", ""),
                tags=_pairs(found.get("tags")),
                versions=tuple(
                    _with_aliases(one, aliases.get(one.version, []))
                    for one in sorted(versions, key=lambda v: v.version)
                ),
            )

    # -- asking -----------------------------------------------------------------------------------------------------

    def _pages(self, method: str, path: str, field: str, **wanted: Any) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            answer = self._ask(method, f"{API}/{path}", {**wanted, **({"page_token": token} if token else {})})
            yield from answer.get(field, ())
            following = answer.get("next_page_token", "")
            if not following or following == token:
                return
            token = following

    def _ask(self, method: str, path: str, given: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(TRIES):
            try:
                answer = self._http.request(
                    method, path, params=given if method == "GET" else None, json=given if method == "POST" else None
                )
                if answer.status_code < 500 and answer.status_code != 429:
                    break
                failure: MlboxError = _error(answer)
            except httpx.HTTPError as err:
                failure = Unavailable(f"No answer from {self.name}: {err}.", hint="Is it an MLflow server?")
            if attempt == TRIES - 1:
                raise failure
            time.sleep(self._pause * 2**attempt)
        if answer.is_error:
            raise _error(answer)
        try:
            found: dict[str, Any] = answer.json()
            return found
        except ValueError as err:
            raise Unavailable(
                f"{self.name} answers {path} with something that is not JSON.", hint="Is it an MLflow server?"
            ) from err


def _with_aliases(version: VersionItem, aliases: list[str]) -> VersionItem:
    return msgspec.structs.replace(version, aliases=tuple(sorted(aliases)))


def _error(answer: httpx.Response) -> MlboxError:
    try:
        words = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        words = answer.text
    kinds: dict[int, type[MlboxError]] = {401: NotAuthenticated, 403: NotAuthorised, 404: NotFound}
    kind = kinds.get(answer.status_code, Unavailable if answer.status_code >= 500 else InvalidInput)
    return kind(f"{answer.url.host} answered {answer.status_code}: {words[:300]}")


def _pairs(given: Any) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in given or ()}


def _int(value: Any) -> int | None:
    return None if value in (None, "", 0, "0") else int(value)
