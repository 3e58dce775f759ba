"""What Triton's own example programs ask of a server, by their names: `triton_examples.py NAME URL`.

Each makes the calls of the program of that name in tritonclient's repository (src/python/examples), on models of the same names
and tensors, and looks at what that looks at: values, and the words of errors. None of them can send a token.
"""

import asyncio
import queue
import sys
from functools import partial

import numpy as np
import tritonclient.grpc as by_grpc
import tritonclient.grpc.aio as by_grpc_aio
import tritonclient.http as by_http
import tritonclient.http.aio as by_http_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

COUNT = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), np.int32)


def tensors(client, first=COUNT, second=ONES, dtype="INT32", **forms):
    """INPUT0 and INPUT1, the second in JSON where the client has a choice."""
    made = []
    for number, data in enumerate((first, second)):
        made.append(client.InferInput(f"INPUT{number}", list(data.shape), dtype))
        how = {"binary_data": number == 0} if client in (by_http, by_http_aio) and not forms else forms
        made[-1].set_data_from_numpy(data, **how)
    return made


def wanted(client):
    forms = [{"binary_data": True}, {"binary_data": False}] if client in (by_http, by_http_aio) else [{}, {}]
    return [client.InferRequestedOutput(f"OUTPUT{n}", **form) for n, form in enumerate(forms)]


def check(result, first=COUNT, second=ONES):
    """The sum and the difference, which texts say too."""
    for name, expected in (("OUTPUT0", first + second), ("OUTPUT1", first - second)):
        assert np.array_equal(np.vectorize(int)(result.as_numpy(name)), expected), (name, result.as_numpy(name))


def words_of(call, *args, **more):
    try:
        call(*args, **more)
    except InferenceServerException as err:
        return err.message() or ""
    raise AssertionError("it was expected to be refused")


def plain(client, box, **more):
    """simple_*_infer_client, with parameters in the path, headers of its own and compression, as its flags are."""
    for outputs in (wanted(client), None):
        check(box.infer("simple", tensors(client), outputs=outputs, **more))
    stats = box.get_inference_statistics("simple")
    assert len(stats["model_stats"] if client is by_http else stats.model_stats) == 1
    assert words_of(box.infer, "wrong_model_name", tensors(client)).startswith("Request for unknown model")


def simple_http_infer_client(url):
    with by_http.InferenceServerClient(url) as box:
        for how in (None, "gzip", "deflate"):
            more = {"request_compression_algorithm": how, "response_compression_algorithm": how}
            plain(by_http, box, query_params={"test_1": 1, "test_2": 2}, headers={"test": "1"}, **more)


def simple_grpc_infer_client(url):
    keep = by_grpc.KeepAliveOptions(2**31 - 1, 20_000, False, 2)
    with by_grpc.InferenceServerClient(url, keepalive_options=keep) as box:
        for how in (None, "gzip", "deflate"):
            plain(by_grpc, box, headers={"test": "1"}, compression_algorithm=how, client_timeout=60)


def strings(client, box):
    """Numbers as texts, texts with a null in them, and bytes."""
    texts = lambda data: np.vectorize(lambda value: str(value).encode(), otypes=[object])(data)  # noqa: E731
    check(box.infer("simple_string", tensors(client, texts(COUNT), texts(ONES), "BYTES"), outputs=wanted(client)))
    kinds = (np.full((1, 16), b"he\x00llo", object), np.full((1, 16), b"\x00\x01\x02\x03", np.bytes_))
    for data in kinds:
        for form in [{}] if client is by_grpc else [{"binary_data": True}, {"binary_data": False}]:
            given = client.InferInput("INPUT0", list(data.shape), "BYTES")
            given.set_data_from_numpy(data, **form)
            asked = [client.InferRequestedOutput("OUTPUT0", **form)]
            found = box.infer("simple_identity", [given], outputs=asked).as_numpy("OUTPUT0")
            same = [value if isinstance(value, bytes) else value.encode() for value in found.reshape(-1)]
            assert same == data.reshape(-1).tolist(), (form, found)


def simple_http_string_infer_client(url):
    with by_http.InferenceServerClient(url) as box:
        strings(by_http, box)


