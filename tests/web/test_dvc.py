"""DVC's remote on the wire: what is pushed is verified and kept once, whoever goes away, and for whom it is."""

from __future__ import annotations

import hashlib
import io
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import Server, wait_for

MIB = 1 << 20


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("dvc") / "data")
    yield server
    server.stop()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def address(oid: str, team: str = "") -> str:
    return f"/dvc/{team}/files/md5/{oid[:2]}/{oid[2:]}" if team else f"/dvc/files/md5/{oid[:2]}/{oid[2:]}"


def chunked(content: bytes, size: int = 65_536) -> Iterator[bytes]:
    """As DVC sends: in chunks, without a Content-Length."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def push(
    box: Server, content: bytes, *, oid: str = "", team: str = "", method: str = "PUT", **more: Any
) -> httpx.Response:
    return box.http.request(method, address(oid or md5(content), team), content=chunked(content), **more)


def push_folder(box: Server, files: dict[str, bytes], **more: Any) -> str:
    """Push a directory as DVC does, the listing last; its name."""
    for content in files.values():
        assert push(box, content, **more).status_code == 200
    listing = [{"md5": md5(files[path]), "relpath": path} for path in sorted(files)]
    body = json.dumps(listing).encode()
    oid = f"{md5(body)}.dir"
    assert push(box, body, oid=oid, **more).status_code == 200
    return oid


def kept(box: Server) -> set[str]:
    """The artifact store's files, the temporary ones among them."""
    root = box.data_dir / "artifacts"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# -- the protocol -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_object_is_pushed_asked_for_and_read(box: Server, method: str) -> None:
    content = f"pushed by {method}".encode() * 1000
    where = address(md5(content))
    assert box.http.get(where).status_code == 404
    assert box.http.head(where).status_code == 404
    for _ in range(2):
        pushed = push(box, content, method=method)
        assert (pushed.status_code, pushed.json()) == (200, {"md5": md5(content), "size": len(content)})
    head = box.http.head(where)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(content)), b"")
    read = box.http.get(where)
    assert (read.status_code, read.content) == (200, content)
    assert read.headers["content-disposition"].startswith("attachment")
    part = box.http.get(where, headers={"Range": "bytes=7-16"})
    assert (part.status_code, part.content) == (206, content[7:17])
    assert box.http.get(where, headers={"Range": f"bytes={len(content)}-"}).status_code == 416


def test_there_is_nothing_at_the_root_and_that_is_said_cleanly(box: Server) -> None:
    for path in ("/dvc", "/dvc/", "/dvc/files/md5", "/dvc/files/md5/", "/dvc/files/md5/00", "/dvc/everyone/files/md5"):
        answer = box.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path


