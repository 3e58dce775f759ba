"""SQL of users runs in processes of its own: whatever it does ends in an error that says so, and takes nothing with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest

from mlbox.errors import InvalidInput
from mlbox.records import Column, Source
from mlbox.store.offline.offline import Limits
from mlbox.store.offline.views import of_source
from mlbox.store.sandbox.sandbox import Pool, Ran, Sandbox, empty
from mlbox.store.sandbox.sql_worker import SqlRequest, confine, opened
from mlbox.store.sandbox.workers import ForkServer
from tests.conftest import wait_for
from tests.store.test_workers import workers_of

FOR_EVER = "SELECT sum(a.range * b.range * c.range) AS x FROM range(100000) a, range(100000) b, range(100000) c"
COLUMNS = (Column(name="who", dtype="STRING"), Column(name="moment", dtype="TIMESTAMP"))
SALES = of_source(Source(name="sales", columns=COLUMNS, event_time="moment", created_at="2026-01-01T00:00:00Z"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    made = ForkServer()
    yield made
    made.close()


@pytest.fixture
def sandbox(tmp_path: Path, forks: ForkServer) -> Sandbox:
    return Sandbox(Limits(tmp_path / "q.sql", "200MB", "200MB", 60.0, 1), pool=Pool(forks))


def run(sandbox: Sandbox, sql: str, **options: object) -> Ran:
    with sandbox.files() as folder:
        return sandbox.run(folder, (SALES,), (empty(SALES),), sql=sql, **options)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (FOR_EVER, "took longer than 1 s"),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT count(*) AS n FROM r",
            "took longer",
        ),
        ("SELECT list(range) AS x FROM range(1000000000)", "takes more than 200MB of memory"),
        ("SELECT repeat('x', 3000000000) AS x", "takes more than 200MB"),
        ("SELECT repeat('x', 100000) AS x FROM range(100000)", "takes more than 200MB"),
        ("SELECT CAST('a' || range AS INT) AS x FROM range(10)", "does not work: Conversion Error"),
        ("SELECT * FROM read_csv('/etc/passwd')", "reads from the function 'read_csv'"),
        ("SELECT * FROM '/etc/passwd'", "reads '/etc/passwd', which it may not"),
        ("SELECT * FROM duckdb_settings()", "reads from the function"),
        ("SELECT getenv('HOME') AS x", "does not work|answers differently"),
        ("COPY (SELECT 1) TO '/tmp/stolen'", "must be one SELECT"),
        ("INSERT INTO sales VALUES ('a', '2026-01-01')", "must be one SELECT"),
        ("SELECT 1 AS x; SELECT 2 AS x", "must be one SELECT"),
        ('SELECT * FROM "source:sales"', "which it may not"),
        (f"SELECT '{'x' * 65_536}' AS x", "longer than 65,536 bytes"),
        ("SELECT " + "(" * 30_000 + "1" + ")" * 30_000, "cannot be read"),
    ],
)
def test_sql_that_goes_too_far_is_an_error_that_says_so(sandbox: Sandbox, sql: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as found:
        run(sandbox, sql, seconds=1.0 if "took longer" in told else 60.0)
    assert found.value.field == "sql"
    assert run(sandbox, "SELECT 1 AS x").rows.to_pylist() == [{"x": 1}], "the next one is harmed"


def test_a_database_that_was_open_before_reaches_nothing_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    request = SqlRequest(seconds=1.0, memory="200MB", temp="100MB", folder=str(tmp_path / "it's"), threads=2)
    with opened() as database:
        confine(database, request)
        for statement in (
            f"SELECT * FROM read_csv('{secret}')",
            f"SELECT * FROM '{secret}'",
            f"COPY (SELECT 1 AS a) TO '{tmp_path}/stolen.csv'",
            f"ATTACH '{tmp_path}/other.duckdb'",
            "SET enable_external_access = true",
            "SET memory_limit = '8GB'",
            "SET threads = 8",
        ):
            with pytest.raises(duckdb.Error, match=r"disabled|locked|not allowed|Cannot"):
                database.execute(statement)
        said = "SELECT name, value FROM duckdb_settings() WHERE name IN ('temp_directory', 'threads', 'memory_limit')"
        assert dict(database.execute(said).fetchall()) == {
            "memory_limit": "190.7 MiB",
            "temp_directory": request.folder,
            "threads": "2",
        }
    opened.cache_clear()


@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_process_that_dies_takes_its_query_with_it_and_nothing_else(
    tmp_path: Path, forks: ForkServer, sandbox: Sandbox, sig: signal.Signals
) -> None:
    told: list[str] = []

    def ask() -> None:
        with pytest.raises(InvalidInput) as found:
            run(sandbox, FOR_EVER)
        told.append(found.value.message)

    asking = threading.Thread(target=ask)
    asking.start()
    process = wait_for(lambda: next(iter(workers_of(forks)), None), what="the worker")
    wait_for(lambda: process.cpu_times().user > 0.2, what="the query to run")
    assert process.name() == "mlbox-sql"
    assert process.nice() > psutil.Process().nice(), "what is read online goes first"
    os.kill(process.pid, sig)
    asking.join(60)
    assert told == [
        "The SQL broke the process that ran it; nothing else is harmed."
        if sig != signal.SIGKILL
        else "The SQL takes more than 200MB of memory, or 200MB of temporary files."
    ]
    assert not list((tmp_path / "q.sql").iterdir()), "files are left"
    assert run(sandbox, "SELECT 2 AS x").rows.to_pylist() == [{"x": 2}]
