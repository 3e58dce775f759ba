"""Schedules of feature views: on the minute, after their sources, and an alert where one waits too long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlbox.errors import InvalidInput
from mlbox.events import EventBus
from mlbox.records import Column, ViewSpec
from mlbox.serve.features.landing import Landing
from mlbox.serve.features.refresh import Refresher
from mlbox.store import migrations
from mlbox.store.cron_times import next_after
from mlbox.store.db import Database
from mlbox.store.features import changes
from mlbox.store.monitoring.alerts import Alerts
from mlbox.store.sandbox.ingest import Uploads
from tests.conftest import wait_for
from tests.store.test_features import COLUMNS, REF, SPEC, START, House, moment, sales


class Scheduled(House):
    """A feature store with its schedules, and a clock that is driven by hand."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bus = self.db._bus
        self.monitoring = Database(folder / "monitoring.sqlite", migrations.monitoring, self.clock, EventBus())
        self.landing = Landing(self.store, Uploads(folder / "uploads", most_bytes=1 << 20))
        self.refresher = Refresher(self.store, self.landing, self.monitoring, self.bus, every=0.2)
        self.store.add_source("sales", COLUMNS, "happened", "known", actor="ann")

    def apply(self, **changes: object) -> str:
        return self.store.apply_view(msgspec.structs.replace(SPEC, **changes), actor="ann").ref

    def close(self) -> None:
        self.refresher.close()
        self.monitoring.close()
        super().close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Scheduled]:
    built = Scheduled(tmp_path)
    yield built
    built.close()


def test_a_view_is_brought_up_to_date_when_its_minute_comes(house: Scheduled) -> None:
    ref = house.apply(schedule="*/10 * * * *")
    house.store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    house.clock.advance(START + timedelta(minutes=9))
    assert house.refresher.run() == []
    house.clock.advance(START + timedelta(minutes=10))
    assert house.refresher.run() == [ref]
    assert house.refresher.run() == []
    found = house.store.freshness(ref)
    assert (found.rows, found.entities, found.latest_event) == (1, 1, moment(1))
    assert (found.updated_at, found.next_at) == (START + timedelta(minutes=10), START + timedelta(minutes=20))
    house.clock.advance(START + timedelta(hours=3, minutes=1))  # many were missed: one run makes up for all
    assert [house.refresher.run(), house.refresher.run()] == [[ref], []]


def test_a_view_follows_its_source_and_a_view_over_it_follows_the_view(house: Scheduled) -> None:
    first = house.apply(schedule="upstream")
    over = house.apply(
        name="over",
        sources=(first,),
        schedule="upstream",
        sql="SELECT who, shop, 2 * amount AS amount, event_time, arrival_time FROM spend",
    )
    house.refresher.run()
    house.clock.advance(moment(2))
    assert house.refresher.run() == []
    house.store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    assert sorted(house.refresher.run()) == sorted([first, over])
    (row,) = house.store.online_features([REF, f"{over}:amount"], [{"who": "a", "shop": 1}])
    assert list(row.values.values()) == [1.0, 2.0]
    assert house.refresher.run() == []


def test_the_thread_follows_a_push_by_itself(house: Scheduled) -> None:
    ref = house.apply(schedule="upstream")
    house.refresher.start()
    house.clock.advance(moment(2))
    house.store.push("sales", sales(("a", 1, 1, 1, 1.0)), to="offline", actor="ann")
    wait_for(lambda: house.store.freshness(ref).entities == 1, what="the refresh")


def test_a_view_without_a_schedule_waits_for_its_users(house: Scheduled) -> None:
    house.apply()
    house.store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    house.clock.advance(START + timedelta(days=400))
    assert house.refresher.run() == []


