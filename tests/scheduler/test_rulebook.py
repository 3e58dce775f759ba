"""Quotas as the policy takes them: by the clock on the wall, on the days on which it is set forward and back, too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import JobQueue, TeamQuota
from mlbox.scheduler.policy import span
from mlbox.scheduler.rulebook import Rulebook, shown
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.jobs.sharing import Sharing

BERLIN = TeamQuota(team="vision", share=0.4, windows=("daily 01:30-03:30",), zone="Europe/Berlin")


@pytest.fixture
def sharing(tmp_path: Path, clock: ManualClock) -> Iterator[Sharing]:
    db = Database(tmp_path / "jobs.sqlite", migrations.jobs, clock, EventBus())
    yield Sharing(db)
    db.close()


def test_a_change_is_told_and_read_once(sharing: Sharing) -> None:
    told: list[int] = []
    book = Rulebook(sharing, lambda: told.append(sharing.version))
    book.refresh()
    before = book.queues
    book.refresh()
    assert book.queues is before
    assert book.queues["production-retraining"].weight == 3
    sharing.set_queue(JobQueue(name="turns", slice_minutes=2), actor="root")
    sharing.set_quota(BERLIN, actor="root")
    sharing.set_weight("vision", 2, actor="root")
    book.refresh()
    assert book.queues["turns"].quantum_seconds == 120
    assert [(quota.team, quota.share, quota.windows[0].zone) for quota in book.quotas] == [
        ("vision", 0.4, "Europe/Berlin")
    ]
    assert book.shares == {"vision": 2}
    sharing.remove_quota("vision", "default", actor="root")
    book.refresh()
    assert (book.quotas, told) == ((), [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("opens", "closes", "what"),
    [
        ("2026-03-28T00:30Z", "2026-03-28T02:30Z", "the day before: 01:30 to 03:30 in winter time"),
        ("2026-03-29T00:30Z", "2026-03-29T01:30Z", "clocks go from 02:00 to 03:00: an hour less"),
        ("2026-10-24T23:30Z", "2026-10-25T02:30Z", "clocks go from 03:00 to 02:00: an hour more"),
        ("2026-10-26T00:30Z", "2026-10-26T02:30Z", "the day after, in winter time"),
    ],
)
def test_a_window_follows_the_clock_on_the_wall(sharing: Sharing, opens: str, closes: str, what: str) -> None:
    sharing.set_quota(BERLIN, actor="root")
    book = Rulebook(sharing)
    book.refresh()
    (window,) = book.quotas[0].windows
    first, last = parse_time(opens), parse_time(closes)
    second = timedelta(seconds=1)
    for moment, is_open in ((first - second, False), (first, True), (last - second, True), (last, False)):
        found = shown(BERLIN, moment)
        assert (found.counts, found.open_until) == (is_open, last if is_open else None), (what, moment)
        assert span(window, moment) == ((first, last) if is_open else None)


def test_a_quota_without_windows_always_counts() -> None:
    assert shown(TeamQuota(team="vision", gpus=1), datetime(2026, 1, 1, tzinfo=UTC)).counts
