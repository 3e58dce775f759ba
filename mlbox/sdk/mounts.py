"""Dataset versions that lie ready on this machine: those that a job named, in a folder that it may only read."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from mlbox.errors import MlboxError
from mlbox.records import DatasetVersion

FOLDER, OF_BOX = "MLBOX_DATASETS", "MLBOX_URL"
"""The folder holds `NAME@vN/`, its files, and `NAME@vN.json`, its record."""


def mounted(url: str, ref: str) -> tuple[DatasetVersion, Path] | None:
    """A version of the box at this URL and the folder of its files, if it is mounted here.

    A name without a version is the one that is mounted, which was the latest when the job was submitted.
    """
    folder = os.environ.get(FOLDER)
    if not folder or url != os.environ.get(OF_BOX, "").rstrip("/"):
        return None
    refs = [path.name.removesuffix(".json") for path in Path(folder).glob("*@v*.json")]
    found = [known for known in refs if known == ref] or [known for known in refs if known.partition("@")[0] == ref]
    if len(found) != 1:
        return None
    try:
        record = (Path(folder) / f"{found[0]}.json").read_bytes()
        return msgspec.json.decode(record, type=DatasetVersion), Path(folder) / found[0]
    except (OSError, msgspec.MsgspecError) as err:
        raise MlboxError(f"The mounted dataset {found[0]} cannot be read: {err}.", hint="Retry the job.") from err
