"""LoggedModels of MLflow 3: logged, found, tagged, registered by their id."""

from __future__ import annotations

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression

client = MlflowClient()
experiment = mlflow.set_experiment("logged-models")
X = np.random.default_rng(0).normal(size=(40, 2))
y = (X.sum(1) > 0).astype(int)
with mlflow.start_run() as run:
    info = mlflow.sklearn.log_model(
        LogisticRegression().fit(X, y), name="clf", params={"C": "1"}, serialization_format="cloudpickle"
    )
    mlflow.log_metric("auc", 0.9, model_id=info.model_id)

model = mlflow.get_logged_model(info.model_id)
assert (model.name, model.source_run_id, str(model.status)) == ("clf", run.info.run_id, "READY"), model
assert model.params == {"C": "1"}, model.params
assert [metric.key for metric in model.metrics] == ["auc"], model.metrics
client.set_logged_model_tags(info.model_id, {"tier": "1"})
found = mlflow.search_logged_models(
    experiment_ids=[experiment.experiment_id], filter_string="name = 'clf' AND metrics.auc > 0.5", output_format="list"
)
assert [one.model_id for one in found] == [info.model_id], found
assert (
    mlflow.search_logged_models(
        experiment_ids=[experiment.experiment_id], filter_string="metrics.auc > 0.95", output_format="list"
    )
    == []
)
outputs = client.get_run(run.info.run_id).outputs.model_outputs
assert [output.model_id for output in outputs] == [info.model_id], outputs

version = mlflow.register_model(f"models:/{info.model_id}", "by-id")
assert version.run_id == run.info.run_id, version
by_run = mlflow.register_model(f"runs:/{run.info.run_id}/clf", "by-id")
assert by_run.run_id == run.info.run_id, by_run
assert "by-id" in mlflow.get_logged_model(info.model_id).tags["mlflow.modelVersions"]
assert mlflow.sklearn.load_model("models:/by-id/1").coef_.shape == (1, 2)
assert mlflow.sklearn.load_model(info.model_uri).coef_.shape == (1, 2)
client.delete_logged_model_tag(info.model_id, "tier")
print("logged_models ok")
