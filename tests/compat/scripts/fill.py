"""Fill an MLflow server with something of everything that moves."""

import os
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric
from sklearn.linear_model import LogisticRegression

client = MlflowClient()
mlflow.set_experiment("delay/v 2")
client.set_experiment_tag(client.get_experiment_by_name("delay/v 2").experiment_id, "owner", "ann")
x, y = np.arange(20.0).reshape(-1, 1), np.arange(20) > 9
models = []
with mlflow.start_run(run_name="parent") as parent:
    mlflow.log_params({f"p{n}": n for n in range(120)})
    for number in range(3):
        with mlflow.start_run(run_name=f"child-{number}", nested=True) as child:
            mlflow.set_tags({"git_commit": "abc", "note": "ünï"})
            points = [Metric("loss", 1 / (step + 1), 1_700_000_000_000 + step, step) for step in range(1200)]
            for start in range(0, 1200, 400):
                client.log_batch(child.info.run_id, points[start : start + 400])
            mlflow.log_metric("odd", float("nan"), step=1)
            mlflow.log_metric("odd", float("inf"), step=2)
            mlflow.log_input(mlflow.data.from_numpy(x, name="flights"), context="training")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "a b").mkdir()
                (Path(folder) / "a b" / "weights.bin").write_bytes(os.urandom(3_000_000))
                (Path(folder) / "empty.txt").write_text("")
                mlflow.log_artifacts(folder, "files")
            mlflow.sklearn.log_model(
                LogisticRegression().fit(x, y),
                "model",
                registered_model_name="flight delay",
                pip_requirements=["scikit-learn"],
            )
            models.append(child.info.run_id)
client.set_registered_model_alias("flight delay", "champion", "2")
client.set_model_version_tag("flight delay", "2", "quality", "good")
client.delete_model_version("flight delay", "1")
client.transition_model_version_stage("flight delay", "3", "Production")
client.update_registered_model("flight delay", description="late or not")
print("FILLED", parent.info.run_id, *models)
