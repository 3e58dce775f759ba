"""Webhooks through MLflow's own client: made, listed, changed, tested and told of what happens."""

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.webhook import VALID_ENTITY_ACTIONS
from mlflow.exceptions import MlflowException

SECRET = "a long secret"
EVENTS = [
    "registered_model.created",
    "model_version.created",
    "model_version_tag.set",
    "model_version_tag.deleted",
    "model_version_alias.created",
    "model_version_alias.deleted",
]
got = []


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        got.append((headers, self.rfile.read(int(headers["content-length"]))))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        """Nothing."""


def code_of(call):
    try:
        call()
    except MlflowException as err:
        return err.error_code
    return ""


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
known = {f"{entity}.{action}" for entity, actions in VALID_ENTITY_ACTIONS.items() for action in actions}
of_models = {name for name in known if name.startswith(("registered_model", "model_version"))}
assert of_models == set(EVENTS) == set(os.environ["MLBOX_EVENTS"].split(","))  # what the server takes for MLflow's own

url = f"http://127.0.0.1:{server.server_address[1]}/hook"
client = MlflowClient()

hook = client.create_webhook("chat", url, EVENTS, secret=SECRET, description="d")
assert sorted(str(event) for event in hook.events) == sorted(EVENTS)
quiet = client.create_webhook("two", url, EVENTS[:1], status="DISABLED")
assert client.get_webhook(quiet.webhook_id).status == "DISABLED"
first = client.list_webhooks(max_results=1)
rest = client.list_webhooks(max_results=1, page_token=first.token)
assert [w.name for w in [*first, *rest]] == ["chat", "two"]
assert not rest.token
changed = client.update_webhook(quiet.webhook_id, name="deux", events=["model_version.created"])
assert (changed.name, [str(e) for e in changed.events]) == ("deux", ["model_version.created"])
tested = client.test_webhook(hook.webhook_id, event="model_version_alias.created")
assert (tested.success, tested.response_status, tested.response_body) == (True, 200, "ok")
assert json.loads(got[-1][1])["entity"] == "model_version_alias"
assert code_of(lambda: client.create_webhook("p", url, ["prompt.created"])) == "INVALID_PARAMETER_VALUE"

got.clear()
client.create_registered_model("hooked", description="x")
run = client.create_run("0").info.run_id
Path("weights.bin").write_text("w")
client.log_artifact(run, "weights.bin", "model")
client.create_model_version("hooked", f"runs:/{run}/model", run, tags={"k": "v"})
client.set_model_version_tag("hooked", "1", "k2", "v2")
client.delete_model_version_tag("hooked", "1", "k2")
client.set_registered_model_alias("hooked", "champ", "1")
client.delete_registered_model_alias("hooked", "champ")
end = time.monotonic() + 30
while len(got) < 6 and time.monotonic() < end:
    time.sleep(0.05)
told = [json.loads(body) for _, body in got]
assert [f"{one['entity']}.{one['action']}" for one in told] == EVENTS, told
assert told[1]["data"]["run_id"] == run
for headers, body in got:
    signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert headers["x-mlflow-signature"] == f"v1,{mac}"
client.delete_webhook(hook.webhook_id)
assert code_of(lambda: client.get_webhook(hook.webhook_id)) == "RESOURCE_DOES_NOT_EXIST"
print("HOOKED")
