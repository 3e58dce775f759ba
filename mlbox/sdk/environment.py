"""The Python environment that a job asks for: which files say it, as a tar.gz that is the same for the same files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlbox.errors import InvalidInput
from mlbox.sdk.snapshot import Code, pack

BOX, AUTO = "box", "auto"
LOCK, REQUIREMENTS, PROJECT = "uv.lock", "requirements.txt", "pyproject.toml"
_INCLUDES = ("-r", "-c", "--requirement", "--constraint")


def inputs(choice: str, code: Path) -> dict[str, Path]:
    """Files by the name that the box knows them by: none for the box's own environment.

    `auto` takes what the code's folder has, uv.lock before requirements.txt before pyproject.toml; anything else is the path of
    such a file. Raises InvalidInput where there is none.
    """
    if choice == BOX:
        return {}
    path = code if choice == AUTO else Path(choice)
    if path.is_dir():
        found = next((path / name for name in (LOCK, REQUIREMENTS, PROJECT) if (path / name).is_file()), None)
        if found is None:
            raise InvalidInput(
                f"{path} has no {LOCK}, {REQUIREMENTS} or {PROJECT}.",
                hint="Name one with --environment PATH, or use the box's own: --environment box.",
                field="environment",
            )
        path = found
    if not path.is_file():
        raise InvalidInput(f"{path} is no file.", hint="Give box, auto or a file.", field="environment")
    lock = path.with_name(LOCK)
    if path.name == LOCK or (path.name == PROJECT and lock.is_file()):
        return {LOCK: lock, PROJECT: _there(path.with_name(PROJECT))}
    if path.name == PROJECT:
        return {PROJECT: path}
    return {REQUIREMENTS: path, **dict(_included(path, path.parent))}


def _included(file: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """What a requirements file includes, and what that does."""
    for line in file.read_text(errors="replace").splitlines():
        option, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if option in _INCLUDES and rest.strip() and "://" not in rest:
            found = _there(file.parent / rest.split("#")[0].strip())
            try:
                name = found.resolve().relative_to(root.resolve()).as_posix()
            except ValueError as err:
                raise InvalidInput(
                    f"{file} includes {found}, which is not below {root}.", hint="Move it there.", field="environment"
                ) from err
            yield name, found
            yield from _included(found, root)


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InvalidInput(f"There is no {path}.", hint="It belongs to the environment.", field="environment")
    return path


def pack_inputs(files: dict[str, Path]) -> BinaryIO:
    """The files as a tar.gz; whoever asks closes it."""
    with tempfile.TemporaryDirectory(prefix="mlbox-environment-") as folder:
        for name, path in files.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        return pack(Code(Path(folder), {name: path.stat().st_size for name, path in files.items()}))
