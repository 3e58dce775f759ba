"""The wheel, the image and the unit: what they promise, and the same steps as a user without rights in a fresh venv.

No container engine is needed: the image's steps (install the wheel with its extra, serve as a user of no rights, /readyz,
SIGTERM) are taken by hand, and the Dockerfile is read for the rest.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.conftest import wait_for

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
NOBODY = 65534
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# -- what is declared -----------------------------------------------------------------------------------------------------


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement, maxsplit=1)[0].lower()


def test_plain_mlbox_is_the_thin_client() -> None:
    assert [name_of(r) for r in PROJECT["dependencies"]] == ["httpx", "msgspec", "pathspec", "typer", "rich"]


def test_the_two_onnx_runtimes_are_never_installed_together() -> None:
    extras = PROJECT["optional-dependencies"]
    assert not [r for r in extras["server-base"] if name_of(r).startswith("onnxruntime")]
    assert [name_of(r) for r in extras["server"]] == ["mlbox", "onnxruntime"]
    assert [name_of(r) for r in extras["server-gpu"]] == ["mlbox", "onnxruntime-gpu"]


def test_each_dependency_has_an_upper_bound_and_is_pinned_for_us() -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if line)
    extras = PROJECT["optional-dependencies"]
    ours = [r for r in (*PROJECT["dependencies"], *(r for e in extras.values() for r in e)) if name_of(r) != "mlbox"]
    for requirement in ours:
        assert "<" in requirement or "==" in requirement, f"{requirement} may grow into a release that breaks us"
        assert name_of(requirement) in pins or name_of(requirement) == "onnxruntime-gpu", requirement


def test_the_constraints_name_no_index() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text


def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the last stage, and of all stages joined where they continue."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    return [(line.split()[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line.strip()]


def test_the_image_has_two_stages_on_a_slim_base_and_runs_as_nobody_special() -> None:
    steps = dockerfile()
    bases = [value for word, value in steps if word == "FROM"]
    assert len(bases) == 2
    assert all("slim" in base for base in bases)
    last = steps[max(at for at, (word, _) in enumerate(steps) if word == "FROM") :]
    found = dict(last)
    assert found["USER"] == "mlbox"
    assert found["VOLUME"] == "/data"
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert found["ENTRYPOINT"] == '["tini", "--", "mlbox"]'
    assert found["CMD"] == '["serve"]'
    assert "/readyz" in found["HEALTHCHECK"]
    assert '"python", "-c"' in found["HEALTHCHECK"]
    assert "MLBOX_DATA_DIR=/data" in found["ENV"]
    words = [word for word, _ in last]
    assert words.index("USER") > max(at for at, word in enumerate(words) if word == "RUN")


def test_only_what_the_wheel_needs_goes_into_the_image() -> None:
    first, *allowed = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    assert set(allowed) == {"!pyproject.toml", "!constraints.txt", "!README.md", "!LICENSE", "!mlbox", "**/__pycache__"}


def test_a_restart_of_the_unit_leaves_jobs_alive() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy" / "mlbox.service")
    service = unit["Service"]
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["KillSignal"] == "SIGTERM"
    assert service["User"] == "mlbox"
    assert " serve " in service["ExecStart"]
    assert service["PrivateTmp"] == "no"


# -- what is built --------------------------------------------------------------------------------------------------------


class Person:
    """A user without rights in a folder of their own; under root, nobody."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._drop: list[str] = []
        if os.getuid() == 0:
            os.chown(home, NOBODY, NOBODY)
            self._drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        keep = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLBOX_", "VIRTUAL_ENV", "XDG_"))
        }
        wheels = keep.get("UV_FIND_LINKS") or keep.get("PIP_FIND_LINKS") or ""
        self.env = {**keep, "HOME": str(home), "UV_FIND_LINKS": wheels, "PYTHONDONTWRITEBYTECODE": "1"}
        if self._drop:
            self.env["PATH"] = "/usr/local/bin:/usr/bin:/bin"  # root's own may lead where nobody may go

    def start(self, *command: str | Path, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._drop, *(str(part) for part in command)],
            cwd=self.home,
            env={**self.env, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str | Path, **more: str) -> tuple[int, str, str]:
        with self.start(*command, **more) as process:
            out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def install(self, name: str, requirement: str) -> Path:
        """A fresh venv with mlbox in it; returns its programs' folder."""
        code, _, err = self.run("python3", "-m", "venv", self.home / name)
        assert code == 0, err
        bin_folder = self.home / name / "bin"
        flags = ("--quiet", "--python", bin_folder / "python", "--constraint", self.home / "constraints.txt")
        code, _, err = self.run(UV, "pip", "install", *flags, requirement)
        assert code == 0, err
        return bin_folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([UV, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.fixture
def person() -> Iterator[Person]:
    home = Path(tempfile.mkdtemp(prefix="mlbox-person-", dir="/tmp"))
    yield Person(home)
    shutil.rmtree(home)


def give(person: Person, wheel: Path) -> str:
    """Hand the wheel and the constraints over; returns the wheel's address."""
    for path in (wheel, ROOT / "constraints.txt"):
        copied = Path(shutil.copy(path, person.home))
        copied.chmod(0o644)
    return (person.home / wheel.name).as_uri()


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"mlbox", f"mlbox-{PROJECT['version']}.dist-info"}
    assert "mlbox/py.typed" in names
    on_disk = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "mlbox").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("mlbox/")} == on_disk


@pytest.mark.slow
def test_the_client_alone_says_how_to_get_the_server(wheel: Path, person: Person) -> None:
    programs = person.install("thin", f"mlbox @ {give(person, wheel)}")
    code, out, err = person.run(programs / "mlbox", "--help")
    assert (code, err) == (0, "")
    assert "serve" in out
    code, _, err = person.run(programs / "mlbox", "serve", "--data-dir", person.home / "data")
    assert (code, err.count("\n")) == (1, 1)
    assert "is not installed: plain `mlbox` is only the client. pip install 'mlbox[server]'" in err
    code, _, err = person.run(programs / "mlbox", "status")
    assert (code, err.count("\n")) == (4, 1)
    code, _, err = person.run(programs / "python", "-c", "import mlbox; [getattr(mlbox, name) for name in dir(mlbox)]")
    assert (code, err) == (0, "")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_person_without_rights_installs_and_serves(wheel: Path, person: Person) -> None:
    """The steps of the Dockerfile."""
    programs = person.install("box", f"mlbox[server] @ {give(person, wheel)}")
    data = person.home / "data"
    settings = {"MLBOX_DATA_DIR": str(data), "MLBOX_HOST": "127.0.0.1", "MLBOX_PORT": "0"}
    with person.start(programs / "mlbox", "serve", **settings) as server:
        assert server.stderr is not None
        try:
            url = next(line.split()[-1] for line in server.stderr if "mlbox listens on" in line)
            wait_for(lambda: _status(f"{url}/readyz") == 200, what="the server to be ready")
            token = (data / "admin-token").read_text().strip()
            code, out, err = person.run(programs / "mlbox", "status", "-o", "json", MLBOX_URL=url, MLBOX_TOKEN=token)
            assert (code, err) == (0, "")
            assert '"user": "admin"' in out
        finally:
            server.send_signal(signal.SIGTERM)
            said = server.stderr.read()
        assert server.wait(timeout=60) == 0, said
    owner = data.stat().st_uid
    assert owner == (NOBODY if os.getuid() == 0 else os.getuid())
    assert data.stat().st_mode & 0o077 == 0


def _status(url: str) -> int:
    try:
        with urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except OSError:
        return 0
