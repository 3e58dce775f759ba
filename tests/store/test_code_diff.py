"""Two codes compared: the diff is one that git applies, and an archive that is none, or too much, is said to be."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlbox.store.sandbox import code_diff_worker
from mlbox.store.sandbox.code_diff import code_diff
from mlbox.store.sandbox.code_diff_worker import compare

LONG = b"".join(b"line %d\n" % n for n in range(50))
BEFORE = {
    "same.py": b"same\n",
    "train.py": LONG,
    "gone/away.py": b"x = 1\n",
    "no-end.txt": b"a\nb",
    "dos.txt": b"a\r\nb\r\n",
    "empty.txt": b"",
    "emptied.txt": b"something\n",
    "run.sh": b"#!/bin/sh\n",
    "a name.txt": b"1\n",
    "odd\x0b.txt": b"form\x0cfeed\n\xff\n",
}
AFTER = {
    "same.py": b"same\n",
    "train.py": LONG.replace(b"line 7\n", b"line seven\n").replace(b"line 40\n", b""),
    "new/here.py": b"y = 2\nno end",
    "no-end.txt": b"a\nb\n",
    "dos.txt": b"a\r\nc\r\n",
    "empty.txt": b"no longer\n",
    "emptied.txt": b"",
    "run.sh": b"#!/bin/sh\n",
    "a name.txt": b"2\n",
    "odd\x0b.txt": b"form\x0cfeed\n\xff\n",
}


def packed(path: Path, files: Mapping[str, bytes], executable: str = "") -> Path:
    """A code as `mlbox submit` sends it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755 if name == executable else 0o644
            archive.addfile(member, io.BytesIO(content))
    return path


def laid_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_git_makes_the_code_after_from_the_code_before(tmp_path: Path) -> None:
    before = packed(tmp_path / "before", BEFORE)
    found = compare(str(before), str(packed(tmp_path / "after", AFTER, executable="run.sh")))
    assert (found.changed, found.added, found.removed, found.is_cut) == (7, 1, 1, False)
    tree = laid_out(tmp_path / "tree", BEFORE)
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"], cwd=tree, input=f"{found.text}\n".encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == AFTER
    assert (tree / "run.sh").stat().st_mode & 0o100
    assert "same.py" not in found.text
    assert compare(str(before), str(before)).text == ""


def test_what_is_no_text_or_too_long_only_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_diff_worker, "MOST_LINES", 30)
    monkeypatch.setattr(code_diff_worker, "MOST_FILE", 1000)
    files = {"picture": b"\0\1", "lines": LONG, "large": b"x" * 2000, "text": b"a\n"}
    other = {name: content + b"\0" * (name != "text") + b"b\n" for name, content in files.items()}
    found = compare(*(str(packed(tmp_path / name, each)) for name, each in (("a", files), ("b", other))))
    assert "Files a/picture and b/picture differ: 2 bytes, then 5 bytes" in found.text
    assert found.text.count("Files ") == 3
    assert "+b" in found.text


def test_a_long_diff_is_cut_and_still_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_diff_worker, "MOST_DIFF", 200)
    many = {f"{n}.py": LONG for n in range(20)}
    found = compare(*(str(packed(tmp_path / name, each)) for name, each in (("a", {}), ("b", many))))
    assert found.is_cut
    assert len(found.text) <= 200
    assert found.added == 20


def test_a_name_cannot_pass_for_another(tmp_path: Path) -> None:
    files = {"a\n--- a/secret": b"1\n", "bad\udcff": b"2\n"}
    found = code_diff(packed(tmp_path / "a", {}), packed(tmp_path / "b", files), memory_mb=256, seconds=60)
    assert found.added == 2
    assert "\n--- a/secret" not in found.text
    assert "b/bad\\udcff" in found.text


def test_an_archive_that_is_none_or_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = packed(tmp_path / "good", BEFORE)
    for name, content in {"text": b"no archive", "empty": b"", "cut": good.read_bytes()[:-40]}.items():
        (tmp_path / name).write_bytes(content)
        assert "cannot be read as a tar.gz" in code_diff(good, tmp_path / name, memory_mb=256, seconds=60).error, name
    bomb = tmp_path / "bomb"
    member = tarfile.TarInfo("zeros")
    member.size = 1 << 24
    bomb.write_bytes(gzip.compress(member.tobuf() + b"\0" * member.size + b"\0" * 1024, 1))
    monkeypatch.setattr(code_diff_worker, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(code_diff_worker.TooMuch):
        compare(str(good), str(bomb))
    monkeypatch.setattr(code_diff_worker, "MOST_FILES", 3)
    with pytest.raises(code_diff_worker.TooMuch):
        compare(str(good), str(good))
