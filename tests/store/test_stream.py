"""Uploads of datasets: read in a process of its own and handed over as they are read, or refused by name at any moment."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlbox.errors import InvalidInput, MlboxError, TooLarge
from mlbox.store.sandbox.ingest import Uploads
from mlbox.store.sandbox.workers import FORKS
from mlbox.store.tables import plain
from tests.store.test_ingest import GOOD, as_csv, as_file, as_parquet, as_stream
from tests.store.test_workers import workers_of


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", most_bytes=100_000_000, seconds=60, memory_mb=1024)


def sent(uploads: Uploads, body: bytes, format: str, sha256: str | None = None) -> pa.Table:
    with uploads.begin() as upload:
        upload.write(body)
        with uploads.stream(upload, format, sha256=sha256) as rows:
            return rows.read_all()


@pytest.mark.parametrize(
    ("write", "format"), [(as_parquet, "parquet"), (as_stream, "arrow"), (as_file, "arrow"), (as_csv, "csv")]
)
def test_every_format_gives_the_same_rows(
    uploads: Uploads, tmp_path: Path, write: Callable[[pa.Table], bytes], format: str
) -> None:
    assert sent(uploads, write(GOOD), format).equals(plain(GOOD))
    assert list((tmp_path / "uploads").iterdir()) == []


def test_the_last_row_of_csv_settles_the_types(uploads: Uploads) -> None:
    start = b"n,x,when,none,late\n" + b"1,2,2026-01-01T00:00:00Z,,\n" * 310_000
    found = sent(uploads, start + b"1,2.5,2026-01-01T00:00:00.5Z,,text\n", "csv")
    assert found.num_rows == 310_001
    assert found.schema.types == [pa.int64(), pa.float64(), pa.timestamp("us"), pa.string(), pa.string()]
    assert found["late"].null_count == 310_000
    assert sent(uploads, start, "csv").schema.types[1] == pa.int64()


@pytest.mark.parametrize(
    ("body", "format", "field", "message"),
    [
        (b"", "csv", "body", "empty"),
        (b"x", "xml", "format", "no format"),
        (b"nonsense", "parquet", "body", "not parquet"),
        (as_parquet(GOOD)[:-40] + b"PAR1", "parquet", "body", "parquet"),
        (as_parquet(GOOD)[:4] + b"\xff" * 60 + as_parquet(GOOD)[64:], "parquet", "body", "parquet|parser"),
        (b"nonsense", "arrow", "body", "not arrow"),
        (as_stream(pa.concat_tables([GOOD] * 9000).combine_chunks())[:-9000], "arrow", "body", "not arrow"),
        (b"a,b\n1,2\n1,2,3\n", "csv", "body", "Row 2 has 3 columns, and the header names 2"),
        (b"a\n1\n" * 1_000_000 + b"1,2\n", "csv", "body", "Row 2000000 has 2 columns, and the header names 1"),
        (b"a,a\n1,2\n", "csv", "a", "twice"),
        (as_parquet(pa.table([[1], [2]], names=["a", "a"])), "parquet", "a", "twice"),
        (as_parquet(pa.table({"a": [[1, 2]]})), "parquet", "a", "list"),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_cannot_be_read_is_refused(uploads: Uploads, body: bytes, format: str, field: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        sent(uploads, body, format)
    assert caught.value.field == field


def test_a_body_of_another_hash_is_refused(uploads: Uploads) -> None:
    with pytest.raises(InvalidInput, match="SHA-256") as caught:
        sent(uploads, as_csv(GOOD), "csv", sha256="0" * 64)
    assert caught.value.field == "sha256"


def test_more_than_fits_the_memory_at_once_is_refused(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", most_bytes=1 << 30, seconds=60, memory_mb=300)
    row = pa.table({"text": ["x" * 400_000_000]})
    with pytest.raises(TooLarge, match="memory"):
        sent(uploads, as_stream(row), "arrow")


@pytest.mark.slow
def test_a_file_larger_than_the_memory_is_read(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", most_bytes=1 << 30, seconds=120, memory_mb=1500)
    rows = pa.table({"x": range(100_000), "text": ["x" * 5000] * 100_000})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, rows.schema, use_dictionary=False, compression="zstd") as file:
        for _ in range(4):
            file.write_table(rows)
    with uploads.begin() as upload:
        upload.write(sink.getvalue())
        with uploads.stream(upload, "parquet") as found:
            assert sum(batch.num_rows for batch in found) == 400_000


def test_a_reader_that_is_killed_is_an_error_and_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    before = set(workers_of(FORKS))

    def read() -> None:
        with uploads.begin() as upload:
            upload.write(as_csv(pa.table({"x": range(2_000_000)})))
            with uploads.stream(upload, "csv") as rows:
                rows.read_next_batch()
                (worker,) = set(workers_of(FORKS)) - before
                os.kill(worker.pid, signal.SIGKILL)
                rows.read_all()

    with pytest.raises(MlboxError, match="memory"):
        read()
    assert list((tmp_path / "uploads").iterdir()) == []
    assert set(workers_of(FORKS)) <= before
