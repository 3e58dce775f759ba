"""A run that is being logged to: what is logged is on disk at once and sent in the background, so that nothing the box does
slows or ends a training, and nothing is lost on the way.
"""

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
from mlbox.errors import InvalidInput, MlboxError, TimedOut, Unavailable
from mlbox.records import ModelVersion, Run, RunArtifact, RunStatus, check_point, html_table
from mlbox.sdk import surroundings
from mlbox.sdk.delivery import Delivery
from mlbox.sdk.export import Exported
from mlbox.sdk.spool import Spool, spool_root

WAKE_POINTS = 500
FLUSH_SECONDS = 1.0
AWAY_SECONDS = 5.0
"""How often a box that does not answer is asked again."""
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

    Everything is written to a spool first and sent from there, every second or 500 points. While the box is away the spool
    grows; when it is back, or at the latest with `mlbox run sync`, everything is sent in its order and counts once. What the box
    refuses is kept beside it with the reason, and said on stderr. So `log` and its like raise for a wrong value and for nothing
    else. A job's run is ended by the job.
    """

    def __init__(
        self, client: Client, run_id: str, *, start: Mapping[str, Any] | None = None, record: Run | None = None
    ) -> None:
        """Adopt a run that is there (a job's), or with `start` begin one; raises what the box refuses in it."""
        self._id = run_id
        self._client = client
        self._of_job = start is None
        self._spool = Spool(spool_root() / run_id)
        self._delivery = Delivery(client, run_id, self._spool, record)
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._waiting = 0
        self._ended = False
        self._away = False
        if start is not None:
            self._begin(start)
        self._to_record = surroundings.wanted()
        self._thread = threading.Thread(target=self._loop, name="mlbox-run", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def _begin(self, start: Mapping[str, Any]) -> None:
        self._spool.add({"op": "start", "body": dict(start)})
        try:
            refused = self._delivery.step()
        except (Unavailable, TimedOut) as err:
            self._note_away(err)
            return
        if refused:
            (self._spool.folder / "refused.jsonl").unlink()
            self._spool.close()
            raise refused[0]

    @property
    def id(self) -> str:
        """The run's id."""
        return self._id

    @property
    def record(self) -> Run | None:
        """The run as the box last told of it; None before it has."""
        return self._delivery.record

    def __repr__(self) -> str:
        return f"ActiveRun({self.id}, {self.record.status if self.record else 'not sent yet'})"

    def _repr_html_(self) -> str:
        facts = {"run": self.id}
        if self.record:
            facts |= {"name": self.record.name, "status": self.record.status, "params": str(self.record.params)}
        return html_table(facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end("FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")

    # -- logging ----------------------------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, float] | None = None, /, *, step: int = 0, **named: float) -> None:
        """Log metrics at a step: by name, `log(loss=0.4, step=3)`, or as a mapping, `log({"valid/loss": 0.4}, step=3)`."""
        self.log_metrics({**(metrics or {}), **named}, step=step)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log metrics at a step, also after the run's end."""
        at = datetime.now(UTC)
        self._add({"op": "log", "metrics": [_point(key, value, int(step), at) for key, value in metrics.items()]})
        self._waiting += len(metrics)
        if self._waiting >= WAKE_POINTS:
            self._wake.set()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, each of which is written once."""
        if params:
            self._add({"op": "log", "params": {key: str(value) for key, value in params.items()}})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        if tags:
            self._add({"op": "log", "tags": {key: str(value) for key, value in tags.items()}})

    def artifact(self, content: Path | str | bytes, as_: str | None = None) -> None:
        """Copy a file, or bytes, and send the copy in the background as one of the run's."""
        path = as_ or (None if isinstance(content, bytes) else Path(content).name)
        if path is None:
            raise ValueError("Bytes need a path: as_=")
        if self._ended:
            self.log_artifact(content, path)
            return
        kept = self._spool.keep(content if isinstance(content, bytes) else Path(content))
        self._add({"op": "artifact", "path": path, "file": kept})

    def _add(self, op: dict[str, Any]) -> None:
        try:
            if self._ended:
                self._add_late(op)
            else:
                self._spool.add(op)
        except OSError as err:  # a full disk is no reason to end a training
            _say(f"run {self.id} could not keep what was logged: {err}")

    def _add_late(self, op: dict[str, Any]) -> None:
        """After the end nothing sends in the background: this is sent at once."""
        self._spool.close()
        self._spool = Spool(spool_root() / self.id)
        self._delivery = Delivery(self._client, self.id, self._spool, self.record)
        self._spool.add(op)
        self._finish()

    def log_artifact(self, content: Path | str | bytes, as_: str | None = None) -> RunArtifact:
        """Send a file, or bytes, now, and wait until the box has it under a path of the run's."""
        import msgspec

        self.flush()
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
        """Send everything now; raises Unavailable or TimedOut when the box does not take it within a minute."""
        patiently(self._drain)

    def _drain(self) -> None:
        """Send what the spool holds; what is refused is said once and kept."""
        with self._sending:
            while not self._spool.empty:
                self._waiting = 0
                for error in self._delivery.step():
                    _say(f"run {self.id}: not taken: {error} It is kept in {self._spool.folder / 'refused.jsonl'}.")
            self._away = False

    def _record_surroundings(self) -> None:
        """Into the spool itself: a run that has ended meanwhile waits for this thread before it sends the rest."""
        folder = Path.cwd()
        self._spool.add({"op": "log", "tags": surroundings.tags(folder)})
        for path, content in surroundings.files(folder):
            self._spool.add({"op": "artifact", "path": path, "file": self._spool.keep(content)})

    def _loop(self) -> None:
        if self._to_record:
            try:
                self._record_surroundings()
            except Exception as err:  # nothing here may end a training
                _say(f"what run {self.id} runs in could not be recorded: {type(err).__name__}: {err}")
        while not self._stopping.is_set():
            self._wake.wait(AWAY_SECONDS if self._away else FLUSH_SECONDS)
            self._wake.clear()
            try:
                self._drain()
            except (Unavailable, TimedOut) as err:
                self._note_away(err)
            except Exception as err:  # nothing here may end a training
                _say(f"run {self.id} could not be sent: {type(err).__name__}: {err}")

    def _note_away(self, err: MlboxError) -> None:
        if not self._away:
            _say(f"the box does not answer ({err.message}) Run {self.id} goes on, and is kept in {self._spool.folder}.")
        self._away = True

    def _drain_for(self, seconds: float) -> bool:
        """Send everything, as long as the box is not away for longer; whether it was all taken."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._drain()
            except (Unavailable, TimedOut) as err:
                self._note_away(err)
                if time.monotonic() > end:
                    return False
                time.sleep(0.5)
            else:
                return True

    def end(self, status: RunStatus = "FINISHED") -> None:
        """Send everything and end the run. Where the box stays away for a minute, the rest waits for `mlbox run sync`."""
        if self._ended:
            return
        if not self._of_job:
            self._add({"op": "end", "status": status})
        self._ended = True
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        atexit.unregister(self._at_exit)
        self._finish()

    def _finish(self) -> None:
        if self._drain_for(RETRY_SECONDS):
            self._spool.close()
        else:
            _say(f"the box stayed away. `mlbox run sync` sends what run {self.id} logged.")

    def _at_exit(self) -> None:
        """A script that an error ended has failed; at a prompt an error ends nothing."""
        crashed = hasattr(sys, "last_value") and not hasattr(sys, "ps1")
        self.end("FAILED" if crashed else "FINISHED")


def _say(what: str) -> None:
    print(f"mlbox: {what}", file=sys.stderr)


def _point(key: str, value: float, step: int, at: datetime) -> dict[str, Any]:
    """A point as the API takes it, checked here, where whoever logs it hears of it."""
    check_point(key, step)
    try:
        number = _json(value)
    except (TypeError, ValueError, OverflowError) as err:
        raise InvalidInput(
            f"The metric {key} is {repr(value)[:60]}, and should be a number.",
            hint="Log texts as params or tags.",
            field="metrics.value",
        ) from err
    return {"key": key, "value": number, "step": step, "at": at}


def _json(value: float) -> float | str:
    """JSON has no NaN and no infinity: the API takes their names."""
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
