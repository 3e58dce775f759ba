"""MLflow's scoring protocol: every form of a table and of tensors, by features, by entity and both; what is wrong is a 400."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Server
from tests.web.served import ok, sigmoid, tensor, with_mixed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("invocations") / "data"
    with_mixed(folder)
    made = Server(folder, "--invocations-model", "score")
    yield made
    made.stop()


def ask(server: Server, body: Any, path: str = "/invocations") -> Any:
    return server.http.post(path, json=body)


def predictions(server: Server, body: Any, path: str = "/invocations") -> Any:
    return ok(ask(server, body, path))["predictions"]


def last(server: Server) -> dict[str, Any]:
    """What the log has of the last prediction."""
    found: dict[str, Any] = server.http.get("/api/v1/predictions?model=score&limit=1").json()[0]
    return found


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"dataframe_split": {"columns": ["amount"], "index": [7, 8], "data": [[1.0], [2]]}}, [sigmoid(1), sigmoid(2)]),
        ({"dataframe_split": {"columns": [0], "data": [[1.0], [2]]}}, [[sigmoid(1)], [sigmoid(2)]]),
        ({"dataframe_records": [{"spend@v1:amount": 1.0}, {"amount": 2}]}, [sigmoid(1), sigmoid(2)]),
        ({"dataframe_records": [{"who": "u3"}, {"who": "u4"}]}, [sigmoid(3), sigmoid(4)]),
        ({"dataframe_records": [{"who": "u3", "amount": 9}]}, [sigmoid(9)]),
        ({"dataframe_records": [{"amount": None}]}, [None]),
        ({"instances": [[1.0], [2.0]]}, [[sigmoid(1)], [sigmoid(2)]]),
        ({"instances": [1.0, 2.0]}, [[sigmoid(1)], [sigmoid(2)]]),
        ({"instances": [{"who": "u3"}, {"who": "u4"}]}, [sigmoid(3), sigmoid(4)]),
        ({"inputs": [[1.0], [2.0]]}, [[sigmoid(1)], [sigmoid(2)]]),
        ({"inputs": {"input": [[1.0]]}}, [[sigmoid(1)]]),
        ({"inputs": {"amount": [1.0, 2.0]}}, [sigmoid(1), sigmoid(2)]),
        ({"inputs": {"who": ["u3"]}, "params": {"key": "k", "temperature": 0.5}}, [sigmoid(3)]),
    ],
)
def test_each_form_is_answered_in_the_order_of_its_rows(server: Server, body: Any, wanted: Any) -> None:
    found = predictions(server, body)
    flat = [row[0] if isinstance(row, list) else row for row in found]
    assert flat == [
        None if one is None else pytest.approx(one, rel=1e-5)
        for one in (row[0] if isinstance(row, list) else row for row in wanted)
    ]
    assert [type(row) for row in found] == [type(row) for row in wanted]


def test_csv_is_a_table_with_a_header(server: Server) -> None:
    def send(text: str | bytes, path: str = "/invocations") -> Any:
        return server.http.post(path, content=text, headers={"Content-Type": "text/csv; charset=utf-8"})

    assert ok(send("who\nu3\nu4\n"))["predictions"] == pytest.approx([sigmoid(3), sigmoid(4)], rel=1e-5)
    assert ok(send("amount,who\n1.5,u3\n,u4\n"))["predictions"] == [pytest.approx(sigmoid(1.5), rel=1e-5), None]
    for wrong in (b"", b"\xff\xfe", b'who\n"u3', b"who\nu3,u4\n", b"who,who\nu3,u3\n", b"amount\nmany\n", b"who\n"):
        answer = send(wrong)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), wrong
    assert server.http.post("/invocations", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415


def test_what_is_given_is_not_looked_up_and_the_vector_is_logged(server: Server) -> None:
    assert predictions(server, {"dataframe_records": [{"who": "u3"}]}) == [pytest.approx(sigmoid(3), rel=1e-5)]
    assert (last(server)["entity"], last(server)["features"]) == ({"who": "u3"}, {"spend@v1:amount": 3.0})
    assert predictions(server, {"dataframe_records": [{"who": "u3", "amount": 9}]})
    assert (last(server)["entity"], last(server)["features"]) == ({"who": "u3"}, {"spend@v1:amount": 9.0})


def test_v2_takes_both_too(server: Server) -> None:
    def send(*inputs: Any) -> Any:
        return server.http.post("/v2/models/score/infer", json={"inputs": list(inputs)})

    who = tensor("u3", "u4", shape=[2], datatype="BYTES", name="who")
    amounts = tensor(9.0, None, shape=[2], datatype="FP64", name="amount")
    wanted = [pytest.approx(sigmoid(9), rel=1e-5), None]
    assert ok(send(who, amounts))["outputs"][0]["data"] == wanted
    assert ok(send(who, tensor(9.0, None)))["outputs"][0]["data"] == wanted
    assert (last(server)["entity"], last(server)["features"]) == ({"who": "u4"}, {"spend@v1:amount": None})
    for wrong in (
        (who, tensor(1.0)),
        (who, tensor(1.0, 2.0, shape=[2], name="amounts"), amounts),
        (who, tensor(1.0, 2.0), tensor(1.0, 2.0, name="other")),
    ):
        assert send(*wrong).status_code == 400


def test_a_model_of_several_tensors_takes_columns_by_name(server: Server) -> None:
    path = "/models/mixed@staging/invocations"
    wanted = {"same": ["fünf", ""], "twice": [[2, 4], [6, 8]]}
    columns = {"word": ["fünf", ""], "number": [[1, 2], [3, 4]]}
    records = [{"word": "fünf", "number": [1, 2]}, {"word": "", "number": [3, 4]}]
    for body in ({"inputs": columns}, {"instances": records}, {"dataframe_records": records}):
        assert predictions(server, body, path) == wanted
    assert predictions(server, {"inputs": columns}, "/invocations/mixed@v1") == wanted
    for wrong, words in (
        ({"inputs": [[1, 2]]}, "has 2 inputs"),
        ({"inputs": {**columns, "other": [1]}}, "no input 'other'"),
        ({"inputs": {"word": ["a"]}}, "missing 'number'"),
        ({"inputs": {"word": [1], "number": [[1, 2]]}}, "'word' has the value 1, which is no BYTES"),
        ({"inputs": {"word": ["a"], "number": [[1, 2.5]]}}, "'number' has the value 2.5, which is no INT64"),
        ({"inputs": {"word": ["a"], "number": [[1], [2, 3]]}}, "not nested like the shape"),
        ({"instances": [{"word": "a"}, {"number": [1, 2]}]}, "the same columns"),
    ):
        answer = ask(server, wrong, path)
        assert (answer.status_code, words in answer.json()["message"]) == (400, True), answer.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "none of the forms"),
        ([], "cannot be read"),
        ({"instances": [[1.0]], "inputs": [[1.0]]}, "instances and inputs"),
        ({"dataframe_split": {"columns": ["amount"]}}, "not a table"),
        ({"dataframe_split": {"columns": ["amount"], "data": [[1, 2]]}}, "Row 0 has 2 values for 1 columns"),
        ({"dataframe_split": {"columns": ["amount", "amount"], "data": [[1, 2]]}}, "'amount' is there twice"),
        ({"dataframe_records": [1]}, "no list of objects"),
        ({"dataframe_records": []}, "no rows"),
        ({"dataframe_records": [{"amounts": 1}]}, "'who'"),
        ({"dataframe_records": [{"amount": 1, "wh": 2}]}, "no feature 'wh'"),
        ({"dataframe_records": [{"amount": "much"}]}, "'much'"),
        ({"dataframe_records": [{"amount": 1}, {"who": "u3"}]}, "some have none"),
        ({"instances": [[1.0, 2.0]]}, "Expected [-1,1], got [1, 2]"),
        ({"instances": 5}, "has the shape []"),
        ({"inputs": {"who": ["u3", "u4"], "amount": [1]}}, "'amount' has 1 values for 2 rows"),
        ({"instances": [[1.0]], "params": [1]}, "params are no object"),
        ({"instances": [[1.0]], "params": {"priority": -1}}, "priority is -1"),
        ({"dataframe_records": [{"who": "u3"}], "params": {"keys": ["a", "b"]}}, "2 keys for 1 rows"),
    ],
)
def test_what_is_wrong_is_a_400_in_mlflows_shape(server: Server, body: Any, words: str) -> None:
    answer = ask(server, body)
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error_code", "message"}
    assert words in answer.json()["message"], answer.text


def test_pings_and_who_may(server: Server) -> None:
    anyone = httpx.Client(base_url=server.url)
    assert (anyone.get("/ping").status_code, anyone.get("/ping").text) == (200, "\n")
    assert anyone.post("/invocations", json={"instances": [[1.0]]}).status_code == 401
    assert anyone.post("/invocations", json={}).json().keys() == {"error_code", "message"}
    anyone.close()
    for path in ("ping", "health", "version"):
        assert server.http.get(f"/models/score/{path}").status_code == 200
        assert server.http.get(f"/models/nope/{path}").status_code == 404
    assert ask(server, {"instances": [[1.0]]}, "/invocations/nope").status_code == 404


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["who", "amount", "input", "0"]), inner)
    ),
    max_leaves=6,
)
forms = st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "params", "other"])


@settings(max_examples=150, deadline=None)
@given(body=st.dictionaries(forms, values, max_size=2), model=st.sampled_from(["score", "mixed@staging"]))
def test_no_body_is_a_fault_of_the_server(server: Server, body: Any, model: str) -> None:
    answer = ask(server, body, f"/invocations/{model}")
    assert answer.status_code < 500, answer.text
