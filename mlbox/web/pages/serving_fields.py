"""How a model is served, as fields of a form: each with what it is, its value, and the bounds that its record declares."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import inspect

from mlbox.records import ServingConfig

LABELS = {
    "max_batch": ("Most rows of a batch", "of several requests that one run answers; 1 joins none"),
    "max_delay_us": ("Longest wait for others", "µs; 0 joins what waits anyway"),
    "queue_limit": ("Requests that may wait", "past them is 429"),
    "priority_levels": ("Priorities", "1 is the highest"),
    "default_priority": ("Priority", "of requests that name none"),
    "timeout_ms": ("Time limit", "ms, from arrival to answer"),
    "cache_bytes": ("Memory for answers", "bytes; 0 remembers none"),
    "rate_limit": ("Requests a second", "of one token; 0 sets no limit"),
    "rate_burst": ("At once after a pause", "requests of one token"),
}
"""Of every setting but the revision: what it is called, and its unit."""


class ServingField(NamedTuple):
    """One setting."""

    name: str
    label: str
    hint: str
    value: float
    least: float
    most: float
    is_whole: bool


def serving_fields(config: ServingConfig) -> list[ServingField]:
    """All settings of a configuration."""
    declared = inspect.type_info(ServingConfig)
    assert isinstance(declared, inspect.StructType)
    types = {field.name: field.type for field in declared.fields}
    return [_field(name, types[name], getattr(config, name)) for name in LABELS]


def _field(name: str, declared: inspect.Type, value: float) -> ServingField:
    assert isinstance(declared, inspect.IntType | inspect.FloatType)
    least, most = declared.ge if declared.ge is not None else declared.gt, declared.le
    assert least is not None
    assert most is not None
    return ServingField(name, *LABELS[name], value, least, most, isinstance(declared, inspect.IntType))
