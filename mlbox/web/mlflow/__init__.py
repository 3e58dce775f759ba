"""MLflow's REST API over the tracker and the registry: `web/mlflow` only translates."""

from __future__ import annotations

from typing import Any

from mlbox.web.mlflow import (
    artifacts,
    experiments,
    logged_models,
    metrics,
    models,
    runlog,
    runs,
    scoring,
    server_info,
    versions,
    webhooks,
)

handlers: list[Any] = [
    *experiments.handlers,
    *runs.handlers,
    *runlog.handlers,
    *metrics.handlers,
    *artifacts.handlers,
    *logged_models.handlers,
    *server_info.handlers,
    *models.handlers,
    *versions.handlers,
    *webhooks.handlers,
    *scoring.handlers,
]
"""Everything that an MLflow client asks."""
