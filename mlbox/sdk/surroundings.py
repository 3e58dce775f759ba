"""What a run ran in: code, command, machine and packages, recorded by themselves so that it can be repeated.

Nothing here may slow or end a training: it is gathered on the run's own thread, each part for itself, and a part that fails is
left out. `MLBOX_RECORD=0` switches it off.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

OFF = "MLBOX_RECORD"
MAX_DIFF = 1 << 20
MAX_TEXT = 2000
SECONDS = 10
# A word is looked at from its first character only and no run is read twice: a diff may hold a notebook's picture in one line.
_SECRET = re.compile(
    r"(?i)((?<![\w-])(?=[\w-]*?(?:token|password|passwd|secret|api[_-]?key|credential))[\w-]++['\"]?(?:\s*+[=:]\s*+|\s++)['\"]?)"
    r"([^\s'\",;]{4,})"
)


def wanted() -> bool:
    """Whether this process records: not where it is switched off, and of several only the first."""
    return os.environ.get(OFF, "1").lower() not in ("0", "false", "no") and os.environ.get("RANK", "0") == "0"


def tags(folder: Path) -> dict[str, str]:
    """Facts by tag."""
    parts: list[Callable[[], dict[str, str]]] = [_command, _machine, lambda: _code(folder), _gpus]
    found: dict[str, str] = {}
    for part in parts:
        try:
            found |= {f"mlbox.{key}": value[:MAX_TEXT] for key, value in part().items() if value}
        except Exception:  # noqa: S112 what cannot be found out is not worth a training
            continue
    return found


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files to keep beside the run: the packages, and what differs from the commit."""
    for name, part in (("packages.txt", _packages), ("changes.diff", lambda: diff(folder))):
        try:
            content = part()
        except Exception:  # noqa: S112 as above
            continue
        if content:
            yield f"environment/{name}", content


def hide_secrets(text: str) -> str:
    """A text without what stands behind a word such as token or password."""
    return _SECRET.sub(r"\1[hidden]", text)


def _command() -> dict[str, str]:
    arguments = sys.orig_argv if len(sys.orig_argv) > 1 else sys.argv
    return {"command": hide_secrets(shlex.join(arguments)), "folder": str(Path.cwd())}


def _machine() -> dict[str, str]:
    return {
        "host": platform.node(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }


def _code(folder: Path) -> dict[str, str]:
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "git.commit": commit,
        "git.branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "",
        "git.dirty": "true" if _git(folder, "status", "--porcelain", "--", ".") else "false",
        "git.origin": _without_user(_git(folder, "remote", "get-url", "origin") or ""),
    }


def _gpus() -> dict[str, str]:
    """As nvidia-smi lists them, without loading CUDA into this process."""
    wanted = "--query-gpu=name,memory.total,driver_version"
    listed = _output(["nvidia-smi", wanted, "--format=csv,noheader"])
    if not listed:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"gpus": "; ".join(listed.splitlines()), **({"gpus.visible": visible} if visible else {})}


def _packages() -> bytes:
    from importlib.metadata import distributions

    found = {f"{one.metadata['Name']}=={one.version}" for one in distributions() if one.metadata["Name"]}
    return "".join(f"{line}\n" for line in sorted(found, key=str.lower)).encode()


def diff(folder: Path) -> bytes:
    """What of the followed files differs from the commit, with what looks like a secret hidden."""
    changed = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", "--", ".")
    if not changed:
        return b""
    text = hide_secrets(changed)
    if len(text) > MAX_DIFF:
        text = f"{text[:MAX_DIFF]}\n[{len(text) - MAX_DIFF:,} more characters were left out]\n"
    return text.encode("utf-8", "replace")


def _without_user(url: str) -> str:
    """An address without the credentials that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", url)


def _git(folder: Path, *arguments: str) -> str | None:
    return _output(["git", "-C", str(folder), *arguments])


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip("\n") if done.returncode == 0 else None
