"""A setting in words: for usage lines, for the reference page, and for whoever gave a wrong value."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from mlbox.settings.declared import Settings

ENV_PREFIX = "MLBOX_"


def env_name(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def flag_name(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def describe(name: str) -> str:
    """The help text of a setting."""
    return _meta(name).description or ""


def is_list(name: str) -> bool:
    """True for a setting that takes any number of values: a repeated flag, a variable with commas, a TOML array."""
    return _type(name) not in _KINDS


def metavar(name: str) -> str:
    """What stands for the value in a usage line."""
    return _KINDS.get(_type(name), _KINDS[str])[0]


def kind(name: str) -> str:
    """What values a setting takes, in words."""
    meta = _meta(name)
    words = "list of texts" if is_list(name) else _KINDS[_type(name)][1]
    if meta.pattern:
        return f"{words} such as {default_text(name)}"
    low = f" from {meta.ge:.12g}" if meta.ge is not None else f" above {meta.gt:.12g}" if meta.gt is not None else ""
    high = f" to {meta.le:.12g}" if meta.le is not None else ""
    return f"{words}{low}{high}"


def default_text(name: str) -> str:
    """The default of a setting, as one would write it."""
    return text_of(_defaults()[name]) or "none"


def text_of(value: Any) -> str:
    """A setting's value as one would write it in a variable."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


_KINDS = {str: ("TEXT", "text"), int: ("N", "whole number"), float: ("X", "number")}


@cache
def hints() -> dict[str, Any]:
    """The type of each setting, with its bounds and help."""
    return get_type_hints(Settings, include_extras=True)


def _type(name: str) -> Any:
    return get_args(hints()[name])[0]


def _meta(name: str) -> Meta:
    return next(meta for meta in get_args(hints()[name]) if isinstance(meta, Meta))


@cache
def _defaults() -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(Settings)}
