"""The page of an endpoint: its traffic, and calls that run as they are shown."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from mlbox.settings import Settings
from mlbox.web.box import Box
from tests.conftest import Server, wait_for
from tests.models import linear
from tests.web.served import Site, open_site, sigmoid
from tests.web.test_golden import serve

READY = "/v2/models/score/ready"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = open_site(tmp_path_factory.mktemp("endpoint") / "data")
    made.post("/api/v1/models/score/predict", {"entities": [{"who": "u2"}, {"who": "u3"}]})
    made.post("/api/v1/models/score/predict", {"features": [{"amount": 1.5}]})
    yield made
    made.server.stop()


def page_of(server: Server) -> str:
    """The page of `score` as a member sees it."""
    return server.http.get("/endpoints/score", headers={"accept": "text/html"}).raise_for_status().text


def calls_on(page: str) -> dict[str, str]:
    """The code of each client that a page shows."""
    found = re.findall(r"<summary>([^<:]+)</summary><mlbox-copy><code>(.*?)</code>", page, re.DOTALL)
    return {client: html.unescape(code) for client, code in found}


def test_the_form_holds_what_was_asked_last(site: Site) -> None:
    page = page_of(site.server)
    assert re.search(r'<input name="who" value="u[23]"', page)
    assert re.search(r'<input name="spend@v1:amount" [^>]*value="1.5"', page)


def test_traffic_is_told_by_version(site: Site) -> None:
    table = re.search(r'aria-label="Traffic by version".*?</table>', page_of(site.server), re.DOTALL)
    assert table
    assert "1 row × " in html.unescape(table[0])
    assert "2 rows × 1" in html.unescape(table[0])


def test_the_call_of_curl_is_answered(site: Site) -> None:
    words = shlex.split(calls_on(page_of(site.server))["curl"].replace("\\\n", " "))
    assert (words[0], words[2], words[4]) == ("curl", "-H", "--json")
    header, _, value = words[3].replace("$MLBOX_TOKEN", site.server.token).partition(": ")
    answer = httpx.post(words[1], headers={header: value}, json=json.loads(words[5])).raise_for_status()
    assert answer.json()[0]["score"] in (pytest.approx(sigmoid(2), rel=1e-5), pytest.approx(sigmoid(3), rel=1e-5))


def test_the_call_of_the_sdk_is_answered(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "call.py"
    script.write_text(calls_on(page_of(site.server))["Python"])
    env = {**os.environ, "MLBOX_TOKEN": site.server.token, "HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert 0.8 < json.loads(ran.stdout)[0] < 0.97


def test_a_viewer_is_shown_the_calls_and_no_form(site: Site) -> None:
    viewer = site.user("vic", "viewer")
    page = site.http.get("/endpoints/score", headers={**viewer, "accept": "text/html"}).text
    assert "mlbox-try" not in page
    assert set(calls_on(page)) == {"curl", "Python", "tritonclient"}


def test_what_json_cannot_say_is_shown_as_missing(site: Site) -> None:
    head = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}]}
    said = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(said))}
    infinite = struct.pack("<f", float("inf"))
    site.http.post("/v2/models/score/infer", content=said + infinite, headers=headers).raise_for_status()
    assert re.search(r'<input name="spend@v1:amount" [^>]*value=""', page_of(site.server))


def test_to_look_at_the_page_loads_no_version_that_was_unloaded(tmp_path: Path) -> None:
    """Not even one of which only its file says what it takes: there is no call to show until that is loaded."""
    with closing(Box(Settings(data_dir=str(tmp_path / "data"), gpus="none"), url="http://localhost")) as box:
        serve(box, "score", linear([1.0]), says=False)
    server = Server(tmp_path / "data")
    try:
        wait_for(lambda: server.http.get(READY).status_code == 200, what="it to be loaded at the start")
        assert set(calls_on(page_of(server))) == {"tritonclient"}
        server.http.post("/v2/repository/models/score/unload").raise_for_status()
        assert calls_on(page_of(server)) == {}
        assert server.http.get(READY).status_code == 503
    finally:
        server.stop()
