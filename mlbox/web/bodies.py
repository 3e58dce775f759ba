"""A JSON body as what its handler declares, and in words what was wrong with it: which field, what it is, what it should be.

Decoding is strict: a text is no number, and "2027" is no time (msgspec's lax mode takes it for seconds since 1970). A name
that the declaration does not have is left out, as it may come from a newer client; one that is close to a name it has is
misspelt, and refused: what it asks for would be left out in silence.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec
from msgspec import inspect

from mlbox.errors import InvalidInput, suggest
from mlbox.web.redaction import is_telling, redact

HINT = "See /api/v1/schema."
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_EXPECTED = re.compile(r"Expected (.+?)(?:, got .*)?$", re.DOTALL)
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
    "datetime": "a time such as 2027-01-01T00:00:00Z",
}
ANY = "..."
"""In msgspec's paths, some key of an object, which it does not name."""
Path = tuple[str | int, ...]


def decoded(body: bytes, kind: Any, *, spelling: bool = True) -> Any:
    """The body as an object of this type; raises InvalidInput, with `spelling` also for a name that is nearly one of its own."""
    try:
        value = _decoder(kind).decode(body)
    except msgspec.ValidationError as err:
        raise explained(str(err), _plain(body), kind) from err
    except msgspec.DecodeError as err:
        raise _no_json(err) from err
    if spelling and isinstance(value, msgspec.Struct):
        _check_names(body, type(value))
    return value


def _plain(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as err:  # behind what is of another type
        raise _no_json(err) from err


def _no_json(err: msgspec.DecodeError) -> InvalidInput:
    return InvalidInput(f"The body is not JSON: {str(err).rstrip('.')}.", hint="Send one JSON document.", field="body")


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@functools.cache
def _names(body: type[msgspec.Struct]) -> frozenset[str]:
    tag = body.__struct_config__.tag_field
    return frozenset((*body.__struct_encode_fields__, *([tag] if tag else [])))


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _check_names(body: bytes, kind: type[msgspec.Struct]) -> None:
    known = _names(kind)
    given = _members.decode(body)
    for name in sorted(given.keys() - known):
        if hint := suggest(name, known - given.keys(), otherwise=""):
            raise InvalidInput(f"There is no field {name[:80]!r} here.", hint=hint, field=name[:80])


def explained(message: str, given: Any, kind: Any, *, place: str = "") -> InvalidInput:
    """What msgspec says of a value, in words that name the field, what came and what should have."""
    found = _PLACE.match(message)
    what, steps, of_key = (found["what"], found["path"] or "", found["key"]) if found else (message, "", None)
    path = tuple(
        step["name"] or (int(step["index"]) if step["index"].isdigit() else ANY) for step in _STEP.finditer(steps)
    )
    known = path[: path.index(ANY)] if ANY in path else path
    place = place or ("body" if known and isinstance(known[0], int) else "")
    field = ".".join(map(str, (*([place] if place else ()), *known)))
    missing = _MISSING.match(what)
    if missing:
        field = f"{field}.{missing[1]}".lstrip(".")
        return InvalidInput(f"The field {field} is missing.", hint=HINT, field=field)
    name, shown = field or "The body", "is wrong"
    if of_key or known != path:
        name = f"{'A key' if of_key else 'Something'} in {name}"
    else:
        shown = _shown(_at(given, path), field)
    return InvalidInput(f"{name} {shown}, and should be {_wanted(what, path, kind)}.", hint=HINT, field=field or "body")


def _wanted(what: str, path: Path, kind: Any) -> str:
    if what.startswith("Invalid RFC3339"):
        return _WORDS["datetime"]
    if what.startswith("Invalid enum value"):
        choices = [str(one) for one in _choices(inspect.type_info(kind), path)]
        return f"one of {', '.join(sorted(choices))}" if choices else "one of those that the schema lists"
    expected = _EXPECTED.match(what)
    if expected is None:
        return f"something else: {what[:1].lower()}{what[1:]}"
    words = re.sub(r"`([^`]*)`", lambda m: _kinds(m[1]), expected[1])
    return words.replace(">= ", "at least ").replace("<= ", "at most ")


def _kinds(text: str) -> str:
    """`int | null` as words."""
    words = [_WORDS.get(one.strip(), one.strip()) for one in text.split("|")]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _at(given: Any, path: Path) -> Any:
    for step in path:
        given = given[step]
    return given


def _shown(value: Any, field: str) -> str:
    """What came: a plain value as it is, unless its name says that it is secret; of a list or an object only that it is one."""
    if isinstance(value, dict):
        return "is an object"
    if isinstance(value, list):
        return "is a list"
    if is_telling(field):
        return "is of the wrong kind"
    text = redact(msgspec.json.encode(value).decode())
    return f"is {text if len(text) <= 80 else text[:77] + '...'}"


def _choices(kind: inspect.Type, path: Path) -> tuple[Any, ...]:
    """The values that may stand at this place of a type, where they are counted out."""
    if isinstance(kind, inspect.Metadata):
        return _choices(kind.type, path)
    if isinstance(kind, inspect.UnionType):
        return tuple(one for part in kind.types for one in _choices(part, path))
    if not path:
        return tuple(kind.values) if isinstance(kind, inspect.LiteralType) else ()
    if isinstance(kind, inspect.StructType):
        return tuple(one for f in kind.fields if f.encode_name == path[0] for one in _choices(f.type, path[1:]))
    inner = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)
    return _choices(inner, path[1:]) if inner is not None else ()
