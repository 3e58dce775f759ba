"""Limits on being wrong: waits that double, allowances that fill up, bounded memory."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import TooMany
from mlbox.store.access.throttle import FORGET_SECONDS, Allowance, Backoff, network_of


def new_clock() -> ManualClock:
    return ManualClock(parse_time("2026-01-01T00:00Z"))


def wait_of(limit: Backoff | Allowance, key: str) -> int:
    """0 where an attempt is taken, else the seconds that it must wait."""
    refused: TooMany | None = None
    try:
        limit.begin(key)
    except TooMany as err:
        refused = err
    assert refused is None or f"in {refused.retry_seconds:,} seconds" in refused.message
    return refused.retry_seconds if refused else 0


def later(clock: ManualClock, seconds: float) -> None:
    clock.advance(clock.now() + timedelta(seconds=seconds))


def test_waits_double_up_to_the_longest() -> None:
    clock = new_clock()
    backoff = Backoff(clock, tries=3, longest_seconds=10)
    waits = []
    for _ in range(9):
        assert wait_of(backoff, "ann") == 0
        waits.append(wait_of(backoff, "ann") if len(waits) >= 2 else 0)
        later(clock, waits[-1])
    assert waits == [0, 0, 1, 2, 4, 8, 10, 10, 10]


def test_success_forgets_and_so_does_time() -> None:
    clock = new_clock()
    backoff = Backoff(clock, tries=1, longest_seconds=10)
    backoff.begin("ann")
    assert wait_of(backoff, "ann") == 1
    assert wait_of(backoff, "bea") == 0
    backoff.succeeded("ann")
    assert wait_of(backoff, "ann") == 0
    for _ in range(5):
        later(clock, 20)
        backoff.begin("ann")
    assert wait_of(backoff, "ann") == 10
    later(clock, 10 + FORGET_SECONDS)
    backoff.begin("ann")
    assert wait_of(backoff, "ann") == 1


def test_an_allowance_fills_up_steadily_and_success_gives_back_one() -> None:
    clock = new_clock()
    allowance = Allowance(clock, per_minute=6)
    assert [wait_of(allowance, "10.0.0.1") for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    assert wait_of(allowance, "10.0.0.2") == 0
    later(clock, 10)
    assert [wait_of(allowance, "10.0.0.1") for _ in range(2)] == [0, 10]
    allowance.succeeded("10.0.0.1")
    assert [wait_of(allowance, "10.0.0.1") for _ in range(2)] == [0, 10]
    later(clock, 600)
    assert [wait_of(allowance, "10.0.0.1") for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.floats(0, 90)), max_size=300))
def test_memory_is_bounded_whatever_comes(attempts: list[tuple[int, bool, float]]) -> None:
    clock = new_clock()
    backoff = Backoff(clock, tries=2, longest_seconds=60, most=20)
    allowance = Allowance(clock, per_minute=2, most=20)
    for key, good, seconds in attempts:
        later(clock, seconds)
        for limit in (backoff, allowance):
            if wait_of(limit, str(key)) == 0 and good:
                limit.succeeded(str(key))
            assert len(limit) <= 20


def test_one_ipv6_customer_is_one_peer() -> None:
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::1")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("10.0.0.1") == network_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert network_of("") == ""
    assert network_of("unix:") == "unix:"
