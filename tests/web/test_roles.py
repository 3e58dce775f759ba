"""The table of roles against the server: every role walks every route, and is let in exactly where the table says so."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from mlbox.records import CronSpec, JobSpec, Role
from mlbox.store.access.roles import ACTIONS, ROLES, at_least
from mlbox.web.authorise import OWNERS, PUBLIC, check_handlers
from mlbox.web.box import Box
from tests.web.site import FEATURE, Filled, Site, fill, open_box, routes_of

STREAMS = {"/api/v1/events"}
"""They do not end by themselves."""


class Company:
    """A box with something of everything, and one account for each role."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.made: Filled = fill(box)
        nightly = CronSpec(name="nightly", schedule="0 3 * * *", job=JobSpec(command=("true",)))
        box.crons.add(nightly, owner="ada")
        self.app = Site(box, "").app
        self.tokens: dict[Role, str] = {}
        for role in ROLES:
            box.access.create_user(f"a-{role}", role, actor="admin")
            self.tokens[role] = box.access.create_token(f"a-{role}", "walk", actor="admin")[1]

    def ask(self, token: str, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                return await client.request(method, path, headers={"authorization": f"Bearer {token}"}, **options)

        return asyncio.run(send())

    def routes(self) -> list[tuple[str, str, str]]:
        """Method, path with something in each place, and action."""
        names = {
            "model": "churn",
            "run_id": self.made.run,
            "job_id": self.made.job,
            "promotion_id": self.made.waiting.id,
            "prediction_id": self.made.prediction,
            "version": "1",
            "number": "1",
            "feature": FEATURE,
            "team": "everyone",
            "user": "ada",
            "kind": "model",
            "cron": "nightly",
        }

        def filled(path: str) -> str:
            noun = "sales" if "/sources" in path else "left" if "/labels" in path else "churn"
            values = {**names, "name": noun, "ref": "spend" if "/features" in path else noun}
            return re.sub(r"\{(\w+)(?::\w+)?\}", lambda m: quote(values.get(m[1], "x"), safe=""), path)

        return [
            (str(method), filled(route.path), handler.opt["action"])
            for route in routes_of(self.box)
            for handler in route.route_handlers
            if "action" in handler.opt and handler.opt["action"] != PUBLIC and route.path not in STREAMS
            for method in handler.http_methods
            if method != "OPTIONS"
        ]


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    box = open_box(tmp_path_factory.mktemp("company") / "data")
    yield Company(box)
    box.close()


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_let_in_where_the_table_says_so(company: Company, role: Role) -> None:
    allowed, refused = 0, 0
    for method, path, action in company.routes():
        answer = company.ask(company.tokens[role], method, path, json=None if method in ("GET", "HEAD") else {})
        wanted = ACTIONS[action].role
        if at_least(role, wanted):
            forbidden = (
                answer.status_code == 403 and "takes the role" in answer.text and f"role {wanted}" in answer.text
            )
            assert not forbidden, (role, method, path, action, answer.text)
            allowed += 1
        else:
            assert answer.status_code == 403, (role, method, path, action, answer.status_code, answer.text)
            assert f"takes the role {wanted}" in answer.text
            refused += 1
    assert allowed > 60
    assert refused > 5 or role == "admin"


def test_a_jobs_token_reads_and_writes_its_own_and_nothing_else(company: Company) -> None:
    box, made = company.box, company.made
    job = box.scheduler.job(made.job)
    _, token = box.access.create_token("ada", "a job", actor="mlbox", job_id=job.id)
    reached = set()
    for method, path, action in company.routes():
        answer = company.ask(token, method, path, json=None if method in ("GET", "HEAD") else {})
        if answer.status_code < 400:
            reached.add((method, path, action))
    assert {action for *_, action in reached} <= {"box.whoami", "experiment.find"}, reached
    own = f"/api/v1/runs/{job.run_id}"
    assert company.ask(token, "GET", own).status_code == 200
    assert company.ask(token, "POST", f"{own}/log", json={"params": {"a": "1"}}).status_code == 204
    assert company.ask(token, "GET", f"/api/v1/runs/{made.run}").status_code == 403
    assert company.ask(token, "GET", "/api/v1/datasets/churn@v1").status_code == 403
    mlflow, others = "/api/2.0/mlflow", {"run_id": made.run}
    assert company.ask(token, "GET", f"{mlflow}/runs/get?run_id={job.run_id}").status_code == 200
    for method, path, body in (
        ("GET", f"runs/get?run_id={made.run}", None),
        ("POST", "runs/log-parameter", {**others, "key": "a", "value": "1"}),
        ("POST", "runs/update", {**others, "status": "FAILED"}),
        ("POST", "runs/create", {"experiment_id": "0"}),
        ("GET", f"metrics/get-history?run_id={made.run}&metric_key=auc", None),
        ("GET", f"artifacts/list?run_id={made.run}", None),
        ("GET", "registered-models/search?max_results=5", None),
        ("POST", "experiments/search", {"max_results": 5}),
    ):
        assert company.ask(token, method, f"{mlflow}/{path}", json=body).status_code == 403, path


def test_every_action_of_the_table_guards_something(company: Company) -> None:
    asked = {action for *_, action in company.routes()} | {"audit.read"}
    inside = {"user.change", "run.delete", "secret.use", "token.create-any", "token.revoke-any", "job.change-any"}
    inside |= {"label.backfill", "cron.change-any", "model.rehearse"}
    assert set(ACTIONS) - asked <= inside, set(ACTIONS) - asked


def test_a_route_without_an_action_does_not_start() -> None:
    from litestar import get, post

    @get("/bare")
    async def bare() -> None: ...

    @get("/typo", action="model.raed")
    async def typo() -> None: ...

    @post("/lost/{thing:str}", action="model.write")
    async def lost(thing: str) -> None: ...

    for handler, words in ((bare, "names no action"), (typo, "names no action"), (lost, "does not say who owns")):
        with pytest.raises(LookupError, match=words):
            check_handlers([handler])


def test_every_owner_is_found_by_something_that_is_there(company: Company) -> None:
    paths = " ".join(route.path for route in routes_of(company.box))
    assert [key for key in OWNERS if f"{{{key}:" not in paths] == []
