"""The job of a gate's command: `python -m mlbox.sdk.gate_job COMMAND...`.

It lays down what the command judges, in a folder `mlbox-gate` of its working directory, and becomes the command, whose
environment says where that is:

| variable | what |
|---|---|
| MLBOX_MODEL, MLBOX_MODEL_VERSION | the version |
| MLBOX_MODEL_ADDRESS | under which it answers in Staging, such as `delay@staging`; the job's token may ask this and no other |
| MLBOX_MODEL_FILES | a folder with the version's files |
| MLBOX_REQUESTS | requests to replay as JSON lines, each with `path` and `body` of a POST to MLBOX_URL |
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from mlbox import context
from mlbox.client import Client
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import GateTask
from mlbox.sdk.runs import patiently

FOLDER = "mlbox-gate"
NO_COMMAND = 127
"""As a shell exits for a command that is not there."""


def main(command: list[str]) -> int:
    """Lay everything down and become the command; returns only where there is none."""
    folder = Path(FOLDER).resolve()
    files, requests = folder / "files", folder / "requests.jsonl"
    files.mkdir(parents=True, exist_ok=True)
    with Client(*context.resolve(), timeout_seconds=3600) as client:
        task = patiently(lambda: client.get("/api/v1/gate", GateTask))
        wanted = {f"/api/v1/gate/files/{place}": _below(files, file.path) for place, file in enumerate(task.files)}
        for path, target in {**wanted, "/api/v1/gate/requests": requests}.items():
            patiently(functools.partial(client.download, path, target))
    os.environ |= {
        "MLBOX_MODEL": task.model,
        "MLBOX_MODEL_VERSION": str(task.version),
        "MLBOX_MODEL_ADDRESS": task.address,
        "MLBOX_MODEL_FILES": str(files),
        "MLBOX_REQUESTS": str(requests),
    }
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 - an admin's command, in a job of its own
    except OSError as err:
        print(f"mlbox: {command[0]} cannot be run: {err.strerror}.", file=sys.stderr)
        return NO_COMMAND


def _below(folder: Path, path: str) -> Path:
    """Where a file of a version is laid; raises InvalidInput for one that would lie elsewhere."""
    target = (folder / path).resolve()
    if not target.is_relative_to(folder):
        raise InvalidInput(f"The version has a file {path!r:.200}.", hint="Register it again.", field="files")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MlboxError as err:
        sys.exit(f"mlbox: {err}")
