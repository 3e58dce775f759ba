"""Labels over HTTP: sent, sent again, held, mended, settled."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlbox.client import Client
from mlbox.errors import InvalidInput, NotAuthorised, NotFound
from mlbox.records import Agreement, LabelItem, Labelled, LabelSet
from tests.conftest import Server, wait_for
from tests.store.test_label_studio import annotation, export, task

WHEN = "2026-01-01T00:00:01+00:00"
KIND = {
    "name": "kind",
    "keys": [{"name": "who", "dtype": "STRING"}],
    "value": {"name": "is", "dtype": "STRING"},
    "classes": ["cat", "dog"],
    "sources": [{"name": "vet", "kind": "annotation"}, {"name": "owner", "kind": "feedback"}],
    "policy": "majority",
}


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with contextlib.closing(Client(server.url, server.token)) as found:
        found.post("/api/v1/labels", LabelSet, KIND)
        yield found


def say(client: Client, source: str, value: str, who: str = "a", **more: Any) -> Labelled:
    row = {"who": who, "event_time": WHEN, "is": value, **more}
    return client.post("/api/v1/labels/kind/feedback", Labelled, {"source": source, "labels": [row]})


def test_two_disagree_a_third_settles_it_and_everyone_can_see_how_far_they_agree(client: Client) -> None:
    assert [say(client, "vet", "cat").rows, say(client, "owner", "dog").rows] == [1, 1]
    assert say(client, "owner", "dog").duplicates == 1
    (item,) = client.get("/api/v1/labels/kind/review", list[LabelItem])
    assert (item.keys, len(item.claims)) == ({"who": "a"}, 2)
    body = {"keys": item.keys, "event_time": item.event_time, "value": "cat"}
    assert client.post("/api/v1/labels/kind/review", LabelItem, body).value == "cat"
    found = client.get("/api/v1/labels/kind/items", LabelItem, keys=json.dumps({"who": "a"}), event_time=WHEN)
    assert (found.value, len(found.claims)) == ("cat", 3)
    state = client.get("/api/v1/labels/kind", dict[str, Any])
    assert (state["known"], state["unresolved"], state["rows"]) == (1, 0, 3)
    agreed = client.get("/api/v1/labels/kind/agreement", Agreement)
    assert (agreed.items, agreed.confusion) == (1, {"owner | vet": {"dog": {"cat": 1}}})
    counts = client.get("/api/v1/labels/kind/counts", list[dict[str, Any]])
    assert {one["source"]: one["rows"] for one in counts} == {"vet": 1, "owner": 1, "review": 1}


def test_a_file_may_leave_out_what_is_optional_and_no_row_is_lost(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(f"who,event_time,is\na,{WHEN},cat\nb,{WHEN},bird\nc,{WHEN},dog\n")
    done = client.upload("POST", "/api/v1/labels/kind/rows", file, Labelled, format="csv", source="vet")
    assert (done.rows, done.quarantined) == (2, 1)
    (held,) = client.get("/api/v1/labels/kind/held", list[dict[str, Any]])
    assert held["row"]["who"] == "b"
    body = {"corrections": {str(held["id"]): {"is": "dog"}}}
    assert client.post("/api/v1/labels/kind/held/resubmit", Labelled, body).rows == 1
    assert client.get("/api/v1/labels/kind/held", list[dict[str, Any]]) == []


def test_an_upload_that_is_cut_off_leaves_nothing(client: Client, server: Server) -> None:
    path, body = "/api/v1/labels/kind/rows", f"who,event_time,is\na,{WHEN},cat\nb,{WHEN},bird\n".encode()
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port)) as wire:
        wire.sendall(
            f"POST {path}?format=csv&source=vet HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {server.token}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body) + 1000}\r\n\r\n".encode()
            + body
        )
    wait_for(lambda: f"POST {path}" in server.log, what="the end of the upload")
    assert client.get("/api/v1/labels/kind", dict[str, Any])["rows"] == 0
    assert client.get("/api/v1/labels/kind/held", list[dict[str, Any]]) == []
    assert not any(file.is_file() for file in (server.data_dir / "uploads").rglob("*"))


def test_what_a_file_may_not_say_is_held_by_row_and_nothing_waits_for_it(client: Client, tmp_path: Path) -> None:
    columns = [{"name": "who", "dtype": "STRING"}, {"name": "moment", "dtype": "TIMESTAMP"}]
    client.post("/api/v1/sources", dict, {"name": "people", "columns": columns, "event_time": "moment"})
    file = tmp_path / "people.csv"
    file.write_text(f"who,moment\na,{WHEN}\nb,{WHEN}\n")
    client.upload("POST", "/api/v1/sources/people/rows", file, dict, format="csv")
    client.post("/api/v1/labels", LabelSet, {**KIND, "name": "known", "entities": "people"})
    file.write_text(
        f"who,event_time,is\na,{WHEN},cat\nb,{WHEN},bird\nzz,{WHEN},cat\nb,2999-01-01T00:00:00Z,cat\nb,{WHEN},\n"
    )
    send = ("POST", "/api/v1/labels/known/rows", file, Labelled)
    done = client.upload(*send, format="csv", source="vet")
    assert (done.rows, done.duplicates, done.quarantined) == (1, 0, 4)
    held = client.get("/api/v1/labels/known/held", list[dict[str, Any]])
    assert {one["number"]: one["reasons"] for one in held} == {
        2: ["its value is none of the classes"],
        3: ["people knows no such entity"],
        4: ["the event is still to come"],
        5: ["it has no value"],
    }
    again = client.upload(*send, format="csv", source="vet")
    assert (again.rows, again.duplicates, again.quarantined) == (0, 1, 4)
    assert len(client.get("/api/v1/labels/known/held", list[Any])) == 4, "what is held is held once"
    for text, words in (
        ("who,event_time,was\na,1,cat\n", "'was'"),
        ("who,event_time\na,1\n", "'is'"),
        (f"who,event_time,is,more\na,{WHEN},cat,1\n", "more"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=words):
            client.upload(*send, format="csv", source="vet")
    file.write_text(f"who,event_time,is\na,{WHEN},dog\n")
    with pytest.raises(InvalidInput, match="no source 'nobody'"):
        client.upload(*send, format="csv", source="nobody")
    assert client.get("/api/v1/labels/known", dict[str, Any])["rows"] == 1


def test_label_studios_export_is_a_body(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "export.json"
    file.write_bytes(export(task(1, annotation(1, "cat")), task(2, annotation(2, "dog"))))
    done = client.upload("POST", "/api/v1/labels/kind/label-studio", file, Labelled, source="vet")
    assert done.rows == 2
    file.write_bytes(b"[{}]")
    with pytest.raises(InvalidInput, match="no JSON export"):
        client.upload("POST", "/api/v1/labels/kind/label-studio", file, Labelled, source="vet")


def test_bad_input_says_what_and_where(client: Client) -> None:
    for body, field in (
        ({"source": "cat", "labels": []}, "source"),
        ({"source": "vet", "labels": [{"who": 7}]}, "labels.0.who"),
        ({"source": "vet", "labels": [{"colour": 7}]}, "labels.0.colour"),
        ({"source": "vet", "labels": [{"event_time": "soon"}]}, "labels.0.event_time"),
    ):
        with pytest.raises(InvalidInput) as caught:
            client.post("/api/v1/labels/kind/feedback", Labelled, body)
        assert caught.value.field == field
    with pytest.raises(InvalidInput, match="event_time"):
        client.get("/api/v1/labels/kind/items", LabelItem, keys="{}")
    with pytest.raises(InvalidInput, match="no JSON object"):
        client.get("/api/v1/labels/kind/items", LabelItem, keys="[]", event_time=WHEN)
    with pytest.raises(NotFound):
        client.get("/api/v1/labels/kinds/held", list[Any])


def test_history_is_brought_along_by_admins_only(client: Client, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(f"who,event_time,known_at,is\na,{WHEN},2026-01-02T00:00:00Z,cat\n")
    query = {"format": "csv", "source": "vet", "backfill": "true"}
    client.post("/api/v1/users", dict, {"name": "mia", "role": "member"})
    token = client.post("/api/v1/tokens", dict, {"user": "mia", "name": "t"})["secret"]
    with contextlib.closing(Client(server.url, token)) as mia, pytest.raises(NotAuthorised):
        mia.upload("POST", "/api/v1/labels/kind/rows", file, Labelled, **query)
    assert client.upload("POST", "/api/v1/labels/kind/rows", file, Labelled, **query).rows == 1


def test_another_systems_webhook_is_a_source(client: Client) -> None:
    fields = {"id": "/id", "who": "/user/id", "event_time": "/ts", "is": "/verdict"}
    hook = {"name": "hook", "kind": "delayed", "fields": fields}
    before = client.get("/api/v1/labels/kind", LabelSet)
    made = client.post("/api/v1/labels", LabelSet, {**KIND, "sources": [*KIND["sources"], hook]})  # type: ignore[misc]
    assert made.policy_version == before.policy_version + 1
    again = {**hook, "fields": {**fields, "annotator": "/by"}}
    made = client.post("/api/v1/labels", LabelSet, {**KIND, "sources": [*KIND["sources"], again]})  # type: ignore[misc]
    assert made.policy_version == before.policy_version + 1, "where a body has what says nothing of whom to believe"
    body = {"id": "e1", "user": {"id": "a"}, "ts": 1767225601, "verdict": "cat", "by": "eve", "more": [1, 2]}
    for expected in ((1, 0, 0), (0, 1, 0)):
        done = client.post("/api/v1/labels/kind/webhook/hook", Labelled, body)
        assert (done.rows, done.duplicates, done.quarantined) == expected, "it may be delivered twice"
    assert client.post("/api/v1/labels/kind/webhook/hook", Labelled, {**body, "user": None}).quarantined == 1
    (held,) = client.get("/api/v1/labels/kind/held", list[dict[str, Any]])
    assert held["reasons"] == ["who is missing"]
    with pytest.raises(InvalidInput, match="does not say where"):
        client.post("/api/v1/labels/kind/webhook/vet", Labelled, body)
    with pytest.raises(InvalidInput, match="no source"):
        client.post("/api/v1/labels/kind/webhook/nobody", Labelled, body)
