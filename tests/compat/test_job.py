"""A job's script uses an unmodified MLflow client: it is the job's run, and what it registers is of that run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.compat.conftest import MAJORS, environment, token_of
from tests.conftest import MLBOX, Server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import mlflow
import numpy as np
from sklearn.linear_model import LogisticRegression

x = np.arange(20.0).reshape(-1, 1)
with mlflow.start_run() as run:
    mlflow.log_params({"C": 1.0})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.sklearn.log_model(
        LogisticRegression().fit(x, x[:, 0] > 9),
        "model",
        registered_model_name="from-a-job-MAJOR",
        pip_requirements=["scikit-learn"],
    )
    print("RUN", run.info.run_id)
"""


@pytest.mark.parametrize("major", MAJORS)
def test_a_script_in_a_job_logs_and_registers_with_mlflow(box: Server, major: int, tmp_path: Path) -> None:
    python = environment(f"mlflow-{major}")
    ann = token_of(box, "ann", "member")
    (tmp_path / "train.py").write_text(SCRIPT.replace("MAJOR", str(major)))
    env = {**os.environ, "MLBOX_URL": box.url, "MLBOX_TOKEN": ann, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [str(MLBOX), "submit", "--name", "mlflow-job", "--", str(python), "train.py"]
    sent = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert sent.returncode == 0, sent.stderr
    job = box.http.get("/api/v1/jobs", params={"limit": 1}).json()[0]["id"]

    def ended() -> dict[str, object] | None:
        found: dict[str, object] = box.http.get(f"/api/v1/jobs/{job}").json()
        return found if found["state"] in ("succeeded", "failed", "stopped", "timed_out") else None

    found = wait_for(ended, what="the job's end", seconds=300)
    log = box.http.get(f"/api/v1/jobs/{job}/logs").text
    assert found["state"] == "succeeded", log
    assert f"RUN {found['run_id']}" in log
    run = box.http.get(f"/api/v1/runs/{found['run_id']}").json()
    assert (run["status"], run["params"]["C"], run["metrics"]["loss"]["step"]) == ("FINISHED", "1.0", 4)
    (version,) = box.http.get(f"/api/v1/models/from-a-job-{major}/versions").json()
    assert (version["run_id"], version["job_id"], version["trained_by"]) == (found["run_id"], job, "ann")
