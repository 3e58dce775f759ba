"""Train on a dataset version of mlbox with MLflow's client, which names it as the run's input."""

import os

import mlflow
import mlflow.data
import pandas as pd
import requests
from mlflow import MlflowClient

MAJOR = int(mlflow.__version__.split(".")[0])
URL, HEADERS = os.environ["MLFLOW_TRACKING_URI"], {"Authorization": f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}"}
client = MlflowClient()


def ask(method: str, path: str, **more: object) -> requests.Response:
    answer = requests.request(method, f"{URL}/api/v1/{path}", headers=HEADERS, timeout=60, **more)
    answer.raise_for_status()
    return answer


frame = pd.DataFrame({"n": [1, 2, 3], "price": [0.5, 1.5, 2.5]})
version = ask("POST", f"datasets/versions{MAJOR}/rows?format=csv", data=frame.to_csv(index=False)).json()
ref = f"versions{MAJOR}@v1"
(file,) = version["files"]
experiment = mlflow.set_experiment(f"versions-{MAJOR}")

# -- by its name, and by its address
address = f"{URL}/api/v1/datasets/{ref}/files/{file['path']}"
for dataset in (
    mlflow.data.from_pandas(frame, name=ref),
    mlflow.data.from_pandas(frame, source=address, name="prices"),
):
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training")
    (logged,) = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == (dataset.name, dataset.digest), logged
    assert ask("GET", f"runs/{run.info.run_id}").json()["dataset"] == ref

# -- other data is other data
with mlflow.start_run() as run:
    mlflow.log_input(mlflow.data.from_pandas(frame, source="here.csv", name="prices"))
assert ask("GET", f"runs/{run.info.run_id}").json()["dataset"] is None

# -- a run that mlbox began on a version shows it to MLflow
begun = ask("POST", "runs", json={"experiment": f"versions-{MAJOR}", "dataset": ref}).json()["id"]
(logged,) = client.get_run(begun).inputs.dataset_inputs
assert (logged.dataset.name, logged.dataset.digest) == (ref, version["hash"][:36]), logged
assert mlflow.data.get_source(logged).url == f"{URL}/api/v1/datasets/{ref}"
found = client.search_runs([experiment.experiment_id], f"dataset.name = '{ref}'")
assert begun in [run.info.run_id for run in found], found

print("versions ok")
