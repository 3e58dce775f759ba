"""What is wrong with a request: each refusal names the field, what came and what should have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.web import bodies
from tests.conftest import Server


class Part(msgspec.Struct):
    size: int
    colour: Literal["red", "blue"] = "red"


class Whole(msgspec.Struct):
    name: str
    parts: list[Part] = []
    sizes: dict[str, int] = {}
    since: datetime | None = None
    password: str = ""
    gpus: float | None = None
    free: dict[str, Any] = {}


class Nested(msgspec.Struct):
    child: Nested | None = None


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    name: str


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({}, "name", "The field name is missing."),
        ({"name": "a", "parts": [{"size": 1}, {}]}, "parts.1.size", "The field parts.1.size is missing."),
        ([], "body", "The body is a list, and should be an object."),
        ({"name": 5}, "name", "name is 5, and should be a text."),
        ({"name": {"a": 1}}, "name", "name is an object, and should be a text."),
        ({"name": "a", "gpus": "2"}, "gpus", 'gpus is "2", and should be a number or null.'),
        (
            {"name": "a", "since": "2027"},
            "since",
            'since is "2027", and should be a time such as 2027-01-01T00:00:00Z.',
        ),
        (
            {"name": "a", "since": 2027},
            "since",
            "since is 2027, and should be a time such as 2027-01-01T00:00:00Z or null.",
        ),
        (
            {"name": "a", "parts": [{"size": 1, "colour": "pink"}]},
            "parts.0.colour",
            'parts.0.colour is "pink", and should be one of blue, red.',
        ),
        ({"name": "a", "sizes": {"x": "y"}}, "sizes", "Something in sizes is wrong, and should be an integer."),
        ({"name": "a", "password": 12345}, "password", "password is of the wrong kind, and should be a text."),
        ({"name": "a", "gpu": 1}, "gpu", "There is no field 'gpu' here. Did you mean gpus?"),
    ],
)
def test_a_body_is_refused_in_words(body: Any, field: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        bodies.decoded(json.dumps(body).encode(), Whole)
    assert refused.value.field == field
    assert str(refused.value).startswith(told)
    assert refused.value.hint


def test_a_list_has_places_and_what_is_no_json_is_told_so_wherever_it_breaks() -> None:
    for body, field, told in (
        (b"[1]", "body.0", "body.0 is 1"),
        (b"{", "body", "is not JSON"),
        (b"[{", "body", "is not JSON"),
    ):
        with pytest.raises(InvalidInput, match=told) as refused:
            bodies.decoded(body, list[Part])
        assert refused.value.field == field


@pytest.mark.parametrize(
    ("body", "kind", "field", "hint"),
    [
        ({"name": "a", "frobnicate": 1}, Whole, "frobnicate", "See /api/v1/schema."),
        (
            {"name": "a", "parts": [{"size": 1}, {"size": 1, "color": "red"}]},
            Whole,
            "parts.1.color",
            "Did you mean colour?",
        ),
        ([{"size": 1, "weight": 2}], list[Part], "0.weight", "See /api/v1/schema."),
        ({"x": {"size": 1, "siz": 2}}, dict[str, Part], "x.siz", "See /api/v1/schema."),
        ({"size": 1, "colr": "red"}, Part | None, "colr", "Did you mean colour?"),
        ({"child": {"child": {"frob": {}, "chidl": None}}}, Nested, "child.child.chidl", "Did you mean child?"),
        ({"name": "a", "nme": 1}, Closed, "nme", "See /api/v1/schema."),
    ],
)
def test_a_name_that_there_is_not_is_refused_at_any_depth(body: Any, kind: Any, field: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        bodies.decoded(json.dumps(body).encode(), kind)
    assert refused.value.field == field
    assert refused.value.hint == hint


def test_a_name_that_asks_for_nothing_is_left_out_as_it_may_be_a_newer_clients_default() -> None:
    for nothing in (None, False, 0, "", [], {}):
        assert bodies.decoded(json.dumps({"name": "a", "frobnicate": nothing}).encode(), Whole) == Whole("a")
    assert bodies.decoded(b'{"name": "a", "gpu": 1}', Whole, spelling=False) == Whole("a")


def test_a_parameter_of_an_address_is_held_to_the_same() -> None:
    known = {"state", "limit"}
    bodies.check_query([("state", "failed"), ("frobnicate", "false")], known)
    for asked, field, hint in (
        ([("limit", "1"), ("sate", "failed")], "sate", "Did you mean state?"),
        ([("sate", "0")], "sate", "Did you mean state?"),
        ([("state", "failed"), ("sate", "failed")], "sate", "See /api/v1/schema."),
        ([("n" * 999, "1")], "n" * 80, "See /api/v1/schema."),
    ):
        with pytest.raises(InvalidInput, match="There is no parameter") as refused:
            bodies.check_query(asked, known)
        assert (refused.value.field, refused.value.hint) == (field, hint)


def test_names_of_users_are_theirs() -> None:
    body = {"name": "a", "sizes": {"naem": 1}, "free": {"nmae": {"colr": 1}}}
    assert bodies.decoded(json.dumps(body).encode(), Whole).free == {"nmae": {"colr": 1}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "parts", "size", "sizes", "since", "colour"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_comes_is_taken_or_refused_with_its_field(value: Any) -> None:
    try:
        taken = bodies.decoded(json.dumps(value).encode(), Whole)
    except InvalidInput as err:
        taken = err
    assert isinstance(taken, Whole) or (taken.field and taken.message.endswith("."))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("box") / "data")
    yield server
    server.stop()


def test_the_server_says_so_of_bodies_and_addresses(box: Server) -> None:
    columns = [{"name": "a", "dtype": "STRING"}, {"name": "at", "dtype": "TIMESTAMP"}]
    made = {"/api/v1/sources": {"name": "s", "event_time": "at", "columns": columns}, "/api/v1/models": {"name": "m"}}
    for path, content in made.items():
        box.http.post(path, json=content).raise_for_status()
    for ask, field, told in (
        (
            ("POST", "/api/v1/jobs", '{"command": ["a"], "priority": "hi"}'),
            "priority",
            "one of high, low, normal, urgent",
        ),
        (("POST", "/api/v1/datasets", '{"name": "d", "event_from": "2027"}'), "event_from", "a time such as"),
        (("POST", "/api/v1/jobs", '{"command": '), "body", "is not JSON"),
        (("POST", "/api/v1/jobs", ""), "body", "The body is missing"),
        (
            ("PUT", "/api/v1/sources/s/expectations", '[{"column": "a", "max_nul": 0}]'),
            "0.max_nul",
            "There is no field",
        ),
        (("POST", "/api/v1/models/m/predict", '{"entities": [{"c": 1}], "verson": 2}'), "verson", "There is no field"),
        (("POST", "/api/v1/features/online", '{"features": ["a:b"], "entties": []}'), "entties", "There is no field"),
        (("GET", "/api/v1/jobs?limit=x", ""), "limit", 'limit is "x", and should be an integer'),
        (("GET", "/api/v1/jobs?state=odd", ""), "state", 'state is "odd", and should be one of failed, '),
        (("GET", "/api/v1/jobs?limit=5000", ""), "limit", "A page of 5000 rows is more than 1,000."),
        (("GET", "/api/v1/jobs?limit=50000", ""), "limit", "A page of 50000 rows is more than 1,000."),
        (("GET", "/api/v1/jobs?satte=failed", ""), "satte", "There is no parameter 'satte' here."),
        (("GET", "/api/v1/events?postion=7", ""), "postion", "There is no parameter 'postion' here."),
        (("GET", "/api/v1/search", ""), "q", "The parameter q is missing"),
    ):
        method, path, body = ask
        answer = box.http.request(method, path, content=body, headers={"content-type": "application/json"})
        said = answer.json()["error"]
        assert (answer.status_code, said["field"]) == (400, field), said
        assert told in said["message"]
