"""mlbox: a whole ML platform for one GPU box.

    import mlbox

    with mlbox.run(experiment="delay", params={"lr": 0.1}) as run:
        run.log(step=1, loss=0.4)

Every function acts on the box of the current context (`mlbox login URL`) or of MLBOX_URL and MLBOX_TOKEN; `mlbox.connect` gives
that box, or another, with the same names as methods. Nothing is loaded before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlbox.sdk import Box, connect, dataset, export_onnx, features, historical, predict, push, run, submit

__version__ = "0.1.0"
__all__ = ["Box", "connect", "dataset", "export_onnx", "features", "historical", "predict", "push", "run", "submit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mlbox' has no attribute {name!r}")
    from mlbox import sdk

    return getattr(sdk, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
