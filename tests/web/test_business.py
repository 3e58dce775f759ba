"""Business metrics: posted by prediction or by time, compared by version, on the page, in Python and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import mlbox
from mlbox.web.box import Box
from tests.conftest import Server
from tests.web.monitored import in_production, served
from tests.web.site import START, Site, open_box


class Program(Site):
    """The app as a program sees it, with a token."""

    def __init__(self, box: Box, user: str = "admin") -> None:
        super().__init__(box, user="")
        self._secret = box.access.create_token(user, "test", actor="admin")[1]

    def post(self, *outcomes: dict[str, Any], model: str = "delay") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._secret}"}
        return super().request(
            "POST", "/api/v1/outcomes", headers=headers, json={"model": model, "outcomes": list(outcomes)}
        )

    def series(self, query: str = "", model: str = "delay") -> Any:
        answer = super().get(
            f"/api/v1/monitoring/{model}/business?{query}", headers={"Authorization": f"Bearer {self._secret}"}
        )
        return answer.json() if answer.status_code == 200 else answer


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("business") / "data")
    in_production(opened)
    opened.access.create_user("vera", "viewer", actor="admin")
    yield opened
    opened.close()


@pytest.fixture
def model(box: Box, request: pytest.FixtureRequest) -> str:
    """A model of this test's own in the one box."""
    name = request.node.originalname.replace("test_", "m-")[:40]
    in_production(box, name)
    return name


def test_a_number_is_of_the_version_that_predicted(box: Box, model: str) -> None:
    program = Program(box)
    ids = [served(box, [0.0], model=model, version=version)[0].id for version in (1, 1, 2)]
    numbers = [
        {"name": "revenue", "value": value, "prediction_id": own} for value, own in zip((4, 8, 30), ids, strict=True)
    ]
    unknown = {"name": "revenue", "value": 1, "prediction_id": "0198-not-there"}
    answer = program.post(*numbers, unknown, model=model)
    assert answer.json() == {"rows": 3, "unknown": 1, "unknown_ids": ["0198-not-there"]}
    second, first = program.series(model=model)
    assert (first["version"], first["count"], first["mean"], first["total"]) == (1, 2, 6.0, 12.0)
    assert (first["low"], first["high"]) == (pytest.approx(6 - 1.96 * 2), pytest.approx(6 + 1.96 * 2))
    assert (second["version"], second["mean"], second["low"], second["high"]) == (2, 30.0, None, None)


def test_sent_again_it_replaces_the_former_one(box: Box, model: str) -> None:
    program = Program(box)
    own = served(box, [0.0], model=model)[0].id
    for value in (1, 2):
        program.post({"name": "saved", "value": value, "prediction_id": own}, model=model)
        program.post({"name": "saved", "value": 10 * value, "at": "2025-12-01T00:00Z"}, model=model)
    (found,) = program.series(model=model)
    assert (found["count"], found["total"]) == (2, 22.0)


def test_numbers_by_time_make_a_series(box: Box, model: str) -> None:
    program = Program(box)
    days = [{"name": "daily", "value": n, "at": (START + timedelta(days=n)).isoformat()} for n in range(-6, 1)]
    assert program.post(*days, {"name": "other", "value": 1}, model=model).json()["rows"] == 8
    daily, other = program.series(model=model)
    assert (daily["every_seconds"], len(daily["points"])) == (6 * 3600.0, 7)
    assert [point["mean"] for point in daily["points"]] == list(range(-6, 1))
    assert other["version"] == 1
    (some,) = program.series(
        "name=daily&since=2025-12-30T00:00Z&until=2026-01-01T00:00Z&every_seconds=604800", model=model
    )
    assert (some["count"], sum(point["count"] for point in some["points"])) == (2, 2)
    before_1970 = {"name": "old", "value": 1.0, "at": "1969-12-31T23:00Z"}
    assert program.post(before_1970, model=model).status_code == 200
    (old,) = program.series("name=old&every_seconds=86400", model=model)
    assert old["points"][0]["start"] == "1969-12-31T00:00:00Z"


