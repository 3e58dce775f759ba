"""The backups of a box: where they lie, and what of its jobs is in them."""

from __future__ import annotations

from pathlib import Path

from mlbox.clock import Clock
from mlbox.scheduler.executors.local import outputs
from mlbox.scheduler.executors.local.folder import CHECKPOINTS, KEPT
from mlbox.store.backup import Backups
from mlbox.store.offline.offline import Offline

FOLDER = "backups"
# A claim names a process by its id: a restored box on the same machine would take the other box's job for its own.
_OF_AN_ATTEMPT = KEPT - {outputs.CLAIM}


def open_backups(root: Path, folder: str, offline: Offline, clock: Clock) -> Backups:
    """The backups in the folder that the setting names, or in the data directory."""
    return Backups(root, Path(folder or root / FOLDER).resolve(), offline, clock, keep_of_job=_keep_of_job)


def _keep_of_job(path: Path) -> bool:
    """Logs, how attempts ended, and checkpoints; not the code and what else lies in a working folder."""
    return CHECKPOINTS in path.parts[1:2] or (len(path.parts) == 3 and path.name in _OF_AN_ATTEMPT)
