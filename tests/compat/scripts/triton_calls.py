"""tritonclient by HTTP and by gRPC: tensors in every form, async calls, streams, statistics, the repository, errors."""

import asyncio
import os
import queue
from functools import partial

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.grpc.auth as grpc_auth
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
import tritonclient.http.auth as http_auth
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

TOKEN = os.environ["MLBOX_TOKEN"]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
PLACES = {triton_http: os.environ["MLBOX_HTTP"], triton_grpc: os.environ["MLBOX_GRPC"]}
ROWS = np.array([[1.0], [2.0]], np.float32)
SCORES = 1 / (1 + np.exp(-ROWS))


def raises(words, call):
    told = ""
    try:
        call()
    except InferenceServerException as err:
        told = err.message()
    assert words in told, f"{words!r} was expected, and {told!r} came"


def tensor(client, name, data, dtype, **how):
    made = client.InferInput(name, list(data.shape), dtype)
    made.set_data_from_numpy(data, **how)
    return made


def looks(client, box):
    """What there is, and how it is configured."""
    assert box.is_server_live()
    assert box.is_server_ready()
    assert box.is_model_ready("score")
    assert box.is_model_ready("score", "1")
    assert not box.is_model_ready("nope")
    plain = {} if client is triton_http else {"as_json": True}
    assert "statistics" in box.get_server_metadata(**plain)["extensions"]
    assert box.get_model_metadata("score", **plain)["inputs"][0]["shape"] in ([-1, 1], ["-1", "1"])
    config = box.get_model_config("score", **plain)
    assert config.get("config", config)["input"][0]["data_type"] == "TYPE_FP32"
    stats = box.get_inference_statistics("score", **plain)["model_stats"][0]
    assert (stats["name"], stats["version"]) == ("score", "1")
    index = box.get_model_repository_index(**plain)
    rows = index if client is triton_http else index["models"]
    assert ("score", "1") in {(row["name"], row["version"]) for row in rows}
    box.unload_model("score")
    box.load_model("score")
    assert box.is_model_ready("score")
    box.load_model("score", config="{}")  # which changes nothing
    assert box.is_model_ready("score")
    files = {"file:1/model.onnx": b"another model"}
    raises("registry lets serve", lambda: box.load_model("score", config="{}", files=files))
    regions = box.get_system_shared_memory_status(**plain)
    assert not (regions if client is triton_http else regions.get("regions"))
    box.unregister_system_shared_memory()
    box.unregister_cuda_shared_memory()
    raises("no shared memory", lambda: box.register_system_shared_memory("a", "/a", 16))


def infers(client, box):
    """Tensors in each form that the client has."""
    forms = [{}] if client is triton_grpc else [{"binary_data": True}, {"binary_data": False}]
    for form in forms:
        wanted = [client.InferRequestedOutput("score", **form)]
        found = box.infer("score", [tensor(client, "input", ROWS, "FP32", **form)], outputs=wanted, request_id="7")
        assert np.allclose(found.as_numpy("score"), SCORES)
        answer = found.get_response()
        assert (answer["id"] if client is triton_http else answer.id) == "7"
    named = box.infer("score@production", [tensor(client, "input", ROWS, "FP32")], model_version="")
    assert np.allclose(named.as_numpy("score"), SCORES)
    best = box.infer(
        "score", [tensor(client, "input", ROWS, "FP32")], outputs=[client.InferRequestedOutput("score", class_count=1)]
    )
    assert best.as_numpy("score").shape == (2, 1)
    who = np.array(["u3", "u4"], object)
    looked_up = box.infer("score", [tensor(client, "who", who, "BYTES")]).as_numpy("score")
    assert np.allclose(looked_up, 1 / (1 + np.exp([-3.0, -4.0])))


def mixes(client, box):
    """Several inputs and outputs, texts and numbers."""
    words = np.array(["fünf", ""], object)
    numbers = np.arange(4, dtype=np.int64).reshape(2, 2)
    found = box.infer(
        "mixed@staging", [tensor(client, "word", words, "BYTES"), tensor(client, "number", numbers, "INT64")]
    )
    assert [text.decode() for text in found.as_numpy("same")] == ["fünf", ""]
    assert np.array_equal(found.as_numpy("twice"), numbers * 2)


