"""Quotas: what counts for whom, whatever the store's sums are made of."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import TooLarge
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.access.quota import REFRESH, Quota
from mlbox.store.db import Database


@pytest.fixture
def dbs(tmp_path: Path, clock: ManualClock, bus: EventBus) -> list[Database]:
    made = [Database(tmp_path / f"{n}.sqlite", getattr(migrations, n), clock, bus) for n in ("tracking", "datasets")]
    made[0].write(lambda tx: tx.run("INSERT INTO experiment (id, name, created_us) VALUES ('x', 'a.e', 1)"))
    made[0].write(
        lambda tx: tx.run(
            "INSERT INTO run (id, experiment_id, name, user, status, started_us) VALUES ('r', 'x', '', 'u', 'RUNNING', 1)"
        )
    )
    return made


def team_of(name: str) -> str:
    return name.partition(".")[0]


def keep(db: Database, path: str, size: int) -> None:
    db.write(
        lambda tx: tx.run(
            "INSERT INTO artifact (run_id, path, sha256, size, added_us) VALUES ('r', ?, '', ?, 1)", (path, size)
        )
    )


def test_artifacts_and_datasets_count_together_for_their_team(dbs: list[Database], clock: ManualClock) -> None:
    tracking, datasets = dbs
    keep(tracking, "p", 30)
    keep(tracking, "q", 20)
    record = '{"files": [{"size": 5}, {"size": 6}]}'
    for name, version in (("a.d", 1), ("a.d", 2), ("b.d", 1)):
        row = (f"{name}{version}", name, version, record)
        datasets.write(
            lambda tx, row=row: tx.run(
                "INSERT INTO dataset (id, name, version, hash, record, created_us) VALUES (?,?,?,'',?,1)", row
            )
        )
    quota = Quota(tracking, datasets, team_of, clock, allowed=100)
    assert (quota.used("a"), quota.used("b"), quota.used("c")) == (72, 11, 0)
    assert quota.room("a.anything") == 28
    quota.add("a.x", 27)
    assert quota.room("a.x") == 1
    quota.add("a.x", 1)
    with pytest.raises(TooLarge, match="upload_quota"):
        quota.room("a.x")
    assert quota.room("b.x") == 89


def test_the_sums_are_read_anew(dbs: list[Database], clock: ManualClock) -> None:
    quota = Quota(*dbs, team_of, clock, allowed=100)
    assert quota.room("a.e") == 100
    keep(dbs[0], "p", 60)
    assert quota.room("a.e") == 100
    clock.advance(clock.now() + REFRESH + timedelta(seconds=1))
    assert quota.room("a.e") == 40


def test_without_a_quota_nothing_is_asked(dbs: list[Database], clock: ManualClock) -> None:
    quota = Quota(*dbs, team_of, clock, allowed=0)
    keep(dbs[0], "p", 10**12)
    assert quota.room("a.e") is None
