"""The audit log can be proven: whatever was changed, removed, moved or cut off is found, and named."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput, NotFound
from mlbox.events import EventBus
from mlbox.records import Principal
from mlbox.store import audit, migrations
from mlbox.store.asking import asking
from mlbox.store.db import Database, Tx

NOW = parse_time("2026-01-01T00:00Z")
ROOM = "jobs"


def opened(folder: Path, room: str = ROOM) -> Database:
    return Database(folder / f"{room}.sqlite", getattr(migrations, room), ManualClock(NOW), EventBus())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory with a log of twelve events."""
    db = opened(tmp_path)
    for number in range(12):
        db.write(
            lambda tx, number=number: tx.emit("job.submitted", f"job:{number}", "ada", text=f"é{number}", n=number)
        )
    db.close()
    return tmp_path


@contextlib.contextmanager
def tampering(folder: Path) -> Iterator[sqlite3.Connection]:
    """The file in the hands of someone who may write to it, and who takes the triggers off first."""
    with contextlib.closing(sqlite3.connect(folder / f"{ROOM}.sqlite")) as file:
        for (name,) in file.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event'"
        ).fetchall():
            file.execute(f"DROP TRIGGER {name}")
        yield file
        file.commit()


def problem(folder: Path, **kept: audit.Head) -> str:
    return audit.verify_room(folder, ROOM, kept.get("kept")).problem


def test_a_whole_log_is_whole_and_says_where_it_ends(folder: Path) -> None:
    report = audit.verify_room(folder, ROOM)
    assert (report.problem, report.events) == ("", 12)
    assert audit.head_of(report.head) == audit.read_head(folder / audit.HEADS, ROOM)
    assert audit.verify_room(folder, ROOM, audit.head_of(report.head)).problem == ""
    assert [r.room for r in audit.verify(folder)] == [ROOM]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    seq=st.integers(1, 12),
    column=st.sampled_from([*audit.COLUMNS, "previous", "hash"]),
    value=st.one_of(st.integers(0, 2**60), st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)),
)
def test_any_changed_value_is_found(folder: Path, seq: int, column: str, value: object) -> None:
    with tampering(folder) as file:
        before = file.execute(f"SELECT {column} FROM event WHERE seq = ?", (seq,)).fetchone()[0]
        try:
            file.execute(f"UPDATE event SET {column} = ? WHERE seq = ?", (value, seq))
        except sqlite3.Error:  # the column does not hold such a value, or another row has it
            return
        after = file.execute(f"SELECT {column} FROM event WHERE {column} IS ? LIMIT 1", (value,)).fetchone()[0]
    try:
        assert (problem(folder) == "") == (after == before and type(after) is type(before))
    finally:
        with tampering(folder) as file:
            file.execute(f"UPDATE event SET {column} = ? WHERE {column} IS ?", (before, value))
    assert problem(folder) == ""


def test_a_removed_event_is_found(folder: Path) -> None:
    with tampering(folder) as file:
        file.execute("DELETE FROM event WHERE seq = 5")
    assert problem(folder) == "an event is missing between the numbers 4 and 6"


def test_a_removed_event_is_found_though_the_others_are_numbered_anew(folder: Path) -> None:
    with tampering(folder) as file:
        file.execute("DELETE FROM event WHERE seq = 5")
        file.execute("UPDATE event SET seq = seq - 1 WHERE seq > 5")
    assert "does not follow the one before it" in problem(folder)


def test_two_events_that_changed_places_are_found(folder: Path) -> None:
    with tampering(folder) as file:
        for old, new in ((3, 99), (4, 3), (99, 4)):
            file.execute("UPDATE event SET seq = ? WHERE seq = ?", (new, old))
    assert problem(folder)


def test_a_cut_tail_is_found(folder: Path) -> None:
    with tampering(folder) as file:
        file.execute("DELETE FROM event WHERE seq > 9")
    assert problem(folder) == "the end is missing: number 12 was there, and the last one now is 9"


def test_a_log_that_was_made_anew_is_found_with_a_head_kept_elsewhere(folder: Path) -> None:
    """Whoever may write to everything here makes a chain that holds; not the one that was known before."""
    kept = audit.head_of(audit.verify_room(folder, ROOM).head)
    with tampering(folder) as file:
        previous = audit.FIRST
        file.execute("UPDATE event SET actor = 'eve'")
        for row in file.execute(f"SELECT {', '.join(audit.COLUMNS)} FROM event ORDER BY seq").fetchall():
            digest = audit.link(previous, row)
            file.execute("UPDATE event SET previous = ?, hash = ? WHERE seq = ?", (previous, digest, row[0]))
            previous = digest
    (folder / audit.HEADS / ROOM).unlink()
    assert problem(folder) == ""
    assert "is not the one whose hash was kept elsewhere" in problem(folder, kept=kept)


