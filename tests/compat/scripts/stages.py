"""Stages and aliases of saved models of three flavors: the gate, the second person, and what loads afterwards."""

from __future__ import annotations

import warnings

import mlflow
import mlflow.onnx
import mlflow.pytorch
import mlflow.sklearn
import numpy as np
import torch
from mlflow import MlflowClient
from people import MAJOR, approve, kept_run, refused
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

warnings.filterwarnings("ignore")
client = MlflowClient()
X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
classifier = LogisticRegression().fit(X, (X.sum(1) > 0).astype(int))
network = torch.nn.Linear(3, 1)
pickled = {"serialization_format": "cloudpickle"} if MAJOR >= 3 else {}
example = {"input_example": X[:2]} if MAJOR >= 3 else {}
mlflow.sklearn.save_model(classifier, "sklearn", **pickled)
mlflow.onnx.save_model(to_onnx(classifier, X[:1], options={"zipmap": False}, target_opset=18), "onnx")
mlflow.pytorch.save_model(network, "pytorch", **example)

for flavor in ("sklearn", "onnx", "pytorch"):
    name = f"{flavor}-{MAJOR}"
    client.create_registered_model(name)
    run_id = kept_run(flavor)
    assert str(client.create_model_version(name, f"runs:/{run_id}/{flavor}", run_id).version) == "1"

name = f"sklearn-{MAJOR}"
assert (mlflow.sklearn.load_model(f"models:/{name}/1").predict(X) == classifier.predict(X)).all()
assert (mlflow.pyfunc.load_model(f"models:/{name}/latest").predict(X) == classifier.predict(X)).all()
assert mlflow.onnx.load_model(f"models:/onnx-{MAJOR}/1").graph.input
loaded = mlflow.pytorch.load_model(f"models:/pytorch-{MAJOR}/1").state_dict()
assert all(torch.equal(a, b) for a, b in zip(loaded.values(), network.state_dict().values(), strict=True))

client.set_registered_model_alias(name, "champion", "1")
assert mlflow.sklearn.load_model(f"models:/{name}@champion").coef_.shape == (1, 3)

staged = client.transition_model_version_stage(name, "1", "Staging")
assert staged.current_stage == "Staging", staged
assert mlflow.sklearn.load_model(f"models:/{name}/Staging").coef_.shape == (1, 3)
client.set_model_version_tag(name, "1", "approved_by", "bea")
err = refused(lambda: client.transition_model_version_stage(name, "1", "Production", archive_existing_versions=True))
assert err.error_code == "PERMISSION_DENIED", err.error_code
for words in ("lacks an approval", f"`mlbox model approve {name}@1`", f"/api/v1/models/{name}/versions/1/approve"):
    assert words in str(err), err
approve(name, "1")
moved = client.transition_model_version_stage(name, "1", "Production", archive_existing_versions=True)
assert moved.current_stage == "Production", moved
assert mlflow.sklearn.load_model(f"models:/{name}/Production").coef_.shape == (1, 3)

# A second version replaces it. It is a copy of the first, with its files and no approval of its own.
copy = client.copy_model_version(f"models:/{name}/1", name)
assert (str(copy.version), copy.current_stage) == ("2", "None"), copy
client.transition_model_version_stage(name, "2", "Staging")
approve(name, "2")
client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=True)
stages = {str(v.version): v.current_stage for v in client.search_model_versions(f"name='{name}'")}
assert stages == {"1": "Archived", "2": "Production"}, stages
latest = client.get_latest_versions(name, stages=["Production"])
assert [str(version.version) for version in latest] == ["2"], latest
assert "is in Production" in str(refused(lambda: client.delete_registered_model(name)))
print("stages ok")
