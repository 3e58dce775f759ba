"""Secrets in a stream: masked in every form, wherever the stream is cut, and nothing else changed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import threading
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.masking import Masker, lines_of, pump

SECRET = "p@ss/wörd&more 17+é"


def mask(text: bytes | str, secrets: dict[str, str], cuts: list[int] | None = None) -> bytes:
    masker = Masker(secrets)
    content = text.encode() if isinstance(text, str) else text
    edges = [0, *sorted(cut % (len(content) + 1) for cut in cuts or []), len(content)]
    pieces = [content[a:b] for a, b in itertools.pairwise(edges)]
    return b"".join(masker.feed(piece) for piece in pieces) + masker.finish()


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        quote(SECRET, safe="").lower().replace("p%40ss", "p%40ss"),
        json.dumps(SECRET)[1:-1],
        repr(SECRET)[1:-1],
    ],
)
def test_each_form_of_a_value_is_masked_and_its_neighbours_stay(shown: str) -> None:
    assert mask(f"<{shown}> and {shown}.\n", {"DB": SECRET}) == b"<***DB***> and ***DB***.\n"


@pytest.mark.parametrize("user", ["", "a", "me:", "you:"])
def test_the_base64_of_a_longer_text_does_not_give_the_value_away(user: str) -> None:
    shown = base64.b64encode(f"{user}{SECRET}".encode()).decode()
    found = mask(f"Authorization: Basic {shown}\n", {"DB": SECRET}).decode()
    left = found.removeprefix("Authorization: Basic ").strip().replace("***DB***", "")
    assert "***DB***" in found
    assert len(left) <= len(user) * 4 // 3 + 6, "no more than the user's name, and bits of the edges"


def test_a_value_of_several_lines_is_masked_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n  hkiG9w0BAQEFAASC\nab\n-----END KEY-----\n"
    assert lines_of(key) == ["-----BEGIN KEY-----", "MIIEvQIBADANBgkq", "hkiG9w0BAQEFAASC", "-----END KEY-----"]
    found = mask(f"x MIIEvQIBADANBgkq\n  hkiG9w0BAQEFAASC\nab\n{json.dumps(key)}", {"K": key}).decode()
    assert "MII" not in found
    assert "hkiG" not in found
    assert found.startswith("x ***K***\n  ***K***\nab\n")


def test_the_longest_name_wins_and_overlaps_leave_nothing() -> None:
    secrets = {"SHORT": "abcd", "LONG": "abcdefgh", "TAIL": "ghij"}
    assert mask("abcd abcdefgh abcdefghij ghij", secrets) == b"***SHORT*** ***LONG*** ***LONG*** ***TAIL***"
    assert mask("aaaaaaaaaaaa!", {"A": "aaaa"}) == b"***A***!"


texts = st.text("abc", max_size=60)
values = st.lists(st.text("ab", min_size=4, max_size=7), min_size=1, max_size=3, unique=True)
cuts = st.lists(st.integers(0, 60), max_size=30)


@given(texts, values, cuts)
def test_however_the_stream_is_cut_no_secret_stays_and_the_text_is_the_same(
    text: str, chosen: list[str], where: list[int]
) -> None:
    secrets = {f"S{n}": value for n, value in enumerate(chosen)}
    found = mask(text, secrets, where)
    clear = re.sub(rb"\*\*\*S\d\*\*\*", b"|", found)
    assert not any(value.encode() in clear for value in chosen)
    assert clear == re.sub(rb"\*\*\*S\d\*\*\*", b"|", mask(text, secrets))


@given(st.binary(max_size=200), cuts)
def test_what_holds_no_secret_passes_as_it_is(text: bytes, where: list[int]) -> None:
    assert mask(text, {"S": "not in there at all"}, where) == text


def test_only_what_may_be_a_beginning_is_held_back() -> None:
    masker = Masker({"S": "secret-value"})
    assert masker.feed(b"loss 0.1\n") == b"loss 0.1\n"
    assert masker.feed(b"the sec") == b"the "
    assert masker.feed(b"ond\n") == b"second\n"
    assert masker.feed(b"secret-val") == b""
    assert masker.feed(b"ue!") == b"***S***!"
    assert masker.feed(b"secret") == b""
    assert masker.finish() == b"secret"


def test_a_pump_ends_with_the_pipe_and_writes_what_was_held(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with (tmp_path / "log").open("wb", buffering=0) as log:
        thread = threading.Thread(target=pump, args=(reading, log.fileno(), Masker({"S": "hunter22"}), lambda: False))
        thread.start()
        os.write(writing, b"hun")
        os.write(writing, b"ter22 hunter")
        os.close(writing)
        thread.join()
    os.close(reading)
    assert (tmp_path / "log").read_bytes() == b"***S*** hunter"


def test_a_pump_ends_after_its_command_although_something_holds_the_pipe_open(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"last words hunter22\n")
    with (tmp_path / "log").open("wb", buffering=0) as log:
        pump(reading, log.fileno(), Masker({"S": "hunter22"}), lambda: True)
    assert (tmp_path / "log").read_bytes() == b"last words ***S***\n"
    os.close(reading)
    os.close(writing)


def test_a_full_disk_does_not_hold_the_command_up() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x" * 1000)
    os.close(writing)
    with open("/dev/full", "wb", buffering=0) as full:
        pump(reading, full.fileno(), Masker({"S": "hunter22"}), lambda: False)
    os.close(reading)
