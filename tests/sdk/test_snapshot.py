"""The code that travels with a job."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from mlbox.errors import InvalidInput, TooLarge
from mlbox.sdk import snapshot
from mlbox.sdk.snapshot import git_commit, pack, survey


def packed(folder: Path) -> bytes:
    with pack(survey(folder)) as content:
        return content.read()


def names(folder: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(packed(folder))) as archive:
        return archive.getnames()


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_a_snapshot_holds_what_git_does_not_ignore_and_names_the_commit(tmp_path: Path) -> None:
    for name, text in {"a.py": "1", "b.py": "2", "data.bin": "x", ".gitignore": "*.bin"}.items():
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a.py", ".gitignore")
    git(tmp_path, "commit", "-qm", "one")
    assert names(tmp_path) == [".gitignore", "a.py", "b.py"]
    commit = git_commit(tmp_path)
    assert commit is not None
    assert commit.endswith("-dirty"), "b.py is not committed"
    git(tmp_path, "add", "b.py")
    git(tmp_path, "commit", "-qm", "two")
    clean = git_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40


def test_a_folder_that_git_ignores_as_a_whole_is_packed_all_the_same(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("scratch/")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / os.fsdecode(b"caf\xe9.py")).write_text("1")
    assert len(names(tmp_path / "scratch")) == 1


def test_a_snapshot_without_git_leaves_caches_out_and_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.py", "__pycache__/a.pyc", ".venv/lib.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    first = packed(tmp_path)
    os.utime(tmp_path / "a.py", (1, 1))
    assert names(tmp_path) == ["a.py"]
    assert packed(tmp_path) == first
    assert git_commit(tmp_path) is None
    with pytest.raises(InvalidInput, match="no folder"):
        survey(tmp_path / "nothing")


IGNORE = """# as .gitignore
/data/
*.ckpt
!keep.ckpt
**/logs
"""


@pytest.mark.parametrize("in_git", [True, False])
def test_what_mlboxignore_names_stays_here(tmp_path: Path, in_git: bool) -> None:
    for name in (
        *("train.py", "data/big.bin", "src/data/small.py", "a.ckpt", "keep.ckpt", "src/logs/today", "logs/x"),
        ".mlboxignore",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(IGNORE if name == ".mlboxignore" else "1")
    if in_git:
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", "data/big.bin")  # followed by git, and left out all the same
    assert names(tmp_path) == [".mlboxignore", "keep.ckpt", "src/data/small.py", "train.py"]


@pytest.mark.parametrize("in_git", [True, False])
def test_the_data_directory_of_a_server_never_travels(tmp_path: Path, in_git: bool) -> None:
    for name in (
        "train.py",
        "data/MLBOX_VERSION",
        "data/admin-token",
        "data/jobs/x",
        "data.py",
        "deep/data/MLBOX_VERSION",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    if in_git:
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", "data/admin-token")
    assert names(tmp_path) == ["data.py", "train.py"]
    with pytest.raises(InvalidInput, match="is the data directory of a server"):
        survey(tmp_path / "data")


def test_a_folder_of_5_gb_is_refused_at_once_with_what_is_largest(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, size in {"data/a.bin": 3 << 30, "data/b.bin": 2 << 30, "model.bin": 300 << 20, "x.py": 10}.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    began = time.process_time()
    with pytest.raises(TooLarge) as caught:
        survey(tmp_path)
    assert time.process_time() - began < 1
    assert "5.29 GiB" in caught.value.message
    assert "data/ (5 GiB), model.bin (300 MiB)." in caught.value.message
    assert ".mlboxignore" in caught.value.hint
    (tmp_path / ".mlboxignore").write_text("*.bin")
    assert set(survey(tmp_path).sizes) == {".mlboxignore", "x.py"}


def test_too_many_files_are_refused_with_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_FILES", 5)
    (tmp_path / "many").mkdir()
    for number in range(10):
        (tmp_path / "many" / f"{number}").touch()
    with pytest.raises(TooLarge, match=r"more than 5 files: many/ \(6 files\)"):
        survey(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text("1")
    code = survey(tmp_path)
    (tmp_path / "gone.py").unlink()
    with pytest.raises(InvalidInput, match=r"gone\.py cannot be read"):
        pack(code)