def fails(client, box):
    """What is wrong is told in the words of the protocol."""
    call = lambda name, *inputs, **more: partial(box.infer, name, list(inputs), **more)  # noqa: E731
    right = tensor(client, "input", ROWS, "FP32")
    raises("Request for unknown model: 'nope' is not found", call("nope", right))
    raises("9", call("score", right, model_version="9"))
    raises("data-type is 'FP64'", call("score", tensor(client, "input", ROWS.astype(np.float64), "FP64")))
    raises("unexpected shape for input 'input'", call("score", tensor(client, "input", ROWS.T, "FP32")))
    raises("unexpected inference output", call("score", right, outputs=[client.InferRequestedOutput("zzz")]))


def by_callbacks(box):
    """gRPC's async calls and its stream, answers in the order of the requests."""
    answers = queue.Queue()
    box.async_infer(
        "score",
        [tensor(triton_grpc, "input", ROWS, "FP32")],
        callback=lambda result, error: answers.put((result, error)),
    )
    result, error = answers.get(timeout=60)
    assert error is None
    assert np.allclose(result.as_numpy("score"), SCORES)
    box.start_stream(lambda result, error: answers.put((result, error)), headers={"authorization": f"Bearer {TOKEN}"})
    for n in range(10):
        name = "score" if n != 5 else "nope"
        box.async_stream_infer(name, [tensor(triton_grpc, "input", ROWS * n, "FP32")], request_id=str(n))
    found = [answers.get(timeout=60) for _ in range(10)]
    box.stop_stream()
    assert [error is not None for _, error in found] == [n == 5 for n in range(10)]
    scores = [result.as_numpy("score")[0, 0] for result, error in found if error is None]
    assert np.allclose(scores, [1 / (1 + np.exp(-n)) for n in range(10) if n != 5])


def leaves(box):
    """A call that is cancelled ends: what comes next need not wait for the rest of its minute."""

    def ask(value):
        return [tensor(triton_grpc, "input", np.array([[value]], np.float32), "FP32")]

    def is_busy():
        try:
            box.infer("counting", ask(1.0), timeout=100_000)
        except InferenceServerException as err:
            return "waited for counting/1" in err.message()
        return False

    answers = queue.Queue()
    call = box.async_infer("counting", ask(2e9), callback=lambda result, error: answers.put(error))
    while not is_busy():
        pass
    call.cancel()
    assert answers.get(timeout=60) is not None
    assert box.infer("counting", ask(1.0), client_timeout=20).as_numpy("score").shape == (1, 1)


def by_threads(box):
    """HTTP's async calls, compressed both ways."""
    asked = [
        box.async_infer("score", [tensor(triton_http, "input", ROWS * n, "FP32")], request_compression_algorithm=how)
        for n, how in enumerate((None, "gzip", "deflate"))
    ]
    for n, one in enumerate(asked):
        assert np.allclose(one.get_result().as_numpy("score"), 1 / (1 + np.exp(-ROWS * n)))


async def by_asyncio(client, place):
    """The clients for asyncio, many requests at a time."""
    async with client.InferenceServerClient(place) as box:
        assert await box.is_server_ready(headers=HEADERS_OF[client])
        found = await asyncio.gather(
            *(
                box.infer("score", [tensor(client, "input", ROWS * n, "FP32")], headers=HEADERS_OF[client])
                for n in range(20)
            )
        )
        for n, one in enumerate(found):
            assert np.allclose(one.as_numpy("score"), 1 / (1 + np.exp(-ROWS * n)))


HEADERS_OF = {triton_http_aio: HEADERS, triton_grpc_aio: {"authorization": f"Bearer {TOKEN}"}}


def messages(descriptor):
    """Every message below a descriptor, by its full name."""
    for message in descriptor:
        yield message.full_name, {field.name: (field.number, field.type) for field in message.fields}
        yield from messages(message.nested_types)


for client, auth in ((triton_http, http_auth), (triton_grpc, grpc_auth)):
    with client.InferenceServerClient(PLACES[client]) as box:
        raises("token is needed", box.get_server_metadata)
        box.register_plugin(auth.BasicAuth("token", TOKEN))
        for check in (looks, infers, mixes, fails):
            check(client, box)
        for check in (by_callbacks, leaves) if client is triton_grpc else (by_threads,):
            check(box)
for client, place in ((triton_http_aio, PLACES[triton_http]), (triton_grpc_aio, PLACES[triton_grpc])):
    asyncio.run(by_asyncio(client, place))
for name, fields in messages(service_pb2.DESCRIPTOR.message_types_by_name.values()):
    print(name, sorted(fields.items()))
