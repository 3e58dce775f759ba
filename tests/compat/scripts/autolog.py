"""Autolog for scikit-learn, datasets, nested runs and evaluate."""

from __future__ import annotations

import warnings

import mlflow
import mlflow.data
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from people import MAJOR
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

warnings.filterwarnings("ignore")
client = MlflowClient()
experiment = mlflow.set_experiment(f"autolog-{MAJOR}")
rng = np.random.default_rng(0)
frame = pd.DataFrame(rng.normal(size=(80, 3)), columns=["a", "b", "c"])
frame["target"] = (frame.sum(axis=1) > 0).astype(int)
X, y = frame[["a", "b", "c"]], frame["target"]

# -- autolog
mlflow.sklearn.autolog()
with mlflow.start_run() as run:
    LogisticRegression(C=0.5).fit(X, y)
found = client.get_run(run.info.run_id)
assert found.data.params["C"] == "0.5", found.data.params
assert "training_roc_auc" in found.data.metrics, found.data.metrics
assert found.data.tags["estimator_name"] == "LogisticRegression", found.data.tags
assert found.inputs.dataset_inputs, "autolog logs the dataset that it was trained on"

# -- nested runs: one for each point of the grid
with mlflow.start_run() as parent:
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(X, y)
children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
assert len(children) == 2, children
mlflow.sklearn.autolog(disable=True)
with mlflow.start_run() as outer, mlflow.start_run(nested=True) as inner:
    mlflow.log_metric("depth", 2)
assert client.get_run(inner.info.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id

# -- datasets
dataset = mlflow.data.from_pandas(frame, source="here.csv", name="customers", targets="target")
with mlflow.start_run() as run:
    mlflow.log_input(dataset, context="training")
(logged,) = client.get_run(run.info.run_id).inputs.dataset_inputs
assert (logged.dataset.name, logged.dataset.digest) == ("customers", dataset.digest), logged
assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")], logged.tags

# -- evaluate
with mlflow.start_run() as run:
    place = {"name": "model"} if MAJOR >= 3 else {"artifact_path": "model"}
    more = {"serialization_format": "cloudpickle"} if MAJOR >= 3 else {}
    info = mlflow.sklearn.log_model(LogisticRegression().fit(X, y), input_example=X[:2], **place, **more)
    evaluate = mlflow.evaluate if MAJOR < 3 else mlflow.models.evaluate
    result = evaluate(
        info.model_uri,
        frame,
        targets="target",
        model_type="classifier",
        evaluators="default",
        evaluator_config={"log_model_explainability": False},
    )
assert result.metrics["accuracy_score"] > 0.9, result.metrics
assert client.get_run(run.info.run_id).data.metrics["accuracy_score"] == result.metrics["accuracy_score"]
assert any(file.path.endswith(".png") for file in client.list_artifacts(run.info.run_id)), "evaluate logs its plots"
print("autolog ok")
