"""Python environments of jobs: uv builds them from wheels and sources made here, without an index."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

import mlbox
from mlbox.errors import InvalidInput
from mlbox.records import Job
from mlbox.scheduler import environments
from mlbox.scheduler.environments import Environments, NotBuilt
from mlbox.sdk.environment import inputs, pack_inputs
from mlbox.store.artifacts import Artifacts
from tests.conftest import Server, wait_for
from tests.scheduler.test_scheduler import House

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
SPY = "import os, sys, tiny; print(tiny.VALUE, sys.prefix == os.environ['VIRTUAL_ENV'])"
BACKEND = """
import os, zipfile
def build_wheel(folder, *_):
    name = "grown-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("grown.py", "VALUE = 'grown'")
        wheel.writestr("grown-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: grown\\nVersion: 1.0\\n")
        wheel.writestr("grown-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("grown-1.0.dist-info/RECORD", "")
    return name
"""


def wheel(folder: Path, name: str = "tiny", version: str = "1.0") -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"VALUE = '{name} {version}'")
        file.writestr(f"{info}/METADATA", METADATA.format(name=name, version=version))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def source(folder: Path) -> Path:
    """A source distribution with a build backend of its own."""
    root = folder / "grown-1.0"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "grown"\nversion = "1.0"\n'
    )
    (root / "backend.py").write_text(BACKEND)
    (root / "PKG-INFO").write_text(METADATA.format(name="grown", version="1.0"))
    with tarfile.open(folder / "grown-1.0.tar.gz", "w:gz") as packed:
        packed.add(root, "grown-1.0")
    return folder


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder)
    return folder


def requirements(folder: Path, wheels: Path, *lines: str) -> Path:
    file = folder / "requirements.txt"
    file.write_text("\n".join(["--no-index", f"--find-links {wheels}", *lines, ""]))
    return file


# -- in jobs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("box") / "data")
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    return folder


@pytest.fixture
def box(server: Server) -> Iterator[mlbox.Box]:
    with mlbox.connect(server.url, server.token) as found:
        yield found


def log(box: mlbox.Box, job: Job) -> str:
    return box.client.request("GET", f"/api/v1/jobs/{job.id}/logs").decode()


def test_jobs_share_an_environment_that_is_built_once_and_that_they_cannot_write(
    box: mlbox.Box, server: Server, code: Path, wheels: Path
) -> None:
    requirements(code, wheels, "tiny==1.0")
    spoil = "import tiny; open(tiny.__file__, 'w').write('spoilt')"
    command = ["sh", "-c", f'python -c "{SPY}"; ls "$VIRTUAL_ENV/bin/activate" && python -c "{spoil}"']
    jobs = [box.submit(command, workdir=code, environment="auto", cpus=0.1, memory_gb=0.1, retries=0) for _ in range(2)]
    assert jobs[0].spec.environment == jobs[1].spec.environment != ""
    for job in jobs:
        assert box.wait(job).exit_code == 1
        said = log(box, job)
        assert "tiny 1.0 True\n" in said
        assert "Permission denied" in said
    built = [path for path in (server.data_dir / "environments").iterdir() if (path / "ready").exists()]
    assert len(built) == 1
    assert (built[0] / "packages.txt").read_text() == "tiny==1.0\n"
    began = (built[0] / "venv").stat().st_ctime_ns
    again = box.wait(box.submit(["python", "-c", SPY], workdir=code, environment="auto", cpus=0.1, memory_gb=0.1))
    assert (again.state, (built[0] / "venv").stat().st_ctime_ns) == ("succeeded", began)


def test_what_does_not_resolve_fails_the_job_with_uvs_words(box: mlbox.Box, code: Path, wheels: Path) -> None:
    requirements(code, wheels, "tiny==2.0")
    job = box.wait(box.submit("python -c 1", workdir=code, environment="auto", cpus=0.1, memory_gb=0.1))
    assert (job.state, job.reason, len(job.attempts)) == ("failed", "Its environment could not be built", 1)
    assert "tiny==2.0" in log(box, job)
    assert "No solution found" in log(box, job)


# -- by themselves ------------------------------------------------------------------------------------------------------


class Builder:
    """Environments, and who hears of them."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = Artifacts(folder / "artifacts")
        self.environments = Environments(folder / "environments", self.artifacts)
        self.built: list[str] = []
        self.used: set[str] = set()
        self.environments.open(self.built.append, lambda: self.used)

    def put(self, choice: str, code: Path) -> str:
        with pack_inputs(inputs(choice, code)) as packed:
            return self.artifacts.put([packed.read()])[0]

    def build(self, digest: str) -> Path:
        job = f"j{len(self.built)}"
        if self.environments.ask(digest, [job]):
            wait_for(lambda: job in self.built, what="the build")
            assert not self.environments.ask(digest, [job])
        return self.environments.take(digest, job)


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    made = Builder(tmp_path)
    yield made
    made.environments.close()


def test_those_who_wait_for_one_build_hear_of_its_end_together(
    builder: Builder, code: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements(code, wheels, "nothing")
    digest = builder.put("auto", code)
    go, calls = threading.Event(), []

    def held(*arguments: object) -> list[list[str]]:
        calls.append(arguments)
        go.wait(60)
        return real(*arguments)  # type: ignore[arg-type]

    real = environments.commands
    monkeypatch.setattr(environments, "commands", held)
    assert builder.environments.ask(digest, ["a"]) == {"a"}
    assert builder.environments.ask(digest, ["b", "c"]) == {"b", "c"}
    go.set()
    wait_for(lambda: set(builder.built) == {"a", "b", "c"}, what="the build")
    assert builder.environments.ask(digest, ["a", "b", "c"]) == set()
    for job in ("a", "b", "c"):
        with pytest.raises(NotBuilt, match="nothing"):
            builder.environments.take(digest, job)
    assert len(calls) == 2  # with wheels alone, and then with what can be built


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A scheduler that builds environments, with one GPU."""
    made = House(tmp_path, gpus=1)
    made.scheduler.close()
    built = Environments(tmp_path / "environments", made.artifacts)
    made.scheduler = made.make(environments=built)
    made.scheduler.start()
    yield made
    made.close()
    built.close()


def keep(house: House, code: Path) -> str:
    """The digest of the inputs in a folder."""
    with pack_inputs(inputs("auto", code)) as packed:
        return house.artifacts.put([packed.read()])[0]


def test_no_gpu_is_held_while_an_environment_is_built(
    house: House, code: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements(code, wheels, "tiny")
    go, real = threading.Event(), environments.commands
    monkeypatch.setattr(environments, "commands", lambda *given: go.wait(60) and real(*given))
    job = house.submit("python", "-c", "import tiny", gpus=1, environment=keep(house, code))
    words = wait_for(lambda: (said := house.scheduler.why(job.id).words).startswith("building") and said, what="why")
    assert [each.reason for each in house.scheduler.line()] == [words]
    assert house.log(job) == f"mlbox: {words} ...\n"
    assert house.ended(house.shell("true", gpus=1)).state == "succeeded"
    assert house.scheduler.job(job.id).state == "queued"
    go.set()
    job = house.ended(job)
    assert (job.state, len(job.attempts)) == ("succeeded", 1)
    assert house.log(job) == f"mlbox: {words} ...\nmlbox: the environment is built\n"


def test_what_cannot_be_built_is_said_without_waiting_for_a_gpu(house: House, code: Path, wheels: Path) -> None:
    requirements(code, wheels, "nothing")
    holder = house.until(house.shell("sleep 600", gpus=1), "running")
    job = house.ended(house.submit("python", "-c", "1", gpus=1, environment=keep(house, code)))
    assert (job.state, job.reason) == ("failed", "Its environment could not be built")
    assert [(attempt.devices, attempt.gpu_count) for attempt in job.attempts] == [((), 0.0)]
    assert "No solution found" in house.log(job)
    assert house.scheduler.job(holder.id).state == "running"


def test_what_comes_as_source_is_built_apart_from_the_shared_cache(
    builder: Builder, code: Path, tmp_path: Path
) -> None:
    requirements(code, source(tmp_path), "grown")
    venv = builder.build(builder.put("auto", code))
    done = subprocess.run([venv / "bin" / "python", "-c", "import grown; print(grown.VALUE)"], capture_output=True)
    assert done.stdout == b"grown\n", done
    assert not list((tmp_path / "environments" / "cache").rglob("grown*"))


def test_a_lock_is_taken_as_it_is_and_without_the_project(builder: Builder, code: Path, wheels: Path) -> None:
    (code / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["tiny"]\n'
        f'[tool.uv.sources]\ntiny = {{ path = "{wheels / "tiny-1.0-py3-none-any.whl"}" }}\n'
    )
    subprocess.run(
        [find_uv_bin(), "lock", "--offline", "--quiet"], cwd=code, check=True, env={**os.environ, "HOME": str(code)}
    )
    digest = builder.put("auto", code)
    builder.build(digest)
    assert re.fullmatch(r"tiny @ file://.*\n", builder.environments.packages(digest))


def test_the_old_and_unused_are_removed(builder: Builder, code: Path, wheels: Path) -> None:
    digests = []
    for line in ("tiny", "tiny==1.0", "tiny>=1"):
        requirements(code, wheels, line)
        digests.append(builder.put("auto", code))
        builder.build(digests[-1])
    unused, used, recent = map(builder.environments.folder, digests)
    for folder in (unused, used):
        os.utime(folder / "ready", (time.time() - 31 * 86400,) * 2)
    builder.used = {digests[1]}
    assert builder.environments.evict() == [unused.name]
    assert (unused.exists(), used.exists(), recent.exists()) == (False, True, True)
    assert builder.build(digests[0]).exists()


def test_half_a_build_is_made_anew(builder: Builder, code: Path, wheels: Path) -> None:
    requirements(code, wheels, "tiny")
    digest = builder.put("auto", code)
    folder = builder.environments.folder(digest)
    (folder / "venv").mkdir(parents=True)
    (folder / "venv" / "rubbish").touch()
    assert not (builder.build(digest) / "rubbish").exists()


# -- what is sent -------------------------------------------------------------------------------------------------------


def test_the_files_that_say_it(code: Path) -> None:
    assert inputs("box", code) == {}
    with pytest.raises(InvalidInput, match=r"has no uv\.lock"):
        inputs("auto", code)
    (code / "pyproject.toml").touch()
    assert list(inputs("auto", code)) == ["pyproject.toml"]
    (code / "requirements.txt").write_text("-r more/gpu.txt  # why\n--constraint=pins.txt\nnumpy\n")
    (code / "more").mkdir()
    (code / "more" / "gpu.txt").write_text("torch\n")
    with pytest.raises(InvalidInput, match=r"There is no .*pins\.txt"):
        inputs("auto", code)
    (code / "pins.txt").touch()
    assert list(inputs("auto", code)) == ["requirements.txt", "more/gpu.txt", "pins.txt"]
    (code / "uv.lock").touch()
    assert list(inputs("auto", code)) == ["uv.lock", "pyproject.toml"]
    assert inputs(str(code / "more" / "gpu.txt"), code) == {"requirements.txt": code / "more" / "gpu.txt"}
    (code / "more" / "gpu.txt").write_text("-c ../pins.txt")
    with pytest.raises(InvalidInput, match="not below"):
        inputs(str(code / "more" / "gpu.txt"), code)


def test_the_same_files_are_the_same_environment(code: Path) -> None:
    def read() -> bytes:
        with pack_inputs(inputs("auto", code)) as packed:
            return packed.read()

    (code / "requirements.txt").write_text("numpy\n")
    first = read()
    os.utime(code / "requirements.txt", (1, 1))
    assert read() == first
    (code / "requirements.txt").write_text("numpy<3\n")
    assert read() != first