def test_a_listing_and_a_file_of_the_same_bytes_are_two_objects(box: Server) -> None:
    """A listing that is there tells DVC that all of its files are; a plain file of that content tells nothing."""
    body = b'[{"md5": "00000000000000000000000000000000", "relpath": "absent"}]'
    push(box, body)
    assert box.http.get(address(md5(body))).status_code == 200
    assert box.http.get(address(f"{md5(body)}.dir")).status_code == 404


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 3 * MIB), seed=st.binary(min_size=1, max_size=64), chunk=st.integers(1000, 2 * MIB))
@example(size=0, seed=b"0", chunk=1000)
@example(size=MIB - 1, seed=b"1", chunk=MIB)
@example(size=MIB, seed=b"2", chunk=MIB)
@example(size=MIB + 1, seed=b"3", chunk=MIB)
@example(size=2 * MIB, seed=b"4", chunk=MIB - 1)
def test_whatever_is_pushed_comes_back_in_every_size(box: Server, size: int, seed: bytes, chunk: int) -> None:
    content = (seed * (size // len(seed) + 1))[:size]
    where = address(md5(content))
    assert box.http.put(where, content=chunked(content, chunk)).status_code == 200
    assert box.http.get(where).content == content
    assert box.http.head(where).headers["content-length"] == str(size)


@pytest.mark.parametrize("sent", [b"", b"short", b"x" * (3 * MIB)])
def test_another_content_than_the_name_says_is_refused_and_not_kept(box: Server, sent: bytes) -> None:
    before, named = kept(box), md5(b"what was meant")
    for oid in (named, f"{named}.dir"):
        answer = push(box, sent, oid=oid)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "md5")
        assert md5(sent) in answer.json()["error"]["message"]
        assert box.http.get(address(oid)).status_code == 404
    assert kept(box) == before


@pytest.mark.parametrize(
    "oid", ["A" * 32, "0" * 31, "0" * 33, "0" * 32 + ".DIR", "0" * 32 + ".dir.dir", "0" * 31 + "g", "..%2F..%2Fx"]
)
def test_a_name_that_is_no_md5_names_nothing(box: Server, oid: str) -> None:
    assert box.http.get(address(oid)).status_code in (400, 404)
    assert box.http.put(address(oid), content=b"x").status_code in (400, 404)


# -- who goes away ------------------------------------------------------------------------------------------------------------


def raw(box: Server, method: str, path: str, *headers: str) -> socket.socket:
    url = httpx.URL(box.url)
    connection = socket.create_connection((url.host, url.port or 80), timeout=60)
    lines = (f"{method} {path} HTTP/1.1", f"Host: {url.host}", f"Authorization: Bearer {box.token}", *headers, "", "")
    connection.sendall("\r\n".join(lines).encode())
    return connection


def descriptors(box: Server) -> int:
    return len(list(Path(f"/proc/{box.process.pid}/fd").iterdir()))


def test_a_read_that_is_broken_off_leaves_nothing_open(box: Server) -> None:
    content = b"0123456789abcdef" * (2 * MIB)
    assert push(box, content).status_code == 200
    where = address(md5(content))
    before = descriptors(box)
    for _ in range(20):
        with raw(box, "GET", where) as connection:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
    wait_for(lambda: descriptors(box) <= before + 1, what="the files to be closed")
    assert box.http.get(where).content == content
    assert "Traceback" not in box.log


def test_an_upload_that_is_broken_off_is_not_there_and_can_be_sent_again(box: Server) -> None:
    content = b"half of it" * MIB
    before, where = kept(box), address(md5(content))
    with raw(box, "PUT", where, "Transfer-Encoding: chunked") as connection:
        for chunk in chunked(content[: 5 * MIB]):
            connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        wait_for(lambda: len(kept(box)) > len(before), what="the upload to begin")
    wait_for(lambda: kept(box) == before, what="the half to be dropped")
    assert box.http.get(where).status_code == 404
    assert push(box, content).status_code == 200
    assert box.http.get(where).content == content


def test_many_push_the_same_and_others_at_once(box: Server) -> None:
    contents = [f"of many {number % 4}".encode() * 50_000 for number in range(24)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda content: push(box, content), contents))
    assert {answer.status_code for answer in answers} == {200}
    for content in contents[:4]:
        assert box.http.get(address(md5(content))).content == content
    assert not [name for name in kept(box) if name.startswith("tmp/")]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_object(make_server: Callable[..., Server]) -> None:
    server = make_server()

    def peak() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024

    piece, count = bytes(range(256)) * 4096, 400
    digest = hashlib.md5(usedforsecurity=False)
    for _ in range(count):
        digest.update(piece)
    push(server, piece)
    server.http.get(address(md5(piece)))
    before, where = peak(), address(digest.hexdigest())
    assert server.http.put(where, content=(piece for _ in range(count)), timeout=120).status_code == 200
    with server.http.stream("GET", where) as answer:
        assert sum(len(chunk) for chunk in answer.iter_raw()) == count * len(piece)
    assert peak() - before < 64, "400 MiB went in and out"


# -- who may --------------------------------------------------------------------------------------------------------------


