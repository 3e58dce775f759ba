"""Batch scoring by a real server, a real job and the command line: the scores are a dataset version."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import wait_for
from tests.web.served import Site, ok, open_site, sigmoid


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = open_site(tmp_path_factory.mktemp("score") / "data")
    yield made
    made.server.stop()


def command(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    return site.server.command("model", "score", *arguments)


def result(site: Site, ran: subprocess.CompletedProcess[str], name: str, folder: Path) -> tuple[dict[str, Any], Any]:
    """The dataset version that a job made, and its rows."""
    assert ran.returncode == 0, ran.stderr
    job = json.loads(ran.stdout)["id"]
    ended = wait_for(lambda: (j := site.http.get(f"/api/v1/jobs/{job}").json())["ended_at"] and j, what="the job")
    assert ended["state"] == "succeeded", site.http.get(f"/api/v1/jobs/{job}/log").text
    version = ok(site.http.get(f"/api/v1/datasets/{name}"))
    assert version["parents"]
    assert version["tags"] == {"mlbox.model": "score/2"}
    (file,) = [file["path"] for file in version["files"] if file["path"].endswith(".parquet")]
    path = folder / "scores.parquet"
    path.write_bytes(site.http.get(f"/api/v1/datasets/{version['name']}@v{version['version']}/files/{file}").content)
    return version, pq.read_table(path)


def test_a_dataset_is_scored_by_a_version_that_serves_nobody(site: Site, tmp_path: Path) -> None:
    assert site.register(2.0)["version"] == 2
    before = len(site.http.get("/api/v1/predictions?model=score").json())
    version, table = result(
        site, command(site, "score@2", "--dataset", "sales@v1", "-o", "json"), "score-scores", tmp_path
    )
    assert version["parents"] == ["sales@v1"]
    assert table.num_rows == site.dataset["rows"]
    assert {"who", "event_time", "good", "score", "model_version"} == set(table.column_names)
    amounts = {row["who"]: row["score"] for row in table.to_pylist()}
    assert amounts["u0"] in [pytest.approx(sigmoid(2 * n), rel=1e-5) for n in (0, 20, 40)]
    assert len(site.http.get("/api/v1/predictions?model=score").json()) == before, "nothing was served"


def test_a_query_is_put_together_with_the_versions_features_first(site: Site, tmp_path: Path) -> None:
    sql = "SELECT who, moment AS event_time FROM sales WHERE who = 'u3'"
    ran = command(site, "score/2", "--query", sql, "--as", "three", "-o", "json")
    version, table = result(site, ran, "three", tmp_path)
    assert version["parents"] == ["three-input@v1"]
    assert set(table["who"].to_pylist()) == {"u3"}


def test_what_cannot_be_scored_is_refused_at_once(site: Site) -> None:
    for arguments, words in (
        (("score", "--dataset", "sales@v1"), "is not MODEL@VERSION"),
        (("score@2",), "either --dataset or --query"),
        (("score@99", "--dataset", "sales@v1"), "99"),
        (("score@2", "--dataset", "nope@v1"), "nope"),
    ):
        ran = command(site, *arguments)
        assert (ran.returncode != 0, words in ran.stderr) == (True, True), ran.stderr
    site.post("/api/v1/datasets", {"name": "bare", "spine": "SELECT who, moment AS event_time FROM sales"})
    ran = command(site, "score@2", "--dataset", "bare@v1")
    assert (ran.returncode, "no column 'spend@v1:amount'" in ran.stderr) == (2, True), ran.stderr
    assert site.http.get("/api/v1/scoring").status_code == 403, "it is for the job"
