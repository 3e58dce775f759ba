"""Dataset versions: split, cut by time, compared, proven, tagged, and removed with care."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlbox.errors import InvalidInput, NotFound, Refused
from mlbox.records import DatasetDiff, DatasetSplit, SplitPart
from mlbox.store.datasets.datasets import DatasetFrom
from mlbox.store.datasets.diff import diff
from tests.store.test_datasets import SPEC, START, House, moment

HASHED = DatasetSplit(
    by="hash", keys=("who",), parts=(SplitPart(name="train", share=0.7), SplitPart(name="test", share=0.3))
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


def rows(count: int, **changes: Any) -> pa.Table:
    """One row an hour, of ten people."""
    times = pa.array([START + timedelta(hours=number) for number in range(count)], pa.timestamp("us", "UTC"))
    columns = {
        "who": [f"p{number % 10}" for number in range(count)],
        "event_time": times,
        "x": [float(n) for n in range(count)],
    }
    return pa.table({**columns, **changes})


def keep(house: House, table: pa.Table, name: str = "raw", **about: Any) -> Any:
    return house.datasets.keep_rows(name, table, DatasetFrom(**about), actor="ann")


def test_a_split_by_hash_keeps_an_entity_together_and_loses_no_row(house: House) -> None:
    version = keep(house, rows(500), split=HASHED)
    assert {file.split for file in version.files} == {"train", "test"}
    people: dict[str, set[str]] = {}
    for file in version.files:
        table = pq.read_table(house.artifacts.path(file.sha256))
        people.setdefault(file.split, set()).update(table.column("who").to_pylist())
    assert not people["train"] & people["test"]
    assert sum(file.rows for file in version.files) == 500
    assert keep(house, rows(500), split=HASHED) == version


def test_a_split_by_time_is_before_and_after(house: House) -> None:
    split = DatasetSplit(by="time", parts=(SplitPart(name="train", until=moment(3600 * 300)), SplitPart(name="test")))
    version = keep(house, rows(500), split=split)
    assert {file.split: file.rows for file in version.files} == {"train": 300, "test": 200}


@pytest.mark.parametrize(
    "split",
    [
        DatasetSplit(by="hash", keys=("who",), parts=(SplitPart(name="all", share=1.0),)),
        DatasetSplit(by="hash", keys=("nobody",), parts=HASHED.parts),
        DatasetSplit(by="hash", keys=("who",), parts=(SplitPart(name="a", share=0.5), SplitPart(name="b", share=0.4))),
        DatasetSplit(by="time", parts=(SplitPart(name="a"), SplitPart(name="b"))),
    ],
)
def test_a_split_that_cannot_be_is_refused(house: House, split: DatasetSplit) -> None:
    with pytest.raises(InvalidInput) as caught:
        keep(house, rows(10), split=split)
    assert str(caught.value.field).startswith("split")
    assert house.datasets.versions() == []


def test_a_version_that_adds_a_day_has_the_other_days_files(house: House) -> None:
    def days(count: int) -> pa.Table:
        each = 25_000
        seconds = [86_400 * day + number for day in range(count) for number in range(each)]
        times = pa.array([START + timedelta(seconds=one) for one in seconds], pa.timestamp("us", "UTC"))
        return pa.table({"event_time": times, "x": list(range(len(seconds)))})

    first, second = keep(house, days(3)), keep(house, days(4))
    assert [file.path for file in first.files] == [f"2026-01-0{day}-00000.parquet" for day in (1, 2, 3)]
    assert second.files[:3] == first.files
    found = compared(house, first, second)
    assert (found.added, found.removed, found.changed) == (25_000, 0, 0)


def compared(house: House, before: Any, after: Any, *keys: str) -> DatasetDiff:
    return diff(house.artifacts, before, after, keys=keys)


def test_rows_are_compared_by_key_with_examples(house: House) -> None:
    changed = [0.0, 1.0, 99.0, 3.0, float("nan")]
    before = keep(house, rows(5, x=[0.0, 1.0, 2.0, 3.0, float("nan")], old=[1] * 5))
    after = keep(house, pa.concat_tables([rows(5, x=changed).slice(1), rows(7).slice(5)]))
    found = compared(house, before, after, "event_time")
    assert (found.columns_removed, found.rows) == (("old",), (5, 6))
    assert (found.added, found.removed, found.changed, found.changed_by_column) == (2, 1, 1, {"x": 1})
    (row,) = found.examples_changed
    assert row.values == {"x": (2.0, 99.0)}
    assert [one["who"] for one in found.examples_added] == ["p5", "p6"]
    assert [one["who"] for one in found.examples_removed] == ["p0"]
    assert found.statistics["x"]["max"] == (3.0, 99.0)
    with pytest.raises(InvalidInput, match="no column of both"):
        compared(house, before, after, "old")


def test_without_keys_rows_are_a_bag(house: House) -> None:
    before, after = keep(house, rows(3)), keep(house, pa.concat_tables([rows(3), rows(1)]))
    found = compared(house, before, after)
    assert (found.keys, found.added, found.removed, found.changed) == ((), 1, 0, 0)
    assert [one["who"] for one in found.examples_added] == ["p0"]


def test_a_file_that_changed_on_the_disk_is_found(house: House) -> None:
    version = keep(house, rows(3))
    assert [one.error for one in house.datasets.verify(version.ref)] == [""]
    path = house.artifacts.path(version.files[0].sha256)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert [one.error for one in house.datasets.verify(version.ref)] == ["its content changed"]
    path.unlink()
    assert [one.error for one in house.datasets.verify(version.ref)] == ["it is gone"]


def test_tags_change_and_nothing_else_does(house: House) -> None:
    version = keep(house, rows(3), tags={"for": "tests"}, description="three rows")
    assert (version.tags, version.description) == ({"for": "tests"}, "three rows")
    tagged = house.datasets.tag(version.ref, {"for": None, "tier": "gold"}, actor="bea")
    assert tagged.tags == {"tier": "gold"}
    assert msgspec.structs.replace(tagged, tags=version.tags) == version


def test_a_version_in_use_stays_and_another_can_be_taken_back(house: House) -> None:
    version = keep(house, rows(3))
    house.datasets.used_by = lambda ref: [f"churn/1 in Production on {ref}"]
    with pytest.raises(Refused, match="churn/1 in Production"):
        house.datasets.delete(version.ref, actor="ann")
    house.datasets.used_by = lambda ref: []
    with pytest.raises(InvalidInput, match="no version"):
        house.datasets.delete("raw", actor="ann")
    house.datasets.delete(version.ref, actor="ann")
    with pytest.raises(NotFound):
        house.datasets.version("raw")
    assert house.datasets.restore("raw@v1", within=timedelta(days=1), actor="bea") == version
    house.datasets.delete(version.ref, actor="ann")
    assert keep(house, rows(3)).version == 2, "a number is never given again"
    house.clock.advance(START + timedelta(days=2))
    with pytest.raises(NotFound, match="for good"):
        house.datasets.restore("raw@v1", within=timedelta(days=1), actor="bea")


def test_what_is_labelled_can_be_the_spine_and_the_policy_is_told(house: House) -> None:
    house.fill(until=8)
    version = house.datasets.create(msgspec.structs.replace(SPEC, spine=""), actor="ann")
    found = house.datasets.open_table(version.ref).to_pylist()
    assert [(row["who"], row["spend@v1:amount"], row["gone"]) for row in found] == [("a", 1.0, 0), ("a", 5.0, 1)]
    assert (version.label_policy, version.backfilled) == ("latest@1", False)
    with pytest.raises(InvalidInput, match="no rows to begin with"):
        house.datasets.create(msgspec.structs.replace(SPEC, spine="", label_set=None), actor="ann")
