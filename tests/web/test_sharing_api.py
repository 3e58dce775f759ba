"""Queues, quotas and use over HTTP: who may set them, what is refused, and what others learn of a team."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mlbox.web.box import Box
from tests.conftest import wait_for
from tests.web.site import Site, open_box


class Person:
    """Someone with a token."""

    def __init__(self, site: Site, token: str) -> None:
        self._site = site
        self._headers = {"authorization": f"Bearer {token}", "accept": "application/json"}

    def get(self, path: str) -> Any:
        return self._site.request("GET", path, headers=self._headers)

    def put(self, path: str, body: object) -> Any:
        return self._site.request("PUT", path, json=body, headers=self._headers)

    def delete(self, path: str) -> Any:
        return self._site.request("DELETE", path, headers=self._headers)

    def submit(self, team: str, **spec: object) -> Any:
        body = {"command": ["true"], "team": team, "memory_gb": 0.1, **spec}
        return self._site.request("POST", "/api/v1/jobs", json=body, headers=self._headers)


class Company:
    """Two teams of one person each, and an admin."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self._site = Site(box, "")
        self.admin = self._person("admin")
        for user, team in (("ann", "vision"), ("bea", "speech")):
            box.access.create_user(user, "member", actor="admin")
            box.teams.create(team, actor="admin")
            box.teams.add_member(team, user, "member", actor="admin")
        self.ann, self.bea = self._person("ann"), self._person("bea")

    def _person(self, user: str) -> Person:
        return Person(self._site, self.box.access.create_token(user, "test", actor="admin")[1])


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    box = open_box(tmp_path_factory.mktemp("company") / "data")
    yield Company(box)
    box.close()


def test_an_admin_sets_a_quota_and_everyone_sees_it(company: Company) -> None:
    path, body = "/api/v1/quotas/vision/day", {"share": 0.4, "windows": ["Mon-Fri 9:00-18:00"], "zone": "Europe/Berlin"}
    assert company.ann.put(path, body).status_code == 403
    kept = company.admin.put(path, body).json()
    assert (kept["windows"], kept["borrowable"]) == (["mon-fri 09:00-18:00"], False)
    (shown,) = company.bea.get("/api/v1/quotas?team=vision").json()
    assert shown == kept
    assert company.admin.delete(path).status_code == 204
    assert company.admin.delete(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("quotas/nobody/x", {"gpus": 1}, "team"),
        ("quotas/vision/x", {}, "gpus"),
        ("quotas/vision/x", {"gpus": 1, "zone": "Mars"}, "zone"),
        ("quotas/vision/x", {"gpus": 1, "windows": ["noon"]}, "windows"),
        ("queues/x", {"weight": -1}, "weight"),
        ("queues/a%20b", {}, "name"),
        ("team-weights/vision", {"weight": 0}, "weight"),
        ("team-weights/nobody", {"weight": 1}, "team"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(company: Company, path: str, body: object, field: str) -> None:
    answer = company.admin.put(f"/api/v1/{path}", body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["field"] == field


def test_a_queue_takes_its_jobs_and_no_others(company: Company) -> None:
    assert company.ann.submit("vision", queue="experiments").status_code == 201
    assert company.ann.submit("vision", queue="vision").status_code == 201
    unknown = company.ann.submit("vision", queue="speech")
    assert (unknown.status_code, unknown.json()["error"]["field"]) == (404, "queue")
    assert company.admin.put("/api/v1/queues/speech.fast", {"max_running": 3}).json()["max_running"] == 3
    refused = company.ann.submit("vision", queue="speech.fast")
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "queue")
    assert company.bea.submit("speech", queue="speech.fast").status_code == 201
    assert company.ann.put("/api/v1/queues/mine", {}).status_code == 403


def test_of_another_teams_use_one_sees_the_sum(company: Company) -> None:
    job = company.ann.submit("vision").json()
    wait_for(lambda: company.box.scheduler.job(job["id"]).ended_at, what="the job to end")
    mine, theirs = (person.get("/api/v1/usage").json() for person in (company.ann, company.bea))
    assert ("vision", "ann") in {(row["team"], row["user"]) for row in mine}
    assert {row["user"] for row in theirs if row["team"] == "vision"} == {None}
    wrong = company.ann.get("/api/v1/usage?since=2026-02-01T00:00Z&until=2026-01-01T00:00Z")
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "since")
    assert company.ann.get("/api/v1/usage?since=yesterday").status_code == 400


def test_the_queue_is_read_page_by_page_and_tells_others_no_more_than_it_takes_to_plan(company: Company) -> None:
    wait_for(lambda: not company.box.scheduler.jobs(open_only=True), what="the jobs of other tests to end")
    cpus = company.box.settings.cpus or company.box.scheduler._executor.capacity().box.cpus
    holder = company.ann.submit("vision", command=["sleep", "600"], cpus=cpus).json()["id"]
    wait_for(lambda: company.box.scheduler.job(holder).state == "running", what="the holder")
    ids = [company.bea.submit("speech", cpus=cpus, name=f"b{n}").json()["id"] for n in range(3)]
    company.ann.submit("vision", cpus=cpus, name="a")
    wait_for(lambda: len(company.box.scheduler.line()) == 4, what="all to be looked at")
    pages, after = [], 0
    while page := company.bea.get(f"/api/v1/queue?limit=2&after={after}").json():
        assert len(page) <= 2
        pages.append(page)
        after = page[-1]["place"]
    found = [entry for page in pages for entry in page]
    assert [(entry["team"], entry["id"]) for entry in found] == [
        ("vision", None),
        *(("speech", job_id) for job_id in ids),
        ("vision", None),
    ]
    assert found == company.bea.get("/api/v1/queue").json()
    assert {entry["name"] for entry in found if entry["team"] == "vision"} == {None}
    assert all("CPUs free, you ask" in entry["reason"] for entry in found[1:4])
    assert [entry["state"] for entry in found if entry["team"] == "vision"] == ["running", "queued"]
    for wrong in ("after=-1", f"after={2**63}", "limit=0", "limit=100000", "after=x"):
        assert company.bea.get(f"/api/v1/queue?{wrong}").status_code == 400
    page = company.bea.get("/jobs")
    assert "what waits or runs of theirs" in page.text
    assert "sleep 600" not in page.text
    for job_id in (*ids, holder):
        company.box.scheduler.stop(job_id, actor="admin")
