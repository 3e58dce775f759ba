"""The program as a person runs it: exit code, stdout, stderr."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mlbox.cli import main
from tests import zygote
from tests.conftest import Server


class Ran(NamedTuple):
    """One finished command."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that it ended in; fails when there was more, or less."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("mlbox: "), self.err
        return self.err.removeprefix("mlbox: ").rstrip("\n")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def cli(home: Path) -> Callable[..., Ran]:
    """Run `mlbox ARGS` in a home of its own, with no MLBOX_* variable but those given."""
    home.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLBOX_", "XDG_"))}

    def run(*arguments: str, stdin: str = "", cwd: Path = home, **env: str) -> Ran:
        done = zygote.run(arguments, env={**clean, "HOME": str(home), **env}, cwd=cwd, stdin=stdin)
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def box_cli(cli: Callable[..., Ran], server: Server) -> Callable[..., Ran]:
    """As `cli`, as the admin of a running box."""

    def run(*arguments: str, **env: str) -> Ran:
        return cli(*arguments, **{"MLBOX_URL": server.url, "MLBOX_TOKEN": server.token, **env})

    return run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("box") / "data")
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def box(
    shared: Server, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ran]]:
    """One command line in this process, which spares each its start; in a folder of its own, and without jobs left over."""
    home.mkdir()
    monkeypatch.chdir(home)
    for name, value in {"HOME": str(home), "MLBOX_URL": shared.url, "MLBOX_TOKEN": shared.token}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        code = main.run(list(arguments))
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    yield run
    if left := run("ps", "-o", "id").out.split():
        run("stop", *left)
        run("wait", *left)
