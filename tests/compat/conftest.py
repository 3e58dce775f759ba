"""Unmodified clients, each in an environment of its own, and a real server with two people on it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MLBOX, Server

HERE = Path(__file__).parent
HOME = HERE.parents[1] / ".compat"
MAJORS = (2, 3)


def environment(client: str) -> Path:
    """The interpreter of an environment with a client; it is made where it is not there, or is of other requirements.

    What the clients only look at, such as torch and onnx, comes from the tests' own environment, behind theirs.
    """
    requirements = HERE / f"requirements-{client}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = HOME / f"{client}-{digest}"
    python = folder / "bin" / "python"
    done = folder / "done"
    with _alone(f"{client}.lock"):
        if done.exists():
            return python
        _uv("venv", "--clear", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--python", str(python), "--requirement", str(requirements))
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "zz_tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        done.touch()
    return python


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time: the tests run in several, which want the same environments."""
    HOME.mkdir(exist_ok=True)
    with (HOME / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    ran = subprocess.run([str(uv), "--quiet", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("compat") / "data")
    yield server
    server.stop()


def token_of(server: Server, name: str, role: str) -> str:
    """A person's token; the person is made if new."""
    made = server.http.post("/api/v1/users", json={"name": name, "role": role})
    assert made.status_code in (201, 409), made.text
    answer = server.http.post("/api/v1/tokens", json={"user": name, "name": "compat"}).raise_for_status()
    secret: str = answer.json()["secret"]
    return secret


Program = Callable[[int, str], str]


@pytest.fixture(scope="session")
def program(box: Server, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Run one of `scripts/` with a client of a major version, as ann, with bea as the second person; what it prints."""
    people = {
        "MLFLOW_TRACKING_TOKEN": token_of(box, "ann", "member"),
        "MLBOX_APPROVER": token_of(box, "bea", "approver"),
    }

    def run(major: int, name: str) -> str:
        folder = tmp_path_factory.mktemp(f"{name}-{major}")
        env = {
            **people,
            "MLFLOW_TRACKING_URI": box.url,
            "MLBOX_COMMAND": str(MLBOX),
            "PYTHONPATH": str(HERE / "scripts"),
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_PYTHON_REFRESH": "quiet",
            "MPLBACKEND": "Agg",
        }
        command = [str(environment(f"mlflow-{major}")), str(HERE / "scripts" / f"{name}.py")]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{box.log[-3000:]}"
        return done.stdout

    return run
