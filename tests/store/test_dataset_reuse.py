"""A version that adds a day is a day's work, and is what it would be if all of it had been built anew."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.records import Column, DatasetSplit, DatasetVersion, SplitPart
from mlbox.store.datasets import build as dataset_build
from mlbox.store.datasets import files as dataset_files
from mlbox.store.datasets.datasets import DatasetSpec
from tests.store.test_datasets import USER, House, moment, table

DAY = 86_400
SPLIT = DatasetSplit(
    by="hash", keys=("who",), parts=(SplitPart(name="train", share=0.6), SplitPart(name="test", share=0.4))
)
SPEC = DatasetSpec(name="daily", spine="SELECT who, moment AS event_time FROM visits", features=("spend:amount",))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files end with a day of few rows, and it is worth going on after one."""
    monkeypatch.setattr(dataset_files, "DAY_ROWS", 4)
    monkeypatch.setattr(dataset_files, "PERIOD_ROWS", 2)
    monkeypatch.setattr(dataset_build, "RESUME_ROWS", 1)


@contextlib.contextmanager
def living() -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(Path(folder))) as house:
        columns = (USER, Column(name="moment", dtype="TIMESTAMP"), Column(name="seen", dtype="TIMESTAMP"))
        house.features.add_source("late", columns, "moment", "seen", actor="ann")
        yield house


def visit(house: House, *days: int, people: int = 8) -> None:
    """As many visits on each of some days."""
    who = [f"c{n}" for n in range(people)] * len(days)
    when = [day * DAY + 60 * n for day in days for n in range(people)]
    house.features.append("visits", table(who=who, moment=when), actor="ann")


def same(one: DatasetVersion, other: DatasetVersion) -> None:
    assert [(file.path, file.sha256, file.rows) for file in one.files] == [
        (file.path, file.sha256, file.rows) for file in other.files
    ]
    assert (one.hash, one.rows, one.columns) == (other.hash, other.rows, other.columns)
    if one.as_of == other.as_of:  # else it is what it was before, and was told of then
        assert one.parameters == other.parameters
    assert one.statistics.keys() == other.statistics.keys()
    for name, told in one.statistics.items():
        for what, value in told.items():  # a mean is a sum, which depends on how the rows came in its last digits
            other_value = other.statistics[name][what]
            assert value == (pytest.approx(other_value) if what == "mean" else other_value), (name, what)


def forget(house: House, before: int) -> None:
    """Take visits away behind the store's back, which nobody can: whoever reads them again would miss them."""
    house.offline.write(
        lambda cursor: cursor.execute(
            f"DELETE FROM \"source:visits\" WHERE moment < TIMESTAMP '{moment(before * DAY):%Y-%m-%d}'"
        )
    )


@pytest.mark.parametrize("split", [None, SPLIT])
def test_what_is_before_the_last_days_is_not_read_again(split: DatasetSplit | None) -> None:
    with living() as house:
        spec = msgspec.structs.replace(SPEC, split=split)
        visit(house, *range(8), people=30)
        house.clock.advance(moment(9 * DAY))
        first = house.datasets.create(spec, actor="ann")
        assert first.basis is not None
        assert first.basis.resume is not None
        visit(house, 8, people=30)
        whole = house.datasets.create(msgspec.structs.replace(spec, name="whole"), actor="ann")
        forget(house, 5)
        second = house.datasets.create(spec, actor="ann")
        assert second.rows == first.rows + 30
        same(second, whole)
        kept = {file.sha256 for file in first.files} & {file.sha256 for file in second.files}
        assert len(kept) >= len(first.files) - len(split.parts if split else [0])


def test_a_row_that_came_late_has_its_day_built_anew() -> None:
    with living() as house:
        visit(house, *range(8))
        house.clock.advance(moment(9 * DAY))
        house.datasets.create(SPEC, actor="ann")
        house.features.append("visits", table(who=["late"], moment=[2 * DAY]), actor="ann")
        house.features.append("sales", table(who=["c1"], moment=[3 * DAY], amount=[7.0]), actor="ann")
        second = house.datasets.create(SPEC, actor="ann")
        same(second, house.datasets.create(msgspec.structs.replace(SPEC, name="whole"), actor="ann"))
        assert 7.0 in house.datasets.open_table(second.ref).column("spend@v1:amount").to_pylist()


