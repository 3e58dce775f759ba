"""Definitions in TOML: read with their lengths, and refused with the line that is wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.definition_text import read
from mlbox.errors import InvalidInput

VIEW = """
[[views]]
name = "spend"
join_keys = [{ name = "who", dtype = "STRING" }]
features = [{ name = "amount", dtype = "FP64" }]
sources = ["sales"]
ttl = "7d"
sql = "SELECT 1"
"""


def test_lengths_are_read_in_seconds() -> None:
    (view,) = read(VIEW).views
    assert (view.name, view.ttl_seconds) == ("spend", 7 * 86_400)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VIEW.replace('"FP64"', '"FLOAT"'), "Line 5:"),
        (VIEW.replace("name = ", "nam = ", 1), "Line 2:"),
        (VIEW.replace('"7d"', '"7 moons"'), "ttl is '7 moons'"),
        (VIEW.replace('"sales"]', '"sales"'), "Line 7: this is no TOML"),
        ("odd = 1", "odd"),
        ("views = 1", "Line 1:"),
        ("# nothing", "defines nothing"),
        ("a = " + "[" * 5000, ""),
        ("x" * 1_100_000, "at most"),
    ],
)
def test_what_is_wrong_is_said_of_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(text)
    assert said in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.field == "toml"


@given(st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        read(text)
