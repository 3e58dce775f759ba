"""Rows become files as they come: the same files however they come, a day at a time, and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.records import Column, DatasetSplit, SplitPart
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets import files as dataset_files
from mlbox.store.datasets.build import Built, build
from mlbox.store.datasets.facts import SAMPLED_ROWS, Facts
from tests.store.test_datasets import START

DAY = 86_400_000_000
HASHED = DatasetSplit(
    by="hash", keys=("who",), parts=(SplitPart(name="train", share=0.7), SplitPart(name="test", share=0.3))
)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that few rows reach."""
    for name, value in (("DAY_ROWS", 6), ("PERIOD_ROWS", 3), ("GROUP_ROWS", 4), ("GROUP_BYTES", 400)):
        monkeypatch.setattr(dataset_files, name, value)


def table(days: Sequence[int | None], texts: Sequence[str | None] | None = None) -> pa.Table:
    """A row for each day, counted from the start."""
    start = round(START.timestamp() * 1e6)
    times = [None if day is None else start + day * DAY + at for at, day in enumerate(days)]
    return pa.table(
        {
            "event_time": pa.array(times, pa.timestamp("us")),
            "who": pa.array([f"p{at % 7}" for at in range(len(days))]),
            "text": pa.array(texts or ["x"] * len(days), pa.string()),
        }
    )


def kept(artifacts: Artifacts, rows: pa.Table, sizes: Sequence[int] = (), **about: Any) -> Built:
    """Rows built in batches of these sizes, and then of what is left."""
    batches, at = [], 0
    for size in (*sizes, rows.num_rows):
        batches += rows.slice(at, size).combine_chunks().to_batches()
        at += size
    return build(artifacts, rows.schema, batches, about.get("split"))


def read(artifacts: Artifacts, built: Built) -> pa.Table:
    return pa.concat_tables(pq.read_table(artifacts.path(file.sha256)) for file in built.files)


def test_what_is_said_of_a_file_is_so(artifacts: Artifacts) -> None:
    (file,) = kept(artifacts, table([0, 0, 1])).files
    content = artifacts.read(file.sha256)
    assert (file.path, file.rows, file.size) == ("2026-01-01-00000.parquet", 3, len(content))
    assert hashlib.sha256(content).hexdigest() == file.sha256
    assert hashlib.md5(content, usedforsecurity=False).hexdigest() == file.md5


@pytest.mark.usefixtures("small")
@settings(max_examples=25, deadline=None)
@given(
    days=st.lists(st.integers(0, 70) | st.none(), min_size=1, max_size=60).map(
        lambda found: sorted(found, key=lambda day: (day is None, day or 0)) if len(found) % 3 else found
    ),
    texts=st.lists(st.text("ab", max_size=300), min_size=60, max_size=60),
    sizes=st.lists(st.integers(0, 9), max_size=12),
    split=st.sampled_from([None, HASHED]),
)
def test_the_same_rows_are_the_same_files_however_they_come(
    artifacts: Artifacts, days: list[int | None], texts: list[str], sizes: list[int], split: DatasetSplit | None
) -> None:
    rows = table(days, texts[: len(days)])
    whole, bit_by_bit = (kept(artifacts, rows, some, split=split) for some in ((), sizes))
    assert bit_by_bit.files == whole.files
    assert len({file.path for file in whole.files}) == len(whole.files)
    found = read(artifacts, whole)
    if split is None:
        assert found.equals(rows)
    order = [("text", "ascending"), ("event_time", "ascending"), ("who", "ascending")]
    assert found.sort_by(order).equals(rows.sort_by(order))
    for file in whole.files:
        groups = pq.ParquetFile(artifacts.path(file.sha256)).metadata
        assert groups.num_row_groups <= dataset_files.FILE_GROUPS
        assert all(groups.row_group(at).num_rows <= 4 for at in range(groups.num_row_groups))


@pytest.mark.usefixtures("small")
@settings(max_examples=25, deadline=None)
@given(days=st.lists(st.integers(0, 70), min_size=1, max_size=60).map(sorted), later=st.lists(st.integers(71, 99)))
def test_rows_that_come_after_leave_all_files_but_the_last_day_s_as_they_are(
    artifacts: Artifacts, days: list[int], later: list[int]
) -> None:
    before = kept(artifacts, table(days)).files
    after = kept(artifacts, table([*days, *sorted(later)])).files
    stems = [file.path.rpartition("-")[0] for file in before]
    closed = [file for file, stem in zip(before, stems, strict=True) if stem != stems[-1]]
    assert after[: len(closed)] == tuple(closed)


