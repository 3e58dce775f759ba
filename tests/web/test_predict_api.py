"""Predictions over the native API: by ids and by features, and the log of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.served import Site, ok, open_site, sigmoid

PATH = "/api/v1/models/score/predict"
LOG = "/api/v1/predictions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = open_site(tmp_path_factory.mktemp("predict") / "data")
    yield made
    made.server.stop()


def test_rows_are_scored_by_ids_and_by_features_alike(site: Site) -> None:
    by_ids = site.post(PATH, {"entities": [{"who": "u3"}, {"who": "u0"}]})
    by_features = site.post(PATH, {"features": [{"amount": 3.0}, {"spend@v1:amount": 0.0}]})
    assert [row["score"] for row in by_ids] == [row["score"] for row in by_features]
    assert by_ids[0]["score"] == pytest.approx(sigmoid(3), rel=1e-5)
    assert {(row["version"], row["role"]) for row in by_ids} == {(1, "champion")}
    assert len({row["id"] for row in by_ids + by_features}) == 4


def test_a_missing_value_is_null_both_ways(site: Site) -> None:
    assert site.post(PATH, {"features": [{"amount": None}]})[0]["score"] is None
    (row,) = ok(site.http.get(LOG, params={"model": "score", "limit": 1}))
    assert (row["features"], row["score"]) == ({"spend@v1:amount": None}, None)


def test_features_may_bring_their_entity_along_for_the_log(site: Site) -> None:
    site.post(PATH, {"entities": [{"who": "nobody"}], "features": [{"amount": 1.0}]})
    (row,) = ok(site.http.get(LOG, params={"model": "score", "limit": 1}))
    assert (row["entity"], row["features"], row["caller"]) == ({"who": "nobody"}, {"spend@v1:amount": 1.0}, "admin")


def test_the_log_is_paged_newest_first(site: Site) -> None:
    made = [site.post(PATH, {"features": [{"amount": float(n)}]})[0]["id"] for n in range(5)][::-1]
    first = ok(site.http.get(LOG, params={"model": "score", "limit": 2}))
    rest = ok(site.http.get(LOG, params={"model": "score", "limit": 3, "after": first[-1]["id"]}))
    assert [row["id"] for row in first + rest] == made
    assert ok(site.http.get(LOG, params={"model": "score", "after": "0"})) == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "entities"),
        ({"entities": [{"who": "u1"}], "keys": ["a", "b"]}, 400, "keys"),
        ({"entities": [{"who": "u1"}], "features": [{"amount": 1}, {"amount": 2}]}, 400, "entities"),
        ({"entities": [{"who": "u1"}, {"whom": "u1"}]}, 400, "entities.1.who"),
        ({"entities": [{"who": "u1"}, {"who": 7}]}, 400, "entities.1.who"),
        ({"entities": [{"who": ["u1"]}]}, 400, "entities.0.who"),
        ({"entities": [{"who": 10**30}]}, 400, "entities.0.who"),
        ({"entities": [{"who": "u1"}, {"who": "zoe"}]}, 404, "entities.1"),
        ({"entities": [{str(n): n for n in range(100)}]}, 400, "entities.0"),
        ({"features": [{"amount": 1}, {}]}, 400, "features.1.spend@v1:amount"),
        ({"features": [{"amount": 1}, {"amount": "1"}]}, 400, "features.1.amount"),
        ({"features": [{"amount": 1e300}]}, 400, "features.0.amount"),
        ({"features": [{"amount": 10**400}]}, 400, "features.0.amount"),
        ({"features": [{"amount": 1, "colour": 1}]}, 400, "features.0.colour"),
        ({"features": [{"amount": 1}], "version": 9}, 404, "version"),
        ({"features": [{"amount": 1}], "version": 10**25}, 404, "version"),
        ({"features": [{"amount": 1}] * 10_001}, 400, "rows"),
    ],
)
def test_bad_input_names_row_and_field(site: Site, body: dict[str, Any], status: int, field: str) -> None:
    answer = site.http.post(PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text
    assert answer.json()["error"]["hint"]


def test_a_model_that_does_not_serve_says_what_there_is(site: Site) -> None:
    unknown = site.http.post("/api/v1/models/nope/predict", json={"features": [{"a": 1}]})
    assert (unknown.status_code, unknown.json()["error"]["message"]) == (404, "There is no model 'nope'.")
    assert site.http.get("/api/v1/models/Scores").json()["error"]["hint"] == "Did you mean score?"
    version = site.register(2.0)["version"]
    answer = site.http.post(PATH, json={"features": [{"amount": 1}], "version": version})
    assert (answer.status_code, "is in stage None" in answer.json()["error"]["message"]) == (403, True)
    assert site.http.get(LOG, params={"model": "nope"}).status_code == 404


def test_a_viewer_reads_the_log_and_does_not_write_it(site: Site) -> None:
    vera = site.user("vera", "viewer")
    assert site.http.get(LOG, params={"model": "score"}, headers=vera).status_code == 200
    assert site.http.post(PATH, json={"features": [{"amount": 1}]}, headers=vera).status_code == 403


ids = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
rows = st.lists(
    st.dictionaries(st.sampled_from(["who", "amount", "spend@v1:amount", ""]), ids | st.lists(ids, max_size=2)),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(body=st.fixed_dictionaries({}, optional={"entities": rows, "features": rows, "version": st.integers()}))
def test_no_rows_are_a_fault_of_the_server(site: Site, body: dict[str, Any]) -> None:
    assert site.http.post(PATH, json=body).status_code < 500


def test_after_all_of_this_the_log_still_writes(site: Site) -> None:
    made = site.post(PATH, {"features": [{"amount": 1.0}]})[0]["id"]
    assert ok(site.http.get(LOG, params={"model": "score", "limit": 1}))[0]["id"] == made
    assert site.http.get("/readyz").json()["stores"]["predictions"] == "ok"
