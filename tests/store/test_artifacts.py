"""Files named by their content, and paths that lead nowhere else."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput, NotFound, TooLarge, Unavailable
from mlbox.store.artifacts import Artifacts, safe_join


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


@given(st.text(alphabet=st.sampled_from("ab./\\\0\n~"), max_size=12))
def test_a_users_path_stays_below_its_folder_or_is_refused(relative: str) -> None:
    root = Path("/srv/data")
    try:
        path = safe_join(root, relative)
    except InvalidInput:
        return
    assert path.is_relative_to(root)
    assert path != root


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="leads out"):
        safe_join(root, "link/secret")
