"""One folder, one lock, one version file."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlbox.clock import parse_time
from mlbox.errors import InvalidInput, StartupError
from mlbox.store.datadir import LAYOUT_VERSION, DataDir


def test_two_servers_never_share_a_directory(tmp_path: Path) -> None:
    home = DataDir(tmp_path / "d")
    code = f"from pathlib import Path; from mlbox.store.datadir import DataDir; DataDir(Path({str(tmp_path / 'd')!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "in use by another mlbox server" in other.stderr
    home.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_newer_directory_is_refused_and_unlocked(tmp_path: Path) -> None:
    DataDir(tmp_path).close()
    (tmp_path / "MLBOX_VERSION").write_text(f'{{"layout": {LAYOUT_VERSION + 1}}}')
    for _ in range(2):
        with pytest.raises(StartupError, match="newer mlbox"):
            DataDir(tmp_path)


def test_a_folder_with_other_things_is_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StartupError, match=r"thesis\.tex"):
        DataDir(tmp_path)


def test_git_adds_nothing_of_a_directory(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    DataDir(tmp_path / "box").close()
    (tmp_path / "box" / "admin-token").touch()
    (tmp_path / "train.py").touch()
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    listed = subprocess.run(["git", "-C", tmp_path, "ls-files"], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["train.py"]


def test_a_damaged_version_file_is_named_not_replaced(tmp_path: Path) -> None:
    DataDir(tmp_path).close()
    (tmp_path / "MLBOX_VERSION").write_text("{")
    with pytest.raises(StartupError, match="MLBOX_VERSION"):
        DataDir(tmp_path)
    assert (tmp_path / "MLBOX_VERSION").read_text() == "{"


def test_replay_time_survives_a_restart_and_only_moves_forward(tmp_path: Path) -> None:
    home = DataDir(tmp_path, replay_clock="2013-01-01T00:00Z")
    home.clock().advance(parse_time("2013-07-01T00:00Z"))
    home.close()
    clock = DataDir(tmp_path).clock()
    assert clock.replay
    assert clock.now() == parse_time("2013-07-01T00:00Z")
    with pytest.raises(InvalidInput, match="cannot go back"):
        clock.advance(parse_time("2013-06-01T00:00Z"))


def test_replay_is_for_a_new_directory_only(tmp_path: Path) -> None:
    DataDir(tmp_path).close()
    with pytest.raises(StartupError, match="new data directory"):
        DataDir(tmp_path, replay_clock="2013-01-01T00:00Z")
