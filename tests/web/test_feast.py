"""Feast's protocol on the wire, as the notes of it say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Server, wait_for
from tests.web.test_feature_rows import LAST
from tests.web.test_features_api import SALES

PAIR = {
    "name": "pair",
    "join_keys": [{"name": "who", "dtype": "STRING"}, {"name": "shop", "dtype": "INT64"}],
    "features": [{"name": "amount", "dtype": "FP64"}, {"name": "due", "dtype": "TIMESTAMP"}],
    "sources": ["shops"],
    "sql": "SELECT who, shop, amount, due, bought AS event_time FROM shops",
}
SHOPS = {
    **SALES,
    "name": "shops",
    "columns": [
        *SALES["columns"],  # type: ignore[misc]
        {"name": "shop", "dtype": "INT64"},
        {"name": "due", "dtype": "TIMESTAMP"},
    ],
}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests: each has people of its own."""
    server = Server(tmp_path_factory.mktemp("feast") / "data", "--replay-clock", "2026-01-04T00:00Z")
    for path, body in (("sources", SALES), ("sources", SHOPS), ("features/views", LAST), ("features/views", PAIR)):
        answer = server.http.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 201, answer.text
    yield server
    server.stop()


def ask(box: Server, path: str, body: dict[str, Any]) -> Any:
    return box.http.post(f"/feast/{path}", json=body)


def push(box: Server, to: str = "online_and_offline", **df: list[Any]) -> Any:
    return ask(box, "push", {"push_source_name": "sales", "df": df, "to": to, "allow_registry_cache": True})


def test_rows_of_two_keys_are_written_and_read_under_full_names(box: Server) -> None:
    df = {
        "who": ["pat"],
        "shop": [7],
        "amount": [2],
        "due": [1767225600],
        "event_timestamp": ["2026-01-03T00:00:00"],
        "created": [None],
    }
    written = ask(box, "write-to-online-store", {"feature_view_name": "pair", "df": df})
    assert (written.status_code, written.text) == (200, "null")
    body = {
        "features": ["pair:amount", "pair@v1:due", "last:amount"],
        "entities": {"who": ["pat"], "shop": [7]},
        "full_feature_names": True,
        "include_feature_view_version_metadata": True,
    }
    found = ask(box, "get-online-features", body).json()
    assert found["metadata"] == {
        "feature_names": ["who", "shop", "pair__amount", "pair__due", "last__amount"],
        "feature_view_metadata": [{"name": "pair", "version": 1}, {"name": "last", "version": 1}],
    }
    assert [one["values"] for one in found["results"][2:]] == [[2.0], ["2026-01-01T00:00:00+00:00"], [None]]
    short = ask(box, "get-online-features", {**body, "full_feature_names": False})
    assert (short.status_code, "called 'amount'" in short.json()) == (400, True)


def test_a_service_and_a_transform_are_features_too(box: Server) -> None:
    box.http.post(
        "/api/v1/features/transforms",
        json={
            "name": "double",
            "inputs": [{"name": "amount", "feature": "last:amount"}],
            "outputs": [{"name": "twice", "dtype": "FP64"}],
            "code": "def double(amount):\n    return 2 * amount",
        },
    ).raise_for_status()
    service = {"name": "both", "features": ["last:amount", "double:twice"]}
    assert box.http.post("/api/v1/features/services", json=service).status_code == 201
    push(box, who=["sue"], bought=["2026-01-03T00:00:00Z"], amount=[4])
    found = ask(box, "get-online-features", {"feature_service": "both", "entities": {"who": ["sue"]}}).json()
    assert found["metadata"]["feature_names"] == ["who", "amount", "twice"]
    assert [one["values"] for one in found["results"]] == [["sue"], [4.0], [8.0]]


def test_materialize_of_a_span_since_the_last_time_and_in_the_background(box: Server) -> None:
    push(box, "offline", who=["max"], bought=["2026-01-02T00:00:00"], amount=[4])
    span = {"start_ts": "2026-01-02T12:00:00", "end_ts": "2026-01-03T00:00:00", "feature_views": ["last"]}
    body = {"features": ["last:amount"], "entities": {"who": ["max"]}}

    def values() -> Any:
        return ask(box, "get-online-features", body).json()["results"][1]["values"]

    assert ask(box, "materialize", span).text == "null"
    assert values() == [None]
    assert ask(box, "materialize-incremental", {"end_ts": span["end_ts"]}).text == "null"
    assert values() == [4.0]
    push(box, "offline", who=["max"], bought=["2026-01-03T00:00:00"], amount=[5])
    accepted = ask(box, "materialize?async=true", {**span, "end_ts": "2026-01-04T00:00:00"})
    assert (accepted.status_code, accepted.json()) == (202, {"status": "accepted", "feature_views": ["last"]})
    wait_for(lambda: values() == [5.0], what="the materialization")