class People:
    """mia is a member of the team zebra, otto of none, vera may only look."""

    def __init__(self, box: Server) -> None:
        self.box = box
        self._headers = {}
        for name, role in (("mia", "member"), ("otto", "member"), ("vera", "viewer")):
            box.http.post("/api/v1/users", json={"name": name, "role": role}).raise_for_status()
            made = box.http.post("/api/v1/tokens", json={"user": name, "name": "t"}).raise_for_status()
            self._headers[name] = {"Authorization": f"Bearer {made.json()['secret']}"}
        box.http.post("/api/v1/teams", json={"name": "zebra"}).raise_for_status()
        box.http.put("/api/v1/teams/zebra/members/mia", json={"role": "member"}).raise_for_status()

    def ask(self, name: str, method: str, path: str, **more: Any) -> httpx.Response:
        return self.box.http.request(method, path, headers=self._headers[name], **more)


@pytest.fixture(scope="module")
def people(box: Server) -> People:
    return People(box)


def test_what_is_pushed_for_a_team_is_there_for_it_alone(people: People) -> None:
    content = b"the stripes"
    theirs, shared, where = address(md5(content), "zebra"), address(md5(content)), address(md5(content), "everyone")
    assert people.ask("mia", "PUT", theirs, content=content).status_code == 200
    assert people.ask("mia", "GET", theirs).content == content
    assert people.box.http.get(theirs).content == content, "an admin is in every team"
    for name in ("otto", "vera"):
        refused = [people.ask(name, "GET", address(md5(given), "zebra")) for given in (content, b"never pushed")]
        assert [one.status_code for one in refused] == [403, 403]
        assert refused[0].text == refused[1].text, "and the name says nothing of what is there"
        assert people.ask(name, "PUT", theirs, content=content).status_code == 403
    for name in ("mia", "otto"):
        assert [people.ask(name, "GET", path).status_code for path in (shared, where)] == [404, 404]
    assert people.ask("otto", "PUT", shared, content=content).status_code == 200, "who has it may share it"
    assert [people.ask("vera", "GET", path).content for path in (shared, where)] == [content] * 2
    assert people.ask("mia", "GET", address(md5(content), "nowhere")).status_code == 404


def test_who_may_only_look_does_not_push(people: People) -> None:
    answer = people.ask("vera", "PUT", address(md5(b"v")), content=b"v")
    assert (answer.status_code, "role member" in answer.json()["error"]["message"]) == (403, True)
    assert people.ask("vera", "GET", address(md5(b"v"))).status_code == 404


def upload(box: Server, name: str, prices: list[float]) -> dict[str, Any]:
    rows = "price\n" + "\n".join(map(str, prices))
    answer = box.http.post(f"/api/v1/datasets/{name}/rows?format=csv", content=rows.encode())
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_private_datasets_files_are_objects_for_its_team_alone(people: People) -> None:
    people.box.http.put("/api/v1/private/dataset/zebra.hidden", json={}).raise_for_status()
    hidden, shown = upload(people.box, "zebra.hidden", [1.5, 2.5]), upload(people.box, "zebra.shown", [3.5])
    pointer = people.box.http.get("/api/v1/datasets/zebra.hidden/dvc").json()
    assert pointer["dataset"] == "zebra.hidden@v1"
    for oid in (hidden["files"][0]["md5"], pointer["md5"]):
        for team in ("", "zebra"):
            assert people.ask("mia", "GET", address(oid, team)).status_code == 200, oid
        assert people.ask("otto", "GET", address(oid)).status_code == 404
    assert people.ask("otto", "GET", "/api/v1/datasets/zebra.hidden/dvc").status_code == 404
    assert people.ask("otto", "GET", address(shown["files"][0]["md5"])).status_code == 200


