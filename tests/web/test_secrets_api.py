"""Secrets over HTTP: they go in, are listed by name to their team, reach its jobs, and never come out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from mlbox.records import Job
from mlbox.web.box import Box
from tests.conftest import wait_for
from tests.web.site import Page, Site, open_box

VALUE = "hf_Q7x9mLw2"


class Office:
    """A box with the team vision: bea is in it, ann is not, val only looks."""

    def __init__(self, folder: Path) -> None:
        self.box: Box = open_box(folder)
        self.box.teams.create("vision", actor="admin")
        for name, role in (("ann", "member"), ("bea", "member"), ("val", "viewer")):
            self.box.access.create_user(name, role, actor="admin")
        self.box.teams.add_member("vision", "bea", "member", actor="admin")
        self.box.teams.add_member("vision", "val", "viewer", actor="admin")
        self.app = Site(self.box, "").app
        people = ("admin", "ann", "bea", "val")
        self.tokens = {name: self.box.access.create_token(name, "t", actor="admin")[1] for name in people}

    def __call__(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                headers = {"authorization": f"Bearer {self.tokens[who]}"}
                return await client.request(method, path, headers=headers, json=body)

        return asyncio.run(send())

    def put(self, who: str, name: str, team: str = "everyone", value: str = VALUE) -> httpx.Response:
        return self(who, "POST", "/api/v1/secrets", {"name": name, "team": team, "value": value})

    def names(self, who: str) -> list[str]:
        return [f"{s['team']}/{s['name']}" for s in self(who, "GET", "/api/v1/secrets").json()]

    def submit(self, who: str, **spec: Any) -> httpx.Response:
        return self(who, "POST", "/api/v1/jobs", {"command": ["sh", "-c", 'echo "has $A"'], "memory_gb": 1, **spec})

    def ended(self, job_id: str) -> Job:
        return wait_for(lambda: (j := self.box.scheduler.job(job_id)).ended_at and j, what="the job to end")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    built = Office(tmp_path / "data")
    yield built
    built.box.close()


def test_a_value_goes_in_and_is_in_no_answer(office: Office) -> None:
    answer = office.put("ann", "HF_TOKEN")
    assert (answer.status_code, answer.json()["name"], answer.json()["set_by"]) == (201, "HF_TOKEN", "ann")
    job = office.submit("ann", secrets={"A": "HF_TOKEN"}).json()
    assert job["spec"]["secrets"] == {"A": "everyone/HF_TOKEN"}
    assert office.ended(job["id"]).state == "succeeded"
    log = office("ann", "GET", f"/api/v1/jobs/{job['id']}/logs")
    assert log.text == "has ***HF_TOKEN***\n"
    assert log.headers["x-mlbox-offset"] == str(len(log.content))
    rest = office("ann", "GET", f"/api/v1/jobs/{job['id']}/logs?offset=4")
    assert (rest.text, rest.headers["x-mlbox-offset"]) == ("***HF_TOKEN***\n", str(len(log.content)))
    for path in (
        "/api/v1/secrets",
        f"/api/v1/jobs/{job['id']}",
        f"/jobs/{job['id']}",
        "/secrets",
        "/api/v1/events/log",
    ):
        assert VALUE not in office("admin", "GET", path).text
    assert VALUE not in msgspec.json.encode(office.box.events(limit=1000)).decode()
    assert "HF_TOKEN" in office("ann", "GET", "/secrets").text


def test_a_team_keeps_its_secrets_to_itself(office: Office) -> None:
    assert office.put("bea", "KEY", "vision").status_code == 201
    assert office.put("ann", "KEY", "vision").status_code == 403
    assert office.put("val", "KEY", "vision").status_code == 403
    assert office.put("val", "KEY").status_code == 403
    assert office.put("admin", "KEY", "nobodys").status_code == 404
    assert (office.names("bea"), office.names("val"), office.names("ann")) == (["vision/KEY"], ["vision/KEY"], [])
    assert office("ann", "DELETE", "/api/v1/secrets/vision/KEY").status_code == 403
    assert office("val", "DELETE", "/api/v1/secrets/vision/KEY").status_code == 403
    assert office("bea", "DELETE", "/api/v1/secrets/vision/KEY").status_code == 204
    assert office("bea", "DELETE", "/api/v1/secrets/vision/KEY").status_code == 404
    assert office.box.visible_events(office.box.events(type="secret.set")), "the box itself sees all"


def test_a_job_gets_only_what_its_submitter_and_its_team_may_have(office: Office) -> None:
    office.put("bea", "KEY", "vision")
    assert office.submit("bea", team="vision", secrets={"A": "KEY"}).status_code == 201
    for who, spec, status in [
        ("ann", {"secrets": {"A": "KEY"}}, 404),
        ("ann", {"secrets": {"A": "vision/KEY"}}, 400),
        ("ann", {"team": "vision", "secrets": {"A": "KEY"}}, 403),
        ("val", {"team": "vision", "secrets": {"A": "KEY"}}, 403),
        ("bea", {"secrets": {"A": "vision/KEY"}}, 400),
        ("bea", {"team": "vision", "secrets": {"MLBOX_TOKEN": "KEY"}}, 400),
        ("bea", {"team": "vision", "secrets": {"A": "KEY"}, "env": {"A": "1"}}, 400),
        ("bea", {"team": "vision", "secrets": {"A": "NONE"}}, 404),
    ]:
        answer = office.submit(who, **spec)
        assert answer.status_code == status, (who, spec, answer.text)


def test_whoever_leaves_the_team_before_the_job_starts_gets_nothing(office: Office) -> None:
    office.put("bea", "KEY", "vision")
    blocker = office.submit("bea", cpus=os.cpu_count(), command=["sleep", "60"]).json()["id"]
    wait_for(lambda: office.box.scheduler.job(blocker).state == "running", what="the first job")
    job = office.submit("bea", team="vision", secrets={"A": "KEY"}).json()["id"]
    office.box.teams.remove_member("vision", "bea", actor="admin")
    office.box.scheduler.stop(blocker, actor="admin")
    assert "bea may no longer use the secret vision/KEY" in office.ended(job).reason


def test_a_teams_secrets_go_with_it_and_a_later_team_of_its_name_has_none(office: Office) -> None:
    office.put("bea", "KEY", "vision")
    office.put("ann", "KEY")
    assert office("admin", "DELETE", "/api/v1/teams/vision").status_code == 204
    wait_for(lambda: office.names("admin") == ["everyone/KEY"], what="the team's secrets to go")
    assert office("admin", "POST", "/api/v1/teams", {"name": "vision"}).status_code == 201
    assert office.names("admin") == ["everyone/KEY"]
    assert office.box.events(type="secret.removed")[0].data == {"team": "vision"}


def test_a_short_value_is_refused_and_not_told(office: Office) -> None:
    answer = office.put("ann", "PIN", value="123")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "value")
    assert "123" not in answer.text
    wrong = office("ann", "POST", "/api/v1/secrets", {"name": "PIN", "value": ["sesame-open"]})
    assert wrong.status_code == 400
    assert "sesame" not in wrong.text


def test_the_key_is_changed_by_an_admin_and_a_lost_one_breaks_nothing_else(office: Office) -> None:
    office.put("ann", "A")
    assert office("ann", "POST", "/api/v1/secrets/rotate-key").status_code == 403
    assert office("admin", "POST", "/api/v1/secrets/rotate-key").json() == {"sealed": 1, "lost": []}
    (office.box.data_dir.root / "keys" / "secret.key").unlink()
    assert not office("ann", "GET", "/api/v1/secrets").json()[0]["usable"]
    assert "its key is lost" in office("ann", "GET", "/secrets").text
    assert office("ann", "GET", "/readyz").status_code == 200
    assert office.put("ann", "A").json()["usable"]


def test_the_page_lists_names_and_offers_what_one_may(office: Office) -> None:
    office.put("bea", "KEY", "vision")
    page = Page(Site(office.box, "bea").get("/secrets"))
    assert [form["action"] for form in page.all("form") if "secrets" in form.get("action", "")] == [
        "/api/v1/secrets/vision/KEY",
        "/api/v1/secrets",
    ]
    assert page.inline == []
    looks = Page(Site(office.box, "val").get("/secrets"))
    assert not [form for form in looks.all("form") if "secrets" in form.get("action", "")]
