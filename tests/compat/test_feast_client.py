"""Feast's unmodified SDK with mlbox as its online store."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.compat.conftest import HERE, environment, token_of
from tests.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_feasts_sdk_writes_pushes_and_reads(box: Server, tmp_path: Path) -> None:
    env = {
        "MLBOX_URL": box.url,
        "MLBOX_TOKEN": token_of(box, "ann", "member"),
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "FEAST_USAGE": "False",
    }
    command = [str(environment("feast")), str(HERE / "scripts" / "feast_sdk.py")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}\n{box.log[-3000:]}"
    lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "Feature", "422"))]
    one, pair, service, full, pushed, materialized, stale = map(json.loads, lines[:7])
    assert one == {"driver_id": [1001, 1003, 9], "conv": [0.5, None, None], "trips": [5, 9, None]}
    assert pair == {"driver_id": [1001, 1001], "city": ["Wien", "Linz"], "fare": [9.5, None]}
    assert service == {"driver_id": [1002], "conv": [0.25], "trips": [7]}
    assert full == {"driver_id": [1001], "city": ["Wien"], "drv__conv": [0.5], "fares__fare": [9.5]}
    assert pushed == {"driver_id": [1001], "conv": [0.75]}
    assert materialized == {"driver_id": [1002], "trips": [7]}
    assert stale == {"driver_id": [1004], "conv": [None]}
    assert lines[7:] == ["FeatureViewNotFoundException True", "422 PushSourceNotFoundException"]
