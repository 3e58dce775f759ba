"""An unmodified MLflow 3 client makes webhooks and is told, in its own words: all that its enums have of models."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlbox.store.registry.webhooks import MLFLOW
from tests.compat.conftest import HERE, environment
from tests.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_client_makes_webhooks_and_is_told(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", "--outgoing-allow", "127.0.0.1")
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_TRACKING_TOKEN": server.token,
        "MLBOX_EVENTS": ",".join(MLFLOW),
        "PYTHONPATH": str(HERE / "scripts"),
    }
    try:
        ran = subprocess.run(
            [str(environment("mlflow-3")), "-m", "hooks"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    finally:
        server.stop()
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "HOOKED" in ran.stdout
