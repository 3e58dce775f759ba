"""Protobuf messages as Google's own library writes them are read to the same values; anything else is refused with its byte."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.transfer import protobuf
from mlbox.transfer.feast_registry import Registry
from mlbox.transfer.protobuf import Field, Message, read_message

TEXT, NUMBER, FLAG, NESTED = 9, 3, 8, 11
SCALARS = {"text": TEXT, "number": NUMBER, "flag": FLAG}


class Leaf(Message):
    """What the others hold."""

    text: str = ""
    number: int = 0
    wire = {1: Field("text", "text"), 5000: Field("number", "number")}


class Tree(Message):
    """One of each kind of field."""

    text: str = ""
    number: int = 0
    flag: bool = False
    pairs: dict[str, str] = {}
    texts: list[str] = []
    leaf: Leaf | None = None
    leaves: list[Leaf] = []
    child: Tree | None = None
    seen: int = 0
    wire = {
        1: Field("text", "text"),
        2: Field("number", "number"),
        3: Field("flag", "flag"),
        4: Field("pairs", "pairs"),
        5: Field("texts", "text", many=True),
        6: Field("leaf", Leaf),
        7: Field("leaves", Leaf, many=True),
        9: Field("seen", "present"),
    }


Tree.wire[8] = Field("child", Tree)


def _google() -> Any:
    """The same messages, and some fields that `Tree` does not read, as Google's library has them."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    pair = file.message_type.add(name="Pair")
    leaf = file.message_type.add(name="Leaf")
    tree = file.message_type.add(name="Tree")
    for message, fields in (
        (pair, [("key", 1, TEXT, 1, ""), ("value", 2, TEXT, 1, "")]),
        (leaf, [("text", 1, TEXT, 1, ""), ("number", 5000, NUMBER, 1, "")]),
        (
            tree,
            [
                ("text", 1, TEXT, 1, ""),
                ("number", 2, NUMBER, 1, ""),
                ("flag", 3, FLAG, 1, ""),
                ("pairs", 4, NESTED, 3, ".t.Pair"),
                ("texts", 5, TEXT, 3, ""),
                ("leaf", 6, NESTED, 1, ".t.Leaf"),
                ("leaves", 7, NESTED, 3, ".t.Leaf"),
                ("child", 8, NESTED, 1, ".t.Tree"),
                ("seen", 9, NESTED, 3, ".t.Leaf"),
                ("passed_double", 20, 1, 1, ""),
                ("passed_fixed", 21, 7, 3, ""),
                ("passed_text", 22, TEXT, 3, ""),
                ("passed_number", 23, NUMBER, 1, ""),
            ],
        ),
    ):
        for name, number, kind, label, of in fields:
            message.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Tree"))


GOOGLE = _google()
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1)
leaves = st.fixed_dictionaries({}, optional={"text": words, "number": numbers})


def trees() -> st.SearchStrategy[dict[str, Any]]:
    plain = {
        "text": words,
        "number": numbers,
        "flag": st.booleans(),
        "pairs": st.lists(st.fixed_dictionaries({"key": words, "value": words}), max_size=4),
        "texts": st.lists(words, max_size=4),
        "leaf": leaves,
        "leaves": st.lists(leaves, max_size=4),
        "seen": st.lists(leaves, max_size=3),
        "passed_double": st.floats(allow_nan=False),
        "passed_fixed": st.lists(st.integers(0, 2**32 - 1), max_size=3),
        "passed_text": st.lists(words, max_size=2),
        "passed_number": numbers,
    }
    base = st.fixed_dictionaries({}, optional=plain)
    return st.recursive(base, lambda inner: st.fixed_dictionaries({"child": inner}, optional=plain), max_leaves=4)


