"""The fork server for models: it has loaded onnxruntime, and no model. What looks at models, and what runs them, is a fork of it.

It is started as `python -m mlbox.serve.inference.check_forks FD`.
"""

from __future__ import annotations

from mlbox.serve.inference import check_worker, infer_worker
from mlbox.store.sandbox.forkserver import Workers, main

WORKERS: Workers = {"check": check_worker.main, "infer": infer_worker.main}
LOADED = (
    "numpy",
    "onnx",
    "onnxruntime",
    "mlbox.serve.inference.check_bench",
    "mlbox.serve.inference.check_sample",
    "mlbox.serve.inference.runtime",
    "mlbox.serve.inference.check_replay",
    "mlbox.serve.inference.warmup",
    "mlbox.store.registry.model_folders",
)


def load() -> None:
    """What looking at a model takes, loaded once. onnxruntime has one thread by then, which sleeps; sessions start their own."""
    for name in LOADED:
        __import__(name)


if __name__ == "__main__":
    main(WORKERS, load)
