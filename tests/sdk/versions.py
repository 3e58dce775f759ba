"""Dataset versions whose files are made by the test: in a folder as a job has them mounted, or as they are in the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlbox.client import Client
from mlbox.records import Column, DataFile, DatasetVersion
from mlbox.sdk.datasets import Dataset

COLUMNS = {
    "who": "STRING",
    "event_time": "TIMESTAMP",
    "v@v1:n": "INT64",
    "v@v1:x": "FP64",
    "v@v1:b": "BOOL",
    "y": "INT64",
}


def rows(count: int, first: int = 0) -> pa.Table:
    """Rows that can be told apart by `v@v1:n`; every seventh has no `v@v1:x`."""
    number = np.arange(first, first + count)
    return pa.table(
        {
            "who": [f"u{n % 5}" for n in number],
            "event_time": pa.array(number * 1_000_000, pa.timestamp("us", "UTC")),
            "v@v1:n": number,
            "v@v1:x": pa.array(number / 10, mask=number % 7 == 3),
            "v@v1:b": number % 2 == 0,
            "y": number % 3,
        }
    )


def write(folder: Path, sizes: Sequence[int], group_rows: int = 1 << 20, splits: Sequence[str] = ()) -> DatasetVersion:
    """A version of files with so many rows each, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for at, size in enumerate(sizes):
        path = folder / f"part-{at:05}.parquet"
        pq.write_table(rows(size, sum(sizes[:at])), path, row_group_size=group_rows)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        split = splits[at] if splits else ""
        files.append(DataFile(path=path.name, sha256=digest, size=path.stat().st_size, rows=size, split=split))
    return DatasetVersion(
        id="1",
        name="d",
        version=1,
        hash=hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest(),
        files=tuple(files),
        columns=tuple(Column(name=name, dtype=dtype) for name, dtype in COLUMNS.items()),  # type: ignore[arg-type]
        rows=sum(sizes),
        query="",
        label_set="l",
        created_by="ann",
        created_at=datetime.now(UTC),
    )


def dataset(folder: Path, sizes: Sequence[int], **how: Any) -> Dataset:
    """The same, as a job that has it mounted sees it; no box can be reached."""
    return Dataset(Client("http://127.0.0.1:1", ""), write(folder, sizes, **how), folder)


def put_in_cache(root: Path, folder: Path, version: DatasetVersion) -> None:
    """The files as if they had been fetched."""
    for file in version.files:
        target = root / "mlbox" / file.sha256[:2] / f"{file.sha256}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / file.path, target)
