"""What is private is 404 to others, and no id, name, path, search, count, artifact or event gives it away.

A box has the same things twice: shared ones, and private ones of the team zebra. Whoever walks every route as someone else meets
the first and never the second.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, get_args
from urllib.parse import quote

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from mlbox.records import Kind, Principal
from mlbox.store.access.roles import ACTIONS
from mlbox.web.authorise import PUBLIC
from mlbox.web.box import Box
from tests.web.monitored import served
from tests.web.site import FEATURE, NASTY, Filled, Site, fill, open_box, routes_of

MARK = "quagga"
ODD = {"name": "odd", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
OWN = f"zebra.{MARK}-"
PRIVATE: list[tuple[Kind, str]] = [
    *(
        ("source", f"{OWN}sales"),
        ("view", f"{OWN}spend"),
        ("view", f"{OWN}ratio"),
        ("service", f"{OWN}all"),
        ("label", f"{OWN}left"),
    ),
    *(("dataset", f"{OWN}churn"), ("experiment", f"{OWN}churn"), ("model", f"{OWN}churn")),
]


class Zoo:
    """A box with shared and private things: mia is a member of zebra, otto of another team and of everyone."""

    def __init__(self, box: Box) -> None:
        self.box = box
        box.access.create_user("ada", "approver", actor="admin")
        box.access.create_user("grace", "approver", actor="admin")
        for name in ("mia", "otto"):
            box.access.create_user(name, "approver", actor="admin")
        for team, users in (("zebra", ("ada", "grace", "mia")), ("okapi", ("otto",))):
            box.teams.create(team, actor="admin")
            for user in users:
                box.teams.add_member(team, user, "admin", actor="admin")
        for kind, name in PRIVATE:
            box.teams.set_private(kind, name, True, actor="admin")
        self.shared = fill(box)
        self.private = fill(box, OWN)
        self.tokens = {name: box.access.create_token(name, "test", actor="admin")[1] for name in ("mia", "otto")}
        self.app = Site(box, "").app

    def secrets(self) -> list[str]:
        """What must not be told: names and ids of what is private."""
        box, made = self.box, self.private
        version = box.registry.version(f"{OWN}churn", 1)
        files = [file.sha256 for file in box.datasets.version(f"{OWN}churn").files if file.sha256 not in self._known()]
        return [MARK, made.run, made.other_run, made.job, made.waiting.id, version.id, *files]

    def _known(self) -> set[str]:
        return {file.sha256 for file in self.box.datasets.version("churn").files}

    def ask(self, user: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens[user]}", **options.pop("headers", {})}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(send())


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    box = open_box(tmp_path_factory.mktemp("zoo") / "data")
    yield Zoo(box)
    box.close()


def test_no_id_is_a_label_of_a_metric(zoo: Zoo) -> None:
    """Nor an entity or a user: each would be a series for ever, and be told to whoever may scrape."""
    box, found = zoo.box, Filled.__dataclass_fields__
    for model in ("churn", f"{OWN}churn"):
        predictions = served(box, [1.0], model=model, entity={"who": "passenger-7"}, caller="mia")
        assert box.predictions.recent(model, 1)[0].id == predictions[0].id
        box.monitor.check(model)
        assert zoo.ask("mia", "GET", f"/api/v1/predictions/{predictions[0].id}/lineage").status_code == 200
    ids = {"passenger-7", NASTY, "mia", "otto", "ada", "grace"}
    for made in (zoo.shared, zoo.private):
        ids |= {value for name in found if isinstance(value := getattr(made, name), str)} | {made.waiting.id}
    for model in ("churn", f"{OWN}churn"):
        ids |= {one.id for one in box.predictions.recent(model, 500)}
        ids |= {value for one in box.registry.versions(model) for value in (one.id, one.run_id) if value}
    families = list(read_text(zoo.ask("mia", "GET", "/metrics").text))
    labels = {value for family in families for sample in family.samples for value in sample.labels.values()}
    assert {"churn", f"{OWN}churn", "1"} <= labels
    assert len(ids) > 600
    assert not labels & ids
    assert not [label for label in labels if re.search("[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-", label)]


def routes(zoo: Zoo) -> list[tuple[str, str, str]]:
    """Method, path and action of every route, pages and streams included."""
    found = []
    for route in routes_of(zoo.box):
        for handler in route.route_handlers:
            action = handler.opt.get("action", PUBLIC)
            for method in handler.http_methods:
                if method != "OPTIONS" and action != PUBLIC:
                    found.append((method, route.path, action))
    assert len(found) > 90
    return found


def names(made: Filled, own: str) -> dict[str, str]:
    """Something that is there for each path parameter."""
    return {
        "model": f"{own}churn",
        "version": "1",
        "number": "1",
        "run_id": made.run,
        "job_id": made.job,
        "promotion_id": made.waiting.id,
        "prediction_id": made.prediction,
        "feature": f"{own}{FEATURE}",
        "key": "auc",
        "path": "model/model <1>.onnx",
        "team": "zebra",
        "user": "mia",
        "kind": "model",
        "file": "part-0.parquet",
        "token_id": "x",
    }


OF_A_SPAN = ("/drift", "/domain", "/report")
"""Routes that ask for a span of time."""
NOUNS = {"source": "sales", "label": "left", "feature": "spend", "service": "all", "view": "spend"}


def filled(path: str, made: Filled, own: str) -> str:
    """A route's path with what was made in each place."""
    noun = next(
        (f"{own}{name}" for word, name in NOUNS.items() if f"/{word}s" in path or f"/{word}" in path), f"{own}churn"
    )
    if "/services/" in path:
        noun = f"{own}all"
    values = {**names(made, own), "name": noun, "ref": noun}
    asked = re.sub(r"\{(\w+)(?::\w+)?\}", lambda m: quote(values.get(m[1], "x"), safe=""), path)
    if path.endswith("/logs/search"):
        return f"{asked}?text=hello"
    return f"{asked}?window_seconds=3600" if path.endswith(OF_A_SPAN) else asked


