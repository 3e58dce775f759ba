"""What pages say: events in words, numbers and times for people, and a part that cannot be had."""

from __future__ import annotations

import re
from datetime import timedelta as d
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import Unavailable
from mlbox.records import Event
from mlbox.store.jobs.states import MOVES as JOB_MOVES
from mlbox.store.registry.promotion_moves import MOVES as PROMOTION_MOVES
from mlbox.web.pages import form
from mlbox.web.pages.phrases import PHRASES, phrase
from mlbox.web.pages.view import part
from tests.web.site import START

PACKAGE = Path(__file__).parents[2] / "mlbox"


def test_every_event_is_told_in_words() -> None:
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    types = set(re.findall(r"\b(?:emit|note)\(\s*\"([a-z_]+\.[a-z_]+)\"", sources))
    types |= {f"job.{state}" for targets in JOB_MOVES.values() for state in targets}
    types |= {f"promotion.{state}" for targets in PROMOTION_MOVES.values() for state in targets}
    types |= {f"run.{status}" for status in ("running", "finished", "failed", "killed")}
    assert len(types) > 30
    assert types <= set(PHRASES), types - set(PHRASES)


def told(kind: str, subject: str = "x:x", /, **data: object) -> str:
    return phrase(Event(id="1", type=kind, subject=subject, actor="ann", at=START, domain_at=START, data=data))


def test_a_deed_without_a_reason_ends_without_a_colon() -> None:
    assert told("promotion.rolled_back", reason="") == "rolled x back"
    assert told("promotion.rolled_back", reason="it fails") == "rolled x back: it fails"


def test_a_star_is_all_there_are() -> None:
    assert told("view.materialized", "view:*", rows=199) == "brought 199 entities of all views up to date online"


def test_what_is_counted_is_one_or_many_and_no_digest_fills_a_line() -> None:
    key = f"hmac-sha256:{'0123456789abcdef' * 4}"
    assert told("predictions.erased", predictions=1, key=key) == "removed 1 prediction about hmac-sha256:0123456789ab…"
    assert told("predictions.aged", predictions=2).startswith("removed 2 predictions ")
    for kind, words in PHRASES.items():
        for field in re.findall(r"\{([a-z]+)\} [a-z]+s\b", words):
            if field != "name":
                assert not re.search(r"\b1 [a-z]+s\b", told(kind, **{field: 1})), kind


def test_numbers_are_written_for_people() -> None:
    assert [form.count(n) for n in (0, 1234, 1234567, None)] == ["0", "1,234", "1,234,567", "–"]
    sizes = [form.size(n).replace("\u202f", " ") for n in (0, 999, 1000, 3_200_000, 999_999_999, 5e12)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "3.2 MB", "1.0 GB", "5.0 TB"]
    spans = [form.span(n).replace("\u202f", " ") for n in (0.0123, 1.5, 59, 61, 3600, 90000)]
    assert spans == ["12 ms", "1.5 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]
    assert [form.number(v) for v in (2013, 12345, 0.123456, float("nan"), "x", None, 8057.5)] == [
        *("2013", "12,345", "0.1235", "nan", "x", "–", "8,057.5")
    ]


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.none() | st.text() | st.booleans())
def test_any_number_can_be_written(value: object) -> None:
    assert isinstance(form.number(value), str)


@given(st.timedeltas())
def test_any_length_of_time_can_be_written(value: object) -> None:
    assert form.span(value)  # type: ignore[arg-type]


def test_how_long_ago_in_its_largest_unit() -> None:
    cases = {
        d(seconds=3): "just now",
        d(minutes=5, seconds=40): "5 min ago",
        d(hours=30): "1 d ago",
        d(days=31): "2025-12-01",
        d(minutes=-90): "in 1 h",
    }
    assert [form.ago(START - length, START) for length in cases] == list(cases.values())


def test_a_part_whose_store_is_down_says_so_and_no_more() -> None:
    def broken() -> int:
        raise Unavailable("The jobs store is down.")

    assert part(broken).error is not None
    assert part(lambda: 1) == (1, None)
