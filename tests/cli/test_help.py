"""Help of every command, and what a shell completes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from mlbox.cli.main import COMMANDS, load, run
from tests.conftest import MLBOX


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal_has_an_example_and_names_no_type_of_python(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for path in commands(load(name), name):
        assert run([*path, "-h"]) == 0
        help_ = capsys.readouterr().out
        assert all(len(line) <= 80 for line in help_.splitlines()), help_
        assert re.search("Example: (MLBOX_PORT=9000 )?mlbox ", help_) or "COMMAND [ARGS]" in help_, help_
        assert not any(kind in help_ for kind in ("<str>", "<int", "<float", "<path>", "list[")), help_


def test_usage_says_what_must_be_given_and_what_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for path, usage in [
        (("stop",), "mlbox stop [OPTIONS] JOB...\n"),
        (("approvals",), "mlbox approvals [OPTIONS] [MODEL/VERSION]\n"),
        (("monitor", "post"), "mlbox monitor post [OPTIONS] MODEL NAME VALUE\n"),
        (("label", "add"), "mlbox label add [OPTIONS] NAME [COLUMN=VALUE...]\n"),
    ]:
        run([*path, "--help"])
        assert capsys.readouterr().out.startswith(f"Usage: {usage}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_MLBOX_COMPLETE" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is in every image that tests run in")
def test_bash_completes_commands_and_options() -> None:
    script = subprocess.run([MLBOX, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    for words, found in [("mlbox mod", {"model"}), ("mlbox model sho", {"show"}), ("mlbox ps --wa", {"--watch"})]:
        count = len(words.split()) - 1
        ask = f'COMP_WORDS=({words}); COMP_CWORD={count}; _mlbox_completion {MLBOX}; echo "${{COMPREPLY[@]}}"'
        told = subprocess.run(
            ["bash", "--norc", "-c", f"{script}\n{ask}"],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": os.environ["PATH"]},
        )
        assert set(told.stdout.split()) == found, told
