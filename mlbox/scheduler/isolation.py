"""What a job may reach of the machine, and whether this machine can hold it to that."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlbox import context
from mlbox.errors import StartupError
from mlbox.scheduler import confine

PACKAGE = Path(__file__).parents[1]
CREDENTIALS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".git-credentials", ".pgpass", ".pypirc"),
    *(".config/gcloud", ".config/gh", ".local/state/mlbox"),
)
"""Of the home that jobs share with the server: what proves who somebody is."""


OWN = ("work", "spool")
"""The folders in an attempt's that are the job's own."""
READABLE = ("datasets",)
"""Those that it may read."""


class Isolation(NamedTuple):
    """How the jobs of this box are confined."""

    confined: bool
    state: str
    """In words, for /readyz and the admin page."""
    closed: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    """What nobody writes to, wherever it lies: the code that the server runs."""

    def rules_of(self, folder: str, *shared: str) -> dict[str, Any] | None:
        """What the attempt in a folder may reach beside what everyone may read: its own; None where it is not confined.

        `shared` are folders of its own that lie elsewhere.
        """
        if not self.confined:
            return None
        own = [*shared, *(f"{folder}/{name}" for name in OWN)]
        return {**self.rules(self.writable, own), "readable": [f"{folder}/{name}" for name in READABLE]}

    def rules(self, writable: Sequence[str], own: Sequence[str] = ()) -> dict[str, Any]:
        """What a process may write to: with others, and alone."""
        return {
            "closed": list(self.closed),
            "fixed": list(self.fixed),
            "writable": list(writable),
            "own": list(own),
            "readable": [],
            "runnable": [],
        }

    def importable(self) -> list[Path]:
        """Modules in folders that a job cannot list, because something closed is below them: as where mlbox runs from a checkout.

        A job finds them through links in a folder of its own. They are looked for once in a server's life.
        """
        return _importable(self.closed)


NOT_ISOLATED = Isolation(False, "jobs are not isolated")


@functools.cache
def _importable(closed: tuple[str, ...]) -> list[Path]:
    folders = [Path(path) for path in sys.path if os.path.isabs(path) and _leads_to(path, closed)]
    return [path for folder in folders for path in sorted(folder.iterdir()) if _is_module(path)]


def _leads_to(folder: str, closed: Sequence[str]) -> bool:
    """True for a folder from which Python imports, and which a job could not list because something closed is below it."""
    return any(confine.is_below(path, os.path.normpath(folder)) for path in closed)


def _is_module(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


def isolation(wanted: str, data_dir: Path, writable: Sequence[str] = (), *, keys: Sequence[str] = ()) -> Isolation:
    """The isolation of this machine, wanted as the setting says; raises StartupError where it is required and not to be had.

    `keys` are files of the server's own that no job may read, such as that of its certificate's key.
    """
    if wanted == "off":
        return Isolation(False, "jobs are not isolated: job_isolation is off; a job can read what the server can")
    version = confine.version()
    if not version:
        if wanted == "required":
            raise StartupError(
                "Jobs cannot be isolated: this kernel has no Landlock, and job_isolation is required.",
                hint="Use Linux 5.13 or newer with landlock among its security modules, or set job_isolation to auto.",
            )
        return Isolation(
            False, "jobs are not isolated: this kernel has no Landlock; a job can read what the server can"
        )
    home = Path.home()
    closed = [
        data_dir.resolve(),
        context.path().parent,
        *(path for name in CREDENTIALS if (path := home / name).exists()),
        *(Path(key).resolve() for key in keys),
    ]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return Isolation(
        True,
        f"jobs are isolated by Landlock {version}",
        tuple(str(path) for path in closed),
        (str(cache), *(str(Path(path).resolve()) for path in writable)),
        tuple(str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, PACKAGE)),
    )
