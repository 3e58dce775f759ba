"""Moments, and microseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import from_us, parse_time, to_us
from mlbox.errors import InvalidInput


@given(st.datetimes(timezones=st.timezones()))
def test_a_moment_comes_back_or_is_refused_because_utc_has_no_such_year(moment: datetime) -> None:
    try:
        at = moment.astimezone(UTC)
    except OverflowError:
        with pytest.raises(InvalidInput, match="outside the years 1 to 9999"):
            to_us(moment)
    else:
        assert from_us(to_us(moment)) == at


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+01:00"])
def test_a_time_that_utc_has_not_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="outside the years 1 to 9999 of UTC"):
        parse_time(text)
    with pytest.raises(InvalidInput, match="outside the years 1 to 9999 of UTC"):
        to_us(datetime.fromisoformat(text))