def test_a_text_type_a_dictionary_a_zone_and_metadata_make_no_other_file(artifacts: Artifacts) -> None:
    plain = table([0, 1])
    dressed = plain.set_column(1, "who", plain["who"].dictionary_encode())
    dressed = dressed.set_column(2, "text", plain["text"].cast(pa.large_string()))
    dressed = dressed.set_column(0, "event_time", plain["event_time"].cast(pa.timestamp("us", "UTC")))
    assert kept(artifacts, dressed.replace_schema_metadata({"pandas": "{}"})).files == kept(artifacts, plain).files


def test_columns_that_repeat_themselves_are_kept_as_dictionaries(artifacts: Artifacts) -> None:
    rows = pa.table({"same": [1.5] * 1000, "other": np.random.default_rng(0).random(1000)})
    (file,) = kept(artifacts, rows).files
    group = pq.ParquetFile(artifacts.path(file.sha256)).metadata.row_group(0)
    assert ["RLE_DICTIONARY" in group.column(at).encodings for at in (0, 1)] == [True, False]


def test_a_column_that_is_there_twice_is_refused(artifacts: Artifacts) -> None:
    with pytest.raises(InvalidInput, match="'a' is there twice"):
        kept(artifacts, pa.table([[1], [2]], names=["a", "a"]))


def test_a_split_by_time_loses_no_row_without_one(artifacts: Artifacts) -> None:
    until = START + timedelta(days=2)
    split = DatasetSplit(by="time", parts=(SplitPart(name="train", until=until), SplitPart(name="test")))
    built = kept(artifacts, table([0, 1, 2, None]), split=split)
    assert {file.split: file.rows for file in built.files} == {"train": 2, "test": 2}
    with pytest.raises(InvalidInput, match="event_time is a STRING"):
        kept(artifacts, pa.table({"event_time": ["a"]}), split=split)


def test_a_file_that_cannot_be_written_stops_the_build(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlbox.store.artifacts.os.fsync", full)
    with pytest.raises(Exception, match="No space left on device"):
        kept(artifacts, table([5, 5]))


@pytest.mark.usefixtures("small")
def test_files_of_a_long_build_are_not_collected_meanwhile(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no name before the end, and a collection takes what nothing has named for a while."""
    monkeypatch.setattr(dataset_files, "KEEP_SECONDS", 0)
    rows = table([day for day in range(200, 230) for _ in range(7)])
    long_ago = artifacts.now() - 7200

    def batches() -> Iterator[pa.RecordBatch]:
        for at in range(0, rows.num_rows, 7):
            yield from rows.slice(at, 7).to_batches()
            for sha256 in list(artifacts.unused_since(float("inf"))):
                os.utime(artifacts.path(sha256), (long_ago, long_ago))

    built = build(artifacts, rows.schema, batches(), None)
    old = set(artifacts.unused_since(long_ago))
    left = [file for file in built.files if file.sha256 in old]
    assert len(built.files) == 30
    assert left == [file for file in built.files if file in left][: len(left)]
    assert len(left) < 5, "those that came last, after the last time that all were touched"


# -- what they hold -----------------------------------------------------------------------------------------------------------


def test_statistics_are_of_all_rows_and_quantiles_near(artifacts: Artifacts) -> None:
    count = 4 * SAMPLED_ROWS[1] + 3
    numbers = np.random.default_rng(0).permutation(count).astype(float)
    numbers[5] = np.nan
    facts = Facts([Column(name="x", dtype="FP64"), Column(name="who", dtype="STRING"), Column(name="b", dtype="BOOL")])
    rows = pa.table(
        {
            "x": pa.array(numbers, mask=np.arange(count) % 1000 == 1),
            "who": pa.array(np.arange(count) % 50_000).cast(pa.string()),
            "b": np.arange(count) % 4 == 0,
        }
    )
    for at in range(0, count, 9973):
        facts.add(rows.slice(at, 9973))
    found = facts.found()
    known = numbers[(np.arange(count) % 1000 != 1) & ~np.isnan(numbers)]
    x = found["x"]
    assert (x["min"], x["max"], x["nulls"]) == (known.min(), known.max(), -(-(count - 1) // 1000))
    assert x["mean"] == pytest.approx(known.mean())
    for word, quantile in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        assert x[word] == pytest.approx(np.quantile(known, quantile), rel=0.02)
    assert sum(x["histogram"]["counts"]) == pytest.approx(count, rel=0.01)
    assert found["who"]["distinct_about"] == pytest.approx(50_000, rel=0.05)
    assert found["b"]["mean"] == pytest.approx(0.25, abs=1e-5)


def test_few_rows_are_their_own_sample() -> None:
    facts = Facts([Column(name="who", dtype="STRING"), Column(name="x", dtype="INT64")])
    facts.add(pa.table({"who": ["a", "b", None, "a"], "x": [1, 2, 3, None]}))
    found = facts.found()
    assert found["who"] == {"top": {"a": 2, "b": 1}, "nulls": 1, "distinct_about": 2}
    assert (found["x"]["q50"], found["x"]["nulls"]) == (2.0, 1)