def test_waiting_too_long_is_an_alert_until_it_is_over(house: Scheduled) -> None:
    ref = house.apply(stale_after_seconds=60)
    alerts = Alerts(house.monitoring)
    house.refresher.run()
    assert (alerts.page(), house.store.freshness(ref).stale) == ([], False)
    house.clock.advance(START + timedelta(seconds=61))
    for _ in range(2):
        house.refresher.run()
        (alert,) = alerts.page(state="firing")
    assert (alert.name, alert.labels) == ("staleness", {"view": "spend", "version": "v1"})
    assert house.store.freshness(ref).stale
    house.store.materialize(ref)
    house.refresher.run()
    assert alerts.page(state="firing") == []
    assert len(house.monitoring.all("SELECT 1 FROM event WHERE type = 'view.stale'")) == 1


def test_a_view_that_fails_says_why_and_does_not_hold_up_the_others(house: Scheduled) -> None:
    broken = house.apply(
        name="broken", schedule="upstream", sql=SPEC.sql.replace("amount,", "CAST(who AS DOUBLE) AS amount,")
    )
    fine = house.apply(schedule="upstream")
    house.clock.advance(moment(2))
    house.store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    for _ in range(2):
        assert broken in house.refresher.run()
    assert "does not work" in house.store.freshness(broken).error
    assert house.store.freshness(fine).entities == 1
    assert len(house.db.all("SELECT 1 FROM event WHERE type = 'view.failed'")) == 1


def test_a_schema_that_changes_while_a_schedule_runs_is_another_version_beside_it(
    house: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on with the version that it began with; the next look computes the new one."""
    monkeypatch.setattr(changes, "PART_ROWS", 2)
    first = house.apply(schedule="upstream")
    rows = [(f"u{number}", 1, 1, 1, float(number)) for number in range(8)]
    house.store.append("sales", sales(*rows), actor="ann")
    house.clock.advance(moment(2))
    put, second = house.online.put, []

    def change_in_the_middle(*args: Any, **options: Any) -> int:
        if not second:
            total = Column(name="total", dtype="INT64")
            sql = SPEC.sql.replace("amount,", "CAST(amount AS BIGINT) AS total,")
            second.append(house.apply(features=(total,), sql=sql, schedule="upstream"))
        return put(*args, **options)

    monkeypatch.setattr(house.online, "put", change_in_the_middle)
    assert house.refresher.run() == [first]
    assert second == ["spend@v2"]
    entities = [{"who": who, "shop": 1} for who, *_ in rows]
    expected = [float(number) for number in range(8)]
    assert [row.values[REF] for row in house.store.online_features([REF], entities)] == expected
    assert house.refresher.run() == second
    found = house.store.online_features([REF, "spend@v2:total"], entities)
    assert [list(row.values.values()) for row in found] == [[value, int(value)] for value in expected]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schedule": "whenever"}, "schedule"),
        ({"schedule": "61 * * * *"}, "schedule"),
        ({"schedule": "* * * *"}, "schedule"),
        ({"stale_after_seconds": 0}, "stale_after_seconds"),
    ],
)
def test_what_is_no_schedule_is_refused(house: Scheduled, changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.store.apply_view(msgspec.structs.replace(SPEC, **changes), actor="ann")
    assert caught.value.field == field


def test_a_changed_schedule_is_no_new_version(house: Scheduled) -> None:
    assert house.apply(schedule="0 * * * *") == "spend@v1"
    assert house.apply(schedule="upstream", stale_after_seconds=5, entity="") == "spend@v1"
    assert house.store.view("spend").schedule == "upstream"


def test_cron_is_in_utc() -> None:
    noon = datetime(2026, 3, 29, 12, tzinfo=UTC)
    assert next_after("30 2 * * *", noon) == datetime(2026, 3, 30, 2, 30, tzinfo=UTC)
    assert next_after("0 12 * * *", noon) == noon + timedelta(days=1)


def test_the_digest_of_a_definition_is_what_it_always_was() -> None:
    from mlbox.store.features.catalog import digest_of

    words = msgspec.structs.replace(SPEC, owner="x", tags={"a": "b"}, description="d", schedule="upstream")
    assert digest_of(words) == "4ea7cafd6699d28304856e2fc366221f861643956469b4b04c01cafde187a786"
    assert isinstance(words, ViewSpec)