def simple_grpc_string_infer_client(url):
    with by_grpc.InferenceServerClient(url) as box:
        strings(by_grpc, box)


def health(client, box, **more):
    """Alive, ready, and what there is; the name is that of Triton, because its programs look for it."""
    assert box.is_server_live(**more)
    assert box.is_server_ready()
    assert box.is_model_ready("simple")
    at = (lambda found, name: found[name]) if client is by_http else getattr
    assert at(box.get_server_metadata(), "name") == "triton"
    assert at(box.get_model_metadata("simple", **more), "name") == "simple"
    assert "Request for unknown model" in words_of(box.get_model_metadata, "wrong_model_name")
    config = box.get_model_config("simple")
    assert at(config if client is by_http else config.config, "name") == "simple"


def simple_http_health_metadata(url):
    with by_http.InferenceServerClient(url) as box:
        health(by_http, box, query_params={"test_1": 1, "test_2": 2})


def simple_grpc_health_metadata(url):
    with by_grpc.InferenceServerClient(url) as box:
        health(by_grpc, box, headers={"test": "1", "dummy": "2"})


def control(client, box):
    """Loaded, unloaded and loaded again; what would bring a model past the registry, or make it another, is refused."""
    index = box.get_model_repository_index()
    names = {row["name"] for row in index} if client is by_http else {row.name for row in index.models}
    assert {"simple", "simple_string", "simple_identity", "simple_int8", "simple_sequence"} <= names
    box.load_model("simple")
    assert box.is_model_ready("simple")
    wrong = '"parameters": {"config": {{"max_batch_size": "16"}}}'
    assert "failed to load" in words_of(box.load_model, "simple", config=wrong)
    assert "max_batch_size cannot be" in words_of(box.load_model, "simple", config='{"max_batch_size":"16"}')
    box.load_model("simple", config='{"dynamic_batching":{"max_queue_delay_microseconds":"0"}}')
    assert "the registry lets serve" in words_of(
        box.load_model, "simple", config="{}", files={"file:1/model.onnx": b"a"}
    )
    box.unload_model("simple")
    assert not box.is_model_ready("simple")
    assert "failed to load" in words_of(box.load_model, "wrong_model_name")
    box.load_model("simple")
    assert box.is_model_ready("simple")


def simple_http_model_control(url):
    with by_http.InferenceServerClient(url) as box:
        control(by_http, box)


def simple_grpc_model_control(url):
    with by_grpc.InferenceServerClient(url) as box:
        control(by_grpc, box)


def simple_http_async_infer_client(url):
    with by_http.InferenceServerClient(url, concurrency=4) as box:
        for asked in [box.async_infer("simple", tensors(by_http), outputs=wanted(by_http)) for _ in range(8)]:
            check(asked.get_result())


def simple_grpc_async_infer_client(url):
    answers = queue.Queue()
    with by_grpc.InferenceServerClient(url) as box:
        box.async_infer("simple", tensors(by_grpc), callback=lambda result, error: answers.put((result, error)))
        result, error = answers.get(timeout=60)
    assert error is None, error
    check(result)


async def by_asyncio(client, url):
    async with client.InferenceServerClient(url) as box:
        for found in await asyncio.gather(
            *(box.infer("simple", tensors(client), outputs=wanted(client)) for _ in range(8))
        ):
            check(found)


def simple_http_aio_infer_client(url):
    asyncio.run(by_asyncio(by_http_aio, url))


def simple_grpc_aio_infer_client(url):
    asyncio.run(by_asyncio(by_grpc_aio, url))


def reuse(client, box):
    """The same objects for one request after the other, with other data each time."""
    inputs, outputs = tensors(client), wanted(client)
    for factor in (1, 2, 3):
        for given, data in zip(inputs, (COUNT, ONES * factor), strict=True):
            given.set_data_from_numpy(data)
        check(box.infer("simple", inputs, outputs=outputs), COUNT, ONES * factor)


def reuse_infer_objects_client(url):
    client = by_http if "http" in sys.argv[3:] else by_grpc
    with client.InferenceServerClient(url) as box:
        reuse(client, box)


