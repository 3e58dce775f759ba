"""`mlbox config`, and the one way that all commands share."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mlbox.settings import Settings
from tests.conftest import MLBOX, wait_for


def test_config_prints_each_setting_with_its_origin(cli: Callable, home: Path) -> None:
    (home / "mlbox.toml").write_text("threads = 8\n")
    ran = cli("config", "--config", "mlbox.toml", "--port", "9", "-o", "json", MLBOX_HOST="0.0.0.0")
    assert (ran.code, ran.err) == (0, "")
    rows = {row["name"]: row for row in msgspec.json.decode(ran.out)}
    assert list(rows) == list(Settings.__struct_fields__)
    found = {name: (row["value"], row["origin"]) for name, row in rows.items() if row["origin"] != "default"}
    assert found == {"port": (9, "flag"), "host": ("0.0.0.0", "env"), "threads": (8, "file")}
    assert rows["port"]["variable"] == "MLBOX_PORT"


def test_config_in_a_table_can_be_copied_into_a_file(cli: Callable) -> None:
    rows = [line.split()[:2] for line in cli("config").out.splitlines()]
    assert ["max_body", str(Settings().max_body)] in rows, "a number is written as it is read"


def test_what_serve_would_refuse_config_refuses_in_the_same_words(cli: Callable) -> None:
    served, shown = cli("serve", "--threads", "0"), cli("config", "--threads", "0")
    assert (served.code, served.err) == (shown.code, shown.err)
    assert shown.code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("servr",), "No such command 'servr'. Did you mean 'serve'"),
        (("model", "frobnicate"), "No such command 'frobnicate'. See `mlbox model --help`."),
        (("run", "list"), "No such command 'list'. Did you mean 'ls'? See `mlbox run --help`."),
        (("user", "delete", "x"), "No such command 'delete'. Did you mean 'disable'? See `mlbox user --help`."),
        (("token", "get", "x"), "No such command 'get'. See `mlbox token --help`."),
        (("user", "create"), "Missing argument 'name'. See `mlbox user create --help`."),
        (("user", "create", "ann", "--role", "king"), "'king' is not one of"),
        (("config", "-o", "xml"), "'xml' is not one of"),
        (("clock", "advance", "tomorrow"), "'tomorrow' is not a time. Write it like 2013-01-01T00:00Z."),
        (("status", "extra"), "unexpected extra argument"),
    ],
)
def test_a_usage_error_is_one_line(cli: Callable, arguments: tuple[str, ...], says: str) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.line


def test_without_a_command_the_help_goes_to_stderr(cli: Callable) -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: mlbox ")


def test_version_and_help_go_to_stdout(cli: Callable) -> None:
    assert cli("--version").out.startswith("mlbox 0.")
    ran = cli("serve", "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "--data-dir" in ran.out


def test_no_colour_without_a_terminal(cli: Callable) -> None:
    for arguments in (("--help",), ("model", "--help"), ("config",), ("nonsense",)):
        ran = cli(*arguments)
        assert "\x1b" not in ran.out + ran.err


def test_a_closed_pipe_is_quiet() -> None:
    with subprocess.Popen([str(MLBOX), "config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    command = [str(MLBOX), "login", "http://127.0.0.1:9"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_for(lambda: "msgspec" in maps.read_text(), what="the command to run")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said in {"", "mlbox: interrupted.\n"}