def compare(read: Tree, made: Any) -> None:
    assert (read.text, read.number, read.flag) == (made.text, made.number, made.flag)
    assert read.pairs == {pair.key: pair.value for pair in made.pairs}
    assert (read.texts, read.seen) == (list(made.texts), len(made.seen))
    assert [(one.text, one.number) for one in read.leaves] == [(one.text, one.number) for one in made.leaves]
    assert (read.leaf is not None, read.child is not None) == (made.HasField("leaf"), made.HasField("child"))
    if read.leaf is not None:
        assert (read.leaf.text, read.leaf.number) == (made.leaf.text, made.leaf.number)
    if read.child is not None:
        compare(read.child, made.child)


@given(trees())
def test_what_google_writes_is_read_to_the_same_values(values: dict[str, Any]) -> None:
    made = GOOGLE(**values)
    compare(read_message(made.SerializeToString(), Tree, name="x"), made)


@given(trees(), trees())
def test_a_message_that_comes_twice_is_merged_as_google_does(one: dict[str, Any], other: dict[str, Any]) -> None:
    data = GOOGLE(**one).SerializeToString() + GOOGLE(**other).SerializeToString()
    compare(read_message(data, Tree, name="x"), GOOGLE.FromString(data))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_registry_or_an_error_with_a_byte_of_the_file(data: bytes) -> None:
    said = ""
    try:
        read_message(data, Registry, name="registry.db")
    except InvalidInput as err:
        said = err.message
    if said:
        assert said.startswith("registry.db is no registry of Feast, or is damaged, at byte ")
        assert 0 <= int(said.partition(" at byte ")[2].partition(":")[0]) <= len(data)


@pytest.mark.parametrize(
    ("data", "byte", "why"),
    [
        (b"\x0a", 1, "it ends within a number"),
        (b"\x0a\x05ab", 0, "5 bytes are announced, and 2 are left"),
        (b"\x0a\x01a\x0a\x01\xff", 5, "a text is not UTF-8"),
        (b"\x08\x01", 0, "`text` of Tree is of another type"),
        (b"\x00\x01", 0, "there is no field 0"),
        (b"\x10\x01\x53", 2, "there is no type 3 of fields"),
        (b"\x10" + b"\xff" * 11, 1, "a number has more than 10 bytes"),
        (b"\xa1\x01\x00\x00", 0, "8 bytes are announced, and 2 are left"),
        (b"\x32\x03\x0a\x05a", 2, "5 bytes are announced, and 1 are left"),
        (b"\x32\x02\x0a\x01a", 2, "1 bytes are announced, and 0 are left"),
    ],
)
def test_damage_is_named_with_its_byte(data: bytes, byte: int, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_message(data, Tree, name="registry.db")
    assert caught.value.message == f"registry.db is no registry of Feast, or is damaged, at byte {byte}: {why}."


def test_nesting_has_an_end() -> None:
    data = b""
    for _ in range(protobuf.MAX_DEPTH):
        data = b"\x42" + bytes([len(data)]) + data
    read_message(data, Tree, name="x")
    with pytest.raises(InvalidInput, match="nested too deeply"):
        read_message(b"\x42" + bytes([len(data)]) + data, Tree, name="x")


def test_a_text_has_an_end() -> None:
    length = protobuf.MAX_TEXT + 1
    data = b"\x0a" + bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + bytes(length)
    with pytest.raises(InvalidInput, match=f"a text of {length} bytes is longer than {protobuf.MAX_TEXT}"):
        read_message(data, Tree, name="x")


@pytest.mark.parametrize("part", [b"\x3a\x00", b"\x2a\x00", b"\xb2\x01\x00", b"\x22\x00"])
def test_many_small_fields_have_an_end_and_so_has_their_memory(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 20_000)
    read_message(part * 20_000, Tree, name="x")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="more than 20000 fields"):
            read_message(part * 1_000_000, Tree, name="x")
        assert tracemalloc.get_traced_memory()[1] < 20_000 * 600 + 4_000_000  # with the 3 MB of the file
    finally:
        tracemalloc.stop()
