"""A bare ASGI app that runs a model, as one would write it by hand: what `bench.inference` measures ours against.

`inference_side.py MODEL PORT`: POST / with {"inputs": [{"data": [...]}]} is answered with {"outputs": [{"data": [...]}]}. No
routing, no authentication, no checks, no log, no metrics.
"""

import sys
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import uvicorn


class Input(msgspec.Struct):
    """A tensor."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Asked(msgspec.Struct):
    """A request."""

    inputs: list[Input]


class App:
    """The app."""

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name
        self._wanted = [self._session.get_outputs()[-1].name]
        self._decode = msgspec.json.Decoder(Asked).decode
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        given = self._decode(body).inputs[0]
        rows = np.array(given.data, np.float32).reshape(given.shape)
        (found,) = self._session.run(self._wanted, {self._name: rows})
        shape, values = list(found.shape), found.reshape(-1).tolist()
        answer = self._encode(
            {"outputs": [{"name": self._wanted[0], "datatype": "FP32", "shape": shape, "data": values}]}
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        App(sys.argv[1]), port=int(sys.argv[2]), log_level="warning", access_log=False, lifespan="off", ws="none"
    )