def grpc_explicit_int8_content_client(url):
    """Values in the message, one field for each type; a version that is no number is told so in Triton's words."""
    import grpc

    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(url))
    request = service_pb2.ModelInferRequest(model_name="simple_int8")
    for number, values in enumerate((range(16), [1] * 16)):
        given = request.inputs.add(name=f"INPUT{number}", datatype="INT8", shape=[1, 16])
        given.contents.int_contents[:] = values
    response = stub.ModelInfer(request)
    found = [np.frombuffer(raw, np.int8).tolist() for raw in response.raw_output_contents]
    assert [output.name for output in response.outputs] == ["OUTPUT0", "OUTPUT1"]
    assert found == [[n + 1 for n in range(16)], [n - 1 for n in range(16)]]
    request.model_version = "wrong_specification"
    told = ""
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as err:
        told = str(err)
    assert "failed to get model version from specified version string 'wrong_specification'" in told, told


def streams(box, send):
    """Requests over one stream, answered in their order."""
    answers = queue.Queue()
    box.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(10):
        send(number)
    found = [answers.get(timeout=60) for _ in range(10)]
    box.stop_stream()
    return found


def simple_grpc_stream_infer_client(url):
    with by_grpc.InferenceServerClient(url) as box:
        send = lambda n: box.async_stream_infer(  # noqa: E731
            "simple", tensors(by_grpc, COUNT * n), request_id=str(n), enable_empty_final_response=True
        )
        for number, (result, error) in enumerate(streams(box, send)):
            assert error is None, error
            assert result.get_response().id == str(number)
            check(result, COUNT * number)


SEQUENCE = {"sequence_id": 1000, "sequence_start": True, "sequence_end": False}


def one(client):
    given = client.InferInput("INPUT", [1, 1], "INT32")
    given.set_data_from_numpy(np.array([[11]], np.int32))
    return [given]


def simple_grpc_sequence_stream_infer_client(url):
    """The server keeps no state: a model that is told where a sequence begins and ends by the server is not told, and says so."""
    with by_grpc.InferenceServerClient(url) as box:
        send = partial(box.async_stream_infer, "simple_sequence", one(by_grpc), **SEQUENCE)
        for _, error in streams(box, lambda n: send(request_id=str(n))):
            assert "missing 'START'" in str(error), error


def simple_http_sequence_sync_infer_client(url):
    with by_http.InferenceServerClient(url) as box:
        assert "missing 'START'" in words_of(box.infer, "simple_sequence", one(by_http), **SEQUENCE)
        check(box.infer("simple", tensors(by_http), **SEQUENCE))  # a model that knows no sequences, as with Triton


def shared(client, box):
    """Nothing is registered, and registering is refused with words."""
    box.unregister_system_shared_memory()
    box.unregister_cuda_shared_memory()
    region = shm.create_shared_memory_region("output_data", "/mlbox_example", 128)
    try:
        assert "no shared memory" in words_of(box.register_system_shared_memory, "output_data", "/mlbox_example", 128)
        inputs = tensors(client)
        inputs[0].set_shared_memory("input_data", 64)
        assert "INPUT0" in words_of(box.infer, "simple", inputs)
        outputs = wanted(client)
        outputs[0].set_shared_memory("output_data", 64)
        assert "OUTPUT0" in words_of(box.infer, "simple", tensors(client), outputs=outputs)
        status = box.get_system_shared_memory_status()
        assert not (status if client is by_http else status.regions)
    finally:
        shm.destroy_shared_memory_region(region)


def simple_http_shm_client(url):
    with by_http.InferenceServerClient(url) as box:
        shared(by_http, box)


def simple_grpc_shm_client(url):
    with by_grpc.InferenceServerClient(url) as box:
        shared(by_grpc, box)


def simple_http_cudashm_client(url):
    with by_http.InferenceServerClient(url) as box:
        box.unregister_cuda_shared_memory()
        assert "no shared memory" in words_of(box.register_cuda_shared_memory, "input0_data", b"aGFuZGxl", 0, 64)


def simple_grpc_cudashm_client(url):
    with by_grpc.InferenceServerClient(url) as box:
        box.unregister_cuda_shared_memory()
        assert "no shared memory" in words_of(box.register_cuda_shared_memory, "input0_data", b"aGFuZGxl", 0, 64)


name = sys.argv[1]
globals()[name](sys.argv[2])
print(f"PASS: {name}")
