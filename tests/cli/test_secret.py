"""`mlbox secret`, and jobs that are submitted with one."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mlbox.errors import InvalidInput
from mlbox.sdk.options import by_variable
from tests.conftest import MLBOX, Server

VALUE = "hf_Q7x9 mLw2"


def test_a_secret_from_stdin_reaches_a_job_and_no_output(box_cli: Callable, server: Server, home: Path) -> None:
    ran = box_cli("secret", "set", "HF_TOKEN", stdin=f"{VALUE}\n")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "Jobs of everyone may have it: `mlbox submit --secret HF_TOKEN -- COMMAND`.\n"
    listed = box_cli("secret", "ls")
    assert listed.out.split("\n")[1].split()[:3] == ["HF_TOKEN", "everyone", "admin"]
    assert box_cli("secret", "ls", "-o", "id").out == "HF_TOKEN\n"
    code = home / "code"
    code.mkdir()
    script = 'test "$HF_TOKEN" = "$T" && echo "both $T"'
    ran = box_cli(
        *("submit", "--workdir", str(code), "--secret", "HF_TOKEN", "--secret", "HF_TOKEN=T", "--follow"),
        *("--", "sh", "-c", script),
    )
    assert ran.code == 0, ran
    assert ran.out.endswith("both ***HF_TOKEN***\n")
    (row,) = msgspec.json.decode(box_cli("secret", "ls", "-o", "json").out)
    assert row["used_at"] is not None
    job = box_cli("ps", "-a", "-o", "id").out.strip()
    assert box_cli("logs", job).out == "both ***HF_TOKEN***\n"
    misspelt = box_cli("submit", "--workdir", str(code), "--secret", "HF_TOKN", "--", "true")
    assert (misspelt.code, "Did you mean HF_TOKEN?" in misspelt.line) == (3, True)
    assert VALUE not in ran.out + ran.err + box_cli("job", "show", job, "-o", "json").out + server.log
    assert box_cli("secret", "rotate-key").err == "1 secret encrypted under a new key.\n"
    assert box_cli("secret", "rm", "HF_TOKEN").code == 0
    gone = box_cli("secret", "rm", "HF_TOKEN")
    assert (gone.code, gone.line) == (
        3,
        "There is no secret 'HF_TOKEN' in the team everyone. `mlbox secret ls` lists them.",
    )


def test_a_teams_secret_is_asked_for_with_the_team(box_cli: Callable) -> None:
    assert box_cli("team", "create", "vision").code == 0
    ran = box_cli("secret", "set", "KEY", "--team", "vision", stdin=f"{VALUE}\n")
    assert ran.err == "Jobs of vision may have it: `mlbox submit --team vision --secret KEY -- COMMAND`.\n"


def test_a_file_is_taken_as_it_is(box_cli: Callable, home: Path) -> None:
    key = home / "key.pem"
    key.write_text("-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n")
    assert box_cli("secret", "set", "PEM", "--from-file", str(key)).code == 0
    code = home / "code"
    code.mkdir()
    ran = box_cli("submit", "--workdir", str(code), "--secret", "PEM", "--follow", "--", "sh", "-c", 'printf %s "$PEM"')
    assert ran.out.endswith("***PEM***\n***PEM***\n***PEM***\n")


def test_what_cannot_be_kept_is_said_without_the_value(box_cli: Callable, home: Path) -> None:
    (home / "binary").write_bytes(b"\xff\xfe")
    for arguments, stdin, says in [
        (("A",), "", "No value was given"),
        (("A",), "abc\n", "has no line of 4 characters"),
        (("1A",), "long enough\n", "is not a valid name of a secret"),
        (("A", "--team", "nobodys"), "long enough\n", "There is no team 'nobodys'"),
        (("A", "--from-file", "nowhere"), "", "nowhere cannot be read"),
        (("A", "--from-file", "binary"), "", "binary is not text in UTF-8"),
    ]:
        ran = box_cli("secret", "set", *arguments, stdin=stdin)
        assert ran.code in (2, 3), ran
        assert says in ran.line
        assert "long enough" not in ran.err
    assert box_cli("secret", "ls", "-o", "id").out == ""


def test_at_a_terminal_the_value_is_asked_for_twice_and_not_shown(server: Server, home: Path) -> None:
    home.mkdir()
    master, slave = pty.openpty()
    env = {**os.environ, "HOME": str(home), "MLBOX_URL": server.url, "MLBOX_TOKEN": server.token}
    with subprocess.Popen(
        [str(MLBOX), "secret", "set", "A"], stdin=slave, stdout=slave, stderr=slave, env=env
    ) as asked:
        os.close(slave)
        shown = b""
        for prompt in (b"Value: ", b"Once more: "):
            while prompt not in shown:
                shown += os.read(master, 1000)
            os.write(master, VALUE.encode() + b"\n")
        assert asked.wait(60) == 0
    shown += os.read(master, 1000)
    os.close(master)
    assert VALUE.encode() not in shown
    assert [secret["name"] for secret in server.http.get("/api/v1/secrets").json()] == ["A"]


def test_a_secret_and_its_variable() -> None:
    assert by_variable(["A", "B=X", "vision/C", "vision/C=Y"]) == {"A": "A", "X": "B", "C": "vision/C", "Y": "vision/C"}
    with pytest.raises(InvalidInput, match="in the variable 'A'"):
        by_variable(["A", "B=A"])