@pytest.mark.parametrize(
    ("path", "body", "status", "name", "message"),
    [
        ("get-online-features", {"features": ["no:x"], "entities": {"who": ["a"]}}, 404, "FeatureViewNotFound", "no"),
        (
            "get-online-features",
            {"feature_service": "no", "entities": {"who": []}},
            404,
            "FeatureServiceNotFound",
            "no",
        ),
        ("get-online-features", {"features": ["last:x"], "entities": {"who": ["a"]}}, 400, "FeastError", "no feature"),
        ("get-online-features", {"features": ["last:amount"], "entities": {"wo": ["a"]}}, 400, "FeastError", "who"),
        ("get-online-features", {"features": ["last:amount"], "entities": {}}, 400, "FeastError", "no columns"),
        ("get-online-features", {"entities": {"who": ["a"]}}, 400, "FeastError", "No feature"),
        (
            "get-online-features",
            {"features": ["last:amount"], "entities": {"who": ["a"], "x": []}},
            400,
            "FeastError",
            "different numbers",
        ),
        ("push", {"push_source_name": "no", "df": {}}, 422, "PushSourceNotFound", "no"),
        ("push", {"push_source_name": "sales", "df": {"who": ["a"]}}, 400, "FeastError", "missing"),
        ("push", {"push_source_name": "sales", "df": {"price": [1]}}, 400, "FeastError", "price"),
        ("write-to-online-store", {"feature_view_name": "no", "df": {}}, 404, "FeatureViewNotFound", "no"),
        ("materialize", {"feature_views": ["no"]}, 404, "FeatureViewNotFound", "no"),
        ("materialize", {"start_ts": "soon"}, 400, "FeastError", "soon"),
        ("nothing", {}, 404, "FeastError", ""),
    ],
)
def test_an_error_is_one_of_feasts(
    box: Server, path: str, body: dict[str, Any], status: int, name: str, message: str
) -> None:
    answer = ask(box, path, body)
    detail = json.loads(answer.json())
    assert (answer.status_code, detail["module"]) == (status, "feast.errors"), answer.text
    assert detail["class"].startswith(name)
    assert message in detail["message"]


def test_whoever_may_not_write_cannot(box: Server) -> None:
    box.http.post("/api/v1/users", json={"name": "vic", "role": "viewer"}).raise_for_status()
    secret = box.http.post("/api/v1/tokens", json={"user": "vic", "name": "t"}).json()["secret"]
    headers = {"Authorization": f"Bearer {secret}"}
    df = {"who": ["vic"], "bought": ["2026-01-02T00:00:00"], "amount": [1]}
    body = {"push_source_name": "sales", "df": df, "to": "online"}
    assert box.http.post("/feast/push", json=body, headers=headers).status_code == 403
    read = {"features": ["last:amount"], "entities": {"who": ["vic"]}}
    assert box.http.post("/feast/get-online-features", json=read, headers=headers).status_code == 200
    assert box.http.get("/feast/health", headers=headers).status_code == 200


def test_a_push_is_read_back_column_by_column_until_it_is_too_old(box: Server) -> None:
    pushed = push(
        box,
        who=["abe", "bea"],
        event_timestamp=["2026-01-01T00:00:00", "2026-01-02T12:00:00"],
        amount=[1.5, None],
        created=[None, None],
    )
    assert pushed.status_code == 200, pushed.text
    body = {"features": ["last:amount"], "entities": {"who": ["abe", "zoe", "bea"]}, "full_feature_names": False}
    assert ask(box, "get-online-features", body).json() == {
        "metadata": {"feature_names": ["who", "amount"]},
        "results": [
            {
                "values": ["abe", "zoe", "bea"],
                "statuses": ["PRESENT"] * 3,
                "event_timestamps": ["1970-01-01T00:00:00Z"] * 3,
            },
            {
                "values": [1.5, None, None],
                "statuses": ["PRESENT", "NOT_FOUND", "PRESENT"],
                "event_timestamps": ["2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2026-01-02T12:00:00Z"],
            },
        ],
    }
    box.http.post("/api/v1/clock", json={"to": "2026-01-09T00:00:00Z"}).raise_for_status()
    late = ask(box, "get-online-features", body).json()["results"][1]
    assert (late["values"], late["statuses"]) == ([None] * 3, ["OUTSIDE_MAX_AGE", "NOT_FOUND", "PRESENT"])


def test_columns_of_two_views_are_written_as_one_would_write_them_value_by_value(box: Server) -> None:
    who, shop = ["ned", "nobody", "ola"], [1, 2, 3]
    push(box, who=["ned", "ola"], bought=["2026-01-03T00:00:00Z", "2026-01-02T00:00:00Z"], amount=[1, None])
    df = {"who": ["ola"], "shop": [3], "amount": [0.1], "due": [0], "event_timestamp": ["2026-01-01T00:00:00.5"]}
    written = ask(box, "write-to-online-store", {"feature_view_name": "pair", "df": df})
    assert written.status_code == 200, written.text
    names = ["pair:due", "last:amount", "pair:amount"]
    body = {"features": names, "entities": {"who": who, "shop": shop}, "full_feature_names": True}
    never, key = "1970-01-01T00:00:00Z", ["PRESENT"] * 3
    pair = (["NOT_FOUND", "NOT_FOUND", "PRESENT"], [never, never, "2026-01-01T00:00:00.500000Z"])
    last = (["PRESENT", "NOT_FOUND", "PRESENT"], ["2026-01-03T00:00:00Z", never, "2026-01-02T00:00:00Z"])
    columns = [
        (who, key, [never] * 3),
        (shop, key, [never] * 3),
        ([None, None, "1970-01-01T00:00:00+00:00"], *pair),
        ([1.0, None, None], *last),
        ([None, None, 0.1], *pair),
    ]
    fields = ("values", "statuses", "event_timestamps")
    expected = {
        "metadata": {"feature_names": ["who", "shop", "pair__due", "last__amount", "pair__amount"]},
        "results": [dict(zip(fields, column, strict=True)) for column in columns],
    }
    assert ask(box, "get-online-features", body).text == json.dumps(expected, separators=(",", ":"))
    nobody = ask(box, "get-online-features", {**body, "entities": {"who": [], "shop": []}}).json()["results"]
    assert nobody == [{field: [] for field in fields}] * 5
