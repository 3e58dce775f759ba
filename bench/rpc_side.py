"""The other processes of `bench.rpc`.

`rpc_side.py serve MODEL PORT` is a bare grpc.aio handler that runs a model on raw tensors, as one would write it by hand: no
authentication, no checks, no log. `rpc_side.py load PLACE TOKEN SECONDS CALLS` asks a server, so many calls at a time, and prints
how many were answered and the median of their times in ms.
"""

import asyncio
import statistics
import sys
import time
from typing import Any

import grpc
import grpc.aio
import numpy as np
import uvloop

from mlbox.web.rpc import inference_pb2 as pb

SERVICE, WIDTH = "inference.GRPCInferenceService", 30


async def serve(path: str, port: int) -> None:
    """Answer for ever."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, wanted = session.get_inputs()[0].name, session.get_outputs()[-1].name

    async def infer(asked: Any, context: Any) -> Any:
        rows = np.frombuffer(asked.raw_input_contents[0], np.float32).reshape(tuple(asked.inputs[0].shape))
        (found,) = session.run([wanted], {name: rows})
        answer = pb.ModelInferResponse(model_name=asked.model_name, raw_output_contents=[found.tobytes()])
        answer.outputs.add(name=wanted, datatype="FP32", shape=found.shape)
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def load(place: str, token: str, seconds: float, calls: int) -> None:
    """Ask, and print what came of it."""
    rows = np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)
    asked = pb.ModelInferRequest(model_name="gbm", raw_input_contents=[rows.tobytes()])
    asked.inputs.add(name="X", datatype="FP32", shape=rows.shape)
    content, times = asked.SerializeToString(), []
    async with grpc.aio.insecure_channel(place) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        metadata = (("authorization", f"Bearer {token}"),)
        end = time.perf_counter() + seconds

        async def go() -> None:
            while (began := time.perf_counter()) < end:
                await infer(content, metadata=metadata)
                times.append(time.perf_counter() - began)

        await asyncio.gather(*(go() for _ in range(calls)))
    print(len(times), statistics.median(times) * 1000)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(serve(sys.argv[2], int(sys.argv[3])))
    else:
        uvloop.run(load(sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])))
