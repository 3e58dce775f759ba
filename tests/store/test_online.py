"""The online store: strings and bytes, all or nothing, nothing evicted, nothing pickled, never silently made anew."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.errors import Unavailable
from mlbox.store.features.online import Gone, Online, Written


@pytest.fixture
def online(tmp_path: Path) -> Iterator[Online]:
    store = Online(tmp_path / "online")
    yield store
    store.close()


def test_rows_are_read_as_they_were_written(online: Online) -> None:
    keys = [f"k{n}" for n in range(1200)]
    assert online.put(Written(key, 5, key.encode()) for key in keys) == 1200
    assert online.get([*keys, "none"]) == [*(key.encode() for key in keys), None]
    assert online.get([]) == []
    assert len(online) == 1200
    online.put([Written("k1", 5, b"new")], gone=[Gone("k0", 5), Gone("never", 5)])
    assert online.get(["k1", "k0", "k1"]) == [b"new", None, b"new"]


def test_the_newer_event_wins_whatever_comes_first(online: Online) -> None:
    assert online.put([Written("k", 5, b"five")]) == 1
    assert online.put([Written("k", 4, b"four")]) == 0
    assert online.get(["k"]) == [b"five"]
    online.put([], gone=[Gone("k", 4)])
    assert online.get(["k"]) == [b"five"]
    assert online.put([Written("k", 5, b"again"), Written("k", 3, b"three"), Written("k", 6, b"six")]) == 2
    assert online.get(["k"]) == [b"six"]
    online.put([Written("k", 2, b"two")], gone=[Gone("k", 6)])
    assert online.get(["k"]) == [b"two"]


def test_many_rows_are_counted_and_removed(online: Online) -> None:
    assert online.put(Written(f"k{n}", n, b"v") for n in range(25_000)) == 25_000
    assert len(online) == 25_000
    online.put([], gone=[Gone(f"k{n}", n) for n in range(25_000)])
    assert len(online) == 0


def test_nothing_is_evicted_and_writes_are_synced(online: Online, tmp_path: Path) -> None:
    online.put(Written(f"k{n}", 0, b"x" * 5000) for n in range(2000))
    assert len(online) == 2000
    with sqlite3.connect(tmp_path / "online" / "cache.db") as raw:
        found = dict(raw.execute("SELECT key, value FROM Settings"))
        modes = raw.execute("SELECT DISTINCT mode, filename, typeof(key), typeof(value), raw FROM Cache").fetchall()
    raw.close()
    assert (found["eviction_policy"], found["cull_limit"], found["sqlite_synchronous"]) == ("none", 0, 2)
    assert modes == [(1, None, "text", "blob", 1)]


def test_threads_read_while_another_writes(online: Online) -> None:
    online.put([Written("k", 0, b"0")])
    seen: list[bytes | None] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.extend(online.get(["k"]))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(1, 30):
        online.put([Written("k", n, str(n).encode())])
    done.set()
    for reader in readers:
        reader.join()
    assert online.get(["k"]) == [b"29"]
    assert None not in seen


def test_the_id_stays_with_the_folder(tmp_path: Path) -> None:
    store = Online(tmp_path / "online")
    first = store.id
    store.close()
    assert store.id == first
    other = Online(tmp_path / "other")
    assert other.id != first
    store.close()
    other.close()


@pytest.mark.parametrize("damage", ["garbage", "empty", "gone"])
def test_a_broken_store_says_so_and_is_never_recreated(tmp_path: Path, damage: str) -> None:
    store, file = Online(tmp_path / "online"), tmp_path / "online" / "cache.db"
    store.put([Written("k", 0, b"v")])
    store.close()
    for extra in file.parent.glob("cache.db-*"):
        extra.unlink()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"not a database" * 1000 if damage == "garbage" else b"")
    for call in (store.check, lambda: store.get(["k"]), lambda: store.put([Written("a", 0, b"b")])):
        with pytest.raises(Unavailable, match="online store"):
            call()
    store.close()


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    store = Online(tmp_path / "online")
    store.check()
    assert not store.used
    assert list(tmp_path.iterdir()) == []
    store.close()
