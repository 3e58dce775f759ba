"""Gradient boosted trees: python train_gbm.py DATASET [STAGES]."""

from __future__ import annotations

import sys

from common import MODEL, quality, split
from sklearn.ensemble import HistGradientBoostingClassifier

import mlbox

TREES_PER_STAGE = 10


def main(dataset: str, stages: int) -> None:
    train_x, train_y, valid_x, valid_y, features = split(dataset)
    params = {"learning_rate": 0.1, "max_leaf_nodes": 31, "l2_regularization": 1.0}
    model = HistGradientBoostingClassifier(warm_start=True, early_stopping=False, random_state=0, **params)
    with mlbox.run(params={"kind": "gbm", "trees": stages * TREES_PER_STAGE, **params}) as run:
        for stage in range(1, stages + 1):
            model.set_params(max_iter=stage * TREES_PER_STAGE).fit(train_x, train_y)
            found = quality(valid_y, model.predict_proba(valid_x)[:, 1])
            run.log(step=stage, **found)
            print(f"{stage * TREES_PER_STAGE:4} trees  auc {found['auc']:.4f}", flush=True)
        exported = mlbox.export_onnx(model, valid_x[:512])
        version = run.register(MODEL, exported, features=features, description="gradient boosted trees")
        print(f"registered {version.ref}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 6)
