"""Silences, rules and channels over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlbox.web.box import Box
from tests.conftest import wait_for
from tests.serve.test_courier import Receiver
from tests.web.monitored import in_production, served
from tests.web.site import Site, open_box

RULES = """
[channel.ops]
type = "slack"
url = "{url}"
[rule.default]
channels = ["ops"]
owner = "ann"
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Box]:
    folder: Path = tmp_path_factory.mktemp("alerts")
    (folder / "alerts.toml").write_text(RULES.format(url=receiver.url))
    opened = open_box(folder / "data", alert_rules=str(folder / "alerts.toml"), outgoing_allow=("127.0.0.1",))
    yield opened
    opened.close()


def by_token(box: Box) -> dict[str, str]:
    token = (box.data_dir.root / "admin-token").read_text().strip()
    return {"authorization": f"Bearer {token}", "accept": "application/json"}


def test_from_a_shift_of_what_is_served_to_a_message(box: Box, receiver: Receiver) -> None:
    in_production(box)
    served(box, np.full(200, 50.0))
    box.monitor.check("delay")
    wait_for(lambda: receiver.got, what="a message")
    text = receiver.got[0]["text"]
    assert "weather@v1:temp of delay drifts: D = 1.000 over 200 rows, against 500 that version 1 learned from" in text
    assert "weather@v1:temp is higher: half of its values are above 50" in text, "where they went"
    assert text.endswith("/monitoring/delay"), "and where to look"
    (found,) = wait_for(
        lambda: [
            one for one in Site(box).get("/api/v1/alerts/channels/ops/deliveries").json() if one["state"] == "delivered"
        ],
        what="a delivery that is noted",
    )
    assert found["address"] == "channel:ops"


def test_a_silence_is_made_listed_and_ended(box: Box) -> None:
    site = Site(box, user="")
    asked = {"labels": {"model": "delay"}, "for_seconds": 3600, "reason": "backfill"}
    made = site.request("POST", "/api/v1/silences", headers=by_token(box), json=asked)
    assert made.status_code == 201
    own = made.json()["id"]
    assert [one["reason"] for one in site.get("/api/v1/silences", headers=by_token(box)).json()] == ["backfill"]
    assert site.request("DELETE", f"/api/v1/silences/{own}", headers=by_token(box)).status_code == 204
    (ended,) = site.get("/api/v1/silences", headers=by_token(box)).json()
    assert ended["expires_at"] < made.json()["expires_at"]
    refused = site.request("POST", "/api/v1/silences", headers=by_token(box), json={**asked, "reason": ""})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "reason")


def test_the_rules_in_force_are_told_and_no_address(box: Box, receiver: Receiver) -> None:
    answer = Site(box).get("/api/v1/alerts/rules")
    assert answer.json()["channels"] == {"ops": "slack"}
    assert answer.json()["rules"]["staleness"]["owner"] == "ann"
    assert receiver.url not in answer.text


def test_a_channel_that_is_not_there_is_not_found(box: Box) -> None:
    assert (
        Site(box, user="").request("POST", "/api/v1/alerts/channels/pager/test", headers=by_token(box)).status_code
        == 404
    )


def test_rules_are_written_by_an_admin_alone_and_shown_to_all(box: Box, receiver: Receiver) -> None:
    site = Site(box, user="")
    path = "/api/v1/alerts/rules/text"
    text = '[rule.staleness]\nchannels = ["ops"]\nfor = "2h"\n'
    written = site.request("PUT", path, headers=by_token(box), json={"text": text, "revision": 0}).json()
    assert (written["text"], written["by"]) == (text, "admin")
    assert site.get("/api/v1/alerts/rules", headers=by_token(box)).json()["rules"]["staleness"]["for"] == "2h"
    stale = site.request("PUT", path, headers=by_token(box), json={"text": "", "revision": 0})
    assert (stale.status_code, stale.json()["error"]["field"]) == (409, "revision")
    wrong = site.request("PUT", path, headers=by_token(box), json={"text": "[rule.stalenes]"})
    assert wrong.status_code == 400
    assert "Did you mean staleness" in wrong.json()["error"]["hint"]
    page = Site(box).get("/alerts").text
    assert "Put in force" in page
    assert 'action="/api/v1/alerts/channels/ops/test"' in page
    box.access.create_user("vera", "viewer", actor="admin")
    viewer = Site(box, user="vera")
    assert viewer.get(path).status_code == 403
    seen = viewer.get("/alerts").text
    assert "2h" in seen
    assert "Put in force" not in seen
    assert receiver.url not in seen
