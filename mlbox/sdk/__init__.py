"""The SDK: what `import mlbox` shows, over the HTTP client."""

from mlbox.sdk.box import Box, connect, dataset, features, historical, predict, push, run, submit
from mlbox.sdk.datasets import Dataset, Matrix
from mlbox.sdk.export import Exported, export_onnx
from mlbox.sdk.runs import ActiveRun

__all__ = [
    "ActiveRun",
    "Box",
    "Dataset",
    "Exported",
    "Matrix",
    "connect",
    "dataset",
    "export_onnx",
    "features",
    "historical",
    "predict",
    "push",
    "run",
    "submit",
]
