"""What the programs here share: the second person, who answers from her own shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import requests
from mlflow.exceptions import MlflowException

MAJOR = int(mlflow.__version__.split(".")[0])


def mlbox(*arguments: str, token: str = "MLBOX_APPROVER") -> str:
    """Run the `mlbox` command as the approver, in a process that knows nothing of MLflow; what it says."""
    env = {"MLBOX_URL": os.environ["MLFLOW_TRACKING_URI"], "MLBOX_TOKEN": os.environ[token], "PATH": os.environ["PATH"]}
    command = [os.environ["MLBOX_COMMAND"], *arguments]
    done = subprocess.run(command, env=env | {"HOME": os.getcwd()}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def kept_run(folder: str) -> str:
    """A finished run with the files of a folder, logged without MLflow; its id."""
    box = requests.Session()
    box.headers["Authorization"] = f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}"
    url = f"{os.environ['MLFLOW_TRACKING_URI']}/api/v1/runs"
    run_id: str = box.post(url, json={"experiment": "kept", "git_commit": "c" * 40}).json()["id"]
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            box.put(f"{url}/{run_id}/artifacts/{path.as_posix()}", data=path.read_bytes()).raise_for_status()
    box.post(f"{url}/{run_id}/end", json={}).raise_for_status()
    return run_id


def refused(call: Callable[[], object]) -> MlflowException:
    """The error with which a call is refused."""
    try:
        found = call()
    except MlflowException as err:
        return err
    raise AssertionError(f"It was not refused, but answered {found!r:.200}.")


def approve(name: str, version: str) -> None:
    """The second person says yes."""
    assert "is in Production" in mlbox("model", "approve", f"{name}@{version}", "-m", "looks right")
