"""Jobs in container images, all around, with a program that answers as podman and docker do; none of either is needed.

What stands for the engine is what its users see: a program on the path, and a daemon that runs containers elsewhere, so that
they are no descendants of who asked for them. It runs the command on this machine, without any image.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlbox.errors import InvalidInput
from mlbox.records import JobSpec
from mlbox.scheduler.executors import Ended, Launch, Ref
from mlbox.scheduler.executors.local import Local, containers
from mlbox.scheduler.gpus import Virtual
from tests.conftest import Server, wait_for

CLIENT = """#!{python}
import json, os, signal, sys, time

me, (verb, *words) = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
with open(me + "/calls", "a") as calls:
    calls.write(json.dumps(sys.argv) + "\\n")

def say(kind, content=""):
    with open(f"{{me}}/{{name}}.{{kind}}.new", "w") as file:
        file.write(content)
    os.rename(file.name, f"{{me}}/{{name}}.{{kind}}")

if verb == "rm":
    name = words[-1]
    say("rm")
    while os.path.exists(f"{{me}}/{{name}}.rm"):
        time.sleep(0.01)
    sys.exit(0)
options = []
while words[0].startswith("--"):
    option = words.pop(0)
    options.append((option, None if option in ("--rm", "--init") else words.pop(0)))
given, (image, *command) = dict(options), words
if image.startswith("missing"):
    print(f"Error: initializing source {{image}}: manifest unknown", file=sys.stderr)
    sys.exit(125)
name, volumes = given["--name"], [value.split(":") for option, value in options if option == "--volume"]
assert all(os.path.isdir(volume[0]) for volume in volumes), volumes
assert any(given["--workdir"].startswith(volume[1]) for volume in volumes), given
env = {{value: os.environ[value] for option, value in options if option == "--env"}}
signal.signal(signal.SIGTERM, lambda number, frame: say("term"))
say("run", json.dumps([os.getpid(), command, {{**env, "PATH": "/usr/bin:/bin"}}, given["--workdir"]]))
while not os.path.exists(f"{{me}}/{{name}}.exit"):
    time.sleep(0.01)
sys.exit(int(open(f"{{me}}/{{name}}.exit").read()))
"""


class Engine:
    """The daemon, and the folder with the client."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.client = folder / name
        self.client.write_text(CLIENT.format(python=sys.executable))
        self.client.chmod(0o755)
        self.containers: dict[str, subprocess.Popen[bytes]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.wait(0.01):
            for asked in self.folder.iterdir():
                name, _, verb = asked.name.partition(".")
                if verb == "run":
                    self._run(name, *json.loads(asked.read_text()))
                elif verb in ("term", "rm"):
                    self._signal(name, signal.SIGTERM if verb == "term" else signal.SIGKILL)
                if verb in ("run", "term", "rm"):
                    asked.unlink()
            for name, process in self.containers.items():
                code, told = process.poll(), self.folder / f"{name}.exit"
                if code is not None and not told.exists():
                    told.with_suffix(".now").write_text(str(code if code >= 0 else 128 - code))
                    told.with_suffix(".now").rename(told)

    def _run(self, name: str, client: int, command: list[str], env: dict[str, str], cwd: str) -> None:
        with open(f"/proc/{client}/fd/1", "wb") as output:
            self.containers[name] = subprocess.Popen(
                command, env=env, cwd=cwd, stdout=output, stderr=output, start_new_session=True
            )

    def _signal(self, name: str, number: int) -> None:
        if name in self.containers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.containers[name].pid, number)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        for name, process in self.containers.items():
            self._signal(name, signal.SIGKILL)
            process.wait()


