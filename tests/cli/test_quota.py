"""`mlbox quota`, `queue`, `usage` and `gpus` as an admin uses them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mlbox.cli.main import run
from tests.conftest import Server


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server("--gpus", "virtual:A100=80,A100=80")


def test_a_box_is_shared_by_its_admin(box_cli: Callable) -> None:
    box_cli("team", "create", "vision")
    window = ("--window", "Mon-Fri 09:00-18:00", "--zone", "Europe/Berlin")
    set_ = box_cli("quota", "set", "vision", "40%", "--name", "day", *window)
    assert set_.err == "The team vision may hold 40 % of the GPUs in mon-fri 09:00-18:00 (Europe/Berlin).\n"
    assert box_cli("quota", "set", "vision", "1.5", "--borrowable").code == 0
    rows = msgspec.json.decode(box_cli("quota", "show", "vision", "-o", "json").out)
    assert [(row["name"], row["gpus"], row["share"], row["borrowable"]) for row in rows] == [
        ("day", None, 0.4, False),
        ("default", 1.5, None, True),
    ]
    assert "40 %" in box_cli("quota", "ls").out
    assert box_cli("quota", "ls", "-o", "id").out.split() == ["vision/day", "vision/default"]
    assert box_cli("quota", "rm", "vision/default").code == 0
    assert box_cli("quota", "rm", "vision", "--name", "day").code == 0
    assert box_cli("quota", "weight", "vision", "2").code == 0
    assert "vision  2" in box_cli("quota", "weights").out

    assert box_cli("queue", "set", "nightly", "--max-gpus", "1", "--weight", "2").code == 0
    assert box_cli("queue", "set", "nightly", "--max-gpus", "none", "--slice-minutes", "5").code == 0
    shown = msgspec.json.decode(box_cli("queue", "show", "nightly", "-o", "json").out)
    assert (shown["weight"], shown["max_gpus"], shown["slice_minutes"]) == (2, None, 5)
    names = box_cli("queue", "ls", "-o", "id").out.split()
    assert names == ["default", "experiments", "nightly", "production-retraining"]
    assert box_cli("queue", "rm", "nightly").code == 0
    assert box_cli("queue", "-o", "json").out.strip() == "[]"

    table = box_cli("gpus").out.splitlines()
    assert table[1].split("  ")[0] == "0 (virtual)"
    assert "A100" in table[1]
    assert box_cli("gpus", "-o", "id").out.split() == ["VIRTUAL-0", "VIRTUAL-1"]
    assert msgspec.json.decode(box_cli("usage", "--since", "30d", "-o", "json").out) == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("quota", "set", "everyone", "many"), "'many' is no amount"),
        (("quota", "set", "everyone", "140%"), "The share is 1.4"),
        (("quota", "set", "everyone", "2", "--window", "noon"), "names no days"),
        (("queue", "set", "q", "--max-gpus", "few"), "neither a number nor none"),
        (("usage", "--since", "yesterday"), "is not a time"),
        (("usage", "--since", "999999999w"), "before all time"),
    ],
)
def test_wrong_words_are_explained(box: Callable, words: tuple[str, ...], part: str) -> None:
    ran = box(*words)
    assert ran.code == 2, ran
    assert part in ran.line


def test_what_the_how_to_says_to_type_works(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLBOX_URL", server.url)
    monkeypatch.setenv("MLBOX_TOKEN", server.token)
    page = Path(__file__).parents[2] / "docs" / "how-to" / "quotas.md"
    typed = [
        line.removeprefix("$ mlbox ")
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), flags=re.S | re.M)
        for line in block.splitlines()
        if not line.startswith(("$ mlbox serve", "$ mlbox submit"))
    ]
    assert len(typed) >= 9
    for line in typed:
        assert run(shlex.split(line.partition(" > ")[0])) == 0, (line, capsys.readouterr())
