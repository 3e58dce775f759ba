"""A bare grpc.aio handler that runs a model, as one would write it by hand: what `bench.rpc` measures ours against.

`rpc_side.py MODEL PORT`: `ModelInfer` with one raw FP32 tensor is answered with the model's last output. No authentication, no
checks, no log, no metrics. `rpc_side.py load PLACE TOKEN MODEL INPUT WIDTH CLIENTS SECONDS` asks a server, and prints how often.
"""

import asyncio
import sys
import time
from typing import Any

import grpc
import grpc.aio
import numpy as np

from mlbox.web.rpc import inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def serve(path: str, port: int) -> None:
    """Answer until killed."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, wanted = session.get_inputs()[0].name, [session.get_outputs()[-1].name]

    async def infer(asked: Any, context: Any) -> Any:
        shape = list(asked.inputs[0].shape)
        rows = np.frombuffer(asked.raw_input_contents[0], np.float32).reshape(shape)
        (found,) = session.run(wanted, {name: rows})
        answer = pb.ModelInferResponse(model_name=asked.model_name, raw_output_contents=[found.tobytes()])
        answer.outputs.add(name=wanted[0], datatype="FP32", shape=found.shape)
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def ask(place: str, token: str, model: str, name: str, width: int, clients: int, seconds: float) -> None:
    """Ask for some seconds by so many clients at a time."""
    rows = np.random.default_rng(0).normal(size=(1, width)).astype(np.float32)
    asked = pb.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes()])
    asked.inputs.add(name=name, datatype="FP32", shape=rows.shape)
    content, metadata, counts, ends = asked.SerializeToString(), (("authorization", f"Bearer {token}"),), [0], [0.0]

    async def client(call: Any) -> None:
        while time.monotonic() < ends[0]:
            await call(content, metadata=metadata)
            counts[0] += 1

    async with grpc.aio.insecure_channel(place) as channel:
        call = channel.unary_unary(METHOD)
        await call(content, metadata=metadata)
        ends[0] = time.monotonic() + seconds
        await asyncio.gather(*[client(call) for _ in range(clients)])
    print(counts[0])


if __name__ == "__main__":
    if sys.argv[1] == "load":
        *texts, width, clients, seconds = sys.argv[2:]
        asyncio.run(ask(*texts, int(width), int(clients), float(seconds)))
    else:
        asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
