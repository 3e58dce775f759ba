"""The `mlflow` command: experiments, runs, artifacts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
from people import MAJOR

MLFLOW = Path(sys.executable).with_name("mlflow")
EXPERIMENT = f"command-{MAJOR}"


def run(*arguments: str) -> str:
    """One command; what it prints."""
    done = subprocess.run([MLFLOW, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


assert "Created experiment" in run("experiments", "create", "-n", EXPERIMENT)
experiment = mlflow.get_experiment_by_name(EXPERIMENT).experiment_id
assert EXPERIMENT in run("experiments", "search")
run("experiments", "rename", "-x", experiment, "--new-name", f"{EXPERIMENT}-renamed")
run("experiments", "delete", "-x", experiment)
run("experiments", "restore", "-x", experiment)

mlflow.set_experiment(experiment_id=experiment)
with mlflow.start_run(run_name="by-hand") as active:
    mlflow.log_param("lr", "0.1")
run_id = active.info.run_id
assert run_id in run("runs", "list", "--experiment-id", experiment)
described = json.loads(run("runs", "describe", "--run-id", run_id))
assert described["data"]["params"] == {"lr": "0.1"}, described
run("runs", "delete", "--run-id", run_id)
run("runs", "restore", "--run-id", run_id)

Path("notes.txt").write_text("hello")
Path("folder").mkdir(exist_ok=True)
Path("folder/inner.txt").write_text("inner")
run("artifacts", "log-artifact", "-l", "notes.txt", "-r", run_id, "-a", "docs")
run("artifacts", "log-artifacts", "-l", "folder", "-r", run_id, "-a", "docs/more")
listed = json.loads(run("artifacts", "list", "-r", run_id, "-a", "docs"))
assert {entry["path"] for entry in listed} == {"docs/notes.txt", "docs/more"}, listed
place = run("artifacts", "download", "-r", run_id, "-a", "docs", "-d", "downloaded").strip()
assert (Path(place) / "more/inner.txt").read_text() == "inner", place
print("command ok")
