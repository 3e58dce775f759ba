"""A configuration in the words of Triton's ModelConfig, as a change of how a model is served.

What may be changed is what `GET .../config` shows of batching, queue and cache. The rest of it says what the model is: it may be
there as it is, since clients send back what they got, and nothing of it may be another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mlbox.errors import InvalidInput

CACHE_BYTES = 16 * 2**20
"""Of answers to remember for who switches that on here, where Triton has one size for all models."""
FIXED = {"timeout_action": "REJECT", "allow_timeout_override": True, "preserve_ordering": False}
"""What there is no other of."""
BATCHING = {
    "max_queue_delay_microseconds": "max_delay_us",
    "priority_levels": "priority_levels",
    "default_priority_level": "default_priority",
}
HINT = (
    "Only dynamic_batching, whose preferred_batch_size is how many rows are joined, and response_cache may differ from"
    " `GET /v2/models/NAME/config`; or see `mlbox model serving`."
)


def changes_of(text: object, now: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration changes; `now` is how the model is configured. Raises InvalidInput naming what cannot be changed."""
    given = _read(text)
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name == "dynamic_batching":
            changes |= _batching(_table(value, name))
        elif name == "response_cache":
            enable = _table(value, name).get("enable")
            was = now["response_cache"]["enable"]
            if enable is not was:
                changes["cache_bytes"] = CACHE_BYTES if _flag(enable, "response_cache.enable") else 0
        elif name not in now or _plain(value) != _plain(now[name]):
            raise _no_such(name, value)
    return changes


def _plain(value: Any) -> Any:
    """With whole numbers as texts, which is how protobuf's JSON has those of 64 bits."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if type(value) is int else value


def _number(name: str, value: Any) -> int:
    if type(value) is int and abs(value) < 2**63:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    raise _no_such(name, value)


def _read(text: object) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text if isinstance(text, str) else "", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as err:
        raise InvalidInput(f"the configuration is no JSON object in a text: {err}.", hint=HINT, field="config") from err


def _batching(given: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name in BATCHING:
            changes[BATCHING[name]] = _number(name, value)
        elif name == "preferred_batch_size" and isinstance(value, list) and value:
            changes["max_batch"] = max(_number(name, size) for size in value)
        elif name == "default_queue_policy":
            changes |= _queue(_table(value, name))
        elif FIXED.get(name) is not value:
            raise _no_such(name, value)
    return changes


def _queue(given: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name == "max_queue_size":
            changes["queue_limit"] = _number(name, value)
        elif name == "default_timeout_microseconds":
            changes["timeout_ms"] = _number(name, value) / 1000
        elif name not in FIXED or FIXED[name] != value:
            raise _no_such(name, value)
    return changes


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _no_such(name, value)
    return value


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _no_such(name, value)
    return value


def _no_such(name: str, value: Any) -> InvalidInput:
    return InvalidInput(f"{name[:80]} cannot be {value!r:.80} here.", hint=HINT, field=name[:80])