class Box:
    """An executor of a machine that has such an engine."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.engine = engine
        self.root = folder / "jobs"
        self.executor = Local(self.root, Virtual([("", 80.0)]), cpus=4, memory_gb=16)
        self.executor.open(lambda ref: None)
        self.count = 0

    def start(self, script: str, image: str = "pytorch/pytorch:2", **more: object) -> Ref:
        self.count += 1
        ref = Ref(f"{os.getpid():026x}{self.count:06x}", 1)
        spec = JobSpec(command=("sh", "-c", script), image=image, memory_gb=1)
        self.executor.check(spec)
        self.executor.start(Launch(ref, spec, 0.5, **more))  # type: ignore[arg-type]
        return ref

    def ended(self, ref: Ref) -> Ended:
        return wait_for(lambda: self.executor.state(ref).ended, what=f"the end of {ref}")

    def log(self, ref: Ref) -> str:
        return self.executor.log(ref, 0, 1 << 20).decode()

    def says(self, ref: Ref, word: str) -> None:
        wait_for(lambda: word in self.log(ref), what=f"{word!r} in the log")


@pytest.fixture(params=["podman", "docker"])
def box(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    engine = Engine(tmp_path / "bin", request.param)
    monkeypatch.setenv("PATH", str(engine.folder))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    built = Box(tmp_path, engine)
    yield built
    built.executor.close()
    engine.close()


def option(call: list[str], name: str) -> list[str]:
    return [call[at + 1] for at, word in enumerate(call) if word == name]


def test_a_job_runs_in_its_container_with_its_folders_and_variables(box: Box) -> None:
    script = (
        'echo "$SECRET $MLBOX_X $PATH"; echo saved > "$MLBOX_CHECKPOINT_DIR/a"; echo tmp > "$TMPDIR/b"; pwd; exit 3'
    )
    ref = box.start(script, env={"MLBOX_X": "ours"}, private={"SECRET": "s3cret"}, devices=("GPU-7",))
    assert box.ended(ref).exit_code == 3
    work = str(box.root / ref.job_id / "1" / "work")
    assert box.log(ref).splitlines() == ["s3cret ours /usr/bin:/bin", work], "the image has a PATH of its own"
    assert (box.root / ref.job_id / "checkpoints" / "a").read_text() == "saved\n"
    run, removal = box.engine.calls
    assert run[0] == removal[0] == str(box.engine.client)
    assert "s3cret" not in " ".join(run), "anybody may see a command"
    assert option(run, "--workdir") == [work]
    assert option(run, "--name") == [removal[-1]] == [f"mlbox-{ref.job_id}-1"]
    assert removal[1:3] == ["rm", "--force"]
    assert run[-4:] == ["pytorch/pytorch:2", "sh", "-c", script]
    gpus = {"docker": ["--gpus", '"device=GPU-7"'], "podman": ["--device", "nvidia.com/gpu=GPU-7"]}
    assert " ".join(gpus[box.engine.client.name]) in " ".join(run)


def test_a_stop_reaches_the_container_and_then_its_kill(box: Box) -> None:
    kind = box.start("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    stubborn = box.start("trap '' TERM; echo up; while :; do sleep 0.05; done")
    for ref in (kind, stubborn):
        box.says(ref, "up")
        box.executor.stop(ref)
    ended = box.ended(kind)
    assert (ended.stopped, ended.exit_code, box.log(kind)[-4:]) == (True, 5, "bye\n")
    assert box.ended(stubborn).stopped
    container = box.engine.containers[f"mlbox-{stubborn.job_id}-1"]
    assert wait_for(container.poll, what="the container to be removed") == -signal.SIGKILL


def test_a_container_whose_shim_is_killed_is_removed(box: Box) -> None:
    ref = box.start("echo up; exec env -i sleep 300")
    box.says(ref, "up")
    shim = box.executor.state(ref).number
    assert shim is not None
    os.kill(shim, signal.SIGKILL)
    assert box.ended(ref).lost
    container = box.engine.containers[f"mlbox-{ref.job_id}-1"]
    assert wait_for(container.poll, what="the container to be removed") == -signal.SIGKILL


def test_an_image_that_cannot_be_had_ends_in_the_engines_words(box: Box) -> None:
    ref = box.start("echo never", image="missing/image:1")
    ended = box.ended(ref)
    assert ended.exit_code == 125
    assert "manifest unknown" in box.log(ref)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    built = Engine(tmp_path / "bin", "podman")
    yield built
    built.close()


def test_from_the_command_line_to_the_container(
    engine: Engine, make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server(env={"PATH": f"{engine.folder}:/usr/bin:/bin"})
    submitted = (
        "--image",
        "busybox",
        "--memory",
        "100MB",
        "--retries",
        "0",
        "--cpus",
        "0.1",
        "--follow",
        "--",
        "sh",
        "-c",
        "echo in; exit 4",
    )
    folder = tmp_path / "code"
    folder.mkdir()
    ran = server.command("submit", *submitted, cwd=folder)
    assert (ran.returncode, ran.stdout) == (4, "in\n"), ran.stderr
    assert engine.calls[0][-4:] == ["busybox", "sh", "-c", "echo in; exit 4"]


def test_without_an_engine_an_image_is_refused_at_its_field(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server(env={"PATH": str(tmp_path)})
    answer = server.http.post("/api/v1/jobs", json={"command": ["true"], "image": "busybox"})
    assert answer.status_code == 400
    problem = answer.json()["error"]
    assert problem["field"] == "image"
    assert "neither podman nor a docker" in problem["message"]
    assert "podman" in problem["hint"]
    assert server.http.get("/api/v1/jobs").json() == []


def test_a_container_engine_is_podman_or_a_docker_that_runs() -> None:
    have = {"podman": "/usr/bin/podman", "docker": "/usr/bin/docker"}
    assert containers.engine(have.get, {}) == "/usr/bin/podman"
    assert containers.engine({"docker": "/usr/bin/docker"}.get, {"DOCKER_HOST": "tcp://x"}) == "/usr/bin/docker"
    assert containers.engine(lambda name: None, {}) is None


def test_an_image_is_refused_where_there_is_no_engine_or_it_is_none() -> None:
    for engine, spec, field in (
        (None, JobSpec(command=("x",), image="busybox"), "image"),
        ("podman", JobSpec(command=("x",), image="--privileged"), "image"),
        ("podman", JobSpec(command=("x",), image="busybox", procs=2), "procs"),
    ):
        with pytest.raises(InvalidInput) as caught:
            containers.check(spec, engine)
        assert caught.value.field == field
    containers.check(JobSpec(command=("x",)), None)


@pytest.mark.parametrize("engine", ["/usr/bin/docker", "/usr/bin/podman"])
def test_a_containers_command_names_folders_and_variables_but_no_value(engine: str) -> None:
    spec = JobSpec(command=("python", "train.py"), image="pytorch/pytorch:2")
    command = containers.wrap(
        engine,
        "mlbox-j-1",
        spec,
        {"TOKEN": "s3cret", "PATH": "/bin", "COLOUR": "red"},
        folders=["/d/work"],
        readable=["/d/datasets"],
        cwd="/d/work/a",
        devices=["GPU-1", "GPU-2"],
        memory_bytes=1 << 30,
    )
    line = " ".join(command)
    assert "s3cret" not in line
    assert "--env COLOUR --env TOKEN" in line
    assert "PATH" not in line
    assert "--volume /d/work:/d/work --volume /d/datasets:/d/datasets:ro --workdir /d/work/a" in line
    assert "--memory 1073741824b" in line
    gpus = (
        '--gpus "device=GPU-1,GPU-2"'
        if "docker" in engine
        else "--device nvidia.com/gpu=GPU-1 --device nvidia.com/gpu=GPU-2"
    )
    assert gpus in line
    assert command[-3:] == ["pytorch/pytorch:2", "python", "train.py"]
