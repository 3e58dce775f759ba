"""Definitions as a TOML file that `mlbox feature plan` and `apply` take, for people to read and to change."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from mlbox.records import Definitions

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LENGTHS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_LINE = 110
"""Characters up to which a list is on one line."""


def to_toml(definitions: Definitions) -> str:
    """Every definition with what it says, and without what it leaves at its default."""
    parts = [part_toml(kind, spec) for kind in definitions.__struct_fields__ for spec in getattr(definitions, kind)]
    return "\n".join(parts)


def part_toml(kind: str, spec: msgspec.Struct) -> str:
    """One definition of a kind, such as `views`."""
    return "".join(f"{line}\n" for line in (f"[[{kind}]]", *_lines(spec)))


def as_comment(text: str) -> str:
    """Text of any kind as TOML comments."""
    return "".join(f"# {_printable(line)}".rstrip() + "\n" for line in text.splitlines())


def _lines(spec: msgspec.Struct) -> Iterator[str]:
    for field, value in _said(spec):
        if field.endswith("_seconds"):
            yield f'{field.removesuffix("_seconds")} = "{_length(value)}"'
        else:
            yield f"{field} = {_value(value)}"


def _said(spec: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    for field in _fields(type(spec)):
        value = getattr(spec, field.name)
        if field.required or value not in (field.default, {}, ()):
            yield field.name, value


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _multiline(value) if "\n" in value else quoted(value)
    if isinstance(value, Mapping):
        return _inline(value.items())
    if isinstance(value, msgspec.Struct):
        return _inline(_said(value))
    items = [_value(one) for one in value]
    short = f"[{', '.join(items)}]"
    if len(short) <= _LINE and not any(isinstance(one, msgspec.Struct) for one in value[1:]):
        return short
    return "[\n" + "".join(f"  {item},\n" for item in items) + "]"


def _inline(pairs: Iterable[tuple[str, Any]]) -> str:
    inner = ", ".join(f"{key if _BARE.fullmatch(key) else quoted(key)} = {quoted(value)}" for key, value in pairs)
    return f"{{ {inner} }}" if inner else "{}"


def _multiline(text: str) -> str:
    """A text of several lines as it is, where TOML can have it so."""
    if "'''" in text or text.endswith("'") or not text.replace("\n", "").isprintable():
        return quoted(text)
    return f"'''\n{text}'''"


def quoted(text: str) -> str:
    """A basic string; whatever a terminal might obey is escaped."""
    escaped = json.dumps(text, ensure_ascii=False)
    if escaped.isprintable():
        return escaped
    return "".join(char if char.isprintable() else _escape(char) for char in escaped)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else " " for char in line.expandtabs(4))


def _length(seconds: int) -> str:
    unit = next(unit for unit, size in _LENGTHS.items() if seconds % size == 0)
    return f"{seconds // _LENGTHS[unit]}{unit}"
