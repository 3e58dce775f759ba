"""A promotion policy as TOML: read, with the line of what is wrong, written, and compared with another.

TOML has no null: what a policy leaves out has its default, which asks for nothing but for the parity ratio, where `"none"` does.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import msgspec

from mlbox.errors import InvalidInput, MlboxError, suggest, unknown_names
from mlbox.records import PromotionPolicy, Record

MOST_CHARACTERS = 64 * 1024
COMMANDS = ("test", "integration")
_NONE = "none"
_SPACE = 2**63
"""Integers of more bits are no numbers of a policy."""
_AT = re.compile(r"(?s)(.*?)\.? \((at line (\d+), column \d+|at end of document)\)")
_WHERE = re.compile(r"(.*) - at `\$\.?(.*)`")
_TABLE = re.compile(r"\s*(\[{1,2})\s*([\w.-]+)\s*\]{1,2}\s*(#.*)?")
_KEY = re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")
_LAST = re.compile(r"(\.[^.\[]+|\[\d+\])$")


def read(text: str) -> PromotionPolicy:
    """A policy out of TOML; raises InvalidInput that begins with the line and the field that is wrong."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(
            f"The policy has {len(text):,} characters.", hint=f"{MOST_CHARACTERS:,} at most.", field="toml"
        )
    try:
        return of_plain(tomllib.loads(text))
    except InvalidInput as err:
        raise at_line(text, err) from err
    except RecursionError as err:
        raise InvalidInput("The policy is nested too deeply.", hint=_HINT, field="toml") from err
    except ValueError as err:
        raise unreadable(text, str(err)) from err


def of_plain(found: dict[str, Any]) -> PromotionPolicy:
    """A policy out of what TOML or JSON says; raises InvalidInput with the field, also for one that a policy does not know."""
    _shorthands(found)
    for path, value in _leaves(found):
        if isinstance(value, int) and not -_SPACE <= value < _SPACE:
            raise InvalidInput(f"{path} is out of range.", hint="Use a smaller number.", field=path)
    try:
        policy = msgspec.convert(found, type=PromotionPolicy)
    except msgspec.ValidationError as err:
        said, path = _located(str(err))
        raise InvalidInput(f"{path}: {said}." if path else f"{said}.", hint=_HINT, field=path or None) from err
    check_known(found, policy)
    return policy


def check_known(found: Any, policy: PromotionPolicy) -> None:
    """Raise InvalidInput, with the field, for what was said of a policy and is nothing that it knows."""
    for odd, known in unknown_names(found, msgspec.to_builtins(policy), ""):
        hint = suggest(odd.rpartition(".")[2], known, otherwise=_HINT)
        raise InvalidInput(f"{odd} is nothing that a policy knows.", hint=hint, field=odd)


_HINT = "The text in force shows what a policy knows."


def at_line(text: str, err: MlboxError) -> InvalidInput:
    """An error about a policy's field as one about the line of its text, which is the field that people see."""
    line = line_of(text, err.field or "")
    return InvalidInput(f"Line {line}: {err.message}" if line else err.message, hint=err.hint, field="toml")


def line_of(text: str, path: str) -> int | None:
    """The line that sets a field, such as `steps[1].percent`, or what holds it; None for what the text does not name."""
    lines = _lines(text)
    while path and path not in lines:
        shorter = _LAST.sub("", path)
        path = shorter if shorter != path else ""
    return lines.get(path)


def _lines(text: str) -> dict[str, int]:
    """The line of each key and table."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        if table := _TABLE.fullmatch(line):
            inside = table[2]
            found.setdefault(inside, number)
            if table[1] == "[[":
                counts[table[2]] = counts.get(table[2], -1) + 1
                inside = f"{table[2]}[{counts[table[2]]}]"
                found[inside] = number
        elif key := _KEY.match(line):
            found.setdefault(f"{inside}.{key[1]}".strip("."), number)
    return found


def write(policy: PromotionPolicy) -> str:
    """A policy as TOML that reads as the same one; what asks for nothing is a comment."""
    plain, tables = [], []
    for name in policy.__struct_fields__:
        value = getattr(policy, name)
        if name == "revision":
            continue
        if isinstance(value, Record):
            tables.append(f"[{name}]\n{_fields(value)}")
        elif isinstance(value, tuple) and value and isinstance(value[0], Record):
            tables += [f"[[{name}]]\n{_fields(one)}" for one in value]
        elif value is None:
            plain.append(f"# {name}: nothing is asked for")
        else:
            plain.append(f"{name} = {_value(value)}")
    return "\n".join(["\n".join(plain) + "\n", *tables])


def diff(before: PromotionPolicy, after: PromotionPolicy) -> tuple[str, ...]:
    """The lines in which two policies differ, with some around them; each begins with `+`, `-` or a blank."""
    lines = difflib.unified_diff(write(before).splitlines(), write(after).splitlines(), n=2, lineterm="")
    return tuple(line for line in lines if not line.startswith(("---", "+++")))


def _fields(record: Record) -> str:
    lines = []
    for info in msgspec.structs.fields(record):
        value = getattr(record, info.name)
        if value is not None:
            lines.append(f"{info.name} = {_value(value)}")
        elif info.default is not None:
            lines.append(f'{info.name} = "{_NONE}"')
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else repr(value)


def _shorthands(found: dict[str, Any]) -> None:
    """A command that is written as a line, in words; and what TOML has no null for."""
    for gate in COMMANDS:
        command = found.get(gate)
        if isinstance(command, dict) and isinstance(command.get("command"), str):
            try:
                command["command"] = shlex.split(command["command"])
            except ValueError as err:
                raise InvalidInput(
                    f"{gate}.command is no line of a shell: {err}.", hint="Close the quote.", field=f"{gate}.command"
                ) from err
    fairness = found.get("fairness")
    if isinstance(fairness, dict) and fairness.get("min_parity_ratio") == _NONE:
        fairness["min_parity_ratio"] = None


def unreadable(text: str, said: str) -> InvalidInput:
    """What tomllib says, its line first."""
    found = _AT.fullmatch(said)
    if found is None:
        return InvalidInput(f"This is no TOML: {said}.", hint="See toml.io.", field="toml")
    line = found[3] or str(max(1, len(text.splitlines())))
    return InvalidInput(f"Line {line}: this is no TOML: {found[1]}.", hint="See toml.io.", field="toml")


def _located(said: str) -> tuple[str, str]:
    """What msgspec says, and the field that it says it of."""
    found = _WHERE.fullmatch(said)
    return (found[1], found[2]) if found else (said, "")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}".strip("."))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from _leaves(part, f"{path}[{place}]")
    else:
        yield path, value