def of_objects(path: str) -> bool:
    """True for a path that names something that can be private."""
    return bool(re.search(r"\{(model|name|ref|run_id|job_id|promotion_id)\b", path)) and "/private/" not in path


def test_a_member_meets_what_is_private(zoo: Zoo) -> None:
    for path in (
        f"/api/v1/models/{OWN}churn",
        f"/api/v1/datasets/{OWN}churn@v1",
        f"/api/v1/runs/{zoo.private.run}",
        f"/api/v1/jobs/{zoo.private.job}",
        f"/api/v1/sources/{OWN}sales",
        f"/api/v1/features/views/{OWN}spend",
        f"/api/v1/labels/{OWN}left",
        f"/api/v1/promotions/{zoo.private.waiting.id}",
    ):
        assert zoo.ask("mia", "GET", path).status_code == 200, path
        assert zoo.ask("otto", "GET", path).status_code == 404, path
    for path in ("/api/v1/models", "/api/v1/runs", "/api/v1/audit?limit=1000", "/metrics", "/api/v1/endpoints"):
        assert MARK in zoo.ask("mia", "GET", path).text, path


def test_every_route_that_names_something_private_is_404_for_others(zoo: Zoo) -> None:
    walked = 0
    for method, path, action in routes(zoo):
        if method not in ("GET", "HEAD") or not of_objects(path):
            continue
        asked = filled(path, zoo.private, OWN)
        theirs = zoo.ask("otto", method, asked)
        assert theirs.status_code == 404, (method, asked, action, theirs.status_code, theirs.text[:200])
        nothing = zoo.ask("otto", method, asked.replace(MARK, "nowhere").replace(zoo.private.run, "0" * 32))
        assert nothing.status_code in (404, 400), (asked, nothing.status_code)
        walked += 1
    assert walked > 25


def test_every_write_to_something_private_is_refused_as_if_it_were_not_there(zoo: Zoo) -> None:
    walked = 0
    for method, path, action in routes(zoo):
        if method in ("GET", "HEAD") or not of_objects(path) or ACTIONS[action].where == "any":
            continue
        asked = filled(path, zoo.private, OWN)
        theirs = zoo.ask("otto", method, asked, json={})
        other = asked.replace(MARK, "nowhere").replace(zoo.private.run, "0" * 32)
        other = other.replace(zoo.private.job, "0" * 32).replace(zoo.private.waiting.id, "0" * 32)
        nothing = zoo.ask("otto", method, other, json={})
        assert theirs.status_code == nothing.status_code, (method, asked, theirs.text[:200], nothing.text[:200])
        assert theirs.status_code in (403, 404), (method, asked, theirs.status_code)
        walked += 1
    assert walked > 12