def test_what_is_private_does_not_become_a_shared_version(people: People) -> None:
    content = b"for us"
    oid = md5(content)
    assert people.ask("mia", "PUT", address(oid, "zebra"), content=content).status_code == 200
    body = {"md5": oid, "path": "us.bin", "size": len(content)}
    for name, status in (("mine", 404), ("zebra.open", 400)):
        answer = people.ask("mia", "POST", f"/api/v1/datasets/{name}/dvc", json=body)
        assert answer.status_code == status, answer.text
    assert people.ask("otto", "POST", "/api/v1/datasets/zebra.open/dvc", json=body).status_code == 403
    assert people.ask("otto", "POST", "/api/v1/datasets/mine/dvc", json=body).status_code == 404
    people.box.http.put("/api/v1/private/dataset/zebra.closed", json={}).raise_for_status()
    made = people.ask("mia", "POST", "/api/v1/datasets/zebra.closed/dvc", json=body)
    assert (made.status_code, made.json()["version"]) == (201, 1)
    again = people.ask("mia", "POST", "/api/v1/datasets/zebra.other/dvc", json=body)
    assert (again.status_code, "team hide dataset" in again.json()["error"]["hint"]) == (400, True)


def test_a_team_pushes_no_more_than_its_quota(make_server: Callable[..., Server]) -> None:
    server = make_server("--upload-quota", "100000")
    first, second = b"a" * 70_000, b"b" * 70_000
    assert push(server, first).status_code == 200
    for _ in range(3):
        assert push(server, first).status_code == 200, "what is there counts once"
    refused = push(server, second)
    assert (refused.status_code, refused.json()["error"]["field"]) == (413, "upload_quota")
    assert server.http.get(address(md5(second))).status_code == 404
    server.http.post("/api/v1/teams", json={"name": "zebra"}).raise_for_status()
    assert push(server, second, team="zebra").status_code == 200


# -- versions ---------------------------------------------------------------------------------------------------------------


def bring(box: Server, name: str, **pointer: Any) -> Any:
    return box.http.post(f"/api/v1/datasets/{name}/dvc", json=pointer)


def parquet(**columns: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def test_a_pushed_directory_of_parquet_becomes_a_table(box: Server) -> None:
    files = {"b.parquet": parquet(day=[3], price=[1.5]), "a/a.parquet": parquet(day=[1, 2], price=[2.5, None])}
    oid = push_folder(box, files)
    size = sum(map(len, files.values()))
    made = bring(box, "prices", md5=oid, path="data/prices", size=size, nfiles=2)
    assert made.status_code == 201, made.text
    version = made.json()
    assert [(file["path"], file["rows"]) for file in version["files"]] == [("a/a.parquet", 2), ("b.parquet", 1)]
    assert [column["name"] for column in version["columns"]] == ["day", "price"]
    assert (version["rows"], version["statistics"]["price"]["nulls"]) == (3, 1)
    assert bring(box, "prices", md5=oid, path="elsewhere").json()["version"] == 1, "the same files, the same version"
    pointer = box.http.get("/api/v1/datasets/prices@v1/dvc").json()
    assert (pointer["md5"], pointer["size"], pointer["nfiles"]) == (oid, size, 2), "and back"
    verified = box.http.get("/api/v1/datasets/prices@v1/verify").json()
    assert [one["error"] for one in verified] == ["", ""]
    files["b.parquet"] = parquet(day=[3, 4], price=[1.5, 9.5])
    assert bring(box, "prices", md5=push_folder(box, files), path="prices").json()["version"] == 2
    changed = box.http.get("/api/v1/datasets/prices@v1/diff/prices@v2?key=day").json()
    assert (changed["added"], changed["removed"], changed["changed"]) == (1, 0, 0)


def test_a_pushed_file_of_csv_has_columns_and_is_no_parquet(box: Server) -> None:
    content = b"day,price\n1,2.5\n2,3.5\n"
    push(box, content)
    version = bring(box, "csv", md5=md5(content), path="../raw/csv.csv", size=len(content)).json()
    assert [(file["path"], file["rows"]) for file in version["files"]] == [("csv.csv", 2)]
    assert [(c["name"], c["dtype"]) for c in version["columns"]] == [("day", "INT64"), ("price", "FP64")]
    assert box.http.get("/api/v1/datasets/csv@v1/files/csv.csv").content == content
    answer = box.http.get("/api/v1/datasets/csv@v1/diff/csv@v1")
    assert (answer.status_code, "no Parquet" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"cat.png": b"\x89PNG", "dog.png": b"\x89PNG2"}, "Not all files"),
        ({"a.csv": b"a\n1\n", "readme.md": b"read"}, "Not all files"),
        ({"a.csv": b"a\n1\n", "b.csv": b"b\n1\n"}, "b.csv has other columns"),
        ({"a.csv": b"a\n1\n", "b.csv": b"a\nx\n"}, "b.csv has other columns, or of other types"),
        ({"a.parquet": b"PAR1 is not enough PAR1"}, "a.parquet: "),
        ({"a.parquet": parquet(nested=[[1, 2]])}, "a.parquet: The column 'nested'"),
    ],
)
def test_what_is_no_one_table_is_kept_as_plain_files_and_says_why(
    box: Server, files: dict[str, bytes], why: str
) -> None:
    made = bring(box, "plain", md5=push_folder(box, files), path="plain")
    assert made.status_code == 201, made.text
    version = made.json()
    assert (version["rows"], version["columns"]) == (0, [])
    assert why in version["parameters"]["plain_files"]
    for path, content in files.items():
        assert box.http.get(f"/api/v1/datasets/plain@v{version['version']}/files/{path}").content == content


