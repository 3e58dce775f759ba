"""The Open Inference Protocol v2 with Triton's extensions, as one adapter over the model server.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

from typing import Any

from mlbox.web.v2 import absent, infer, models, repository

handlers: list[Any] = [*models.handlers, *infer.handlers, *repository.handlers, *absent.handlers]
fast = infer.fast
