"""A JSON body as what its handler declares, and in words what was wrong with it: which field, what it is, what it should be.

Decoding is strict: a text is no number, and "2027" is no time (msgspec's lax mode takes it for seconds since 1970). A name
that the declaration does not have, at any depth, is refused: what it asks for would be left out in silence. One that is close
to none and asks for nothing (null, false, 0 or empty) is left out, as a newer client sends the defaults of fields that this
box does not have. Of the parameters of an address the same is true.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Set
from typing import Any

import msgspec
from msgspec import inspect

from mlbox.errors import InvalidInput, suggest
from mlbox.web.redaction import is_telling, redact

HINT = "See /api/v1/schema."
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_UNKNOWN = "Object contains unknown field"
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
        if _UNKNOWN in str(err) and (shape := _shape(kind)) is not None:
            _check_names(msgspec.Raw(body), shape, ())
        raise explained(str(err), _plain(body), kind) from err
    except msgspec.DecodeError as err:
        raise _no_json(err) from err
    if spelling and (shape := _shape(kind)) is not None:
        _check_names(msgspec.Raw(body), shape, ())
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


class _Shape:
    """Which names may stand in a value of some type, and where below it names are to be checked."""

    __slots__ = ("each", "fields")

    def __init__(self) -> None:
        self.fields: dict[str, _Shape | None] = {}
        """Of an object whose names are declared."""
        self.each: _Shape | None = None
        """Of every item of a list, or value of a map."""


@functools.cache
def _shape(kind: Any) -> _Shape | None:
    """The shape of a type; None where it says nothing of names."""
    return _shape_of(inspect.type_info(kind), {})


def _shape_of(kind: inspect.Type, seen: dict[Any, _Shape]) -> _Shape | None:
    if isinstance(kind, inspect.Metadata):
        return _shape_of(kind.type, seen)
    if isinstance(kind, inspect.UnionType):
        return _joined([found for part in kind.types if (found := _shape_of(part, seen)) is not None])
    if isinstance(kind, inspect.StructType):
        if kind.cls not in seen:  # else it holds itself
            seen[kind.cls] = shape = _Shape()
            shape.fields = {field.encode_name: _shape_of(field.type, seen) for field in kind.fields}
            if kind.tag_field:
                shape.fields[kind.tag_field] = None
        return seen[kind.cls]
    inner = getattr(kind, "item_type", None) or getattr(kind, "value_type", None)
    if inner is None or (each := _shape_of(inner, seen)) is None:
        return None
    shape = _Shape()
    shape.each = each
    return shape


def _joined(shapes: list[_Shape]) -> _Shape | None:
    """What any of a union's types may have."""
    if len(shapes) < 2:
        return shapes[0] if shapes else None
    joined = _Shape()
    for shape in shapes:
        joined.fields |= shape.fields
        joined.each = joined.each or shape.each
    return joined


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_ASKS_NOTHING = frozenset((b"null", b"false", b"0", b'""', b"[]", b"{}"))


def _check_names(raw: msgspec.Raw, shape: _Shape, path: Path) -> None:
    """Raise InvalidInput for the first name that the type of a value does not have; parts without declared names are skipped."""
    first = bytes(raw)[:1]
    if first == b"[" and shape.each is not None:
        for place, item in enumerate(_items.decode(raw)):
            _check_names(item, shape.each, (*path, place))
    elif first == b"{":
        given = _members.decode(raw)
        for name, part in given.items():
            if shape.fields and name not in shape.fields:
                _refuse("field", (*path, name[:80]), shape.fields.keys() - given.keys(), bytes(part))
            below = shape.fields.get(name, shape.each)
            if below is not None:
                _check_names(part, below, (*path, name))


def check_query(given: Iterable[tuple[str, str]], known: Set[str]) -> None:
    """Raise InvalidInput for the first parameter of an address that is not among those that are known."""
    pairs = list(given)
    for name, value in pairs:
        if name not in known:
            _refuse("parameter", (name[:80],), known - {name for name, _ in pairs}, value.encode())


def _refuse(what: str, path: Path, meant: Iterable[str], value: bytes) -> None:
    """Raise InvalidInput for a name that there is not, unless it is close to none that may be meant and asks for nothing."""
    hint = suggest(str(path[-1]), meant, otherwise="")
    if hint or value not in _ASKS_NOTHING:
        where = ".".join(map(str, path))
        raise InvalidInput(f"There is no {what} {where!r} here.", hint=hint or HINT, field=where)


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
