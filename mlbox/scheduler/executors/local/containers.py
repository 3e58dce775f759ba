"""Jobs in container images: through podman or docker, where this machine has one that answers.

The container stands in for the confinement: it sees its own image, and of this machine no more than the attempt's folders, at the
paths that they have outside.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlbox.errors import InvalidInput
from mlbox.records import JobSpec

IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
END_SECONDS = 20.0
DOCKER_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
OF_THE_IMAGE = ("PATH", "PYTHONPATH", "HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "SSL_CERT_FILE")
"""What an image has its own of."""
OF_THE_ENGINE = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "CONTAINER_HOST")
"""What the engine's client needs of the server's environment."""


def engine(which: Callable[[str], str | None] = shutil.which, environ: Mapping[str, str] = os.environ) -> str | None:
    """The path of podman, which needs no daemon, or else of a docker whose daemon there is; None without either."""
    if found := which("podman"):
        return found
    docker = which("docker")
    there = "DOCKER_HOST" in environ or any(Path(path).is_socket() for path in DOCKER_SOCKETS)
    return docker if there else None


def check(spec: JobSpec, engine: str | None) -> None:
    """Raise InvalidInput for an image that cannot be run here."""
    if not spec.image:
        return
    if not IMAGE.fullmatch(spec.image):
        raise InvalidInput(
            f"{spec.image[:80]!r} is not the name of an image.", hint="Such as pytorch/pytorch:latest.", field="image"
        )
    if engine is None:
        raise InvalidInput(
            "The job asks for a container image, and this box has neither podman nor a docker that runs.",
            hint="Have podman installed on the box, or submit without an image.",
            field="image",
        )
    if spec.procs > 1:
        raise InvalidInput(
            "A container runs one command, and the job asks for several ranks.",
            hint="Start torchrun --nproc-per-node in the container, and leave procs out.",
            field="procs",
        )


def wrap(
    engine: str,
    name: str,
    spec: JobSpec,
    env: Mapping[str, str],
    *,
    folders: Sequence[str],
    readable: Sequence[str],
    cwd: str,
    devices: Sequence[str],
    memory_bytes: int,
) -> list[str]:
    """The command that runs a job's command in its image. Of the environment it has the names: values may be secret."""
    docker = Path(engine).name == "docker"
    user = ["--user", f"{os.geteuid()}:{os.getegid()}"] if docker else ["--userns", "keep-id"] if os.geteuid() else []
    if docker:
        gpus = ["--gpus", f'"device={",".join(devices)}"'] if devices else []
    else:
        gpus = [part for device in devices for part in ("--device", f"nvidia.com/gpu={device}")]
    return [
        *(engine, "run", "--rm", "--init", "--name", name, "--network", "host"),
        *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
        *("--memory", f"{memory_bytes}b", "--shm-size", f"{memory_bytes // 2}b"),
        *user,
        *gpus,
        *(part for folder in folders for part in ("--volume", f"{folder}:{folder}")),
        *(part for folder in readable for part in ("--volume", f"{folder}:{folder}:ro")),
        *("--workdir", cwd),
        *(part for variable in sorted(env) if variable not in OF_THE_IMAGE for part in ("--env", variable)),
        spec.image,
        *spec.command,
    ]


def remove(engine: str, name: str) -> list[str]:
    """The command that ends a container that its client left behind."""
    return [engine, "rm", "--force", name]


def end(engine: str, name: str) -> None:
    """End the container of an attempt whose shim is gone, if there is one; it is no descendant of that shim."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            remove(engine, name),
            env=client_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=END_SECONDS,
            check=False,
        )


def client_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the engine's client finds of the server's environment."""
    return {name: environ[name] for name in OF_THE_ENGINE if name in environ}
