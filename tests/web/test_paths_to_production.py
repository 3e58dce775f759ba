"""Every way to change a model over the network, tried on versions that may not reach Production: none gets there.

The client of MLflow, the SDK, the command line and the pages have no ways but these routes; what a script with the database's
file may try is in tests/store/test_promotions.py and test_decisions.py. A new route must be added to `BODIES`: the first test
fails until it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from mlbox.clock import parse_time
from mlbox.records import GateResult, ModelVersion
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.web.site import Site, open_box, routes_of

NOW = parse_time("2026-01-01T00:00Z")
PASSED = GateResult(gate="metric", passed=True, required="auc 0.7", measured="auc 0.6", at=NOW)
STATES = ("nothing", "archived", "failed gates", "no approval")
SPEC = {"dataset": "d@v1", "label": "y"}
STAGES = [{"stage": stage} for stage in ("Production", "Staging", "Archived", "None")]
COMMENT = [{"comment": "fine by me"}]
NAME: dict[str, Any] = {"name": "MODEL"}
VERSION: dict[str, Any] = {**NAME, "version": "1"}
TAGS = [{"key": key, "value": "Production"} for key in ("stage", "mlflow.stage", "approved_by", "champion")]
MLFLOW = "/api/2.0/mlflow"
ALIASES = ("champion", "production", "Production", "staging")

BODIES: dict[str, list[dict[str, Any]]] = {
    "POST /api/v1/models": [{"name": "MODEL", "purpose": "Production"}],
    "PATCH /api/v1/models/{model}": [{"purpose": "Production"}, {"stage": "Production"}],
    "DELETE /api/v1/models/{model}": [{}],
    "POST /api/v1/models/{model}/rename": [{"name": "MODEL-production"}],
    "POST /api/v1/models/{model}/versions": [{"run_id": "x", "artifact": "model.onnx", "stage": "Production"}],
    "DELETE /api/v1/models/{model}/versions/{version}": [{}],
    "POST /api/v1/models/{model}/versions/{version}/archive": [{}],
    "POST /api/v1/models/{model}/versions/{version}/promote": [{}, {"state": "completed"}],
    "POST /api/v1/models/{model}/versions/{version}/replays": [{}, {"against": 1}],
    "POST /api/v1/models/{model}/versions/{version}/stage": [*STAGES, {**STAGES[0], "archive_others": True}],
    "POST /api/v1/models/{model}/versions/{version}/approve": COMMENT,
    "POST /api/v1/models/{model}/versions/{version}/reject": COMMENT,
    "POST /api/v1/models/{model}/versions/{version}/reinstate": COMMENT,
    "POST /api/v1/models/{model}/versions/{version}/bench": [{}],
    "POST /api/v1/models/{model}/versions/{version}/score": [{"dataset": "d@v1", "stage": "Production"}],
    "PUT /api/v1/models/{model}/policy": [{"minimum": 0, "guards": [], "shadow_seconds": 0}],
    "POST /api/v1/models/{model}/policy/preview": [{"toml": "minimum = 0"}, {"toml": "stage = 'Production'"}],
    "PUT /api/v1/models/{model}/policy/toml": [{"toml": "guards = []\nshadow_seconds = 0", "follows": 0, "ends": []}],
    "POST /api/v1/models/{model}/card": [{"intended_use": "Production"}, {"stage": "Production"}],
    "POST /api/v1/models/{model}/versions/{version}/release": [{}, {"stage": "Production"}],
    "PATCH /api/v1/models/{model}/serving": [{"stage": "Production"}, {"version": 1}],
    "POST /api/v1/models/{model}/compare": [{"first": 1, "second": 1, "spec": SPEC}],
    "POST /api/v1/models/{model}/predict": [{"features": [{"a": 1}], "version": 1}],
    "PUT /api/v1/models/{model}/aliases/{alias}": [{"version": 1}],
    "DELETE /api/v1/models/{model}/aliases/{alias}": [{}],
    **{
        f"POST /api/v1/promotions/{{promotion_id}}/{act}": COMMENT
        for act in ("approve", "reject", "withdraw", "roll-back", "pause", "resume", "freeze", "advance")
    },
    "POST /v2/models/{model}/infer": [{"inputs": []}],
    "POST /v2/models/{model}/versions/{version}/infer": [{"inputs": []}],
    "POST /v2/repository/index": [{}],
    "POST /v2/repository/models/{model}/load": [{"parameters": {"stage": "Production"}}],
    "POST /v2/repository/models/{model}/unload": [{}],
    f"POST {MLFLOW}/registered-models/create": [NAME],
    f"PATCH {MLFLOW}/registered-models/update": [{**NAME, "description": "Production"}],
    f"POST {MLFLOW}/registered-models/rename": [{**NAME, "new_name": "MODEL-x"}],
    f"DELETE {MLFLOW}/registered-models/delete": [NAME],
    f"POST {MLFLOW}/registered-models/get-latest-versions": [{**NAME, "stages": ["Production"]}],
    f"POST {MLFLOW}/registered-models/set-tag": [{**NAME, **tag} for tag in TAGS],
    f"DELETE {MLFLOW}/registered-models/delete-tag": [{**NAME, "key": "stage"}],
    f"POST {MLFLOW}/registered-models/alias": [{**VERSION, "alias": alias} for alias in ALIASES],
    f"DELETE {MLFLOW}/registered-models/alias": [{**NAME, "alias": "champion"}],
    f"POST {MLFLOW}/model-versions/create": [{**NAME, "source": "runs:/x/model", "stage": "Production"}],
    f"PATCH {MLFLOW}/model-versions/update": [{**VERSION, "description": "x", "current_stage": "Production"}],
    f"POST {MLFLOW}/model-versions/transition-stage": [
        {**VERSION, **stage, "archive_existing_versions": archive} for stage in STAGES for archive in (True, False)
    ],
    f"DELETE {MLFLOW}/model-versions/delete": [VERSION],
    f"POST {MLFLOW}/model-versions/set-tag": [{**VERSION, **tag} for tag in TAGS],
    f"DELETE {MLFLOW}/model-versions/delete-tag": [{**VERSION, "key": "stage"}],
}
DECIDING = ("/approve", "/reject", "/advance")


class Callers:
    """The app as several people's clients see it."""

    def __init__(self, box: Box) -> None:
        self.site = Site(box, "")
        self.tokens = {
            name: box.access.create_token(name, "test", actor="admin")[1] for name in ("ada", "grace", "admin")
        }

    def ask(self, person: str, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.site.request(method, path, headers=self.headers(person), json=body)

    def headers(self, person: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[person]}", "accept": "application/json"}


@pytest.fixture(scope="module")
def callers(box: Box) -> Callers:
    return Callers(box)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """`ada` trains, and may approve what others trained; `grace` may approve."""
    box = open_box(Path(tmp_path_factory.mktemp("box") / "data"))
    for name in ("ada", "grace"):
        box.access.create_user(name, "approver", actor="admin")
    yield box
    box.close()


READING = ("model.read", "model.predict")
"""Who may only do these may change nothing; the routes for them that are known to be asked with versions are tried, too."""


def paths(box: Box, *but: str) -> set[str]:
    """Every route that may change something of models, but for what these actions let do."""
    return {
        f"{method} {_plain(route.path)}"
        for route in routes_of(box)
        for handler in route.route_handlers
        if str(handler.opt.get("action", "")).startswith("model.") and handler.opt["action"] not in but
        for method in handler.http_methods
        if method not in ("GET", "HEAD", "OPTIONS")
    }


def _plain(path: str) -> str:
    return path.replace("/ajax-api/", "/api/").replace(":str}", "}").replace(":int}", "}")


def test_every_path_is_tried(box: Box) -> None:
    assert paths(box, *READING) <= set(BODIES) <= paths(box)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("path", sorted(BODIES))
def test_no_path_leads_to_production_past_the_rule(box: Box, callers: Callers, path: str, state: str) -> None:
    method, _, route = path.partition(" ")
    for person in ("ada", "admin"):
        if person != "ada" and route.endswith(DECIDING) and state == "no approval":
            continue  # that is the path which leads there
        for count, body in enumerate(BODIES[path]):
            model = "-".join(["m", *state.split(), person, str(count), str(sorted(BODIES).index(path))])
            version, promotion = make(box, model, state)
            filled = route.format(model=model, version=1, alias="champion", promotion_id=promotion)
            answer = callers.ask(person, method, filled, _named(body, model))
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            assert_nothing_is_in_production(box, version)


def test_the_trainers_approval_changes_nothing_and_anothers_is_what_it_takes(box: Box, callers: Callers) -> None:
    version, promotion = make(box, "road", "no approval")
    path = f"/api/v1/promotions/{promotion}/approve"
    refused = callers.ask("ada", "POST", path, {"comment": "mine"})
    assert refused.status_code in (403, 409)
    assert "ada trained" in refused.text
    assert_nothing_is_in_production(box, version)
    answer = callers.ask("grace", "POST", path, {"comment": "good"})
    assert answer.status_code == 200
    assert box.registry.version("road", 1).stage == "Production"


def test_who_made_a_version_is_whose_token_it_was_whatever_the_client_says(box: Box, callers: Callers) -> None:
    claims = {"user_id": "grace", "tags": [{"key": "mlflow.user", "value": "grace"}]}
    run = callers.ask("ada", "POST", f"{MLFLOW}/runs/create", claims).json()["run"]["info"]["run_id"]
    path = f"/api/v1/runs/{run}/artifacts/model/MLmodel"
    assert callers.site.request("PUT", path, headers=callers.headers("ada"), content=b"weights").status_code < 300
    body = {"name": "claimed", "source": f"runs:/{run}/model", "run_id": run, **claims}
    for step in ("registered-models/create", "model-versions/create"):
        assert callers.ask("ada", "POST", f"{MLFLOW}/{step}", body).status_code == 200
    version = box.registry.version("claimed", 1)
    assert (version.trained_by, version.submitted_by) == ("ada", "ada")
    promotion = box.promotions.propose(version, actor="admin").id
    box.promotions.record_gates(promotion, [PASSED])
    refused = callers.ask("ada", "POST", f"/api/v1/promotions/{promotion}/approve", {"comment": "grace made it"})
    assert (refused.status_code, "ada trained and submitted" in refused.text) == (403, True)
    assert_nothing_is_in_production(box, version)


def make(box: Box, model: str, state: str) -> tuple[ModelVersion, str]:
    """A version that ada trained, so far on its way, and its promotion."""
    version = box.registry.register(NewVersion(model=model, trained_by="ada", submitted_by="ada"))
    if state in ("nothing", "archived"):
        if state == "archived":
            version = box.registry.archive(model, 1, actor="ada")
        return version, "0" * 32
    promotion = box.promotions.propose(version, actor="ada")
    box.promotions.record_gates(promotion.id, [replace(PASSED, passed=state != "failed gates")])
    return version, promotion.id


def _named(body: dict[str, Any], model: str) -> dict[str, Any]:
    return {name: value.replace("MODEL", model) if isinstance(value, str) else value for name, value in body.items()}


def assert_nothing_is_in_production(box: Box, version: ModelVersion) -> None:
    """Neither by its stage nor by what would answer."""
    assert not [found for found in box.registry.in_stage("Production") if found.id == version.id]
    assert not [endpoint for endpoint in box.rollouts.endpoints() if endpoint.model.startswith(version.model)]
