"""`mlbox dataset`: from a file to a version that is compared, proven, tagged, removed and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Ran


def test_a_version_from_its_first_row_to_its_end(box_cli: Callable[..., Ran], tmp_path: Path) -> None:
    def mlbox(*words: str) -> str:
        ran = box_cli(*words)
        assert ran.code == 0, ran.err
        return ran.out + ran.err

    file = tmp_path / "prices.csv"
    file.write_text("day,price\n1,10.5\n2,11.5\n")
    assert "prices@v1: 2 rows, 2 columns" in mlbox("dataset", "upload", "prices", str(file))
    assert "prices@v1" in mlbox("dataset", "upload", "prices", str(file)), "the same rows are the same version"
    file.write_text("day,price\n1,10.5\n2,12.5\n3,9.5\n")
    assert "prices@v2" in mlbox("dataset", "upload", "prices", str(file))
    found = json.loads(mlbox("dataset", "diff", "prices@v1", "prices@v2", "--key", "day", "-o", "json"))
    assert (found["added"], found["removed"], found["changed"]) == (1, 0, 1)
    assert found["examples_changed"][0]["values"]["price"][1] in (12.5, "12.5")
    assert "1 file read again, and as before" in mlbox("dataset", "verify", "prices@v2")
    mlbox("dataset", "tag", "prices@v2", "tier=gold", "draft=yes")
    mlbox("dataset", "tag", "prices@v2", "--remove", "draft")
    assert json.loads(mlbox("dataset", "show", "prices@v2", "-o", "json"))["tags"] == {"tier": "gold"}
    mlbox("dataset", "rm", "prices@v1")
    gone = box_cli("dataset", "show", "prices@v1")
    assert (gone.code != 0, "no dataset" in gone.err) == (True, True)
    assert "prices@v1" in mlbox("dataset", "restore", "prices@v1")
    missing = box_cli("dataset", "create", "nothing")
    assert "no rows to begin with" in missing.err


def test_a_version_is_split_from_the_command_line(box_cli: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "visits.csv"
    file.write_text("who,event_time\n" + "".join(f"c{n},2026-01-{n % 20 + 1:02}T00:00:00Z\n" for n in range(100)))

    def files(name: str, *words: str) -> dict[str, int]:
        ran = box_cli("dataset", "upload", name, str(file), *words, "--tag", "tier=gold", "-o", "json")
        assert ran.code == 0, ran.err
        found = json.loads(ran.out)
        assert found["tags"] == {"tier": "gold"}
        return {one["split"]: one["rows"] for one in found["files"]}

    shares = files("hashed", "--split", "train=0.8", "--split", "test=0.2", "--split-key", "who")
    assert (list(shares), sum(shares.values())) == (["train", "test"], 100)
    timed = files("timed", "--split", "before=2026-01-11T00:00Z", "--split", "after")
    assert timed == {"before": 50, "after": 50}
    shown = box_cli("dataset", "show", "hashed").out
    assert [line.split() for line in shown.splitlines() if line.startswith("event_time")] == [
        ["event_time", "TIMESTAMP", "0"]
    ], shown
    assert "histogram" not in shown
    pulled = box_cli("dataset", "pull", "hashed", "--to", str(tmp_path / "pulled"))
    assert pulled.code == 0, pulled.err
    assert sorted(part.name for part in (tmp_path / "pulled").iterdir()) == ["test", "train"]
    year = box_cli("dataset", "create", "late", "--spine", "SELECT 1", "--from", "2027")
    assert (year.code, "'2027' is not a time" in year.err) == (2, True)
    wrong = box_cli("dataset", "upload", "none", str(file), "--split", "train=0.8", "--split", "test=0.2")
    assert "the entity's keys" in wrong.err
    twice = box_cli(
        "dataset", "upload", "none", str(file), "--split", "a=0.5", "--split", "a=0.5", "--split-key", "who"
    )
    assert "named twice" in twice.err
    odd = box_cli("dataset", "upload", "none", str(file), "--split", "a=soon", "--split", "b")
    assert "soon" in odd.err
