"""Unmodified clients of the Open Inference Protocol: tritonclient, KServe's SDK, perf_analyzer.

Programs that cannot send a header, as Triton's examples, come through a proxy that adds the token. Those of its repository itself
are run where `MLBOX_TRITON_EXAMPLES` names their folder (client/src/python/examples); the calls that they make are always.
"""

from __future__ import annotations

import ctypes.util
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlbox.settings import Settings
from mlbox.web.box import Box
from mlbox.web.rpc import inference_pb2 as pb
from tests.compat.conftest import HERE, environment, token_of
from tests.compat.proxy import Proxy
from tests.conftest import Server
from tests.models import counting, examples
from tests.web.served import with_mixed
from tests.web.test_endpoint_page import calls_on, page_of
from tests.web.test_golden import serve
from tests.web.test_rpc import place_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
Run = Callable[[str, str], str]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with `score`, `counting` and the models of Triton's examples in Production, and `mixed` in Staging."""
    folder = tmp_path_factory.mktemp("inference") / "data"
    with_mixed(folder)
    with closing(Box(Settings(data_dir=str(folder), gpus="none"), url="http://localhost")) as inside:
        for name, model in {**examples(), "counting": counting()}.items():
            serve(inside, name, model)
    server = Server(folder, "--grpc-port", "0", "--open-inference-name", "triton")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def door(box: Server) -> Iterator[Proxy]:
    """A way to the server for who has no token."""
    with Proxy(box.url.removeprefix("http://"), place_of(box), token_of(box, "ann", "member")) as made:
        yield made


@pytest.fixture(scope="module")
def run(box: Server, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run one of `scripts/` with a client; what it prints."""
    env = {
        "MLBOX_TOKEN": token_of(box, "ann", "member"),
        "MLBOX_HTTP": box.url.removeprefix("http://"),
        "MLBOX_GRPC": place_of(box),
        "PATH": os.environ["PATH"],
    }

    def go(client: str, name: str) -> str:
        folder = tmp_path_factory.mktemp(name)
        command = [str(environment(client)), "-W", "ignore", str(HERE / "scripts" / f"{name}.py")]
        done = subprocess.run(
            command,
            env={**env, "HOME": str(folder)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{box.log[-3000:]}"
        return done.stdout

    return go


def test_tritonclient_by_http_and_grpc_and_the_same_messages(run: Run) -> None:
    theirs = dict(line.split(" ", 1) for line in run("triton", "triton_calls").splitlines())
    ours = {}

    def walk(found: object) -> None:
        for message in found:  # type: ignore[attr-defined]
            ours[message.full_name] = str(sorted((f.name, (f.number, f.type)) for f in message.fields))
            walk(message.nested_types)

    walk(pb.DESCRIPTOR.message_types_by_name.values())
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 60
    assert theirs.keys() <= ours.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_the_call_of_tritonclient_on_the_page_is_answered(box: Server, tmp_path: Path) -> None:
    script = tmp_path / "call.py"
    script.write_text(calls_on(page_of(box))["tritonclient"].replace("'…'", "'u3'"))  # nobody has asked yet
    ran = subprocess.run(
        [str(environment("triton")), str(script)],
        env={"MLBOX_TOKEN": token_of(box, "ann", "member"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "0.95257" in ran.stdout


def test_kserves_sdk_by_rest_and_grpc(run: Run) -> None:
    assert run("kserve", "kserve_calls").splitlines()[-1] == "done"


@pytest.mark.parametrize("way", ["straight", "proxy"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer(box: Server, door: Proxy, protocol: str, way: str, tmp_path: Path) -> None:
    """Its last wheel links to libb64 and CUDA's runtime, of which the first is the system's: apt install libb64-0d."""
    if ctypes.util.find_library("b64") is None and not os.environ.get("MLBOX_LIBB64"):
        pytest.skip("perf_analyzer needs libb64: apt install libb64-0d, or its folder in MLBOX_LIBB64")
    python = environment("perf")
    (cuda,) = python.parents[1].glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    command = [str(python.with_name("perf_analyzer")), "-m", "score", "-i", protocol, "--shape", "input:1"]
    if way == "straight":
        header = "Authorization" if protocol == "http" else "authorization"
        command += ["-H", f"{header}: Bearer {token_of(box, 'ann', 'member')}"]
        command += ["-u", box.url.removeprefix("http://") if protocol == "http" else place_of(box)]
    else:
        command += ["-u", door.http if protocol == "http" else door.rpc]
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "99", "-b", "2"]
    libraries = f"{cuda}:{os.environ.get('MLBOX_LIBB64', '')}"
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": libraries},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert re.search(r"Throughput: [1-9]", done.stdout), done.stdout


EXAMPLES = re.findall(
    r"^def (\w+_client|\w+_metadata|\w+_control)\(url", (HERE / "scripts" / "triton_examples.py").read_text(), re.M
)
"""By the names of the programs whose calls they make."""
THEIRS = os.environ.get("MLBOX_TRITON_EXAMPLES", "")
OURS_TO_REFUSE = {"shm", "cudashm", "sequence", "control", "reuse"}
"""What programs do that this server does not offer: shared memory, sequences, a configuration that is not the registry's."""


def through(door: Proxy, command: list[str], folder: Path) -> str:
    """What a program says that has no token."""
    ran = subprocess.run(
        [str(environment("triton")), "-W", "ignore", *command],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
    return ran.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_calls_of_tritons_examples(door: Proxy, name: str, tmp_path: Path) -> None:
    for protocol in ("http", "grpc") if name.startswith("reuse") else ("grpc" if "grpc" in name else "http",):
        url = door.http if protocol == "http" else door.rpc
        said = through(door, [str(HERE / "scripts" / "triton_examples.py"), name, url, protocol], tmp_path)
        assert f"PASS: {name}" in said


if THEIRS:

    @pytest.mark.parametrize("name", [name for name in EXAMPLES if not OURS_TO_REFUSE & set(name.split("_"))])
    def test_tritons_own_examples(door: Proxy, name: str, tmp_path: Path) -> None:
        url = door.rpc if "grpc" in name else door.http
        through(door, [str(Path(THEIRS) / f"{name}.py"), "-u", url], tmp_path)