@pytest.mark.parametrize(
    ("outcome", "field"),
    [
        ({"name": "a b", "value": 1}, "outcomes.0.name"),
        ({"name": "a", "value": "much"}, "outcomes.0.value"),
        ({"name": "a", "value": 1, "at": "2026-01-01T00:00:00"}, "outcomes.0.at"),
        ({"name": "a", "value": 1, "at": "0001-01-01T00:00Z", "version": 1}, "outcomes.0.at"),
        ({"name": "a", "value": 1, "at": "9999-12-31T00:00Z", "version": 1}, "outcomes.0.at"),
        ({"name": "a", "value": 1e308}, "outcomes.0.value"),
        ({"name": "a", "value": 1, "version": 9}, "outcomes.0.version"),
        ({"name": "a", "value": 1, "prediction_id": "x", "version": 1}, "outcomes.0.prediction_id"),
        ({"name": "a", "value": 1, "colour": "red"}, None),
    ],
)
def test_bad_input_names_its_field_and_nothing_is_kept(box: Box, outcome: dict[str, Any], field: str | None) -> None:
    answer = Program(box).post(outcome)
    assert answer.status_code == 400, answer.text
    if field:
        assert answer.json()["error"]["field"] == field
    assert Program(box).series() == []


def test_who_may_not_write_and_what_is_unknown(box: Box) -> None:
    own = served(box, [0.0])[0].id
    in_production(box, "else")
    program = Program(box)
    answer = program.post({"name": "a", "value": 1, "prediction_id": own}, model="else")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "outcomes.0.prediction_id")
    assert program.post({"name": "a", "value": 1}, model="none").status_code == 404
    assert program.series(model="none").status_code == 404
    assert program.series("since=yesterday").json()["error"]["field"] == "since"
    box.registry.create_model("idle", actor="ann")
    assert "No version of idle was in Production" in program.post({"name": "a", "value": 1}, model="idle").text
    assert Program(box, "vera").post({"name": "a", "value": 1}).status_code == 403


def test_a_prediction_of_what_one_may_not_see_is_unknown(box: Box) -> None:
    box.teams.create("zebra", actor="admin")
    box.access.create_user("otto", "member", actor="admin")
    in_production(box, "zebra.hidden")
    box.teams.set_private("model", "zebra.hidden", True, actor="admin")
    own = served(box, [0.0], model="zebra.hidden")[0].id
    answer = Program(box, "otto").post({"name": "a", "value": 1, "prediction_id": own})
    nothing = Program(box, "otto").post({"name": "a", "value": 1, "prediction_id": "0" * 32})
    assert answer.json() == {"rows": 0, "unknown": 1, "unknown_ids": [own]}
    assert nothing.json() == {"rows": 0, "unknown": 1, "unknown_ids": ["0" * 32]}


def test_a_model_has_so_many_series(box: Box, model: str) -> None:
    program = Program(box)
    names = [{"name": f"n{n}", "value": n} for n in range(101)]
    assert program.post(*names[:100], model=model).status_code == 200
    assert program.post(names[100], model=model).json()["error"]["field"] == "outcomes"
    assert program.post(names[0], model=model).status_code == 200


def test_it_is_on_the_models_page(box: Box, model: str) -> None:
    site = Site(box)
    assert "Nobody has said yet" in site.get(f"/monitoring/{model}").text
    Program(box).post({"name": "minutes-saved", "value": 7.5}, model=model)
    page = site.get(f"/monitoring/{model}").text
    assert "minutes-saved by version over time" in page


def test_python_and_the_command_line(tmp_path: Path, make_server: Any) -> None:
    box = open_box(tmp_path / "data")
    in_production(box)
    own = served(box, [0.0])[0].id
    box.close()
    server: Server = make_server(data_dir=tmp_path / "data")

    def run(*words: str) -> str:
        done = server.command(*words)
        done.check_returncode()
        return str(done.stdout)

    with mlbox.connect(server.url, server.token) as client:
        assert client.post_outcomes("delay", [{"name": "saved", "value": 1.5, "prediction_id": own}]).rows == 1
        run("monitor", "post", "delay", "saved", "2.5", "--at", "2020-01-01T00:00Z", "--version", "1")
        (found,) = client.business("delay", every=timedelta(days=1))
    assert (found.total, len(found.points)) == (4.0, 2)
    assert run("monitor", "business", "delay").splitlines()[1].split()[:3] == ["saved", "1", "2"]
    (health,) = json.loads(run("monitor", "health", "-o", "json"))
    assert (health["model"], health["state"]) == ("delay", "unknown"), "nobody has looked at it yet"
    assert "not checked yet" in run("monitor", "health", "delay")
    assert "firing" in run("alert", "groups")
