"""Views in free Python, by a real server, real jobs and the command line: defined, run, scheduled, read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ran
from tests.conftest import Server, wait_for

DEFINITIONS = """
from datetime import datetime, timedelta

from mlbox.define import Entity, FeatureService, Source, view

from helper import FACTOR

customer = Entity("customer", keys={"who": str})
sales = Source("sales", columns={"who": str, "amount": float, "bought": datetime}, event_time="bought")


@view(entity=customer, sources=[sales], features={"spread": float}, ttl=timedelta(days=4000), cpus=1, memory_gb=1)
def spread(sales):
    \"\"\"How far amounts lie apart.\"\"\"
    frame = sales.to_pandas()
    found = frame.groupby("who").agg(low=("amount", "min"), high=("amount", "max"), event_time=("bought", "max"))
    found["spread"] = (found["high"] - found["low"]) * FACTOR
    return found.reset_index()[["who", "spread", "event_time"]]


both = FeatureService("both", [spread["spread"]])
"""
ROWS = "who,amount,bought\nann,1,2026-01-01\nann,4,2026-01-02\nbob,5,2026-01-01\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "features"
    made.mkdir()
    (made / "helper.py").write_text("FACTOR = 2.0\n")
    (made / "definitions.py").write_text(DEFINITIONS)
    return made


def now(server: Server, who: str) -> Any:
    body = {"features": ["spread:spread"], "entities": [{"who": who}]}
    (row,) = server.http.post("/api/v1/features/online", json=body).raise_for_status().json()
    return next(iter(row["values"].values()))


def test_a_function_is_a_view(server: Server, folder: Path, box_cli: Callable[..., Ran]) -> None:
    applied = box_cli("feature", "apply", str(folder / "definitions.py"), "--yes")
    assert "view spread@v1" in applied.out
    server.http.post("/api/v1/sources/sales/rows?format=csv", content=ROWS).raise_for_status()
    assert now(server, "ann") is None, "nothing was computed yet"

    ran = box_cli("feature", "run", "spread", "--wait")
    assert "sales: 3 rows" in ran.out + ran.err
    assert "spread@v1: 2 rows, 2 of them new" in ran.out + ran.err
    assert (now(server, "ann"), now(server, "bob")) == (6.0, 0.0)

    again = box_cli("feature", "run", "spread", "--wait")
    assert "2 rows, 0 of them new" in again.out + again.err
    fresh = server.http.get("/api/v1/features/views/spread/freshness").json()
    assert (fresh["rows"], fresh["entities"], fresh["error"]) == (2, 2, "")

    (folder / "helper.py").write_text("FACTOR = 3.0\n")
    planned = box_cli("feature", "plan", str(folder / "definitions.py"))
    assert "~ view spread@v2" in planned.out, "other code is another version"
    (folder / "notes.txt").write_text("words")
    (folder / "helper.py").write_text("FACTOR = 2.0\n")
    planned = box_cli("feature", "plan", str(folder / "definitions.py"))
    assert "spread@v2" not in planned.out, "other words are not"


@pytest.mark.slow
def test_a_schedule_submits_and_a_failure_is_told(
    make_server: Callable[..., Server], folder: Path, cli: Callable[..., Ran]
) -> None:
    server = make_server("--refresh-seconds", "0.2")
    env = {"MLBOX_URL": server.url, "MLBOX_TOKEN": server.token}
    file = folder / "definitions.py"
    file.write_text(DEFINITIONS.replace("cpus=1", 'schedule="upstream", cpus=1'))
    assert cli("feature", "apply", str(file), "--yes", **env).code == 0
    server.http.post("/api/v1/sources/sales/rows?format=csv", content=ROWS).raise_for_status()
    wait_for(lambda: now(server, "ann") == 6.0, what="the schedule to have it computed", seconds=90)

    file.write_text(
        DEFINITIONS.replace("cpus=1", 'schedule="upstream", cpus=1').replace(
            "FACTOR\n    return", "nothing\n    return"
        )
    )
    assert cli("feature", "apply", str(file), "--yes", **env).code == 0

    def told() -> str:
        return str(server.http.get("/api/v1/features/views/spread@v2/freshness").json()["error"])

    assert "ended as failed and brought no rows" in wait_for(told, what="the failure to be told", seconds=120)
    assert now(server, "ann") is None, "nothing was invented"
    body = {"features": ["spread@v1:spread"], "entities": [{"who": "ann"}]}
    (row,) = server.http.post("/api/v1/features/online", json=body).json()
    assert row["values"] == {"spread@v1:spread": 6.0}, "the version before is as it was"
