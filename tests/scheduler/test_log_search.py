"""Lines of a log that have a text: the same whatever parts it is read in, from one place to the next."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.scheduler import log_search
from mlbox.scheduler.log_search import find_lines


def parts(log: bytes, size: int) -> Callable[[int], bytes]:
    return lambda offset: log[offset : offset + size]


def expected(log: bytes, text: str) -> list[int]:
    """Where the lines begin that have it, line by line."""
    found, at = [], 0
    for line in log.splitlines(keepends=True):
        if text.encode() in (line if text != text.lower() else line.lower()):
            found.append(at)
        at += len(line)
    return found


@given(
    st.lists(st.text("abAB é", max_size=6), max_size=30), st.text("abAB é", min_size=1, max_size=3), st.integers(8, 40)
)
def test_it_finds_what_reading_line_by_line_finds(lines: list[str], text: str, size: int) -> None:
    log = "\n".join(lines).encode()
    whole = find_lines(parts(log, len(log) + 1), text, after=0, limit=1000)
    assert [match.offset for match in whole.matches] == expected(log, text)
    assert find_lines(parts(log, size), text, after=0, limit=1000) == whole
    pages, after = [], 0
    while after is not None:
        page = find_lines(parts(log, len(log) + 1), text, after=after, limit=2)
        pages += page.matches
        after = page.next
    assert tuple(pages) == whole.matches


def test_a_long_log_is_looked_through_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "MOST_READ", 100)
    log = b"".join(b"line %03d\n" % number for number in range(100))
    first = find_lines(parts(log, 50), "line 099", after=0, limit=10)
    assert first.matches == ()
    assert first.next
    assert first.next % 9 == 0, "a line was cut"
    while first.next is not None:
        first = find_lines(parts(log, 50), "line 099", after=first.next, limit=10)
    assert [match.offset for match in first.matches] == [99 * 9]


def test_a_line_without_end_is_found_and_cut() -> None:
    log = b"x" * 5000 + b"needle" + b"y" * 5000
    (match,) = find_lines(parts(log, 1 << 20), "needle", after=0, limit=10).matches
    assert match.offset == 0
    assert "needle" in match.text
    assert len(match.text) <= log_search.MOST_SHOWN


@pytest.mark.parametrize("text", ["", "x" * 300])
def test_nothing_is_not_looked_for(text: str) -> None:
    with pytest.raises(InvalidInput, match="no text to look for"):
        find_lines(parts(b"", 10), text, after=0, limit=1)
