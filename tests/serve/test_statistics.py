"""What the server counts of each version."""

from __future__ import annotations

from datetime import timedelta

from mlbox.clock import ManualClock, parse_time
from mlbox.serve.inference.statistics import Statistics

START = parse_time("2026-01-01T00:00:30Z")


def test_failures_are_counted_by_version_and_minute_of_domain_time() -> None:
    clock = ManualClock(START)
    statistics = Statistics(clock)
    for seconds, version in ((0, 1), (29, 1), (30, 1), (600, 2)):
        clock.advance(START + timedelta(seconds=seconds))
        statistics.failed("churn", version, reason="model")
    statistics.failed("other", 1, reason="timeout")
    minute = START.replace(second=0)
    assert statistics.failures("churn") == {
        1: {minute: 2, minute + timedelta(minutes=1): 1},
        2: {minute + timedelta(minutes=10): 1},
    }
    assert statistics.failures("none") == {}
    assert statistics.of("churn", 1).fail.count == 3
