"""Webhooks: what happens to models is told once it is on disk, signed, again until it is taken, and also by the next server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.outgoing import Outgoing
from mlbox.records import Principal
from mlbox.serve.alerts.webhooks import EXAMPLES, LONGEST_PAUSE, MOST_TRIES, Deliverer
from mlbox.store import migrations
from mlbox.store.access.secrets import Secrets
from mlbox.store.db import Database
from mlbox.store.keyfile import KeyFile
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.webhooks import NAMES, Webhooks
from mlbox.web.pages.phrases import PHRASES
from tests.conftest import Server, wait_for

API = "/api/2.0/mlflow"
SECRET = "a secret of receivers"
ALL = [
    ("REGISTERED_MODEL", "CREATED"),
    ("MODEL_VERSION", "CREATED"),
    ("MODEL_VERSION_TAG", "SET"),
    ("MODEL_VERSION_TAG", "DELETED"),
    ("MODEL_VERSION_ALIAS", "CREATED"),
    ("MODEL_VERSION_ALIAS", "DELETED"),
]


class Receiver:
    """A real server that keeps what it was told, and answers as it is set to."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(outer.status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?key=private"

    def told(self) -> list[dict[str, Any]]:
        """What came, in order, each delivery once."""
        once = {headers["x-mlflow-delivery-id"]: json.loads(body) for headers, body in self.got}
        return list(once.values())

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def box(make_server: Callable[..., Server]) -> Server:
    return make_server("--outgoing-allow", "127.0.0.1")


@pytest.fixture(scope="module")
def shared(make_shared_server: Callable[..., Server]) -> Server:
    """For what is refused, and so leaves nothing."""
    return make_shared_server()


