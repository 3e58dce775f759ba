"""`mlbox exp` and `mlbox run` against a running box."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.cli.conftest import Ran
from tests.conftest import Server


def test_experiments_and_their_runs_are_listed_and_shown(box_cli: Callable[..., Ran], server: Server) -> None:
    for name in ("delay", "delay", "other"):
        server.http.post("/api/v1/runs", json={"experiment": name})
    assert [one["name"] for one in json.loads(box_cli("exp", "ls", "-o", "json").out)] == ["Default", "delay", "other"]
    shown = json.loads(box_cli("exp", "show", "delay", "-o", "json").out)
    runs = json.loads(box_cli("run", "ls", "--experiment", "delay", "-o", "json").out)
    assert [run["experiment_id"] for run in runs] == [shown["id"]] * 2
    for words in (("exp", "show", "nothing"), ("run", "ls", "--experiment", "nothing")):
        missing = box_cli(*words)
        assert (missing.code, "mlbox exp ls" in missing.line) == (3, True)
    assert box_cli("run", "rm", runs[0]["id"]).code == 0
    assert f"run:{runs[0]['id']} is back." in box_cli("restore", f"run:{runs[0]['id']}").err
