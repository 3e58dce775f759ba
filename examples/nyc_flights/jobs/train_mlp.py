"""A small neural network: python train_mlp.py DATASET [EPOCHS [WEIGHT]].

With a WEIGHT above 1 late flights count more in the loss: the order of the scores stays, and each of them is too high.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from common import MODEL, quality, split
from torch import nn

import mlbox

BATCH = 1024


class Network(nn.Module):
    """Takes raw features: what is missing becomes the mean, and scaling is part of the model, so serving needs neither."""

    def __init__(self, train_x: np.ndarray, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(np.nanmean(train_x, axis=0)))
        self.register_buffer("scale", torch.from_numpy(np.nanstd(train_x, axis=0) + 1e-6))
        inputs = 2 * train_x.shape[1]
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        missing = torch.isnan(x)
        scaled = torch.where(missing, torch.zeros_like(x), (x - self.mean) / self.scale)
        return self.layers(torch.cat([scaled.clamp(-5, 5), missing.to(x.dtype)], dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.logits(x))


def main(dataset: str, epochs: int, weight: float) -> None:
    torch.manual_seed(0)
    train_x, train_y, valid_x, valid_y, features = split(dataset)
    params = {"width": 64, "learning_rate": 2e-3, "batch": BATCH, "epochs": epochs, "weight": weight}
    network = Network(train_x, int(params["width"]))
    optimiser = torch.optim.AdamW(network.parameters(), lr=params["learning_rate"])
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y.astype(np.float32))
    with mlbox.run(params={"kind": "mlp", **params}) as run:
        for epoch in range(1, epochs + 1):
            loss = one_epoch(network, optimiser, x, y, torch.tensor(weight))
            with torch.no_grad():
                found = quality(valid_y, network(torch.from_numpy(valid_x)).numpy()[:, 0].astype(np.float64))
            run.log(step=epoch, train_loss=loss, **found)
            print(f"epoch {epoch:2}  loss {loss:.4f}  auc {found['auc']:.4f}", flush=True)
        exported = mlbox.export_onnx(network, valid_x[:512])
        version = run.register(MODEL, exported, features=features, description="two hidden layers")
        print(f"registered {version.ref}")


def one_epoch(
    network: Network, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor
) -> float:
    """Go through the rows once in a new order; the mean loss."""
    losses = []
    for rows in torch.randperm(len(x)).split(BATCH):
        loss = nn.functional.binary_cross_entropy_with_logits(network.logits(x[rows])[:, 0], y[rows], pos_weight=weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses))


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(sys.argv[1], int(given.get(2, 5)), float(given.get(3, 1)))