def test_no_answer_tells_others_of_what_is_private(zoo: Zoo) -> None:
    secrets, walked = zoo.secrets(), 0
    for method, path, _ in routes(zoo):
        if method != "GET" or path == "/api/v1/events":
            continue
        for headers in ({}, {"accept": "text/html"}):
            answer = zoo.ask("otto", "GET", filled(path, zoo.shared, ""), headers=headers)
            told = [secret for secret in secrets if secret in answer.text]
            assert not told, (path, told, [answer.text[max(0, answer.text.find(t) - 200) :][:400] for t in told])
            walked += 1
    assert walked > 100


@pytest.mark.parametrize(
    "query",
    [
        *(f"/api/v1/runs?experiment={OWN}churn", f"/api/v1/promotions?model={OWN}churn"),
        *(f"/api/v1/audit?subject=model:{OWN}churn", "/api/v1/audit?limit=1000", "/api/v1/audit?actor=ada&limit=1"),
        *(f"/runs?experiment={OWN}churn", f"/datasets?name={OWN}churn", "/audit?actor=ada", "/api/v1/jobs?user=ada"),
        *("/api/v1/predictions?model=churn&limit=1000", "/api/v1/alerts?state=firing", "/api/v1/private"),
        *(
            "/api/v1/search?q=churn&limit=100",
            "/search?q=churn",
            f"/api/v1/search?q={OWN}",
            "/api/v1/search?q=e&limit=100",
        ),
    ],
)
def test_no_search_finds_what_is_private(zoo: Zoo, query: str) -> None:
    answer = zoo.ask("otto", "GET", query)
    assert answer.status_code == 200
    found = (
        answer.text.replace(f"{OWN}churn", "", 3) if "<html" in answer.text else answer.text
    )  # the field shows what was asked
    assert not [secret for secret in zoo.secrets() if secret in found]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"/api/v1/models/{OWN}churn/predict", {"rows": [{"entity": {"who": "p1"}}]}),
        ("POST", f"/v2/models/{OWN}churn/infer", {"inputs": []}),
        ("POST", f"/v2/models/{OWN}churn/infer", {"inputs": [ODD]}),
        ("POST", "/api/v1/features/online", {"features": [f"{OWN}{FEATURE}"], "entities": [{"who": "p1"}]}),
        ("POST", "/api/v1/features/online", {"features": [f"{OWN}all"], "entities": [{"who": "p1"}]}),
        (
            "POST",
            "/api/v1/datasets",
            {"name": "mine", "spine": f'SELECT who, moment AS event_time FROM "{OWN}sales"', "features": [FEATURE]},
        ),
        (
            "POST",
            "/api/v1/datasets",
            {"name": "mine", "spine": "SELECT who, moment AS event_time FROM sales", "features": [f"{OWN}{FEATURE}"]},
        ),
        ("POST", "/api/v1/features/services", {"name": "mine", "features": [f"{OWN}{FEATURE}"]}),
        ("POST", "/api/v1/jobs", {"command": ["true"], "datasets": [f"{OWN}churn@v1"]}),
        ("GET", f"/api/v1/predictions?model={OWN}churn", None),
    ],
)
def test_naming_something_private_in_a_request_is_naming_nothing(zoo: Zoo, method: str, path: str, body: Any) -> None:
    """The same answer as for what does not exist, but for the name."""
    text = json.dumps(body) if body is not None else None
    asked = [(path, text), (path.replace(MARK, "nought"), text and text.replace(MARK, "nought"))]
    theirs, nothing = (
        zoo.ask("otto", method, p, content=t, headers={"content-type": "application/json"}) for p, t in asked
    )
    assert theirs.status_code == nothing.status_code, (theirs.text, nothing.text)
    assert theirs.status_code in (400, 404)
    assert theirs.text.replace(MARK, "nought") == nothing.text


