"""A run that is being logged to: points are gathered and sent in the background, and none is lost on the way."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mlbox.client import Client
from mlbox.errors import MlboxError, TimedOut, Unavailable
from mlbox.records import ModelVersion, Run, RunArtifact, RunStatus
from mlbox.sdk.export import Exported

BATCH = 500
FLUSH_SECONDS = 1.0
RETRY_SECONDS = 60.0


class ActiveRun:
    """A run under way. Leaving the `with` block ends it, as FAILED if an error leaves it.

    Points are sent every second or 500, again for a minute while the box does not answer; a point that arrives twice counts
    once. A job's run is ended by the job.
    """

    def __init__(self, client: Client, run: Run, *, of_job: bool = False) -> None:
        self.record = run
        self._client = client
        self._of_job = of_job
        self._points: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
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
        return f"ActiveRun({self.id}, {'ended' if self._ended else 'running'})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end("FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")

    # -- logging ----------------------------------------------------------------------------------------------------

    def log(self, *, step: int = 0, **metrics: float) -> None:
        """Log metrics by name at a step."""
        self.log_metrics(metrics, step=step)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log metrics at a step; raises what went wrong with earlier ones."""
        if self._failure is not None:
            raise self._failure
        at = datetime.now(UTC)
        points = [{"key": key, "value": _json(value), "step": step, "at": at} for key, value in metrics.items()]
        with self._lock:
            self._points.extend(points)
            full = len(self._points) >= BATCH
        if full:
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
            sent = self._client.send("PUT", f"/api/v1/runs/{self.id}/artifacts/{as_}", content=content)
            return msgspec.json.decode(sent, type=RunArtifact)
        path = Path(content)
        return self._client.upload("PUT", f"/api/v1/runs/{self.id}/artifacts/{as_ or path.name}", path, RunArtifact)

    def register(
        self,
        model: str,
        exported: Exported | Path | str,
        *,
        features: Sequence[str] = (),
        feature_service: str | None = None,
        metrics: Mapping[str, float] = {},
        description: str = "",
        tags: Mapping[str, str] = {},
    ) -> ModelVersion:
        """Make an exported model a version of a model, with this run as its origin."""
        self.flush()
        artifact, sample = "model/model.onnx", None
        if isinstance(exported, Exported):
            sample = "model/sample.npz"
            self.log_artifact(exported.onnx, artifact)
            self.log_artifact(exported.sample(), sample)
        else:
            self.log_artifact(exported, artifact)
        body = {
            "run_id": self.id,
            "artifact": artifact,
            "sample": sample,
            "features": list(features),
            "feature_service": feature_service,
            "metrics": dict(metrics),
            "description": description,
            "tags": dict(tags),
        }
        return self._client.post(f"/api/v1/models/{model}/versions", ModelVersion, body)

    # -- sending ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was gathered; raises when the box does not take it."""
        with self._sending:
            while True:
                with self._lock:
                    batch = self._points[:BATCH]
                if not batch:
                    return
                self._send({"metrics": batch})
                with self._lock:
                    del self._points[: len(batch)]

    def _send(self, body: dict[str, Any]) -> None:
        """Send, and again for a while as long as the box does not answer: a restart of the server loses nothing."""
        end = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                self._client.request("POST", f"/api/v1/runs/{self.id}/log", body=body)
                return
            except (Unavailable, TimedOut):
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def _loop(self) -> None:
        while not self._ended:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            try:
                self.flush()
            except MlboxError as err:
                self._failure = err
                return

    def end(self, status: RunStatus = "FINISHED") -> None:
        """Send everything and end the run."""
        if self._ended:
            return
        self._ended = True
        self._wake.set()
        self._thread.join()
        atexit.unregister(self._at_exit)
        self.flush()
        if not self._of_job:
            self.record = self._client.post(f"/api/v1/runs/{self.id}/end", Run, {"status": status})

    def _at_exit(self) -> None:
        self.end("FINISHED")


def _json(value: float) -> float | str:
    """JSON has no NaN and no infinity: the API takes their names."""
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
