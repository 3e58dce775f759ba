"""Files named by their content, and paths that lead nowhere else."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput, NotFound, TooLarge, Unavailable
from mlbox.store.artifacts import Artifacts, check_path, make_below, open_below


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def files(artifacts: Artifacts, tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_the_same_content_is_kept_once_under_its_hash(artifacts: Artifacts, tmp_path: Path) -> None:
    first = artifacts.put([b"abc", b"def"])
    assert first == (hashlib.sha256(b"abcdef").hexdigest(), 6)
    assert artifacts.put([b"abcdef"]) == first
    assert artifacts.read(first[0]) == b"abcdef"
    assert len(files(artifacts, tmp_path)) == 1


def test_a_path_is_good_wherever_a_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = Artifacts(Path("data"))
    path = kept.path(kept.put([b"x"])[0])
    monkeypatch.chdir("/")
    assert path.read_bytes() == b"x"


def test_too_much_is_refused_and_leaves_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="larger than 5 bytes"):
        artifacts.put([b"abc", b"def"], limit=5)
    assert files(artifacts, tmp_path) == []


def test_an_upload_that_breaks_off_leaves_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        artifacts.put(chunks())
    assert files(artifacts, tmp_path) == []


def test_what_a_crash_left_half_written_is_swept_away_at_the_next_start(tmp_path: Path) -> None:
    half = Artifacts(tmp_path / "artifacts").writer()
    half.write(b"half")
    Artifacts(tmp_path / "artifacts")
    assert list((tmp_path / "artifacts" / "tmp").iterdir()) == []
    half.abort()


def test_content_that_is_there_already_is_on_disk_before_it_is_acknowledged(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who put it there may have been killed between the rename and the folder's fsync."""
    digest, _ = artifacts.put([b"abc"])
    synced: list[Path] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    artifacts.put([b"abc"])
    root = tmp_path / "artifacts"
    assert {root / digest[:2], root} <= set(synced)


