"""Python environments of jobs: built by uv from what a job was submitted with, once, and shared read-only from then on.

An environment is a folder, by the hash of its inputs and of the Python that it is for:

    inputs/   uv.lock and pyproject.toml, requirements.txt, or pyproject.toml alone
    venv/     what uv made of them
    packages.txt, log, ready

Without `ready`, which is written last, it is not there. A build has a lock that its process keeps open: a server that was killed
leaves a build that the next one waits for, and then makes anew.

uv runs confined, as jobs do. First it may take nothing but wheels, from a cache that all builds share; where that fails it may
also build, which runs code of others, and therefore with a cache of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlbox.scheduler import confined
from mlbox.scheduler.executors.local.folder import unpack
from mlbox.scheduler.isolation import NOT_ISOLATED, Isolation
from mlbox.store.artifacts import Artifacts
from mlbox.store.datadir import write_atomic

AT_ONCE = 2
"""Builds at a time."""
SAID_BYTES = 20_000
"""Of what uv said, the end."""
DAY = 86400.0
READY, LOG, PACKAGES, RULES = "ready", "log", "packages.txt", "confine.json"
_PASSED = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PASSED_PREFIXES = (
    "UV_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)


_log = logging.getLogger(__name__)


class NotBuilt(Exception):
    """An environment that could not be built; the hint is what uv said, or what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".rstrip())
        self.message = message
        self.hint = hint


