"""What tritonserver 2.51.0 was seen to answer, row by row: our statuses and tensors are the same, but for 400 where it has 500.

Floats are compared as float32: Triton prints the double of one, we the shortest decimal that reads back as the same.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlbox.records import GateResult
from mlbox.serve.inference.rows import MAX_ROWS
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.models import linear
from tests.serve.test_runtime import TYPES
from tests.web.served import tensor
from tests.web.site import Site, open_box

WIDTH = 30
WEIGHTS = [(-1) ** n * (n + 1) / 100 for n in range(WIDTH)]
ROW = [n / 10 for n in range(WIDTH)]
NUMPY = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2", "BOOL": "?"} | {
    f"{sign}INT{bits}": f"<{sign.lower() or 'i'}{bits // 8}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}


def named_x(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model of the golden answers takes `X`."""
    model.graph.input[0].name = model.graph.node[0].input[0] = "X"
    return model


def echo(dtype: str) -> onnx.ModelProto:
    """Gives back what it takes, of any length."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", TYPES[dtype], ["N", "L"])],
        [helper.make_tensor_value_info("y", TYPES[dtype], ["N", "L"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def categories() -> onnx.ModelProto:
    """A text and a number in, the text's place among three and half of the number out: as skl2onnx encodes categories."""
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["colour"],
            ["place"],
            domain="ai.onnx.ml",
            keys_strings=["red", "green", "blue"],
            values_int64s=[0, 1, 2],
            default_int64=-1,
        ),
        helper.make_node("Mul", ["size", "half"], ["halved"]),
    ]
    graph = helper.make_graph(
        nodes,
        "categories",
        [
            helper.make_tensor_value_info("colour", TensorProto.STRING, ["N", 1]),
            helper.make_tensor_value_info("size", TensorProto.FLOAT, ["N", 1]),
        ],
        [
            helper.make_tensor_value_info("place", TensorProto.INT64, ["N", 1]),
            helper.make_tensor_value_info("halved", TensorProto.FLOAT, ["N", 1]),
        ],
        [numpy_helper.from_array(np.array([0.5], np.float32), "half")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def serve(box: Box, name: str, model: onnx.ModelProto, *, says: bool = True) -> None:
    """Have a model in Production, whose version says what tensors it takes."""
    digest, size = box.artifacts.put([model.SerializeToString()])
    session = Session(model.SerializeToString(), providers=CPU)
    version = box.registry.register(
        NewVersion(
            model=name,
            artifact=digest,
            size=size,
            inputs=session.inputs if says else (),
            outputs=session.outputs if says else (),
            trained_by="ann",
            submitted_by="ann",
        )
    )
    promotion = box.promotions.propose(version, actor="ann")
    passed = GateResult(gate="size", passed=True, required="", measured="", at=datetime.now(UTC))
    box.promotions.record_gates(promotion.id, [passed])
    box.promotions.decide(promotion.id, approver="bea", decision="approve")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    box = open_box(tmp_path_factory.mktemp("golden") / "data")
    serve(box, "gbdt_ort", named_x(linear(WEIGHTS)))
    serve(box, "colours", categories())
    for dtype in TYPES:
        serve(box, f"echo-{dtype}", echo(dtype))
    yield Site(box, user="")
    box.close()


def token_of(site: Site) -> dict[str, str]:
    return {"authorization": f"Bearer {(site.box.data_dir.root / 'admin-token').read_text().strip()}"}


def ask(site: Site, path: str, body: Any = None, *, method: str = "POST", **headers: str) -> Any:
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    return site.request(
        method,
        f"/v2/{path}",
        content=content,
        headers={"accept": "application/json", "content-type": "application/json", **token_of(site), **headers},
    )


def x(*data: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [tensor(*(data or [ROW]), shape=more.pop("shape", [1, WIDTH]), name="X", **more)]}


INFER = "models/gbdt_ort/infer"
REFUSED: list[tuple[str, str, Any, int, int, str]] = [
    # method, path, body, Triton's status, ours, and the words that name what is wrong in both
    ("POST", "models/nope/infer", x(), 404, 404, "nope"),
    ("POST", "models/gbdt_ort/versions/9/infer", x(), 404, 404, "9"),
    ("GET", "models/nope", None, 404, 404, "nope"),
    ("POST", INFER, {"inputs": [*x()["inputs"], tensor(1.0, name="Y")]}, 400, 400, "unexpected inference input 'Y'"),
    (
        "POST",
        INFER,
        {"inputs": [tensor(1.0, name="Y")]},
        400,
        400,
        "unexpected inference input 'Y' for model 'gbdt_ort'. It",
    ),
    ("POST", INFER, x() | {"outputs": [{"name": "zzz"}]}, 400, 400, "unexpected inference output 'zzz'"),
    ("POST", INFER, x(*[0] * WIDTH, datatype="INT32"), 400, 400, "inference input 'X' data-type is 'INT32'"),
    (
        "POST",
        INFER,
        x(*ROW, shape=[WIDTH]),
        400,
        400,
        "unexpected shape for input 'X' for model 'gbdt_ort'. Expected [-1,30]",
    ),
    ("POST", INFER, x(*ROW, 1.0, shape=[1, WIDTH + 1]), 400, 400, "unexpected shape for input 'X'"),
    ("POST", INFER, x(*[0] * (MAX_ROWS + 1) * WIDTH, shape=[MAX_ROWS + 1, WIDTH]), 400, 400, "batch-size must be <="),
    ("POST", INFER, b"{", 500, 400, ""),
    ("POST", INFER, b"", 500, 400, ""),
    ("POST", INFER, {}, 500, 400, "inputs"),
    ("POST", INFER, x(*ROW[:-1]), 500, 400, "X"),
    ("POST", INFER, x(*ROW, shape=[2, WIDTH]), 500, 400, "X"),
    ("GET", INFER, None, 405, 405, ""),
    ("GET", "models", None, 404, 404, ""),
    ("POST", "models/gbdt_ort/versions/v1/infer", x(), 404, 404, ""),
]


@pytest.mark.parametrize(("method", "path", "body", "tritons", "ours", "words"), REFUSED)
def test_what_triton_refuses_is_refused_with_its_status_and_names_the_same(
    site: Site, method: str, path: str, body: Any, tritons: int, ours: int, words: str
) -> None:
    answer = ask(site, path, body, method=method)
    assert answer.status_code == ours == (400 if tritons == 500 else tritons), answer.text
    assert words in answer.json()["error"]


def test_flat_and_nested_rows_are_answered_with_the_models_own_float32(site: Site) -> None:
    session = Session(named_x(linear(WEIGHTS)).SerializeToString(), providers=CPU)
    (wanted,) = session.run({"X": np.array([ROW, ROW[::-1]], np.float32)})
    for data in ([*ROW, *ROW[::-1]], [ROW, ROW[::-1]]):
        found = ask(site, INFER, x(*data, shape=[2, WIDTH]) | {"id": "7"}).json()
        (output,) = found["outputs"]
        assert (found["id"], found["model_name"], found["model_version"]) == ("7", "gbdt_ort", "1")
        assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [2, 1])
        assert np.array_equal(np.array(output["data"], np.float32), wanted.reshape(-1))


def test_health_and_metadata_are_what_the_clients_read(site: Site) -> None:
    assert ask(site, "health/live", method="GET").json()["live"] is True
    assert ask(site, "health/ready", method="GET").json() == {"ready": True, "live": True}
    found = site.get("/v2", headers=token_of(site)).json()
    assert {"name", "version", "extensions"} <= found.keys()
    assert {"binary_tensor_data", "statistics", "model_configuration", "model_repository"} <= set(found["extensions"])
    model = ask(site, "models/gbdt_ort", method="GET").json()
    assert model["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, WIDTH]}]
    assert ask(site, "models/gbdt_ort/ready", method="GET").status_code == 200
    assert ask(site, "models/nope/ready", method="GET").status_code in (400, 404)
    for parameters in ({"priority": 1, "timeout": 10_000_000, "sequence_id": 3, "triton_x": "y", "own": True}, {}):
        assert ask(site, INFER, x() | {"parameters": parameters}).status_code == 200


@pytest.mark.parametrize("dtype", [*NUMPY, "BYTES"])
def test_every_datatype_goes_in_and_out_as_bytes_of_any_length(site: Site, dtype: str) -> None:
    """FP16 and BF16 have no other way: JSON of them is refused."""
    for shape in ((1, 1), (2, 3)):
        count = shape[0] * shape[1]
        if dtype == "BYTES":
            texts = [f"tëxt {n}".encode() for n in range(count)]
            content = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        else:
            content = np.arange(count).astype(NUMPY[dtype]).tobytes()
        given = {"name": "x", "datatype": dtype, "shape": list(shape)}
        head = {"inputs": [given | {"parameters": {"binary_data_size": len(content)}}]}
        text = json.dumps(head | {"parameters": {"binary_data_output": True}}).encode()
        more = {"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"}
        answer = ask(site, f"models/echo-{dtype}/infer", text + content, **more)
        assert answer.status_code == 200, answer.text
        length = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.content[:length])["outputs"]
        assert (output["datatype"], output["shape"]) == (dtype, list(shape))
        assert answer.content[length:] == content


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
def test_half_precision_has_no_json(site: Site, dtype: str) -> None:
    answer = ask(site, f"models/echo-{dtype}/infer", {"inputs": [tensor(1.0, datatype=dtype, name="x")]})
    assert (answer.status_code, dtype in answer.json()["error"]) == (400, True)


def test_categories_are_texts_beside_numbers(site: Site) -> None:
    colours = tensor("green", "none", "blue", shape=[3, 1], datatype="BYTES", name="colour")
    sizes = tensor(1.0, 2.0, 3.0, shape=[3, 1], name="size")
    outputs = ask(site, "models/colours/infer", {"inputs": [sizes, colours]}).json()["outputs"]
    assert [(one["name"], one["datatype"], one["data"]) for one in outputs] == [
        ("place", "INT64", [1, -1, 2]),
        ("halved", "FP32", [0.5, 1.0, 1.5]),
    ]