NAMED = {
    "source.create": ("/api/v1/sources", {"columns": [{"name": "t", "dtype": "TIMESTAMP"}], "event_time": "t"}),
    "view.apply": ("/api/v1/features/services", {"features": [FEATURE]}),
    "label.create": (
        "/api/v1/labels",
        {"keys": [{"name": "who", "dtype": "STRING"}], "value": {"name": "y", "dtype": "INT64"}},
    ),
    "dataset.create": (
        "/api/v1/datasets",
        {"spine": "SELECT who, moment AS event_time FROM sales", "features": [FEATURE]},
    ),
    "experiment.create": ("/api/v1/experiments", {}),
    "model.create": ("/api/v1/models", {}),
}


@pytest.mark.parametrize("action", sorted(NAMED))
def test_only_a_member_makes_things_in_a_teams_name(zoo: Zoo, action: str) -> None:
    path, body = NAMED[action]
    refused = zoo.ask("otto", "POST", path, json={**body, "name": "zebra.new"})
    assert refused.status_code == 403, refused.text
    assert "in the team zebra" in refused.json()["error"]["message"]
    made = zoo.ask("mia", "POST", path, json={**body, "name": "zebra.new"})
    assert made.status_code == 201, made.text


def test_every_action_whose_object_the_body_names_is_walked() -> None:
    elsewhere = {"run.create", "job.submit", "view.materialize", "team.hide"}
    named = {name for name, action in ACTIONS.items() if action.where == "named"}
    assert elsewhere | set(NAMED) <= named


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/runs", {"experiment": "zebra.new"}),
        ("POST", "/api/v1/jobs", {"command": ["true"], "team": "zebra"}),
        ("POST", "/api/v1/jobs", {"command": ["true"], "experiment": "zebra.new"}),
        ("POST", "/api/v1/features/materialize", {"view": f"{OWN}spend"}),
        ("PUT", "/api/v1/private/model/zebra.new", {}),
        ("PUT", "/api/v1/teams/zebra/members/otto", {"role": "viewer"}),
        ("DELETE", "/api/v1/teams/zebra/members/mia", None),
        ("POST", "/api/v1/teams", {"name": "own"}),
        ("PUT", "/api/v1/teams/everyone/members/otto", {"role": "admin"}),
    ],
)
def test_nobody_reaches_into_another_team(zoo: Zoo, method: str, path: str, body: Any) -> None:
    assert zoo.ask("otto", method, path, json=body).status_code == 403


def test_the_stream_of_events_is_silent_about_what_is_private(zoo: Zoo) -> None:
    otto, mia = (Principal(name=name, role="approver") for name in ("otto", "mia"))
    from mlbox.store.asking import asking

    with asking(None):
        everything = zoo.box.events(limit=1000)
    with asking(mia):
        assert len(zoo.box.visible_events(everything)) > len([e for e in everything if MARK not in str(e)])
    with asking(otto):
        seen = zoo.box.visible_events(everything)
    assert seen
    assert not [event for event in seen if any(secret in event.subject for secret in zoo.secrets())]


def test_every_kind_is_in_the_walk() -> None:
    assert {kind for kind, _ in PRIVATE} == set(get_args(Kind))


MLFLOW = "/api/2.0/mlflow"