class Environments:
    """All environments of a box."""

    def __init__(
        self,
        root: Path,
        artifacts: Artifacts,
        *,
        isolation: Isolation = NOT_ISOLATED,
        seconds: float = 1800,
        days: float = 30,
    ) -> None:
        self._root = root
        self._artifacts = artifacts
        self._isolation = isolation
        self._seconds = seconds
        self._days = days
        self._built: Callable[[str], None] = lambda job_id: None
        self._in_use: Callable[[], Collection[str]] = tuple
        self._lock = threading.Lock()
        self._waiting: dict[str, set[str]] = {}
        """Who waits for each build that is under way."""
        self._failed: dict[str, NotBuilt] = {}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closing = False
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlbox-environment")

    def open(self, built: Callable[[str], None], in_use: Callable[[], Collection[str]]) -> None:
        """From then on `built` is called, in any thread, for each job whose environment's build is over.

        `in_use` are those that are never removed.
        """
        self._built, self._in_use = built, in_use

    def folder(self, inputs: str) -> Path:
        """The folder of the environment of an artifact."""
        return self._root / key_of(inputs)

    def is_ready(self, inputs: str) -> bool:
        """Whether it was built, and is still there."""
        return (self.folder(inputs) / READY).exists()

    def ask(self, inputs: str, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that wait for it to be built; for the others it is there, or could not be built."""
        with self._lock:
            if self.is_ready(inputs):
                return set()
            waiting = {job_id for job_id in job_ids if job_id not in self._failed}
            if waiting:
                if inputs not in self._waiting:
                    self._pool.submit(self._build_for_all, inputs)
                self._waiting.setdefault(inputs, set()).update(waiting)
            return waiting

    def take(self, inputs: str, job_id: str) -> Path:
        """The environment for a job that need not wait for it; raises NotBuilt."""
        with self._lock:
            failed = self._failed.pop(job_id, None)
        if failed is not None:
            raise failed
        folder = self.folder(inputs)
        os.utime(folder / READY)  # by which its age counts
        return folder / "venv"

    def packages(self, inputs: str) -> str:
        """What is in it, a line for each package; nothing where it is not there."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder(inputs) / PACKAGES).read_text()
        return ""

    def evict(self) -> list[str]:
        """Remove those that no attempt was given for so many days, but for those in use; their keys. Done before each build."""
        kept = {key_of(inputs) for inputs in self._in_use()}
        with self._lock:
            kept |= {key_of(inputs) for inputs in self._waiting}
        old = [folder for folder in self._folders() if folder.name not in kept and self._is_old(folder)]
        for folder in old:
            with contextlib.suppress(FileNotFoundError):
                (folder / READY).unlink()
            shutil.rmtree(folder, ignore_errors=True)
        return [folder.name for folder in old]

    def _folders(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from (path for path in self._root.iterdir() if path.is_dir() and path.name != "cache")

    def _is_old(self, folder: Path) -> bool:
        try:
            return time.time() - (folder / READY).stat().st_mtime > self._days * DAY
        except FileNotFoundError:
            return time.time() - folder.stat().st_mtime > DAY  # what a build left that failed

    def close(self) -> None:
        """End what is being built; it is built anew when it is asked for again."""
        with self._lock:
            self._closing = True
            running = list(self._running)
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._pool.shutdown(cancel_futures=True)

    # -- building ---------------------------------------------------------------------------------------------------

    def _build_for_all(self, inputs: str) -> None:
        failed: NotBuilt | None = None
        try:
            self.evict()
            self._build(inputs)
        except NotBuilt as err:
            failed = err
        except Exception as err:  # whatever it is, those who wait are to hear of it
            _log.exception("An environment could not be built.")
            failed = NotBuilt(f"Its environment could not be built: {err}.")
        with self._lock:
            waiting = self._waiting.pop(inputs, set())
            if failed is not None:
                self._failed |= dict.fromkeys(waiting, failed)
        for job_id in waiting:
            self._built(job_id)

    def _build(self, inputs: str) -> None:
        folder = self.folder(inputs)
        folder.mkdir(parents=True, exist_ok=True)
        with (self._root / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a build of a server that was killed may still be under way
            if (folder / READY).exists():
                return
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            began = time.monotonic()
            (folder / "inputs").mkdir()
            unpack(self._artifacts.path(inputs), folder / "inputs")
            self._install(folder, lock.fileno())
            (folder / PACKAGES).write_bytes(
                self._uv(folder, ["pip", "freeze", "--quiet", "--python", str(folder / "venv")], lock.fileno())
            )
            facts = {"python": platform.python_version(), "seconds": round(time.monotonic() - began, 1)}
            write_atomic(folder / READY, json.dumps(facts).encode())

    def _install(self, folder: Path, lock: int) -> None:
        shared = self._root / "cache"
        shared.mkdir(exist_ok=True)
        try:
            self._install_with(folder, lock, shared, ["--no-build"])
        except NotBuilt:
            shutil.rmtree(folder / "venv", ignore_errors=True)
            own = folder / "cache"
            self._install_with(folder, lock, own, [])
            shutil.rmtree(own, ignore_errors=True)

    def _install_with(self, folder: Path, lock: int, cache: Path, more: Sequence[str]) -> None:
        for command in commands(folder / "inputs", folder / "venv"):
            self._uv(folder, [*command, *(more if command[0] != "venv" else ())], lock, cache)

    def _uv(self, folder: Path, command: Sequence[str], lock: int, cache: Path | None = None) -> bytes:
        """Run uv, confined; what it printed. Raises NotBuilt with its words."""
        from uv import find_uv_bin

        cache = cache or folder / "cache"
        (folder / "tmp").mkdir(exist_ok=True)
        arguments = [find_uv_bin(), *command]
        if self._isolation.confined:
            rules = self._isolation.rules([str(folder), str(cache)])
            write_atomic(folder / RULES, json.dumps(rules).encode())
            arguments = [sys.executable, "-I", "-S", confined.__file__, str(folder / RULES), *arguments]
        output, code = self._run(arguments, folder, lock, _env(folder, cache))
        if code != 0:
            said = output[-SAID_BYTES:].decode(errors="replace").strip()
            raise NotBuilt("Its environment could not be built.", hint=said)
        return output

    def _run(self, arguments: list[str], folder: Path, lock: int, env: dict[str, str]) -> tuple[bytes, int]:
        with self._lock:
            if self._closing:
                raise NotBuilt("The server is being stopped.")
            process = subprocess.Popen(
                arguments,
                cwd=folder / "inputs",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
            self._running.add(process)
        try:
            return process.communicate(timeout=self._seconds)[0], process.returncode
        except subprocess.TimeoutExpired as err:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise NotBuilt(
                f"Its environment could not be built in {self._seconds:g} s.",
                hint="The setting environment_seconds says how long that may take.",
            ) from err
        finally:
            with self._lock:
                self._running.discard(process)


def key_of(inputs: str) -> str:
    """The name of an environment: other inputs, another Python or another machine make another one."""
    made_for = f"{inputs} {sys.implementation.cache_tag} {platform.python_version()} {platform.machine()}"
    return hashlib.sha256(made_for.encode()).hexdigest()[:32]


def commands(inputs: Path, venv: Path) -> list[list[str]]:
    """What uv is to do with what was sent; raises NotBuilt where there is nothing of use."""
    if (inputs / "uv.lock").exists():
        return [["sync", "--frozen", "--no-dev", "--no-install-project", "--python", sys.executable]]
    named = next((name for name in ("requirements.txt", "pyproject.toml") if (inputs / name).exists()), None)
    if named is None:
        raise NotBuilt(
            "Its environment has no uv.lock, requirements.txt or pyproject.toml.",
            hint="Submit with --environment PATH.",
        )
    return [
        ["venv", "--python", sys.executable, str(venv)],
        ["pip", "install", "--python", str(venv), "--requirement", named],
    ]


def _env(folder: Path, cache: Path) -> dict[str, str]:
    """uv's environment: what of the server's says where packages come from, and where everything goes."""
    passed = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return {
        **passed,
        "HOME": str(folder / "tmp"),
        "TMPDIR": str(folder / "tmp"),
        "UV_CACHE_DIR": str(cache),
        "UV_PROJECT_ENVIRONMENT": str(folder / "venv"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
    }
