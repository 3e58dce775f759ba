"""A backup has what jobs wrote, as it is, and nothing that they only point at; without room there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlbox.errors import Unavailable
from mlbox.store.backup import verify
from tests.web.site import open_box


def test_no_link_of_a_job_is_followed(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data")
    try:
        folder = tmp_path / "data" / "jobs" / "a" / "checkpoints"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "own.pt").write_bytes(b"weights")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "key").write_text("a secret")
        (folder / "key").symlink_to(outside / "key")
        (folder / "keys").symlink_to(outside)
        os.mkfifo(folder / "pipe")
        made = Path(box.back_up(actor="admin").path)
    finally:
        box.close()
    verify(made)
    kept = {str(path.relative_to(made / "jobs")) for path in (made / "jobs").rglob("*") if not path.is_dir()}
    assert kept == {"a/checkpoints/deep/own.pt"}
    assert (made / "jobs/a/checkpoints/deep/own.pt").read_bytes() == b"weights"


def test_a_box_that_never_ran_a_job_is_backed_up(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data")
    try:
        assert not (tmp_path / "data" / "jobs").exists()
        made = Path(box.back_up(actor="admin").path)
    finally:
        box.close()
    assert verify(made).files > 0


def test_a_full_disk_leaves_no_half_of_a_backup(tmp_path: Path, small_disk: Path) -> None:
    box = open_box(tmp_path / "data", backup_dir=str(small_disk))
    try:
        wrote = tmp_path / "data" / "jobs" / "a" / "checkpoints" / "own.pt"
        wrote.parent.mkdir(parents=True)
        wrote.write_bytes(os.urandom(8 << 20))
        with pytest.raises(Unavailable, match=r"No space left") as refused:
            box.back_up(actor="admin")
        assert "backup_dir" in refused.value.hint
        assert list(small_disk.iterdir()) == []
        wrote.write_bytes(b"short")
        verify(Path(box.back_up(actor="admin").path))
    finally:
        box.close()
