"""A run that is being logged to: points are gathered and sent in the background, and none is lost on the way."""

from __future__ import annotations

import atexit
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from mlbox.client import Client
from mlbox.errors import MlboxError, TimedOut, Unavailable
from mlbox.records import ModelVersion, Run, RunArtifact, RunStatus, check_point, html_table
from mlbox.sdk.export import Exported

BATCH = 500
FLUSH_SECONDS = 1.0
RETRY_SECONDS = 60.0
T = TypeVar("T")


def patiently(ask: Callable[[], T]) -> T:
    """What the box answers, asked again for a minute as long as it does not: a restart of the server loses nothing.

    Only for what may arrive twice and count once.
    """
    end = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return ask()
        except (Unavailable, TimedOut):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


class ActiveRun:
    """A run under way. Leaving the `with` block ends it, as FAILED if an error leaves it.

    Points are sent every second or 500, again for a minute while the box does not answer; a point that arrives twice counts
    once. Where the box stays away for longer, the next call says so, the points are kept, and `flush` or `end` send them.
    A job's run is ended by the job.
    """

    def __init__(self, client: Client, run: Run, *, of_job: bool = False) -> None:
        self.record = run
        self._client = client
        self._of_job = of_job
        self._points: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._ended = False
        self._failure: MlboxError | None = None
        self._thread = threading.Thread(target=self._loop, name="mlbox-run", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    @property
    def id(self) -> str:
        """The run's id."""
        return self.record.id

    def __repr__(self) -> str:
        return f"ActiveRun({self.id}, {self.record.status})"

    def _repr_html_(self) -> str:
        record = self.record
        return html_table({"run": self.id, "name": record.name, "status": record.status, "params": record.params})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end("FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")

    # -- logging ----------------------------------------------------------------------------------------------------

    def log(self, *, step: int = 0, **metrics: float) -> None:
        """Log metrics by name at a step."""
        self.log_metrics(metrics, step=step)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log metrics at a step, also after the run's end; raises, once, what went wrong with earlier ones."""
        at = datetime.now(UTC)
        points = [_point(key, value, int(step), at) for key, value in metrics.items()]
        with self._lock:
            self._points.extend(points)
            full = len(self._points) >= BATCH
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._stopping.is_set():
            self.flush()
        elif full:
            self._wake.set()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, each of which is written once."""
        if params:
            self._send({"params": {key: str(value) for key, value in params.items()}})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        if tags:
            self._send({"tags": dict(tags)})

    def log_artifact(self, content: Path | str | bytes, as_: str | None = None) -> RunArtifact:
        """Keep a file, or bytes, under a path of the run's."""
        import msgspec

        if isinstance(content, bytes):
            if as_ is None:
                raise ValueError("Bytes need a path: as_=")
            sent = self._client.send("PUT", self._path_of(as_), content=content)
            return msgspec.json.decode(sent, type=RunArtifact)
        path = Path(content)
        return self._client.upload("PUT", self._path_of(as_ or path.name), path, RunArtifact)

    def _path_of(self, artifact: str) -> str:
        return f"/api/v1/runs/{self.id}/artifacts/{quote(artifact)}"

    def register(
        self,
        model: str,
        exported: Exported | Path | str,
        *,
        sample: Path | str | bytes | None = None,
        features: Sequence[str] = (),
        feature_service: str | None = None,
        metrics: Mapping[str, float] = {},
        description: str = "",
        tags: Mapping[str, str] = {},
    ) -> ModelVersion:
        """Make an exported model, or an ONNX file, a version of a model, with this run as its origin.

        Beside a file, `sample` is an .npz of `inputs` [N, F] and the source model's `outputs` [N]; without one the version
        does not pass the parity gate.
        """
        self.flush()
        content = exported.onnx if isinstance(exported, Exported) else exported
        if isinstance(exported, Exported) and sample is None:
            sample = exported.sample()
        body = {
            "run_id": self.id,
            "artifact": self.log_artifact(content, "model/model.onnx").path,
            "sample": self.log_artifact(sample, "model/sample.npz").path if sample is not None else None,
            "features": list(features),
            "feature_service": feature_service,
            "metrics": dict(metrics),
            "description": description,
            "tags": dict(tags),
        }
        return self._client.post(f"/api/v1/models/{quote(model, safe='')}/versions", ModelVersion, body)

    # -- sending ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was gathered; raises when the box does not take it."""
        with self._sending:
            while True:
                with self._lock:
                    batch = self._points[:BATCH]
                    if not batch:
                        self._failure = None  # what could not be sent has been, since
                        return
                self._send({"metrics": batch})
                with self._lock:
                    del self._points[: len(batch)]

    def _send(self, body: dict[str, Any]) -> None:
        patiently(lambda: self._client.request("POST", f"/api/v1/runs/{self.id}/log", body=body))

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            try:
                self.flush()
            except MlboxError as err:
                with self._lock:
                    self._failure = err

    def end(self, status: RunStatus = "FINISHED") -> None:
        """Send everything and end the run. Where that fails it raises, and may be called again: nothing is dropped."""
        if self._ended:
            return
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self.flush()
        if not self._of_job:
            self.record = patiently(lambda: self._client.post(f"/api/v1/runs/{self.id}/end", Run, {"status": status}))
        self._ended = True
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        """A script that an error ended has failed; at a prompt an error ends nothing."""
        crashed = hasattr(sys, "last_value") and not hasattr(sys, "ps1")
        self.end("FAILED" if crashed else "FINISHED")


def _point(key: str, value: float, step: int, at: datetime) -> dict[str, Any]:
    """A point as the API takes it, checked here, where whoever logs it hears of it."""
    check_point(key, step)
    return {"key": key, "value": _json(value), "step": step, "at": at}


def _json(value: float) -> float | str:
    """JSON has no NaN and no infinity: the API takes their names."""
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