def test_a_disk_that_fails_is_said_to_by_the_stores_name(artifacts: Artifacts, tmp_path: Path) -> None:
    writer = artifacts.writer()
    writer.write(b"abc")
    shutil.rmtree(tmp_path / "artifacts")
    for act in (writer.commit, artifacts.check, lambda: artifacts.put([b"abc"])):
        with pytest.raises(Unavailable, match="The artifacts store could not write"):
            act()
    writer.abort()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_by_the_stores_name_and_leaves_nothing_open(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkstemp", lambda dir: (os.open("/dev/full", os.O_WRONLY), str(dir / "full")))
    with pytest.raises(Unavailable, match="No space left"):
        artifacts.put([b"x" * (1 << 20)])
    with pytest.raises(Unavailable, match="No space left"):
        artifacts.check()


@pytest.mark.parametrize("digest", ["", "../x", "a" * 63, "g" * 64, "a" * 64])
def test_an_unknown_hash_is_not_found(artifacts: Artifacts, digest: str) -> None:
    with pytest.raises(NotFound):
        artifacts.path(digest)


HALF = chr(0xD800)
"""Half a surrogate pair: no text, and no name on a disk."""
ODD = (
    *("..", "/", "\\", "\0", "\n", "\x7f", "%", "%2e%2e", "%2f", "C:", "c:\\x", HALF),
    *("~", ".", "a", "b", "\u2025", "\uff0e"),
)


@given(st.lists(st.sampled_from(ODD) | st.text(max_size=4), max_size=8).map("/".join) | st.text(max_size=20))
def test_a_users_path_stays_below_its_folder_or_is_refused(relative: str) -> None:
    plain = ""
    with contextlib.suppress(InvalidInput):
        plain = check_path(relative)
    if not plain:
        return
    root = Path("/srv/data")
    path = Path(os.path.normpath(root / plain))
    assert path.is_relative_to(root)
    assert path != root
    assert str(path) == f"{root}/{plain}"
    assert check_path(plain) == plain
    assert not set(plain) & set("%\\\0")
    assert plain.isprintable() or all(ord(c) > 127 for c in plain if not c.isprintable())


REFUSED = (
    *("", "/", ".", "..", "a/..", "../a", "a/../b", "/etc/passwd", "//a", "a\\b", "a%2fb", "a%b"),
    *("C:/x", "c:x", "a/D:", "a\0b", "a\nb", "a\x7f", HALF),
    *("a" * 256, "é" * 128, "/".join("a" * 200 for _ in range(6))),
)


@pytest.mark.parametrize("relative", REFUSED)
def test_a_path_that_could_mean_something_else_is_refused(relative: str) -> None:
    with pytest.raises(InvalidInput, match="is not a relative path"):
        check_path(relative)


PLAIN = {"a": "a", "a//b/": "a/b", "./a/./b": "a/b", "...": "...", "~/x": "~/x", "ab:c": "ab:c", "é?#": "é?#"}


@pytest.mark.parametrize(("relative", "plain"), PLAIN.items())
def test_a_plain_path_is_taken(relative: str, plain: str) -> None:
    assert check_path(relative) == plain


def test_a_file_is_made_and_read_below_its_folder(tmp_path: Path) -> None:
    with open_below(tmp_path, "a/b/c.bin", mode=0o640) as file:
        file.write(b"content")
    with open_below(tmp_path, "a//b/./c.bin") as file:
        assert file.read() == b"content"
    assert (tmp_path / "a/b/c.bin").stat().st_mode & 0o777 == 0o640
    make_below(tmp_path, "d/e")
    assert (tmp_path / "d/e").is_dir()
    with pytest.raises(NotFound, match="There is no file"):
        open_below(tmp_path, "a/b/other")
    with pytest.raises(InvalidInput, match="no plain file or folder"):
        open_below(tmp_path, "a/b")
    with pytest.raises(InvalidInput, match="no plain file or folder"):
        open_below(tmp_path, "a/b/c.bin/d")


def test_no_link_and_no_pipe_is_followed_wherever_it_lies(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "inner").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "folder").symlink_to(outside)
    (root / "inner" / "file").symlink_to(outside / "secret")
    (root / "own").symlink_to(root / "inner")  # even a link that stays inside
    (root / "dangling").symlink_to(outside / "new")
    os.mkfifo(root / "pipe")
    for relative in ("folder/secret", "inner/file", "own/x", "dangling", "pipe"):
        for mode in (None, 0o600):
            with pytest.raises(InvalidInput, match="no plain file or folder"):
                open_below(root, relative, mode=mode)
    with pytest.raises(InvalidInput, match="no plain file or folder"):
        make_below(root, "folder/new")
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "secret"


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    """Somebody swaps a folder for a link and back as fast as they can; no write ever lands outside."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    done, swaps = threading.Event(), 0

    def swap() -> None:
        nonlocal swaps
        for number in itertools.count():
            if done.is_set():
                return
            with contextlib.suppress(OSError):
                (root / "d").rename(tmp_path / f"was-{number}")
            with contextlib.suppress(OSError):  # the other one was quicker, and made the folder anew
                (root / "d").symlink_to(outside)
                swaps += 1
                (root / "d").unlink()

    swapping = threading.Thread(target=swap)
    swapping.start()
    written = 0
    try:
        while written < 200 or swaps < 200:
            with contextlib.suppress(InvalidInput, NotFound):
                open_below(root, f"d/{written}", mode=0o600).close()
                written += 1
    finally:
        done.set()
        swapping.join()
    assert list(outside.iterdir()) == []


def test_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for relative in ("a/b/c", "link/x", "nothing/here"):
        for mode in (None, 0o600):
            with contextlib.suppress(InvalidInput, NotFound):
                open_below(tmp_path, relative, mode=mode).close()
    assert len(os.listdir("/proc/self/fd")) == before
