"""A reader of serialised protobuf messages, as far as a registry of Feast needs one: without protobuf, and of any file.

A message says which of its fields are read, by number; the others are passed over. Lengths are checked before anything is made
of them, nesting is limited, and so is the number of fields, which bounds time and memory: at most about 600 bytes for a field.
The format is https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, TypeVar

import msgspec

from mlbox.errors import InvalidInput

MAX_FIELDS = 500_000
"""Fields of a file, those that are passed over included; a feature has about four."""
MAX_TEXT = 1 << 20
"""Bytes of one text."""
MAX_DEPTH = 16
MAX_VARINT = 10
"""Bytes of a number: 64 bits, 7 in each."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class Message(msgspec.Struct):
    """A message with the fields that are read of it; one that is not in the file has protobuf's default."""

    wire: ClassVar[dict[int, Field]] = {}
    """By number."""


class Field(NamedTuple):
    """How a field is read: `pairs` is a map of texts, `present` counts how often it is there."""

    name: str
    kind: Literal["text", "number", "flag", "pairs", "present"] | type[Message]
    many: bool = False


M = TypeVar("M", bound=Message)


class Pair(Message):
    """An entry of a map of texts."""

    key: str = ""
    value: str = ""
    wire = {1: Field("key", "text"), 2: Field("value", "text")}


def read_message(data: bytes, kind: type[M], *, name: str) -> M:
    """A message that is all of `data`; raises InvalidInput with the file's name and the byte that makes no sense."""
    found = kind()
    _Reader(data, name).fill(found, 0, len(data), 0)
    return found


class _Reader:
    """Goes through the bytes once, from field to field."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._fields = 0

    def fill(self, message: Message, at: int, end: int, depth: int) -> None:
        """Read the fields between two bytes into a message; one that comes again is merged, as protobuf has it."""
        if depth > MAX_DEPTH:
            self._fail(at, "messages are nested too deeply")
        wire = message.wire
        while at < end:
            start = at
            self._count(start)
            tag, at = self._varint(at, end)
            field = wire.get(tag >> 3)
            if tag >> 3 == 0:
                self._fail(start, "there is no field 0")
            if field is None:
                at = self._skip(tag & 7, start, at, end)
            else:
                at = self._take(message, field, tag & 7, start, at, end, depth)

    def _take(self, message: Message, field: Field, kind: int, start: int, at: int, end: int, depth: int) -> int:
        """Read one field; where it ends."""
        expected = _VARINT if field.kind in ("number", "flag") else _LENGTH
        if kind != expected:
            self._fail(start, f"`{field.name}` of {type(message).__name__} is of another type")
        if expected == _VARINT:
            number, at = self._varint(at, end)
            value = number - (1 << 64) if number >> 63 else number
            setattr(message, field.name, bool(value) if field.kind == "flag" else value)
            return at
        length, at = self._varint(at, end)
        if length > end - at:
            self._fail(start, f"{length} bytes are announced, and {end - at} are left")
        self._fill_field(message, field, at, at + length, depth)
        return at + length

    def _fill_field(self, message: Message, field: Field, at: int, end: int, depth: int) -> None:
        value: Any
        if field.kind == "present":
            setattr(message, field.name, getattr(message, field.name) + 1)
        elif field.kind == "pairs":
            pair = Pair()
            self.fill(pair, at, end, depth + 1)
            getattr(message, field.name)[pair.key] = pair.value
        elif isinstance(field.kind, type):
            before = None if field.many else getattr(message, field.name)
            value = before if before is not None else field.kind()
            self.fill(value, at, end, depth + 1)
            self._keep(message, field, value)
        else:
            self._keep(message, field, self._text(at, end))

    @staticmethod
    def _keep(message: Message, field: Field, value: Any) -> None:
        if field.many:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)

    def _text(self, at: int, end: int) -> str:
        if end - at > MAX_TEXT:
            self._fail(at, f"a text of {end - at} bytes is longer than {MAX_TEXT}")
        try:
            return self._data[at:end].decode()
        except UnicodeDecodeError as err:
            self._fail(at + err.start, "a text is not UTF-8")

    def _skip(self, kind: int, start: int, at: int, end: int) -> int:
        """Where a field that is not read ends."""
        if kind == _VARINT:
            return self._varint(at, end)[1]
        if kind == _LENGTH:
            length, at = self._varint(at, end)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            self._fail(start, f"there is no type {kind} of fields")
        if length > end - at:
            self._fail(start, f"{length} bytes are announced, and {end - at} are left")
        return at + length

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of 7 bits a byte, lowest first, of at most 64 bits; and where it ends."""
        data, start, found = self._data, at, 0
        while at < end and at - start < MAX_VARINT:
            byte = data[at]
            found |= (byte & 0x7F) << 7 * (at - start)
            at += 1
            if byte < 0x80:
                return found & 0xFFFF_FFFF_FFFF_FFFF, at
        why = f"a number has more than {MAX_VARINT} bytes" if at - start == MAX_VARINT else "it ends within a number"
        return self._fail(start, why)

    def _count(self, at: int) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            self._fail(at, f"there are more than {MAX_FIELDS} fields")

    def _fail(self, at: int, why: str) -> NoReturn:
        raise InvalidInput(
            f"{self._name} is no registry of Feast, or is damaged, at byte {at}: {why}.",
            hint="Make it anew with `feast apply`, or take a copy of it.",
            field="registry",
        )
