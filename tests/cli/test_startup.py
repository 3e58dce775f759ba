"""A server that cannot start says what, why and what to do, in one line, and ends with the code of its kind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import MLBOX, Server, wait_for


def test_a_wrong_flag(cli: Callable) -> None:
    ran = cli("serve", "--prot", "1")
    assert (ran.code, ran.out) == (2, "")
    assert ran.line == "No such option: --prot (Possible options: --host, --port). See `mlbox serve --help`."


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--port", "x"), "The flag --port is 'x', but takes a whole number from 0 to 65535. TCP port"),
        (("--port", "65536"), "The flag --port is '65536'"),
        (("--port", "1.5"), "The flag --port is '1.5'"),
        (("--session-hours", "0"), "The flag --session-hours is '0', but takes a number above 0"),
        (("--session-hours", "nan"), "The flag --session-hours is 'nan'"),
        (("--duckdb-memory", "lots"), "but takes a text such as 2GB"),
        (("--data-dir", ""), "The flag --data-dir is ''"),
        (("--replay-clock", "2013"), "'2013' is not a time"),
        (("--replay-clock", "2013-01-01"), "has no time zone"),
    ],
)
def test_a_wrong_value(cli: Callable, flags: tuple[str, ...], says: str) -> None:
    ran = cli("serve", "--port", "0", *flags)
    assert ran.code == 2
    assert says in ran.line


def test_a_wrong_variable(cli: Callable) -> None:
    ran = cli("serve", MLBOX_PORT="eighty")
    assert ran.code == 2
    assert ran.line.startswith("The variable MLBOX_PORT is 'eighty', but takes a whole number")


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        ("prot = 1", 2, "has an unknown setting 'prot'. Did you mean port?"),
        ("zzz = 1", 2, "has an unknown setting 'zzz'. `mlbox config` lists all settings."),
        ("port = 'x'", 2, "The setting port in mlbox.toml is 'x', but takes a whole number"),
        ("allowed_host = 'box'", 2, "The setting allowed_host in mlbox.toml is 'box', but takes a list of texts"),
        ("port = ", 1, "The settings file mlbox.toml is not TOML: "),
    ],
)
def test_a_wrong_settings_file(cli: Callable, home: Path, content: str, code: int, says: str) -> None:
    (home / "mlbox.toml").write_text(content)
    ran = cli("serve", "--config", "mlbox.toml")
    assert ran.code == code
    assert says in ran.line


def test_a_settings_file_that_is_not_there(cli: Callable) -> None:
    ran = cli("serve", "--config", "none.toml")
    assert ran.code == 1
    assert ran.line == "The settings file none.toml cannot be read: No such file or directory. Check --config."


def test_a_taken_port(cli: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("serve", "--port", str(taken.getsockname()[1]))
    assert ran.code == 1
    assert "Address already in use. Give another --port or --host." in ran.line


def test_an_address_that_is_not_ours(cli: Callable) -> None:
    ran = cli("serve", "--host", "192.0.2.1", "--port", "0")
    assert ran.code == 1
    assert ran.line.startswith("The server cannot listen on 192.0.2.1:0: ")


def test_a_data_directory_in_use(cli: Callable, server: Server) -> None:
    ran = cli("serve", "--port", "0", "--data-dir", str(server.data_dir))
    assert ran.code == 1
    assert "is in use by another mlbox server. Stop that server" in ran.line


def test_a_data_directory_of_a_newer_release(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "MLBOX_VERSION").write_text('{"layout": 1000000}')
    ran = cli("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert ran.code == 1
    assert "was written by a newer mlbox (layout 1000000" in ran.line


def test_a_folder_that_holds_something_else(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("\\chapter{One}")
    ran = cli("serve", "--port", "0", "--data-dir", str(tmp_path))
    assert ran.code == 1
    assert "is not a data directory of mlbox" in ran.line


def test_keys_and_what_a_disk_of_its_own_begins_with_may_be_there_first(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "lost+found").mkdir(parents=True)
    (data / "keys").mkdir(mode=0o700)
    (data / "keys" / "oidc.secret").write_text("from the provider")
    assert make_server(data_dir=data).http.get("/readyz").status_code == 200
    assert (data / "keys" / "oidc.secret").read_text() == "from the provider"


def test_a_file_where_the_folder_should_be(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    ran = cli("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert ran.code == 1
    assert "cannot be used: " in ran.line


def test_a_store_that_is_no_database(cli: Callable, make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    server.stop()
    (server.data_dir / "access.sqlite").write_bytes(b"not a database at all" * 100)
    for suffix in ("-wal", "-shm"):
        (server.data_dir / f"access.sqlite{suffix}").unlink(missing_ok=True)
    ran = cli("serve", "--port", "0", "--data-dir", str(server.data_dir))
    assert ran.code == 1
    assert "access.sqlite" in ran.line


def test_no_right_to_write(tmp_path: Path) -> None:
    """Root may write anywhere by a capability, without which root starts the server."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.getuid() == 0 else []
    if drop:
        assert shutil.which("setpriv"), "util-linux is part of every Debian"
    ran = subprocess.run(
        [*drop, str(MLBOX), "serve", "--port", "0", "--data-dir", str(closed / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "Give a folder that you may write with --data-dir." in ran.stderr


def test_the_server_without_its_packages(home: Path) -> None:
    """What `pip install mlbox` alone gives: the client, and a line that says how to get the rest."""
    program = "import sys; sys.modules['litestar'] = None; from mlbox.cli.main import run; sys.exit(run(['serve']))"
    home.mkdir()
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=home)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "litestar is not installed" in ran.stderr
    assert "pip install 'mlbox[server]'" in ran.stderr


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/livez").is_success
    return False


def test_a_thread_that_never_ends_keeps_no_server_that_is_told_to_stop(tmp_path: Path) -> None:
    """As one does in which an operator of a model hangs."""
    program = (
        "import sys, threading, mlbox.web.server as server; from mlbox.cli.main import run; server.END_SECONDS = 0.5;"
        "threading.Thread(target=threading.Event().wait, name='hangs').start();"
        "sys.exit(run(['serve', '--port', '0', '--grpc-port', '-1', '--data-dir', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        url = process.stderr.readline().rpartition(" ")[2].strip()
        wait_for(lambda: answers(url), what="the server")
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 1
    assert "The server ends though its threads do not (hangs)" in said


def test_nothing_is_made_when_the_start_fails(cli: Callable, tmp_path: Path) -> None:
    cli("serve", "--port", "x", "--data-dir", str(tmp_path / "data"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cli("serve", "--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()
