"""Models of three flavors, logged, registered and loaded by stage, alias and number."""

from __future__ import annotations

import warnings
from typing import Any

import mlflow
import mlflow.onnx
import mlflow.pytorch
import mlflow.sklearn
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.models import infer_signature
from people import MAJOR, approve
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

warnings.filterwarnings("ignore")
client = MlflowClient()
mlflow.set_experiment(f"flavors-{MAJOR}")
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3)).astype(np.float32)
y = (X.sum(1) > 0).astype(int)
classifier = LogisticRegression().fit(X, y)
network = torch.nn.Linear(3, 1)


def log(flavor: Any, model: Any, name: str, **more: Any) -> str:
    """A run with one model, registered as it is logged; the version."""
    with mlflow.start_run():
        place = {"name": "model"} if MAJOR >= 3 else {"artifact_path": "model"}
        info = flavor.log_model(model, **place, registered_model_name=name, **more)
    return str(info.registered_model_version)


names = {flavor: f"flavor-{flavor}-{MAJOR}" for flavor in ("sklearn", "onnx", "pytorch")}
signature = infer_signature(X, classifier.predict(X))
sklearn_format = {"serialization_format": "cloudpickle"} if MAJOR >= 3 else {}
assert log(mlflow.sklearn, classifier, names["sklearn"], signature=signature, **sklearn_format) == "1"
onnx_model = to_onnx(classifier, X[:1], options={"zipmap": False}, target_opset=18)
assert log(mlflow.onnx, onnx_model, names["onnx"], signature=signature) == "1"
example = {"input_example": X[:2]} if MAJOR >= 3 else {}
assert log(mlflow.pytorch, network, names["pytorch"], **example) == "1"

loaded = mlflow.sklearn.load_model(f"models:/{names['sklearn']}/1")
assert (loaded.predict(X) == classifier.predict(X)).all()
assert mlflow.onnx.load_model(f"models:/{names['onnx']}/1").graph.input
weights = mlflow.pytorch.load_model(f"models:/{names['pytorch']}/1").state_dict()
assert all(torch.equal(a, b) for a, b in zip(weights.values(), network.state_dict().values(), strict=True))

predicted = mlflow.pyfunc.load_model(f"models:/{names['sklearn']}/1").predict(X)
assert (np.asarray(predicted) == classifier.predict(X)).all()

name = names["sklearn"]
client.set_registered_model_alias(name, "champion", "1")
assert client.get_model_version_by_alias(name, "champion").version in (1, "1")
assert mlflow.sklearn.load_model(f"models:/{name}@champion").coef_.shape == (1, 3)
client.transition_model_version_stage(name, "1", "Staging")
assert mlflow.sklearn.load_model(f"models:/{name}/Staging").coef_.shape == (1, 3)
approve(name, "1")
assert mlflow.sklearn.load_model(f"models:/{name}/Production").coef_.shape == (1, 3)
assert mlflow.sklearn.load_model(f"models:/{name}/latest").coef_.shape == (1, 3)

# A version of another model from one that is here: with its files, and with no approval of its own.
copy = client.copy_model_version(f"models:/{name}/1", f"{name}-copy")
assert copy.current_stage == "None", copy
assert mlflow.sklearn.load_model(f"models:/{name}-copy/{copy.version}").coef_.shape == (1, 3)
print("flavors ok")