def test_a_head_file_that_is_behind_is_no_fault(folder: Path) -> None:
    """The server was killed between the commit and the write."""
    with audit.reading(folder / f"{ROOM}.sqlite") as file:
        seq, digest = file.execute("SELECT seq, hash FROM event WHERE seq = 10").fetchone()
    heads = audit.HeadFile(folder / audit.HEADS, ROOM)
    heads.write(audit.Head(seq, digest))
    heads.close()
    assert problem(folder) == ""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET actor = 'eve'",
        "DELETE FROM event",
        "INSERT OR REPLACE INTO event SELECT * FROM event WHERE seq = 1",
        "REPLACE INTO event (id, type, subject, actor, at_us, domain_us, data, seq, previous, hash)"
        " SELECT id, 'x', 'x', 'x', 0, 0, '{}', 99, 'x', 'x' FROM event WHERE seq = 2",
        "INSERT INTO event (id, type, subject, actor, at_us, domain_us, data) VALUES ('x','x','x','x',0,0,'{}')",
    ],
)
def test_the_log_is_appended_to_and_never_changed(folder: Path, statement: str) -> None:
    db = opened(folder)
    with pytest.raises(Exception, match=r"audit log|appended"):
        db.write(lambda tx: tx.run(statement))
    db.close()
    assert audit.verify_room(folder, ROOM).events == 12


def test_writes_that_fail_leave_no_gap(folder: Path) -> None:
    db = opened(folder)

    def work(number: int) -> None:
        def write(tx: Tx) -> None:
            tx.emit("job.submitted", f"job:{number}", "ada")
            if number % 3 == 0:
                raise InvalidInput("no")

        with contextlib.suppress(InvalidInput):
            db.write(write)

    threads = [
        threading.Thread(target=lambda first=first: [work(n) for n in range(first, 300, 6)]) for first in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = audit.verify_room(folder, ROOM)  # while it is open
    db.close()
    assert (report.problem, report.events) == ("", 12 + 200)
    assert problem(folder) == ""


def test_the_log_says_by_which_token(folder: Path) -> None:
    db = opened(folder)
    with asking(Principal(name="ada", role="admin", token_id="t1")):
        db.write(lambda tx: tx.emit("job.submitted", "job:x", "ada"))
    db.write(lambda tx: tx.emit("job.running", "job:x", "mlbox"))
    found = [row["token_id"] for row in db.all("SELECT token_id FROM event ORDER BY seq DESC LIMIT 2")]
    db.close()
    assert found == [None, "t1"]


def test_a_log_from_before_the_chain_is_chained_when_it_is_opened(tmp_path: Path) -> None:
    from sqlite_utils import Database as File
    from sqlite_utils.migrations import Migrations

    old = Migrations("jobs")
    old._migrations = [m for m in migrations.jobs._migrations if not m.name.endswith("audit_chain")]
    file = File(tmp_path / f"{ROOM}.sqlite")
    old.apply(file)
    for number in range(5):
        file.conn.execute(
            "INSERT INTO event VALUES (?,?,?,?,?,?,?)", (f"{number:032}", "t", "s", "ada", number, 0, "{}")
        )
    file.conn.commit()
    file.close()
    db = opened(tmp_path)
    db.write(lambda tx: tx.emit("job.submitted", "job:x", "ada"))
    db.close()
    assert (problem(tmp_path), audit.verify_room(tmp_path, ROOM).events) == ("", 6)


KILLED = """
import sys
from pathlib import Path
from tests.store.test_audit import opened
db = opened(Path(sys.argv[1]))
print("up", flush=True)
for n in range(1 << 30):
    db.submit(lambda tx, n=n: tx.emit("job.submitted", f"job:{n}", "ada"))
"""


def test_a_kill_leaves_a_log_that_holds(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        start = audit.verify_room(tmp_path, ROOM).events
        while audit.verify_room(tmp_path, ROOM).events < start + 50:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert problem(tmp_path) == ""
    db = opened(tmp_path)
    db.write(lambda tx: tx.emit("job.submitted", "job:x", "ada"))
    db.close()
    assert problem(tmp_path) == ""


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no data directory"):
        audit.verify(tmp_path)
    for text in ("", "x", "1:x", f"-1:{audit.FIRST}"):
        with pytest.raises(InvalidInput, match="no head"):
            audit.head_of(text)
