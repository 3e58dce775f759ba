"""A trainer class and a registry class as the field's textbooks write them, with one addition: the second person's approval."""

from __future__ import annotations

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient
from people import MAJOR, approve, refused
from torch import nn


class Trainer:
    """Trains and logs."""

    def __init__(self, experiment: str) -> None:
        mlflow.set_experiment(experiment)

    def train(self, params: dict[str, float], epochs: int) -> str:
        torch.manual_seed(0)
        x = torch.randn(64, 3)
        y = (x.sum(1, keepdim=True) > 0).float()
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=params["lr"])
        with mlflow.start_run(run_name="textbook") as run:
            mlflow.log_params(params)
            mlflow.set_tag("git_commit", "c0ffee" * 6 + "abcd")
            mlflow.set_tag("dataset_version", "customers-2024-03")
            for epoch in range(epochs):
                loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                mlflow.log_metrics({"train_loss": loss.item(), "val_auc": 0.5 + epoch / 100}, step=epoch)
            example = {"input_example": x[:2].numpy()} if MAJOR >= 3 else {}
            mlflow.pytorch.log_model(model, "best_model", **example)
            run_id: str = run.info.run_id
            return run_id


class Registry:
    """Registers, promotes, loads."""

    def __init__(self) -> None:
        self.client = MlflowClient()

    def register(self, run_id: str, name: str) -> str:
        return str(mlflow.register_model(f"runs:/{run_id}/best_model", name).version)

    def to_staging(self, name: str, version: str) -> None:
        self.client.transition_model_version_stage(name, version, "Staging")

    def to_production(self, name: str, version: str, approved_by: str) -> None:
        self.client.set_model_version_tag(name, version, "approved_by", approved_by)
        self.client.transition_model_version_stage(name, version, "Production", archive_existing_versions=True)

    def load_production(self, name: str) -> nn.Module:
        model: nn.Module = mlflow.pytorch.load_model(f"models:/{name}/Production")
        return model

    def by_stage(self, name: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for version in self.client.search_model_versions(f"name='{name}'"):
            found.setdefault(version.current_stage, []).append(str(version.version))
        return found


NAME = f"textbook-{MAJOR}"
trainer, registry = Trainer(f"textbook-{MAJOR}"), Registry()
run_id = trainer.train({"lr": 0.1, "hidden": 4}, epochs=5)

run = registry.client.get_run(run_id)
assert run.info.status == "FINISHED", run.info.status
assert run.data.params == {"lr": "0.1", "hidden": "4"}, run.data.params
assert run.data.metrics["val_auc"] == 0.54, run.data.metrics
steps = [point.step for point in registry.client.get_metric_history(run_id, "train_loss")]
assert steps == list(range(5)), steps

first = registry.register(run_id, NAME)
registry.to_staging(NAME, first)
assert registry.by_stage(NAME) == {"Staging": [first]}, registry.by_stage(NAME)

err = refused(lambda: registry.to_production(NAME, first, approved_by="bea"))
assert err.error_code == "PERMISSION_DENIED", err.error_code
for words in ("approval", f"mlbox model approve {NAME}@{first}", f"/api/v1/models/{NAME}/versions/{first}/approve"):
    assert words in str(err), err

approve(NAME, first)
registry.to_production(NAME, first, approved_by="bea")
assert registry.by_stage(NAME) == {"Production": [first]}, registry.by_stage(NAME)

second = registry.register(trainer.train({"lr": 0.2, "hidden": 4}, epochs=5), NAME)
registry.to_staging(NAME, second)
approve(NAME, second)
registry.to_production(NAME, second, approved_by="bea")
assert registry.by_stage(NAME) == {"Production": [second], "Archived": [first]}, registry.by_stage(NAME)

latest = registry.client.get_latest_versions(NAME, stages=["Production"])
assert [str(version.version) for version in latest] == [second], latest
model = registry.load_production(NAME)
scores = model(torch.zeros(2, 3)).detach().numpy()
assert scores.shape == (2, 1), scores.shape
assert np.isfinite(scores).all(), scores
print("textbook ok")
