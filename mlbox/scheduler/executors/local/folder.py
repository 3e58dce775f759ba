"""Attempts as folders: lay one out, start its shim, find it again, learn how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mlbox.errors import InvalidInput
from mlbox.scheduler.executors.base import Ended, Mount, Ref
from mlbox.scheduler.executors.local import shim
from mlbox.scheduler.isolation import NOT_ISOLATED, OWN, Isolation
from mlbox.store.artifacts import check_path, make_below, open_below
from mlbox.store.datadir import write_atomic

_INHERITED = ("HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "XDG_CACHE_HOME", "SSL_CERT_FILE")
"""What a job gets of the server's environment: nothing that could hold a secret."""
CONFINE = "confine.json"
DATASETS = "datasets"
"""The folder of the versions that the job named: `NAME@vN/`, and `NAME@vN.json`, which the SDK knows them by."""
MOST_TMP = 64
"""Bytes; a socket's whole path has 107, and Python's multiprocessing adds some 35."""


class Folder:
    """The folder of one attempt."""

    def __init__(self, root: Path, ref: Ref) -> None:
        self.path = root / ref.job_id / str(ref.number)
        short = root.parent / "t" / f"{ref.job_id[-12:]}-{ref.number}"
        self.tmp = short if len(str(short)) <= MOST_TMP else Path(tempfile.gettempdir()) / f"mlbox-{short.name}"
        """For temporary files: a path so short that sockets in it have room for their names."""

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.path / shim.LOG

    def prepare(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        snapshot: Path | None,
        limits: dict[str, Any],
        isolation: Isolation = NOT_ISOLATED,
        mounts: Sequence[Mount] = (),
    ) -> None:
        """Lay out the folder: the code, and what the shim is to run. Doing it again changes nothing that matters."""
        work, site = self.path / "work", self.path / "site"
        for name in OWN:
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.tmp.mkdir(parents=True, exist_ok=True, mode=0o700)
        env = {**env, "TMPDIR": str(self.tmp), "MLBOX_SPOOL": str(self.path / "spool")}
        if mounts:
            datasets = self.path / DATASETS
            datasets.mkdir(exist_ok=True)
            for mount in mounts:
                write_atomic(datasets / f"{mount.version.ref}.json", mount.version.to_json())
            env["MLBOX_DATASETS"] = str(datasets)
            limits = {**limits, "mounts": [file for mount in mounts for file in _files(mount, datasets)]}
        rules = isolation.rules_of(self.path, self.tmp)
        if rules is not None:
            for module in isolation.importable():
                with contextlib.suppress(FileExistsError):
                    (site / module.name).symlink_to(module)
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(site)]))
            write_atomic(self.path / CONFINE, json.dumps(rules).encode())
            limits = {**limits, "confine": str(self.path / CONFINE)}
        if snapshot is not None:
            unpack(snapshot, work)
        content = {"command": list(command), "cwd": str(work), "env": dict(env), **limits}
        write_atomic(self.path / shim.SPEC, json.dumps(content).encode())

    def clear(self) -> None:
        """Remove the temporary files, and the datasets' names, once the attempt has ended."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        shutil.rmtree(self.path / DATASETS, ignore_errors=True)

    def say(self, what: str) -> None:
        """Put a line of ours into the log: why there was nothing to run."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(f"mlbox: {what}\n")

    def start(self, env: Mapping[str, str] = {}, mask: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        """Start a shim, which runs the command unless another one already did.

        `env` is what of the environment must not lie on disk; `mask` what must not be in the log, by the names that replace it.
        """
        given = {"env": dict(env), "mask": dict(mask)}
        with (self.path / "shim.log").open("ab") as errors, in_memory(given) as private:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", shim.__file__, str(self.path)],
                stdin=private,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
                close_fds=True,
                env={"PATH": os.environ.get("PATH", "")},
            )

    def shim_pid(self) -> int | None:
        """The process that claimed the attempt, if it still lives: a pid that was given to another one is not it."""
        try:
            claim = json.loads((self.path / shim.CLAIM).read_text())
            lives = shim.start_ticks(claim["pid"]) == claim["start"] and not _is_zombie(claim["pid"])
            return claim["pid"] if lives else None
        except (OSError, ValueError, KeyError, IndexError):
            return None

    def claimed(self) -> bool:
        """Whether a shim ever took the attempt."""
        return (self.path / shim.CLAIM).exists()

    def ended(self) -> Ended | None:
        """How it ended, if it did."""
        try:
            status = json.loads((self.path / shim.STATUS).read_text())
        except FileNotFoundError:
            return None
        known = {name: status[name] for name in ("exit_code", "timed_out", "stopped", "error") if name in status}
        return Ended(**known)

    def stop(self) -> bool:
        """Ask the shim to end the command; False if there is no shim."""
        pid = self.shim_pid()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return False
        return True


def in_memory(content: dict[str, Any]) -> BinaryIO:
    """JSON in a file without a name, on no disk, whole before anyone reads it."""
    file = os.fdopen(os.memfd_create("mlbox-private"), "w+b")
    file.write(json.dumps(content).encode())
    file.seek(0)
    return file


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits for its parent to hear of it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _files(mount: Mount, datasets: Path) -> list[dict[str, str]]:
    """What of a dataset version the shim is to put where, below the folder of all versions."""
    ref = mount.version.ref
    return [
        {
            "name": f"{file.path} of {ref}",
            "source": str(source),
            "target": str(datasets / ref / check_path(file.path)),
            "sha256": file.sha256,
        }
        for file, source in zip(mount.version.files, mount.sources, strict=True)
    ]


def environment(user: Mapping[str, str], own: Mapping[str, str], devices: Sequence[str]) -> dict[str, str]:
    """A job's environment: a small clean one, what its user asked for, and what is ours, which no user overrides."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    return {
        **inherited,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        **{name: value for name, value in user.items() if not name.startswith("MLBOX_")},
        **own,
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
    }


def unpack(snapshot: Path, target: Path) -> None:
    """Unpack the user's tar.gz: files and folders below the target, and nothing else. Raises InvalidInput naming the member.

    Written out, because Python has its own safe filter only from 3.11.4 on, and Debian 12 has 3.11.2.
    """
    try:
        with tarfile.open(snapshot, mode="r:gz") as archive:
            for member in archive:
                _unpack_one(archive, member, target)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as err:
        raise InvalidInput(
            f"The snapshot cannot be unpacked: {err}.", hint="Submit again, as tar.gz.", field="snapshot"
        ) from err


def _unpack_one(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir() and member.name.strip("./") == "":  # the folder itself
        return
    name = member.name.removeprefix("./")
    if member.isdir():
        make_below(target, name)
        return
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise InvalidInput(
            f"{member.name!r:.200} in the snapshot is neither a file nor a folder.",
            hint="Leave it out.",
            field="snapshot",
        )
    with open_below(target, name, mode=0o700 if member.mode & 0o100 else 0o600) as file:
        shutil.copyfileobj(content, file)
