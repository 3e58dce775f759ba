"""Triton's extension for scheduling: how soon a request wants to be answered, and how long it waits.

https://github.com/triton-inference-server/server, docs/protocol/extension_schedule_policy.md
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypedDict

from mlbox.errors import InvalidInput

MOST = 2**64


class Queueing(TypedDict):
    """What `ModelServer.infer` takes of it."""

    priority: int
    timeout_ms: float


wire_deadline: ContextVar[float] = ContextVar("wire_deadline", default=math.inf)
"""Until when whoever asks goes on waiting, by `time.perf_counter`, where the wire says so."""
_DEFAULT: Queueing = {"priority": 0, "timeout_ms": math.inf}


def queueing(parameters: Mapping[str, Any]) -> Queueing:
    """The parameters `priority`, 1 for the first and 0 for the default, and `timeout`, in microseconds and 0 for the default.

    No request waits longer than whoever asked.
    """
    until = wire_deadline.get()
    left = until if until == math.inf else max(0.0, until - time.perf_counter()) * 1000
    if not parameters:
        return _DEFAULT if left == math.inf else {"priority": 0, "timeout_ms": left}
    timeout = _number(parameters, "timeout")
    return {"priority": _number(parameters, "priority"), "timeout_ms": min(timeout / 1000 or math.inf, left)}


def _number(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST:
        what = "microseconds" if name == "timeout" else "a number from 1, the first"
        raise InvalidInput(
            f"The parameter {name} is {value!r:.40}.", hint=f"Send {what}; 0 for the default.", field=name
        )
    return value