def through_mlflow(zoo: Zoo, run: str, own: str) -> list[tuple[str, str, Any]]:
    """Requests of MLflow's client that name something, or search for it."""
    model, experiment = f"{own}churn", f"{own}churn"
    return [
        ("GET", f"experiments/get-by-name?experiment_name={experiment}", None),
        ("GET", f"runs/get?run_id={run}", None),
        ("GET", f"metrics/get-history?run_id={run}&metric_key=auc", None),
        ("GET", f"artifacts/list?run_id={run}", None),
        ("POST", "runs/log-parameter", {"run_id": run, "key": "a", "value": "b"}),
        ("POST", "runs/log-batch", {"run_id": run, "tags": [{"key": "a", "value": "b"}]}),
        ("POST", "runs/update", {"run_id": run, "status": "FAILED"}),
        ("POST", "runs/delete", {"run_id": run}),
        ("GET", f"registered-models/get?name={model}", None),
        ("PATCH", "registered-models/update", {"name": model, "description": "x"}),
        ("POST", "registered-models/rename", {"name": model, "new_name": "taken"}),
        ("DELETE", "registered-models/delete", {"name": model}),
        ("POST", "registered-models/get-latest-versions", {"name": model}),
        ("POST", "registered-models/set-tag", {"name": model, "key": "a", "value": "b"}),
        ("POST", "registered-models/alias", {"name": model, "alias": "champion", "version": "1"}),
        ("GET", f"registered-models/alias?name={model}&alias=champion", None),
        ("GET", f"model-versions/get?name={model}&version=1", None),
        ("GET", f"model-versions/get-download-uri?name={model}&version=1", None),
        ("POST", "model-versions/create", {"name": "mine", "source": f"runs:/{run}/model", "run_id": run}),
        ("POST", "model-versions/create", {"name": "mine", "source": f"models:/{model}/1"}),
        ("POST", "model-versions/transition-stage", {"name": model, "version": "1", "stage": "Archived"}),
        ("POST", "model-versions/set-tag", {"name": model, "version": "1", "key": "a", "value": "b"}),
    ]


def test_what_is_private_is_not_there_for_an_mlflow_client(zoo: Zoo) -> None:
    nowhere = through_mlflow(zoo, "0" * 32, OWN.replace(MARK, "nought"))
    for (method, path, body), (_, other, empty) in zip(through_mlflow(zoo, zoo.private.run, OWN), nowhere, strict=True):
        theirs = zoo.ask("otto", method, f"{MLFLOW}/{path}", json=body)
        nothing = zoo.ask("otto", method, f"{MLFLOW}/{other}", json=empty)
        assert theirs.status_code >= 400, (path, theirs.text)
        said = theirs.text.replace(MARK, "nought").replace(zoo.private.run, "0" * 32)
        assert (theirs.status_code, said) == (nothing.status_code, nothing.text), path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "experiments/search", {"max_results": 1000}),
        ("POST", "experiments/search", {"max_results": 1000, "filter": f"name LIKE '%{MARK}%'"}),
        ("POST", "runs/search", {"experiment_ids": [str(number) for number in range(20)], "max_results": 1000}),
        ("GET", "registered-models/search?max_results=1000", None),
        ("GET", f"registered-models/search?max_results=1000&filter=name LIKE '%{MARK}%'", None),
        ("GET", "model-versions/search?max_results=1000", None),
        ("GET", f"model-versions/search?max_results=1000&filter=name='{OWN}churn'", None),
        ("POST", "logged-models/search", {"experiment_ids": [str(number) for number in range(20)]}),
    ],
)
def test_no_search_of_an_mlflow_client_finds_what_is_private(zoo: Zoo, method: str, path: str, body: Any) -> None:
    answer = zoo.ask("otto", method, f"{MLFLOW}/{path}", json=body)
    assert answer.status_code in (200, 404), answer.text
    assert not [secret for secret in zoo.secrets() if secret in answer.text]
    mine = zoo.ask("mia", method, f"{MLFLOW}/{path}", json=body)
    assert mine.status_code == 200
    if "logged" not in path:
        assert [secret for secret in zoo.secrets() if secret in mine.text], "the walk finds it for a member"


def test_what_is_hidden_after_others_have_read_it_is_absent_from_then_on(zoo: Zoo) -> None:
    """A name that was looked up before is not looked up again; whether it may be seen is asked each time."""
    box, name = zoo.box, "zebra.seen"
    view = box.features.view(FEATURE.partition(":")[0])
    keys = {key.name: "u1" if key.dtype == "STRING" else 1 for key in view.join_keys}
    box.features.apply_service(name, [FEATURE], actor="admin")
    body = {"features": [name], "entities": [keys]}
    path = "/api/v1/features/online"
    assert [zoo.ask(user, "POST", path, json=body).status_code for user in ("mia", "otto", "otto")] == [200, 200, 200]
    box.teams.set_private("service", name, True, actor="admin")
    try:
        assert [zoo.ask(user, "POST", path, json=body).status_code for user in ("mia", "otto")] == [200, 404]
    finally:
        box.teams.set_private("service", name, False, actor="admin")
