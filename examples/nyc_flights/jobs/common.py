"""What both training jobs share: the data, split in time, and how good a score is."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

import mlbox

MODEL = "flight-delay"


def split(ref: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """The dataset's rows in the order of time: the first 80 % to train on, the last 20 % to validate."""
    data = mlbox.dataset(ref)
    matrix = data.matrix()
    order = np.argsort(data.to_arrow(columns=["event_time"]).column("event_time").to_numpy(), kind="stable")
    inputs, labels = matrix.X[order], matrix.y[order]
    cut = int(len(order) * 0.8)
    return inputs[:cut], labels[:cut], inputs[cut:], labels[cut:], matrix.features


def quality(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """AUC and log loss."""
    return {"auc": float(roc_auc_score(labels, scores)), "log_loss": float(log_loss(labels, scores))}
