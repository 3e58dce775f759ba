"""A model behind other servers, as their documentation has one write it: what `bench.peers` measures ours against.

`peers_side.py litserve PORT` serves; `peers_side.py mlflow FOLDER` writes what `mlflow models serve` takes. BentoML and MLServer
find `Bento` and `Served` here. The model is the file in `MODEL`. Each runs in an environment with its own peer alone and with
onnxruntime: one worker, one thread for the model, as ours has.
"""

import importlib.util
import os
import sys
from typing import Any

import numpy as np


def session(path: str) -> Any:
    """The model, as our server opens it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(model: Any, rows: Any) -> Any:
    """The last output, which is the probabilities."""
    found = model.run([model.get_outputs()[-1].name], {model.get_inputs()[0].name: rows})
    return found[0]


if importlib.util.find_spec("litserve"):
    import litserve as ls
    from fastapi import Request

    class Api(ls.LitAPI):  # type: ignore[misc]
        """`{"data": [...]}` is one row. Its worker is another process, which reads this file again."""

        def setup(self, device: str) -> None:
            self.model = session(os.environ["MODEL"])

        def decode_request(self, request: Request) -> Any:
            return np.array([request["data"]], np.float32)

        def predict(self, rows: Any) -> Any:
            return run(self.model, rows)

        def encode_response(self, output: Any) -> Any:
            return {"data": output.tolist()}


def litserve(port: str) -> None:
    """Serve with one worker."""
    server = ls.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, log_level="warning", generate_client_file=False)


def mlflow(folder: str) -> None:
    """The model in MLflow's own form."""
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(onnx.load(os.environ["MODEL"]), folder)


if "bentoml" in sys.modules:
    import bentoml

    @bentoml.service(workers=1)
    class Bento:
        """`{"data": [...]}` is one row."""

        def __init__(self) -> None:
            self.model = session(os.environ["MODEL"])

        @bentoml.api
        def predict(self, data: list[float]) -> list[list[float]]:
            found: list[list[float]] = run(self.model, np.array([data], np.float32)).tolist()
            return found


if "mlserver" in sys.modules:
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec
    from mlserver.types import InferenceResponse

    class Served(MLModel):  # type: ignore[misc]
        """The Open Inference Protocol."""

        async def load(self) -> bool:
            self.model = session(os.environ["MODEL"])
            return True

        async def predict(self, payload: Any) -> Any:
            rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
            output = NumpyCodec.encode_output("score", run(self.model, rows))
            return InferenceResponse(model_name=self.name, outputs=[output])


if __name__ == "__main__":
    {"litserve": litserve, "mlflow": mlflow}[sys.argv[1]](*sys.argv[2:])
