"""What checks found does not grow for ever, and what is kept shows how it went."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock, to_us
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.store import migrations
from mlbox.store.checks import AGAIN_SECONDS, Thinning, last_checks, spread
from mlbox.store.db import Database, Tx


@pytest.fixture
def db(tmp_path: Path, clock: ManualClock) -> Iterator[Database]:
    made = Database(tmp_path / "monitoring.sqlite", migrations.monitoring, clock, EventBus())
    yield made
    made.close()


def check(tx: Tx, model: str, *, check_id: str = "") -> str:
    own = check_id or new_id()
    row = "INSERT INTO drift (model, feature, check_id, at_us, result) VALUES (?,?,?,?,'{}')"
    tx.many(row, [(model, feature, own, tx.domain_us) for feature in ("temp", "wind")])
    return own


def test_all_of_the_last_days_and_one_of_each_day_before_are_kept(db: Database, clock: ManualClock) -> None:
    def every_six_hours(days: int) -> list[str]:
        ids = []
        for _ in range(days * 4):
            ids.append(db.write(lambda tx: check(tx, "delay")))
            clock.advance(clock.now() + timedelta(hours=6))
        return ids

    ids = every_six_hours(10)
    other = db.write(lambda tx: check(tx, "churn"))
    thinning = Thinning("drift")
    db.write(lambda tx: thinning.thin(tx, "delay"))
    left = {row["check_id"] for row in db.all("SELECT check_id FROM drift WHERE model = 'delay'")}
    assert left == {*ids[3:28:4], *ids[28:]}
    assert db.all("SELECT count(*) AS n FROM drift WHERE model = 'delay'")[0]["n"] == 2 * len(left), "whole checks"
    assert last_checks(db, "drift", ["delay", "churn"]) == {"delay": ids[-1], "churn": other}
    clock.advance(clock.now() + timedelta(days=800))
    db.write(lambda tx: thinning.thin(tx, "delay"))
    assert db.one("SELECT 1 FROM drift WHERE model = 'delay'") is not None, "it looks every few hours only"
    thinning._done["delay"] -= AGAIN_SECONDS
    db.write(lambda tx: thinning.thin(tx, "delay"))
    assert db.one("SELECT 1 FROM drift WHERE model = 'delay'") is None
    assert db.one("SELECT 1 FROM drift WHERE model = 'churn'") is not None


def test_a_picture_has_checks_from_the_first_to_the_last(db: Database, clock: ManualClock) -> None:
    assert spread(db, "drift", "delay", 5) == []
    start = to_us(clock.real()) // 1000

    def made(minute: int) -> str:
        return f"{start + minute * 60_000:012x}7000a000{minute:012x}"

    few = [made(n) for n in (0, 1, 2)]
    for one in few:
        db.write(lambda tx, one=one: check(tx, "delay", check_id=one))
    assert spread(db, "drift", "delay", 5) == few
    many = [made(n) for n in range(3, 100)]
    for one in many:
        db.write(lambda tx, one=one: check(tx, "delay", check_id=one))
    assert spread(db, "drift", "delay", 5) == [made(n) for n in (19, 39, 59, 79, 99)]
    assert last_checks(db, "drift", ["delay"]) == {"delay": many[-1]}
