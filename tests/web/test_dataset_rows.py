"""Rows of datasets over HTTP: kept as a whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from tests.conftest import Server, wait_for
from tests.store.test_ingest import as_parquet, as_stream

ROWS = pa.table({"who": ["a", "b"], "event_time": pa.array([0, 86_400_000_000], pa.timestamp("us")), "x": [1.5, None]})


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = Server(tmp_path_factory.mktemp("box") / "data", env={"MLBOX_MAX_DATASET": "2000000"})
    yield server
    server.stop()


def send(box: Server, name: str, body: bytes, format: str = "parquet", **query: str) -> httpx.Response:
    return box.http.post(f"/api/v1/datasets/{name}/rows", params={"format": format, **query}, content=body, timeout=120)


def left(box: Server) -> list[Path]:
    folders = [box.data_dir / "uploads", box.data_dir / "artifacts" / "tmp"]
    return [file for folder in folders if folder.exists() for file in folder.iterdir()]


def test_the_same_rows_in_another_format_are_the_same_version(box: Server) -> None:
    body = as_parquet(ROWS)
    made = send(box, "same", body, sha256=hashlib.sha256(body).hexdigest())
    assert made.status_code == 201, made.text
    again = send(box, "same", as_stream(ROWS), "arrow")
    assert (again.json()["version"], again.json()["hash"]) == (1, made.json()["hash"])
    assert left(box) == []


@pytest.mark.parametrize(
    ("body", "query", "status", "field"),
    [
        (as_parquet(ROWS), {"sha256": "0" * 64}, 400, "sha256"),
        (as_parquet(ROWS)[:-30], {}, 400, "body"),
        (as_parquet(ROWS.slice(0, 0)), {}, 400, "body"),
        (b"x" * 2_000_001, {"format": "csv"}, 413, "body"),
        (as_parquet(ROWS), {"about": json.dumps({"split": {"by": "hash", "keys": ["no"], "parts": []}})}, 400, "split.parts"),
        (as_parquet(ROWS), {"about": json.dumps({"parents": ["no@v1"]})}, 404, "dataset"),
        (as_parquet(ROWS), {"about": json.dumps({"splt": {"by": "hash"}})}, 400, "about"),
    ],
    ids=["hash", "cut", "empty", "large", "split", "parent", "misspelt"],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(
    box: Server, body: bytes, query: dict[str, str], status: int, field: str
) -> None:
    answer = send(box, "refused", body, **query)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["field"] == field
    assert box.http.get("/api/v1/datasets/refused").status_code == 404
    assert left(box) == []


def test_an_upload_that_is_cut_off_leaves_nothing(box: Server) -> None:
    url = httpx.URL(box.url)
    with socket.create_connection((url.host, url.port)) as wire:
        wire.sendall(
            b"POST /api/v1/datasets/cut/rows?format=csv HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Authorization: Bearer "
            + box.token.encode()
            + b"\r\nContent-Length: 1900000\r\n\r\na\n"
            + b"1\n" * 700_000
        )
        wait_for(lambda: left(box), what="the upload to be under way")
    wait_for(lambda: not left(box), what="the upload to be dropped")
    assert box.http.get("/api/v1/datasets/cut").status_code == 404


def test_two_creators_at_once_have_a_version_each(make_server: Callable[..., Server], box: Server) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bodies = [as_parquet(ROWS.set_column(2, "x", pa.array([float(n), None]))) for n in (1, 2, 1, 2)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda body: send(box, "race", body), bodies))
    assert {answer.status_code for answer in answers} == {201}, [answer.text for answer in answers]
    versions = [answer.json()["version"] for answer in answers]
    assert set(versions) == {1, 2}
    assert (versions[0], versions[1]) == (versions[2], versions[3])
