"""Files named by their content, and paths that lead nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput, NotFound, TooLarge
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
