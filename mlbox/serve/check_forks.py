"""The fork server for models: it has loaded onnxruntime, and no model. What looks at models, and what runs them, is a fork of it.

It is started as `python -m mlbox.serve.check_forks FD`.
"""

from __future__ import annotations

from mlbox.serve import check_worker, infer_worker
from mlbox.store.forkserver import Workers, main

WORKERS: Workers = {"check": check_worker.main, "infer": infer_worker.main}
LOADED = (
    *("numpy", "onnx", "onnxruntime", "mlbox.serve.check_bench", "mlbox.serve.check_sample", "mlbox.serve.runtime"),
    "mlbox.serve.check_replay",
    *("mlbox.serve.warmup", "mlbox.store.model_folders"),
)


def load() -> None:
    """What looking at a model takes, loaded once. onnxruntime has one thread by then, which sleeps; sessions start their own."""
    for name in LOADED:
        __import__(name)


if __name__ == "__main__":
    main(WORKERS, load)