def hook(box: Server, receiver: Receiver, **more: Any) -> dict[str, Any]:
    body = {
        "name": "chat",
        "url": receiver.url,
        "events": [{"entity": entity, "action": action} for entity, action in ALL],
        "secret": SECRET,
        **more,
    }
    answer = box.http.post(f"{API}/webhooks", json=body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()["webhook"]
    return made


def ask(box: Server, method: str, path: str, **body: Any) -> Any:
    answer = box.http.request(method, f"{API}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def version(box: Server) -> str:
    run = ask(box, "POST", "runs/create", experiment_id="0")["run"]["info"]["run_id"]
    box.http.put(f"/api/v1/runs/{run}/artifacts/model/weights.bin", content=b"w")
    source = f"runs:/{run}/model"
    made = ask(box, "POST", "model-versions/create", name="churn", source=source, run_id=run, description="first")
    number: str = made["model_version"]["version"]
    return number


def test_everything_that_happens_to_a_model_is_told_in_order_and_signed(box: Server, receiver: Receiver) -> None:
    made = hook(box, receiver)
    assert "secret" not in json.dumps(made)
    ask(box, "POST", "registered-models/create", name="churn", description="who leaves")
    number = version(box)
    ask(box, "POST", "model-versions/set-tag", name="churn", version=number, key="k", value="v")
    ask(box, "DELETE", "model-versions/delete-tag", name="churn", version=number, key="k")
    ask(box, "POST", "registered-models/alias", name="churn", version=number, alias="best")
    ask(box, "DELETE", "registered-models/alias", name="churn", alias="best")
    wait_for(lambda: len(receiver.told()) >= 6, what="six events")
    told = receiver.told()
    assert [(one["entity"].upper(), one["action"].upper()) for one in told] == ALL
    assert told[0]["data"] == {"name": "churn", "tags": {}, "description": "who leaves"}
    assert {"name": "churn", "version": number, "description": "first"}.items() <= told[1]["data"].items()
    assert told[1]["data"]["source"].endswith("/model")
    assert told[2]["data"] == {"name": "churn", "version": number, "key": "k", "value": "v"}
    assert told[4]["data"] == {"name": "churn", "version": number, "alias": "best"}
    assert told[5]["data"] == {"name": "churn", "alias": "best"}
    for headers, body in receiver.got:
        signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.".encode() + body
        mac = hmac.digest(SECRET.encode(), signed, hashlib.sha256)
        assert headers["x-mlflow-signature"] == "v1," + base64.b64encode(mac).decode()
    audit = box.http.get("/api/v1/audit", params={"type": "webhook.created"}).text
    assert "private" not in audit
    kept = b"".join(path.read_bytes() for path in box.data_dir.glob("*.sqlite*"))
    assert SECRET.encode() not in kept


def test_what_was_not_taken_is_told_again_also_by_the_next_server(
    box: Server, receiver: Receiver, make_server: Callable[..., Server]
) -> None:
    hook(box, receiver)
    receiver.status = 503
    ask(box, "POST", "registered-models/create", name="churn")
    wait_for(lambda: receiver.got, what="a first try")
    box.stop(signal.SIGKILL)
    receiver.status = 200
    before = len(receiver.got)
    again = make_server("--outgoing-allow", "127.0.0.1", data_dir=box.data_dir)
    wait_for(lambda: len(receiver.got) > before, what="another try")
    assert [one["data"]["name"] for one in receiver.told()] == ["churn"]
    ask(again, "POST", "registered-models/create", name="fraud")
    wait_for(lambda: len(receiver.told()) == 2, what="the next event")


def test_a_webhook_that_refuses_loses_that_event_and_goes_on(box: Server, receiver: Receiver) -> None:
    hook(box, receiver)
    receiver.status = 400
    ask(box, "POST", "registered-models/create", name="churn")
    wait_for(
        lambda: box.http.get("/api/v1/audit", params={"type": "webhook.failed"}).json() or None, what="the failure"
    )
    receiver.status = 200
    ask(box, "POST", "registered-models/create", name="fraud")
    wait_for(lambda: len(receiver.told()) == 2, what="the next event")


def test_a_test_event_says_what_was_answered(box: Server, receiver: Receiver) -> None:
    own = hook(box, receiver)["webhook_id"]
    done = ask(box, "POST", f"webhooks/{own}/test")["result"]
    assert (done["success"], done["response_status"], done["response_body"]) == (True, 200, "ok")
    receiver.status = 500
    assert ask(box, "POST", f"webhooks/{own}/test")["result"]["success"] is False
    assert len(receiver.got) == 2


def test_webhooks_are_listed_changed_and_deleted(box: Server, receiver: Receiver) -> None:
    ids = [hook(box, receiver, name=f"h{n}")["webhook_id"] for n in range(3)]
    page = box.http.get(f"{API}/webhooks", params={"max_results": 2}).json()
    rest = box.http.get(f"{API}/webhooks", params={"max_results": 2, "page_token": page["next_page_token"]}).json()
    assert [w["webhook_id"] for w in page["webhooks"] + rest["webhooks"]] == ids
    assert "next_page_token" not in rest
    changed = ask(box, "PATCH", f"webhooks/{ids[0]}", status="DISABLED", name="quiet")["webhook"]
    assert (changed["status"], changed["name"], changed["url"]) == ("DISABLED", "quiet", receiver.url)
    ask(box, "DELETE", f"webhooks/{ids[1]}")
    ask(box, "DELETE", f"webhooks/{ids[2]}")
    assert box.http.get(f"{API}/webhooks/{ids[1]}").status_code == 404
    ask(box, "POST", "registered-models/create", name="churn")
    ask(box, "PATCH", f"webhooks/{ids[0]}", status="ACTIVE")
    ask(box, "POST", "registered-models/create", name="fraud")
    wait_for(lambda: receiver.got, what="an event")
    assert [one["data"]["name"] for one in receiver.told()] == ["fraud"]


@pytest.mark.parametrize(
    "more",
    [
        {"url": "ftp://x/y"},
        {"url": "x"},
        {"url": "http://user:pw@host/"},
        {"url": "http://h/" + "x" * 3000},
        {"events": []},
        {"events": [{"entity": "PROMPT", "action": "CREATED"}]},
        {"events": [{"entity": "REGISTERED_MODEL", "action": "DELETED"}]},
        {"name": ""},
        {"name": "bad name!"},
        {"name": "n" * 64},
        {"secret": "short"},
        {"status": "ODD"},
    ],
)
def test_what_is_no_webhook_is_refused(shared: Server, more: dict[str, Any]) -> None:
    body = {
        "name": "n",
        "url": "http://8.8.8.8/hook",
        "events": [{"entity": "MODEL_VERSION", "action": "CREATED"}],
        **more,
    }
    answer = shared.http.post(f"{API}/webhooks", json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), answer.text
    assert shared.http.get(f"{API}/webhooks").json()["webhooks"] == []


def test_an_address_inside_is_not_asked(make_server: Callable[..., Server], receiver: Receiver, tmp_path: Path) -> None:
    allowed = make_server("--outgoing-allow", "127.0.0.1")
    own = hook(allowed, receiver)["webhook_id"]
    allowed.stop()
    box = make_server(data_dir=allowed.data_dir)
    done = ask(box, "POST", f"webhooks/{own}/test")["result"]
    assert done["success"] is False
    assert "--outgoing-allow" in done["error_message"]
    for method, path in (("POST", "webhooks"), ("PATCH", f"webhooks/{own}")):
        given = {"name": "n", "url": receiver.url, "events": [{"entity": "MODEL_VERSION", "action": "CREATED"}]}
        answer = box.http.request(method, f"{API}/{path}", json=given)
        assert answer.status_code == 403
        assert "--outgoing-allow 127.0.0.1" in answer.json()["message"]
    assert [one["name"] for one in box.http.get(f"{API}/webhooks").json()["webhooks"]] == ["chat"]
    assert receiver.got == []


def test_every_event_of_a_promotion_can_be_told() -> None:
    assert {name for name in PHRASES if name.startswith("promotion.")} <= set(NAMES)
    assert set(EXAMPLES) == set(NAMES)


def test_a_promotion_is_told_step_by_step_and_each_delivery_is_recorded(box: Server, receiver: Receiver) -> None:
    events = [{"entity": "PROMOTION", "action": name} for name in ("PROPOSED", "WAITING_APPROVAL", "WITHDRAWN")]
    made = hook(box, receiver, events=[*events, {"entity": "MODEL_VERSION", "action": "STAGE_CHANGED"}])
    assert made["events"] == []  # MLflow's client would not know them
    assert set(made["mlbox_events"]) == {
        *("promotion.proposed", "promotion.waiting_approval", "promotion.withdrawn", "model_version.stage_changed"),
    }
    ask(box, "POST", "registered-models/create", name="churn")
    number = version(box)
    path = f"/api/v1/models/churn/versions/{number}/promote"
    promotion = box.http.post(path).json()["id"]
    page = f"/api/v1/promotions/{promotion}"
    wait_for(lambda: box.http.get(page).json()["state"] == "waiting_approval", what="the gates")
    assert box.http.post(f"{page}/withdraw", json={"comment": "a mistake"}).status_code == 200
    wait_for(lambda: len(receiver.told()) >= 5, what="five events")
    told = [(one["entity"], one["action"]) for one in receiver.told()]
    assert told == [
        ("promotion", "proposed"),
        ("promotion", "waiting_approval"),
        ("model_version", "stage_changed"),
        ("promotion", "withdrawn"),
        ("model_version", "stage_changed"),
    ]
    last = receiver.told()[3]["data"]
    assert last == {
        "name": "churn",
        "version": number,
        "state": "withdrawn",
        "promotion": promotion,
        "reason": "a mistake",
    }
    found = f"{API}/webhooks/{made['webhook_id']}/deliveries"
    kept = wait_for(lambda: len(k := box.http.get(found).json()["deliveries"]) == 5 and k, what="five deliveries")
    assert {(one["state"], one["status"], one["tries"]) for one in kept} == {("delivered", "200", 1)}
    assert kept[0]["event"] == "model_version.stage_changed"


def test_a_long_outage_loses_one_event_and_not_those_behind_it(receiver: Receiver, tmp_path: Path) -> None:
    """Each event has its own tries: driven by hand, so that an hour of pauses takes none."""
    clock, bus = ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), EventBus()
    db = Database(tmp_path / "registry.sqlite", migrations.registry, clock, bus)
    kept = Database(tmp_path / "secrets.sqlite", migrations.secrets, clock, bus)
    registry = Registry(db)
    hooks = Webhooks(db, Secrets(kept, KeyFile(tmp_path / "key"), lambda user, team: True))
    deliverer = Deliverer(
        hooks, lambda: Outgoing(["127.0.0.1"]), lambda name: Principal(name=name, role="admin"), clock, bus
    )
    hooks.create("chat", receiver.url, ["registered_model.created"], owner="root")
    for name in "abc":
        registry.create_model(name, actor="root")
    receiver.status = 503
    for _ in range(MOST_TRIES):
        deliverer.deliver()
        clock.advance(clock.real() + timedelta(seconds=LONGEST_PAUSE))
    (hook,) = hooks.all()
    assert (hook.lost, hook.tries) == (1, 1)
    receiver.status, before = 200, len(receiver.got)
    while deliverer.deliver():
        pass
    (hook,) = hooks.all()
    assert [json.loads(body)["data"]["name"] for _, body in receiver.got[before:]] == ["b", "c"]
    assert (hook.status, hook.lost) == ("200", 1)
    deliverer.close()
    db.close()
    kept.close()
