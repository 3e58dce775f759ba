"""Attempts as folders: lay one out, and read what its shim left there."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mlbox.errors import InvalidInput
from mlbox.scheduler.executors.base import Ended, Launch, Mount, Ref
from mlbox.scheduler.executors.local import outputs, processes
from mlbox.scheduler.executors.local import shim as shims
from mlbox.scheduler.isolation import OWN, Isolation
from mlbox.store.artifacts import check_path, make_below, open_below
from mlbox.store.datadir import write_atomic

DATASETS = "datasets"
"""The folder of the versions that the job named: `NAME@vN/`, and `NAME@vN.json`, which the SDK knows them by."""
CHECKPOINTS = "checkpoints"
"""The folder of a job, beside those of its attempts, that they all share."""
KEPT = frozenset((outputs.CLAIM, outputs.LOG, outputs.MARKS, outputs.STATUS))
"""What stays of an attempt when all else is removed."""
LOG_REMOVED = b"mlbox: this log was removed, as those of jobs that ended long ago are (job_log_days).\n"
GOING = ".going-"
"""How the name of a folder begins that is being removed."""
MOST_CHECKPOINTS = 10_000
"""Files that are looked at for the newest."""
MOST_UNPACKED, MOST_MEMBERS = 1 << 30, 100_000
"""Bytes and members of a snapshot, whatever it is packed to: it is code, and the scheduler waits while it is unpacked."""
BLOCK_BYTES = 512
"""What `st_blocks` counts (stat(2))."""
TMP = "t"
"""The folder of the temporary folders of attempts, beside that of jobs."""
MOST_TMP = 64
"""Bytes; a socket's whole path has 107, and Python's multiprocessing adds some 35."""


class Claim(NamedTuple):
    """The process that took an attempt."""

    pid: int
    start: int
    """In clock ticks since boot: a process id that was given to another process is not it."""
    boot: str

    def lives(self) -> int | None:
        """A pidfd of the process, if it is still the one; whoever gets it closes it."""
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return None
        try:  # first the descriptor, then the look: what is looked at cannot be replaced in between unnoticed
            same = self.boot == processes.boot_id() and processes.start_ticks(self.pid) == self.start
            if same and not readable(fd):
                return fd
        except OSError:
            pass
        os.close(fd)
        return None


def readable(fd: int) -> bool:
    """Whether there is something to be read; of a pidfd, whether its process has ended, collected or not."""
    poll = select.poll()  # a server may have more descriptors than `select` can name
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class Folder:
    """The folder of one attempt. Paths are strings: those of pathlib were a third of what a short job cost the scheduler."""

    def __init__(self, root: str, ref: Ref) -> None:
        self._root = root
        self._ref = ref
        self.path = f"{root}/{ref.job_id}/{ref.number}"
        self.checkpoints = f"{root}/{ref.job_id}/{CHECKPOINTS}"
        """The job's, whichever the attempt."""
        self.datasets = f"{self.path}/{DATASETS}"
        """What the job mounts."""
        self.work = f"{self.path}/work"
        """Where the code is."""
        self.log = f"{self.path}/{outputs.LOG}"
        """What the command printed."""

    @property
    def tmp(self) -> str:
        """For temporary files: a path so short that sockets in it have room for their names."""
        name = f"{self._ref.job_id[-12:]}-{self._ref.number}"
        short = f"{os.path.dirname(self._root)}/{TMP}/{name}"
        return short if len(short) <= MOST_TMP else f"{tempfile.gettempdir()}/mlbox-{name}"

    @property
    def tmp_stays(self) -> bool:
        """Whether that folder, if it is empty in the end, goes with the attempt's others, and only what is in it at once.

        To make a folder, ext4 without a journal looks at every one beside it that was removed within the last minutes: where each
        of some hundred short jobs had removed one, the folders of the next cost more.
        """
        return self.tmp.startswith(os.path.dirname(self._root))

    def prepare(self, launch: Launch, isolation: Isolation, site: Path | None = None) -> dict[str, Any]:
        """Begin to lay out the folder; what the shim is to know of it, which makes the rest. To do it again changes nothing.

        In `site` Python finds what a confined job could not list.
        """
        tmp, checkpoints, path = self.tmp, self.checkpoints, self.path
        env = {"TMPDIR": tmp, "MLBOX_SPOOL": f"{path}/spool", "MLBOX_CHECKPOINT_DIR": checkpoints}
        spec: dict[str, Any] = {
            "folder": path,
            "folders": [tmp, checkpoints, *(f"{path}/{name}" for name in OWN)],
            "tmp": tmp,
            "tmp_stays": self.tmp_stays,
            "cwd": os.path.join(self.work, launch.spec.workdir) if launch.spec.workdir else self.work,
        }
        if launch.mounts:
            datasets = Path(self.datasets)
            datasets.mkdir(parents=True, exist_ok=True)
            for mount in launch.mounts:
                write_atomic(datasets / f"{mount.version.ref}.json", mount.version.to_json())
            env["MLBOX_DATASETS"] = self.datasets
            spec["mounts"] = [file for mount in launch.mounts for file in _files(mount, datasets)]
        rules = isolation.rules_of(self.path, tmp, checkpoints)
        if rules is not None:
            spec["confine"] = rules
            if launch.environment is not None:
                rules["runnable"] = [str(launch.environment)]
            elif site is not None:
                env["PYTHONPATH"] = str(site)
                rules["readable"].append(str(site))
        if launch.snapshot is not None:
            os.makedirs(self.work, exist_ok=True)
            unpack(launch.snapshot, Path(self.work))
        return {**spec, "env": env}

    def claim(self) -> Claim | None:
        """Who took the attempt, if it was taken."""
        try:
            pid, start, boot = os.readlink(f"{self.path}/{outputs.CLAIM}").split()
        except OSError:
            return None
        return Claim(int(pid), int(start), boot)

    def ended(self) -> Ended | None:
        """How it ended, if it did."""
        try:
            file = os.open(f"{self.path}/{outputs.STATUS}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            status = msgspec.json.decode(os.read(file, outputs.STATUS_BYTES))
        except msgspec.DecodeError:  # the name was on disk when the power failed, and the content was not
            return None
        finally:
            os.close(file)
        known = {name: status[name] for name in Ended.__dataclass_fields__ if name in status}
        return Ended(**known)

    def checkpoint_at(self) -> datetime | None:
        """When a file was last written to the folder for checkpoints."""
        newest = 0.0
        seen = 0
        for folder, _, files in os.walk(self.checkpoints):
            for name in files:
                with contextlib.suppress(OSError):
                    newest = max(newest, os.stat(os.path.join(folder, name)).st_mtime)
            seen += len(files)
            if seen > MOST_CHECKPOINTS:
                break
        return datetime.fromtimestamp(newest, UTC) if newest else None

    def held(self) -> int:
        """Bytes of its files and of the job's checkpoints; what is linked from elsewhere, as its datasets, is not its own."""
        blocks = 0
        for root in (self.path, self.tmp, self.checkpoints):
            for folder, _, files in os.walk(root):
                for name in files:
                    with contextlib.suppress(OSError):
                        seen = os.lstat(os.path.join(folder, name))
                        blocks += seen.st_blocks if seen.st_nlink == 1 else 0
        return blocks * BLOCK_BYTES

    def clear(self) -> None:
        """Remove the temporary files, and the datasets' names, once the attempt has ended."""
        shims.empty(self.tmp, stays=self.tmp_stays)
        if os.path.lexists(self.datasets):
            shutil.rmtree(self.datasets, ignore_errors=True)

    def discard(self) -> None:
        """Remove all but what tells of the attempt once it is over."""
        remove(Path(self.tmp))
        with contextlib.suppress(FileNotFoundError):
            for path in list(Path(self.path).iterdir()):
                if path.name not in KEPT:
                    remove(path)

    def discard_log(self) -> None:
        """Remove what was printed, and say so in its place."""
        if os.path.exists(self.log):
            write_atomic(Path(self.log), LOG_REMOVED)
            Path(self.path, outputs.MARKS).unlink(missing_ok=True)

    def checkpoints_by_age(self) -> list[Path]:
        """The files of the job's checkpoints, the oldest first."""
        found = [path for path in Path(self.checkpoints).rglob("*") if path.is_file() or path.is_symlink()]
        return sorted(found, key=lambda path: path.lstat().st_mtime)

    def discard_checkpoints(self) -> None:
        """Remove the job's checkpoints."""
        checkpoints = Path(self.checkpoints)
        remove(checkpoints)
        for unfinished in checkpoints.parent.glob(f"{GOING}*"):
            remove(unfinished)

    def say(self, line: str) -> None:
        """Put a line of ours into the log: why there was nothing to run."""
        with contextlib.suppress(OSError):  # the disk that holds it may be what is wrong
            os.makedirs(self.path, exist_ok=True)
            with open(self.log, "a") as log:
                log.write(f"mlbox: {line}\n")


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


def link_modules(folder: Path, modules: Sequence[Path]) -> Path | None:
    """Links to these modules in a folder, and nothing else; None where there are none. What runs may be using it."""
    wanted = {module.name: str(module) for module in modules}
    there = {path.name: os.readlink(path) for path in folder.iterdir()} if folder.exists() else {}
    for name in there.keys() - {name for name, target in wanted.items() if there.get(name) == target}:
        (folder / name).unlink()
    if not wanted:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in wanted.items():
        if there.get(name) != target:
            (folder / name).symlink_to(target)
    return folder


def remove(path: Path) -> None:
    """Remove a file, or a folder and what is in it, if it is there; raises OSError.

    A folder gets another name first, so that who looks for it finds all of it or nothing. What its owner may not write to is
    removed all the same.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    going = path if path.name.startswith(GOING) else path.with_name(f"{GOING}{path.name}-{time.time_ns()}")
    path.rename(going)
    going.chmod(0o700)
    for folder, names, _ in os.walk(going):
        for name in names:
            inside = os.path.join(folder, name)
            if not os.path.islink(inside):
                os.chmod(inside, 0o700)
    shutil.rmtree(going)


def unpack(snapshot: Path, target: Path) -> None:
    """Unpack the user's tar.gz: files and folders below the target, and nothing else. Raises InvalidInput naming the member.

    Written out, because Python has its own safe filter only from 3.11.4 on, and Debian 12 has 3.11.2.
    """
    try:
        with tarfile.open(snapshot, mode="r:gz") as archive:
            size = 0
            for count, member in enumerate(archive, 1):
                size += member.size
                if size > MOST_UNPACKED or count > MOST_MEMBERS:
                    raise InvalidInput(
                        f"The snapshot holds more than {MOST_UNPACKED >> 20:,} MiB or {MOST_MEMBERS:,} files.",
                        hint="Name data in .mlboxignore, and let the job fetch it.",
                        field="snapshot",
                    )
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
