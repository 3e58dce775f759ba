"""Group commit: one fsync for many writes, and nothing answered before it."""

import threading
from concurrent.futures import Future

import pytest

from mlbox.errors import NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.records import Event
from mlbox.store import audit
from mlbox.store.db import Database, Tx


def add_event(tx: Tx, subject: str) -> str:
    tx.emit("thing.made", subject, "ann", size=1)
    return subject


def test_a_write_is_seen_by_other_threads_once_answered(access_db: Database) -> None:
    access_db.write(lambda tx: add_event(tx, "a"))
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.append(access_db.one("SELECT count(*) FROM event")[0]))
    reader.start()
    reader.join()
    assert seen == [1]


def test_writes_that_wait_share_one_transaction(access_db: Database) -> None:
    running, go = threading.Event(), threading.Event()

    def blocker(tx: Tx) -> None:
        running.set()
        go.wait()

    first = access_db.submit(blocker)
    running.wait()
    commits: list[str] = []
    access_db._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    rest: list[Future[str]] = [access_db.submit(lambda tx, i=i: add_event(tx, str(i))) for i in range(100)]
    go.set()
    first.result()
    assert [f.result() for f in rest] == [str(i) for i in range(100)]
    assert len(commits) <= 2


def test_a_failing_write_takes_back_only_itself(access_db: Database) -> None:
    running, go = threading.Event(), threading.Event()

    def blocker(tx: Tx) -> None:
        running.set()
        go.wait()

    def fail(tx: Tx) -> None:
        add_event(tx, "lost")
        raise NotFound("no such thing")

    access_db.submit(blocker)
    running.wait()
    good, bad, good2 = (
        access_db.submit(lambda tx: add_event(tx, "x")),
        access_db.submit(fail),
        access_db.submit(lambda tx: add_event(tx, "y")),
    )
    go.set()
    with pytest.raises(NotFound):
        bad.result()
    assert good.result() + good2.result() == "xy"
    assert [row["subject"] for row in access_db.all("SELECT subject FROM event ORDER BY id")] == ["x", "y"]


def test_of_writes_that_are_one_a_failing_one_is_taken_back_whole(access_db: Database, bus: EventBus) -> None:
    seen: list[str] = []

    def fail(tx: Tx) -> str:
        add_event(tx, "lost")
        raise NotFound("no such thing")

    def broken(tx: Tx) -> str:
        add_event(tx, "lost, too")
        tx.run("INSERT INTO nowhere VALUES (1)")
        return "never"

    with bus.listening(lambda event: seen.append(event.subject)):
        x, lost, odd, y = access_db.write_each(
            [lambda tx: add_event(tx, "x"), fail, broken, lambda tx: add_event(tx, "y")]
        )
    assert (x, y, seen) == ("x", "y", ["x", "y"])
    assert isinstance(lost, NotFound)
    assert isinstance(odd, Unavailable)
    access_db.write(lambda tx: add_event(tx, "z"))
    assert [row["subject"] for row in access_db.all("SELECT subject FROM event ORDER BY seq")] == ["x", "y", "z"]
    assert audit.verify_room(access_db.path.parent, "access").problem == ""


def test_the_events_of_one_write_are_a_chain_however_many_they_are(access_db: Database) -> None:
    """They are written together: of a part that fails none stays, and who reads them in the same write finds them."""
    found: list[int] = []

    def emit(tx: Tx, count: int) -> None:
        for number in range(count):
            tx.emit("test.happened", f"test:{count}", "ann", number=number)

    def count(tx: Tx) -> int:
        row = tx.one("SELECT count(*) AS n FROM event")
        assert row is not None
        return int(row["n"])

    def fail(tx: Tx) -> None:
        emit(tx, 20)
        found.append(count(tx))
        raise NotFound("no such thing")

    def walk(tx: Tx) -> None:
        emit(tx, 3)
        assert isinstance(tx.part(fail), NotFound)
        found.append(count(tx))
        tx.part(lambda tx: emit(tx, 17))
        emit(tx, 1)

    access_db.write(walk)
    assert found == [23, 3], "what was emitted before the part stays, and is there for it"
    assert len(access_db.events()) == 21
    access_db.together(lambda tx: (emit(tx, 2), found.append(len(access_db.events()))))
    assert found[-1] == 23, "reads see what is to be one write"
    emitted = [(row["subject"], row["data"]) for row in access_db.all("SELECT subject, data FROM event ORDER BY seq")]
    assert emitted == [(f"test:{n}", f'{{"number":{number}}}') for n in (3, 17, 1, 2) for number in range(n)]
    assert audit.verify_room(access_db.path.parent, "access").problem == ""


def test_events_are_published_after_the_commit_and_not_for_a_failed_write(access_db: Database, bus: EventBus) -> None:
    seen: list[tuple[str, int]] = []

    def on_event(event: Event) -> None:
        seen.append((event.subject, access_db.one("SELECT count(*) FROM event")[0]))

    def fail(tx: Tx) -> None:
        add_event(tx, "never")
        raise NotFound("no")

    with bus.listening(on_event):
        access_db.write(lambda tx: add_event(tx, "one"))
        with pytest.raises(NotFound):
            access_db.write(fail)
        access_db.write(lambda tx: add_event(tx, "two"))
    assert seen == [("one", 1), ("two", 2)]


def test_readers_cannot_write(access_db: Database) -> None:
    with pytest.raises(Unavailable):
        access_db.all("DELETE FROM event")


def test_a_closed_database_says_so(access_db: Database) -> None:
    access_db.close()
    with pytest.raises(Unavailable, match="closed"):
        access_db.write(lambda tx: add_event(tx, "late"))


@pytest.mark.parametrize("sql", ["UPDATE event SET actor = 'nobody'", "DELETE FROM event"])
def test_the_audit_log_is_append_only_even_to_sql(access_db: Database, sql: str) -> None:
    access_db.write(lambda tx: tx.emit("test.happened", "test:1", "ann"))
    with pytest.raises(Unavailable, match="the audit log is"):
        access_db.write(lambda tx: tx.run(sql))
    assert [event.actor for event in access_db.events()] == ["ann"]