@pytest.mark.parametrize(
    "spine",
    [
        "SELECT who, max(moment) AS event_time FROM visits GROUP BY who",
        "SELECT who, moment AS event_time, count(*) OVER (PARTITION BY who) AS visits FROM visits",
        "SELECT who, moment + INTERVAL 1 DAY AS event_time FROM visits",
        "SELECT DISTINCT who, moment AS event_time FROM visits",
        "SELECT v.who, v.moment AS event_time FROM visits v JOIN sales s ON v.who = s.who",
    ],
)
def test_of_other_spines_nothing_is_taken_over(spine: str) -> None:
    with living() as house:
        house.features.append("sales", table(who=["c1"], moment=[0], amount=[1.0]), actor="ann")
        visit(house, *range(6))
        house.clock.advance(moment(9 * DAY))
        spec = DatasetSpec(name="other", spine=spine)
        assert house.datasets.create(spec, actor="ann").basis is None
        visit(house, 6)
        made = house.datasets.create(spec, actor="ann")
        same(made, house.datasets.create(msgspec.structs.replace(spec, name="whole"), actor="ann"))


def test_without_what_was_counted_it_is_built_anew() -> None:
    with living() as house:
        visit(house, *range(8))
        house.clock.advance(moment(9 * DAY))
        first = house.datasets.create(SPEC, actor="ann")
        assert first.basis is not None
        assert first.basis.resume is not None
        house.artifacts.path(first.basis.resume.facts).unlink()
        visit(house, 8)
        same(
            house.datasets.create(SPEC, actor="ann"),
            house.datasets.create(msgspec.structs.replace(SPEC, name="whole"), actor="ann"),
        )


DAYS = st.integers(0, 9)
ROUND = st.fixed_dictionaries(
    {
        "visits": st.lists(st.tuples(DAYS, st.integers(0, 5)), max_size=12),
        "sales": st.lists(st.tuples(DAYS, st.integers(0, 5)), max_size=3),
        "labels": st.lists(st.tuples(DAYS, st.integers(0, 5), st.integers(0, 1)), max_size=6),
        "until": st.none() | st.integers(5, 10),
    }
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(ROUND, min_size=2, max_size=3), split=st.sampled_from([None, SPLIT]), labelled=st.booleans())
def test_however_rows_come_it_is_what_it_would_be(
    rounds: list[dict[str, Any]], split: DatasetSplit | None, labelled: bool
) -> None:
    with living() as house:
        visit(house, *range(7), people=6)
        house.labels.append(
            "left", table(who=["c0"] * 7, event_time=[n * DAY for n in range(7)], gone=[0] * 7), actor="ann"
        )
        for number, come in enumerate(rounds):
            house.clock.advance(moment((10 + number) * DAY))
            for name, rows in (("visits", come["visits"]), ("sales", come["sales"])):
                columns: dict[str, Any] = {
                    "who": [f"c{who}" for _, who in rows],
                    "moment": [day * DAY + 60 * who for day, who in rows],
                }
                if name == "sales":
                    columns["amount"] = [float(number)] * len(rows)
                if rows:
                    house.features.append(name, table(**columns), actor="ann")
            if come["labels"]:
                days, who, gone = zip(*come["labels"], strict=True)
                told = table(
                    who=[f"c{n}" for n in who],
                    event_time=[day * DAY + 60 * n for day, n in zip(days, who, strict=True)],
                    gone=list(gone),
                )
                house.labels.append("left", told, actor="ann")
            spec = msgspec.structs.replace(
                SPEC,
                split=split,
                label_set="left" if labelled else None,
                event_to=None if come["until"] is None else moment(come["until"] * DAY),
            )
            whole = msgspec.structs.replace(spec, name=f"whole{number}")
            same(house.datasets.create(spec, actor="ann"), house.datasets.create(whole, actor="ann"))
