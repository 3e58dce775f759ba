"""Batches of tensors: every row once over all ranks, orders by seed and epoch, under DataLoader, with bounded memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mlbox.errors import InvalidInput, MlboxError
from mlbox.sdk.datasets import Dataset
from tests.sdk.versions import dataset, rows


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1,000 rows in 11 row groups of 4 files."""
    return dataset(tmp_path_factory.mktemp("data"), [300, 1, 399, 300], group_rows=100)


def numbers(batches: object) -> list[int]:
    """The rows of batches of `v@v1:n`, in their order."""
    return [n for batch in batches for n in batch["v@v1:n"].tolist()]  # type: ignore[attr-defined]


ONE = {"columns": ["v@v1:n"]}
SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(sum)


@settings(deadline=None, max_examples=80)
@given(
    sizes=SIZES,
    group_rows=st.integers(1, 50),
    batch_size=st.integers(1, 60),
    ranks=st.integers(1, 5),
    buffer_rows=st.integers(1, 100),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 3),
)
def test_all_ranks_together_see_each_row_once(
    sizes: list[int],
    group_rows: int,
    batch_size: int,
    ranks: int,
    buffer_rows: int,
    shuffle: bool,
    drop_last: bool,
    seed: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = dataset(Path(folder), sizes, group_rows=group_rows)
        how = {"batch_size": batch_size, "shuffle": shuffle, "seed": seed, "buffer_rows": buffer_rows, **ONE}
        every = [made.to_torch(**how, rank=rank, world_size=ranks, drop_last=drop_last) for rank in range(ranks)]
        told = [[batch["v@v1:n"].tolist() for batch in batches] for batches in every]
    seen = [n for batches in told for batch in batches for n in batch]
    assert [len(batches) for batches in told] == [len(batches) for batches in every]
    assert len(set(seen)) == len(seen)
    if drop_last:
        assert {len(batches) for batches in told} == {sum(sizes) // ranks // batch_size}
        assert {len(batch) for batches in told for batch in batches} <= {batch_size}
    else:
        assert sorted(seen) == list(range(sum(sizes)))
        assert all(len(batch) == batch_size for batches in told for batch in batches[:-1])
        parts = [sum(map(len, batches)) for batches in told]
        assert max(parts) - min(parts) <= 1
    if not shuffle:
        assert seen == sorted(seen)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_workers_of_a_loader_share_the_batches_of_their_rank(data: Dataset, workers: int, drop_last: bool) -> None:
    found = []
    for rank in range(2):
        batches = data.to_torch(batch_size=32, rank=rank, world_size=2, drop_last=drop_last, **ONE)
        told = [batch["v@v1:n"] for batch in DataLoader(batches, batch_size=None, num_workers=workers)]
        assert len(told) == len(batches) == (15 if drop_last else 16)
        found += torch.cat(told).tolist()
    assert len(set(found)) == len(found) == (960 if drop_last else 1000)


def test_workers_that_outlive_an_epoch_hear_of_the_next_one(data: Dataset) -> None:
    batches = data.to_torch(batch_size=100, **ONE)
    loader = DataLoader(batches, batch_size=None, num_workers=1, persistent_workers=True)
    first, again = numbers(loader), numbers(loader)
    batches.set_epoch(1)
    second = numbers(loader)
    assert first == again != second
    assert sorted(second) == list(range(1000))


def test_a_started_process_gets_the_batches_too(data: Dataset) -> None:
    """As workers do that are not forked: what is handed over holds no token and no connection."""
    batches = data.to_torch(batch_size=100, **ONE)
    loader = DataLoader(batches, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert numbers(loader) == numbers(batches)


def test_the_order_follows_from_seed_and_epoch(data: Dataset) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = data.to_torch(batch_size=50, seed=seed, buffer_rows=200, **ONE)
        batches.set_epoch(epoch)
        return numbers(batches)

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert orders == {key: order(*key) for key in orders}
    assert len({tuple(one) for one in orders.values()}) == 4
    assert all(sorted(one) == list(range(1000)) for one in orders.values())


def test_rows_meet_others_of_several_blocks(tmp_path: Path) -> None:
    """Neighbours in the files are not neighbours in an epoch, and a batch is of all parts, in one row group too."""
    for group_rows in (1000, 20_000):
        found = numbers(
            dataset(tmp_path, [20_000] * 3, group_rows=group_rows).to_torch(batch_size=100, buffer_rows=8000, **ONE)
        )
        places = np.array(found)
        assert (np.abs(np.diff(places)) > 100).mean() > 0.9
        spread = [np.ptp(places[at : at + 8000]) for at in range(0, 56_000, 8000)]
        assert np.median(spread) > 15_000


def test_a_version_with_a_label_comes_as_pairs_with_nan_for_missing(data: Dataset) -> None:
    X, y = next(iter(data.to_torch(batch_size=1000, shuffle=False)))
    want = data.matrix()
    assert (X.dtype, y.dtype, X.shape) == (torch.float32, torch.int64, (1000, 3))
    np.testing.assert_array_equal(X.numpy(), want.X)
    np.testing.assert_array_equal(y.numpy(), want.y)
    assert np.isnan(X.numpy()[3, 1])
    X, y = next(iter(data.to_torch(batch_size=7, columns=["v@v1:b", "v@v1:n"], label="y")))
    assert (y == X[:, 1].long() % 3).all()
    assert (X[:, 0] == (X[:, 1].long() % 2 == 0)).all()


def test_columns_come_by_name_as_what_they_are(data: Dataset) -> None:
    columns = ["v@v1:b", "event_time", "v@v1:x", "y"]
    found = next(iter(data.to_torch(batch_size=1000, columns=columns, shuffle=False)))
    assert list(found) == columns
    assert [found[name].dtype for name in columns] == [torch.bool, torch.int64, torch.float32, torch.int64]
    assert found["event_time"].tolist() == [n * 1_000_000 for n in range(1000)]


def test_batches_do_not_change_once_they_are_handed_out(data: Dataset) -> None:
    kept = list(data.to_torch(batch_size=10, buffer_rows=20, **ONE))
    copies = [batch["v@v1:n"].clone() for batch in data.to_torch(batch_size=10, buffer_rows=20, **ONE)]
    assert all((batch["v@v1:n"] == copy).all() for batch, copy in zip(kept, copies, strict=True))
    assert {batch["v@v1:n"].untyped_storage().nbytes() for batch in kept} == {80}, "a worker would send whole pools"


def test_missing_whole_numbers_are_refused_where_a_tensor_cannot_say_so(tmp_path: Path) -> None:
    made = dataset(tmp_path, [10])
    table = rows(10)
    holed = table.set_column(2, "v@v1:n", [[None, *range(9)]])
    pq.write_table(holed, tmp_path / "part-00000.parquet")
    with pytest.raises(InvalidInput, match="v@v1:n has missing values"):
        list(made.to_torch(batch_size=5, **ONE))
    X, _ = next(iter(made.to_torch(batch_size=10)))
    assert X[:, 0].isnan().sum() == 1


def test_ranks_come_from_the_environment(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert numbers(data.to_torch(batch_size=50, shuffle=False, **ONE)) == list(range(250, 500))
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(InvalidInput, match="Rank 4 is none of 4"):
        data.to_torch(batch_size=50)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InvalidInput, match="RANK is 'first'"):
        data.to_torch(batch_size=50)


def test_ranks_come_from_torch_distributed(data: Dataset, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert len(numbers(data.to_torch(batch_size=50, **ONE))) == 1000
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"buffer_rows": 0}, "buffer_rows is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"columns": ["who"]}, "who is a STRING"),
        ({"columns": ["nothing"]}, "no column 'nothing'"),
        ({"columns": []}, "empty"),
        ({"columns": ["y", "y"]}, "twice"),
        ({"label": "nothing"}, "no column 'nothing'"),
        ({"split": "test"}, "no split 'test'"),
        ({"rank": 3, "world_size": 2}, "Rank 3"),
    ],
)
def test_what_cannot_be_is_refused_at_once(data: Dataset, how: dict, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        data.to_torch(**{"batch_size": 10, **how})


def test_an_epoch_that_is_left_early_leaves_no_thread(data: Dataset) -> None:
    import threading

    before = threading.active_count()
    for _ in range(20):
        epoch: Iterator = iter(data.to_torch(batch_size=10, buffer_rows=10))
        next(epoch)
        epoch.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_file_that_is_none_is_told_where_the_rows_are_wanted(tmp_path: Path) -> None:
    made = dataset(tmp_path, [10])
    batches = made.to_torch(batch_size=5, shuffle=False)
    (tmp_path / "part-00000.parquet").write_bytes(b"nonsense")
    with pytest.raises(MlboxError, match="no Parquet file"):
        list(batches)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """A process that has read some rows, and then eight times as many, has not taken more for those."""
    script = (
        "import pickle, resource, sys\n"
        "for batches in pickle.load(sys.stdin.buffer):\n"
        "    for _ in batches: pass\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    made = [dataset(tmp_path / str(count), [100_000] * count, group_rows=25_000) for count in (1, 8)]
    content = pickle.dumps([one.to_torch(batch_size=512, buffer_rows=50_000) for one in made])
    ran = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, check=True)
    once, eight = (int(kilobytes) for kilobytes in ran.stdout.split())
    assert eight < once + 40_000
