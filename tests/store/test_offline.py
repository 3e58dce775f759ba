"""The offline store: one writer, many readers, nothing of the outside, and never silently made anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from mlbox.errors import InvalidInput, Unavailable
from mlbox.store.offline.offline import Offline


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[Offline]:
    store = Offline(tmp_path / "offline.duckdb", memory="256MB", temp="10MB", threads=2)
    yield store
    store.close()


def test_nothing_is_opened_before_it_is_used(offline: Offline, tmp_path: Path) -> None:
    offline.check()
    assert not offline.used
    assert list(tmp_path.iterdir()) == []
    offline.rows("SELECT 1")
    assert offline.used


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM '{file}'",
        "COPY (SELECT 1) TO '{file}.out'",
        "ATTACH '{file}.duckdb' AS other",
        "INSTALL httpfs",
        "LOAD '{file}'",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SET lock_configuration = false",
        "PRAGMA temp_directory = '/tmp'",
        "EXPORT DATABASE '{file}.dir'",
    ],
)
def test_nothing_outside_its_own_file_can_be_reached(offline: Offline, tmp_path: Path, sql: str) -> None:
    file = tmp_path / "file.csv"
    file.write_text("a\n1\n")
    offline.rows("SELECT 1")
    before = sorted(tmp_path.iterdir())
    with pytest.raises((duckdb.Error, Unavailable, InvalidInput)):
        offline.rows(sql.format(file=file))
    assert sorted(tmp_path.iterdir()) == before
    offline.check()


def test_a_python_variable_is_no_table(offline: Offline) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(duckdb.CatalogException):
        offline.read(lambda cursor: cursor.execute("SELECT * FROM secret").fetchall())
    found = offline.read(lambda cursor: cursor.register("secret", secret).execute("SELECT * FROM secret").fetchall())
    assert found == [(1,)]


def test_a_write_that_fails_leaves_nothing(offline: Offline) -> None:
    def half(cursor: Any) -> None:
        cursor.execute("CREATE TABLE t AS SELECT 1 AS a")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        offline.write(half)
    assert offline.rows("SELECT count(*) FROM duckdb_tables()") == [(0,)]


def test_readers_go_on_beside_a_writer_and_see_whole_writes_only(offline: Offline) -> None:
    offline.write(lambda cursor: cursor.execute("CREATE TABLE t (a INT)"))
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(offline.rows("SELECT count(*) FROM t")[0][0])

    reader = threading.Thread(target=read)
    reader.start()
    writers = [
        threading.Thread(target=lambda: offline.write(lambda c: c.execute("INSERT INTO t FROM range(100)")))
        for _ in range(8)
    ]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert offline.rows("SELECT count(*) FROM t") == [(800,)]
    assert all(count % 100 == 0 for count in seen)


def test_a_query_that_takes_too_long_is_interrupted(offline: Offline) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) a, range(1000000000) b WHERE a.range + b.range = 7"
    for call in (offline.read, offline.write):
        with pytest.raises(InvalidInput, match=r"longer than 0\.1 s"):
            call(lambda cursor: cursor.execute(endless).fetchall(), seconds=0.1)
    offline.check()


def test_too_much_memory_is_an_error_and_the_store_goes_on(offline: Offline) -> None:
    with pytest.raises(Unavailable, match="memory"):
        offline.rows("SELECT list(repeat('x', 1000) || range) FROM range(3000000)")
    offline.check()


def test_what_is_prepared_is_there_at_every_opening(tmp_path: Path) -> None:
    store = Offline(tmp_path / "offline.duckdb")
    store.prepare("CREATE TABLE IF NOT EXISTS t (a INT)")
    store.write(lambda cursor: cursor.execute("INSERT INTO t VALUES (1)"))
    store.close()
    assert store.rows("SELECT * FROM t") == [(1,)]
    store.close()


@pytest.mark.parametrize("damage", ["garbage", "empty", "gone"])
def test_a_broken_store_says_so_and_is_never_recreated(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "offline.duckdb"
    store = Offline(path)
    store.write(lambda cursor: cursor.execute("CREATE TABLE t (a INT)"))
    store.close()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"not a database" * 1000 if damage == "garbage" else b"")
    before = path.read_bytes() if path.exists() else None
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"opened|gone") as caught:
            store.check()
        assert "restore" in caught.value.hint
    assert (path.read_bytes() if path.exists() else None) == before


def test_it_opens_again_after_a_fatal_error(offline: Offline) -> None:
    offline.write(lambda cursor: cursor.execute("CREATE TABLE t AS SELECT 1 AS a"))

    def fail(_: Any) -> None:
        raise duckdb.FatalException("FATAL Error: the database has been invalidated")

    with pytest.raises(Unavailable, match="invalidated"):
        offline.write(fail)
    assert offline.rows("SELECT a FROM t") == [(1,)]