def listing(*entries: Any) -> bytes:
    return json.dumps(list(entries)).encode()


HERE = md5(b"here")
ABSENT = "0" * 32


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (listing({"md5": HERE, "relpath": "../../etc/passwd"}), 400),
        (listing({"md5": HERE, "relpath": "/etc/passwd"}), 400),
        (listing({"md5": HERE, "relpath": "a//b"}), 400),
        (listing({"md5": HERE, "relpath": "a\u0000b"}), 400),
        (listing({"md5": HERE, "relpath": ""}), 400),
        (listing({"md5": HERE, "relpath": "a"}, {"md5": HERE, "relpath": "a"}), 400),
        (listing({"md5": "../secret", "relpath": "a"}), 400),
        (listing({"md5": ABSENT, "relpath": "a"}), 404),
        (listing({"relpath": "a"}), 400),
        (listing(), 400),
        (b"{}", 400),
        (b"[" * 50_000, 400),
        (b"\xff", 400),
    ],
)
def test_a_listing_that_does_not_fit_becomes_no_version(box: Server, body: bytes, status: int) -> None:
    push(box, b"here")
    assert push(box, body, oid=f"{md5(body)}.dir").status_code == 200, "a remote keeps what is what it is called"
    answer = bring(box, "broken", md5=f"{md5(body)}.dir", path="x")
    assert answer.status_code == status, answer.text
    assert box.http.get("/api/v1/datasets/broken").status_code == 404


def test_a_pointer_that_does_not_fit_becomes_no_version(box: Server) -> None:
    push(box, b"here")
    for pointer, status, field in (
        ({"md5": HERE, "path": "x", "size": 5}, 400, "size"),
        ({"md5": "nonsense", "path": "x"}, 400, "md5"),
        ({"md5": HERE, "path": ".."}, 400, "path"),
        ({"md5": HERE}, 400, "path"),
        ({"md5": ABSENT, "path": "x"}, 404, "md5"),
        ({}, 400, "md5"),
    ):
        answer = bring(box, "broken", **pointer)
        assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text


def test_a_removed_versions_files_are_gone_from_the_remote_at_once(box: Server) -> None:
    made = upload(box, "leaving", [7.25])
    oids = [made["files"][0]["md5"], box.http.get("/api/v1/datasets/leaving/dvc").json()["md5"]]
    assert [box.http.get(address(oid)).status_code for oid in oids] == [200, 200]
    box.http.delete("/api/v1/datasets/leaving@v1").raise_for_status()
    assert [box.http.get(address(oid)).status_code for oid in oids] == [404, 404]
    box.http.post("/api/v1/datasets/leaving@v1/restore").raise_for_status()
    assert [box.http.get(address(oid)).status_code for oid in oids] == [200, 200]


def test_nothing_that_was_sent_was_a_fault_of_the_server(box: Server) -> None:
    assert "Traceback" not in box.log
    assert "A request failed" not in box.log
