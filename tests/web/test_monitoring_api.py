"""Drift and alerts over HTTP, and on the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlbox.records import Role
from mlbox.web.box import Box
from tests.conftest import Server
from tests.web.monitored import FEATURES, in_production, served
from tests.web.site import Site, open_box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    opened = open_box(tmp_path / "data")
    yield opened
    opened.close()


class Api:
    """The API as one user's bearer token sees it."""

    def __init__(self, box: Box, role: Role = "member", *, job_id: str | None = None) -> None:
        box.access.create_user(f"{role}-user", role, actor="admin")
        self._site = Site(box, user="")
        _, secret = box.access.create_token(f"{role}-user", "test", actor="admin", job_id=job_id)
        self._headers = {"Authorization": f"Bearer {secret}", "accept": "application/json"}

    def __call__(self, method: str, path: str) -> httpx.Response:
        return self._site.request(method, f"/api/v1/{path}", headers=self._headers)


def test_a_check_is_kept_and_raises_an_alert(box: Box) -> None:
    api = Api(box)
    in_production(box)
    served(box, np.full(200, 50.0))
    assert api("GET", "monitoring/delay").json() == []
    checked = api("POST", "monitoring/delay/check")
    assert checked.status_code == 200
    found = {result["feature"]: result for result in checked.json()}
    assert (found[FEATURES[0]]["verdict"], found[FEATURES[0]]["statistic"]) == ("alert", 1.0)
    assert found[FEATURES[0]]["missing_risen"] is False
    assert api("GET", "monitoring/delay").json() == sorted(checked.json(), key=lambda result: result["feature"])
    (alert,) = api("GET", "alerts?state=firing").json()
    assert alert["labels"] == {"model": "delay", "feature": FEATURES[0]}
    assert api("GET", "alerts?state=resolved").json() == []
    (summary,) = api("GET", "monitoring").json()
    assert (summary["model"], summary["drifting"], summary["worst_feature"]) == ("delay", 1, FEATURES[0])


def test_a_feature_has_a_history(box: Box) -> None:
    api = Api(box)
    in_production(box)
    for _ in range(3):
        api("POST", "monitoring/delay/check")
        box.advance(box.clock.now() + timedelta(hours=1), actor="admin")
    found = api("GET", f"monitoring/delay/features/{FEATURES[1]}").json()
    assert len(found) == 3
    assert found == sorted(found, key=lambda result: result["at"])
    assert api("GET", f"monitoring/delay/features/{FEATURES[1]}?limit=1").json() == found[-1:]


def test_lists_are_paged(box: Box) -> None:
    api = Api(box)
    for model in ("a", "b", "c"):
        in_production(box, model)
        served(box, np.full(200, 50.0), model=model)
        api("POST", f"monitoring/{model}/check")
    first, second = api("GET", "alerts?limit=2").json()
    assert [first["labels"]["model"], second["labels"]["model"]] == ["c", "b"]
    (third,) = api("GET", f"alerts?limit=2&after={second['id']}").json()
    assert third["labels"]["model"] == "a"
    assert [summary["model"] for summary in api("GET", "monitoring?limit=1&after=a").json()] == ["b"]


@pytest.mark.parametrize(
    ("method", "path", "status", "field"),
    [
        ("POST", "monitoring/none/check", 404, "model"),
        ("GET", "monitoring/none", 404, "model"),
        ("GET", "monitoring/none/features/a:b", 404, "model"),
        ("POST", "monitoring/idle/check", 404, "model"),
        ("GET", "alerts?state=loud", 400, "state"),
        ("GET", "alerts?limit=0", 400, "limit"),
        ("GET", "alerts?limit=1001", 400, "limit"),
        ("GET", "monitoring?limit=x", 400, "limit"),
    ],
)
def test_bad_input_names_its_field(box: Box, method: str, path: str, status: int, field: str) -> None:
    box.registry.create_model("idle", actor="ann")
    answer = Api(box)(method, path)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["field"] == field


def test_who_only_looks_may_not_check(box: Box) -> None:
    in_production(box)
    api = Api(box, "viewer")
    assert api("POST", "monitoring/delay/check").status_code == 403
    assert api("GET", "monitoring/delay").status_code == 200


def test_a_job_may_not_check(box: Box) -> None:
    in_production(box)
    answer = Api(box, job_id="0198")("POST", "monitoring/delay/check")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_authorised")


def test_a_model_without_a_reference_is_told_so(box: Box) -> None:
    in_production(box)
    path = box.artifacts.path(box.registry.version("delay", 1).reference or "")
    path.unlink()
    answer = Api(box)("POST", "monitoring/delay/check")
    assert answer.status_code == 404
    assert "artifact" in answer.json()["error"]["message"]


def test_the_check_is_in_the_audit_log(box: Box) -> None:
    api = Api(box)
    in_production(box)
    served(box, np.full(200, 50.0))
    api("POST", "monitoring/delay/check")
    types = [event.type for event in box.events(limit=2)]
    assert types == ["alert.fired", "drift.checked"]


# -- on the command line ------------------------------------------------------------------------------------------------


def mlbox(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return server.command(*arguments)


def test_the_commands_show_what_was_found(server_with_drift: Server) -> None:
    checked = json.loads(mlbox(server_with_drift, "monitor", "check", "delay", "-o", "json").stdout)
    assert [result["feature"] for result in checked] == list(FEATURES), "the worst comes first"
    shown = mlbox(server_with_drift, "monitor", "show", "delay").stdout
    assert shown.splitlines()[1].split()[:3] == [FEATURES[0], "1", "alert"]
    assert mlbox(server_with_drift, "monitor", "ls", "-o", "id").stdout == "delay\n"
    assert "it drifts" in mlbox(server_with_drift, "alert", "ls").stdout.replace("weather@v1:temp of delay", "it")


def test_the_commands_say_what_is_not_there(server: Server) -> None:
    assert mlbox(server, "monitor", "ls", "-o", "json").stdout.strip() == "[]"
    told = mlbox(server, "monitor", "check", "none")
    assert told.returncode == 3
    assert "There is no model 'none'" in told.stderr


@pytest.fixture
def server_with_drift(tmp_path: Path, make_server: Any) -> Server:
    """A server over a directory in which a model already serves what it was not trained on."""
    made = open_box(tmp_path / "served")
    in_production(made)
    served(made, np.full(200, 50.0))
    made.close()
    found: Server = make_server(data_dir=tmp_path / "served")
    return found
