"""Uploads: whatever is sent, the answer is a checked table or an error that names what is wrong, and the server lives."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, ipc

from mlbox.errors import InvalidInput, TimedOut, TooLarge
from mlbox.records import Column
from mlbox.store.casting import cast_column, to_utc
from mlbox.store.sandbox.ingest import Uploads
from mlbox.store.tables import conform

COLUMNS = (
    Column(name="who", dtype="STRING"),
    Column(name="at", dtype="TIMESTAMP"),
    Column(name="n", dtype="INT64"),
    Column(name="x", dtype="FP64"),
    Column(name="ok", dtype="BOOL"),
)
GOOD = pa.table(
    {
        "who": ["a", None, "c"],
        "at": pa.array([0, 1_000_000, 2_000_000], pa.timestamp("us", "UTC")),
        "n": [1, 2, None],
        "x": [0.5, None, 2.0],
        "ok": [True, None, False],
    }
)


def as_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def as_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def as_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def as_csv(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    csv.write_csv(table, sink)
    return sink.getvalue()


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", most_bytes=10_000_000, seconds=60, memory_mb=1024)


def sent(uploads: Uploads, body: bytes, format: str, columns: tuple[Column, ...] = COLUMNS) -> pa.Table:
    with uploads.begin() as upload:
        upload.write(body)
        return uploads.parse(upload, format, columns, required=["at"])


@pytest.mark.parametrize(
    ("write", "format"), [(as_parquet, "parquet"), (as_stream, "arrow"), (as_file, "arrow"), (as_csv, "csv")]
)
def test_every_format_gives_the_same_table(
    uploads: Uploads, tmp_path: Path, write: Callable[[pa.Table], bytes], format: str
) -> None:
    found = sent(uploads, write(GOOD.select(["x", "ok", "at", "n", "who"])), format)
    assert found.to_pylist() == conform(GOOD, COLUMNS).to_pylist()
    assert [field.type for field in found.schema] == [
        pa.string(),
        pa.timestamp("us"),
        pa.int64(),
        pa.float64(),
        pa.bool_(),
    ]
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "format", "field", "message"),
    [
        (b"", "csv", "body", "empty"),
        (b"x", "xml", "format", "no format"),
        (b"nonsense", "parquet", "body", "not parquet"),
        (as_parquet(GOOD)[:-40] + b"PAR1", "parquet", "body", "parquet"),
        (b"nonsense", "arrow", "body", "not arrow"),
        (as_file(GOOD)[:200], "arrow", "body", "not arrow"),
        (b"\xff\xfe\x00\x01" * 10, "csv", None, "column|csv"),
        (b"who,at,n,x,ok\na,2026-01-01T00:00Z,1,2\n", "csv", "body", "Row 1 has 4 columns, and the header names 5"),
        (b"who,at,n,x,ok\na,,1,2,true\nb,,1,2,true,7\nc,,1,2,true\n", "csv", "body", "Row 2 has 6 columns, .*: b,,1,2,true,7"),
        (b"who,at,n,x\na,2026-01-01T00:00Z,1,2\n", "csv", "ok", "missing"),
        (b"who,at,n,x,ok,no\na,2026-01-01T00:00Z,1,2,true,1\n", "csv", "no", "not declared"),
        (b"who,at,n,x,ok,who\na,2026-01-01T00:00Z,1,2,true,a\n", "csv", "who", "twice"),
        (b"who,at,n,x,ok\na,2026-01-01T00:00Z,1,2,true\nb,2026-01-01T00:00Z,1.5,2,true\n", "csv", "n", "'1.5' in row 2"),
        (b"who,at,n,x,ok\na,2026-01-01T00:00Z,1,2,true\nb,yesterday,1,2,true\n", "csv", "at", "'yesterday' in row 2"),
        (b"who,at,n,x,ok\na,2026-01-01T00:00Z,1,2,true\nb,,1,2,true\n", "csv", "at", "null in row 2"),
        (b"who,at,n,x,ok\na,2026-01-01T00:00Z,1,2,perhaps\n", "csv", "ok", "row 1"),
        (b"who,at,n,x,ok\na,2026-01-01T00:00Z,99999999999999999999,2,true\n", "csv", "n", "row 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    uploads: Uploads, body: bytes, format: str, field: str | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        sent(uploads, body, format)
    assert field is None or caught.value.field == field


def test_an_upload_past_the_limit_is_refused_while_it_is_sent(tmp_path: Path) -> None:
    with Uploads(tmp_path / "u", most_bytes=100).begin() as upload:
        upload.write(b"x" * 100)
        with pytest.raises(TooLarge, match="100 bytes"):
            upload.write(b"x")
    assert list((tmp_path / "u").iterdir()) == []


def test_a_bomb_costs_the_worker_its_life_and_nobody_else(tmp_path: Path) -> None:
    part, sink = pa.table({"who": pa.repeat("x" * 1000, 20_000)}), io.BytesIO()
    with pq.ParquetWriter(sink, part.schema) as writer:
        for _ in range(40):
            writer.write_table(part)
    bomb = sink.getvalue()
    assert len(bomb) < 1_000_000
    with pytest.raises(TooLarge, match="memory"):
        sent(Uploads(tmp_path / "u", most_bytes=10**7, memory_mb=512), bomb, "parquet", COLUMNS[:1])


def test_a_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match="longer than"):
        sent(Uploads(tmp_path / "u", most_bytes=10**7, seconds=0.001), as_csv(GOOD), "csv")


def test_uploads_that_a_crash_left_behind_are_removed(tmp_path: Path) -> None:
    left_over = Uploads(tmp_path / "u", most_bytes=100).begin()
    assert left_over.path.exists()
    Uploads(tmp_path / "u", most_bytes=100)
    assert not left_over.path.exists()
    left_over.discard()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), writer=st.sampled_from([as_parquet, as_stream, as_file]))
def test_damage_is_never_more_than_an_error(uploads: Uploads, data: st.DataObject, writer: Any) -> None:
    body = bytearray(writer(GOOD))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=8)):
        body[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidInput, TooLarge, TimedOut):
        found = sent(uploads, bytes(body), "parquet" if writer is as_parquet else "arrow")
        found.validate(full=True)


# -- casts ------------------------------------------------------------------------------------------------------------------


def cast(values: Any, dtype: Any, *, text: bool = False) -> list[Any]:
    array = pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
    return cast_column(array, Column(name="c", dtype=dtype), text=text).to_pylist()


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (pa.array([1, None], pa.int8()), "INT64", [1, None]),
        (pa.array([1.0, None]), "INT64", [1, None]),
        (pa.array([True, False]), "INT64", [1, 0]),
        (pa.array([1, 2], pa.uint64()), "FP64", [1.0, 2.0]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "STRING", ["a", "b", "a"]),
        (pa.array(["a"], pa.large_string()), "STRING", ["a"]),
        (pa.array([None, None]), "TIMESTAMP", [None, None]),
        (pa.array([1], pa.date32()), "TIMESTAMP", [datetime(1970, 1, 2)]),
    ],
)
def test_casts_that_lose_nothing_are_made(values: pa.Array, dtype: str, expected: list[Any]) -> None:
    assert cast(values, dtype) == expected


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (pa.array([1.0, 2.5]), "INT64", "2.5' in row 2"),
        (pa.array([1, 2**63], pa.uint64()), "INT64", "row 2"),
        (pa.array([1, 2**53 + 1]), "FP64", "row 2"),
        (pa.array(["1"]), "INT64", "string, and INT64"),
        (pa.array([1]), "STRING", "int64, and STRING"),
        (pa.array([1]), "TIMESTAMP", "int64, and TIMESTAMP"),
        (pa.array([[1]]), "INT64", "list"),
        (pa.array([2**62], pa.timestamp("us")), "TIMESTAMP", "years 1 to 9999 in row 1"),
    ],
)
def test_casts_that_would_change_a_value_are_refused(values: pa.Array, dtype: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        cast(values, dtype)
    assert caught.value.field == "c"


@pytest.mark.parametrize(
    "text", ["2026-01-01T01:00+01:00", "2026-01-01T00:00Z", "2026-01-01 00:00:00", "2026-01-01T00:00:00.000000000Z"]
)
def test_times_in_text_are_instants(text: str) -> None:
    assert cast([text, None], "TIMESTAMP", text=True) == [datetime(2026, 1, 1), None]


@given(st.integers(-(2**62), 2**62))
def test_nanoseconds_are_rounded_so_that_nothing_is_seen_early(ns: int) -> None:
    moment = pa.chunked_array([pa.array([ns], pa.timestamp("ns", "Asia/Tokyo"))])
    down, up = (to_utc(moment, rounding).cast(pa.int64())[0].as_py() for rounding in ("down", "up"))
    assert (down, up) == (ns // 1000, -(-ns // 1000))
