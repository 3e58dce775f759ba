"""KServe's SDK by REST and by gRPC."""

import asyncio
import os

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

TOKEN = os.environ["MLBOX_TOKEN"]
URL = f"http://{os.environ['MLBOX_HTTP']}"
ROWS = np.array([[1.0], [2.0]], np.float32)
SCORES = (1 / (1 + np.exp(-ROWS))).ravel()


def request(name, binary):
    given = InferInput("input", [2, 1], "FP32")
    given.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest(model_name=name, infer_inputs=[given])


async def by_rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert await client.is_server_live(URL, headers=headers)
    assert await client.is_server_ready(URL, headers=headers)
    assert await client.is_model_ready(URL, "score", headers=headers)
    for binary in (True, False):
        found = await client.infer(URL, request("score", binary), model_name="score", headers=dict(headers))
        assert np.allclose(found.outputs[0].as_numpy().ravel(), SCORES)


async def by_grpc():
    headers = (("authorization", f"Bearer {TOKEN}"),)
    async with InferenceGRPCClient(os.environ["MLBOX_GRPC"]) as client:
        assert await client.is_server_live(headers=headers)
        assert await client.is_server_ready(headers=headers)
        assert await client.is_model_ready("score", headers=headers)
        for binary in (True, False):
            found = await client.infer(request("score", binary), headers=headers)
            assert np.allclose(found.outputs[0].as_numpy().ravel(), SCORES)


asyncio.run(by_rest())
asyncio.run(by_grpc())
print("done")
