"""One folder for each model that keeps weights in other files: the model and what lies beside it, and nothing else.

The files are links to the artifacts that they are, so a folder takes no room and can be made again at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mlbox.errors import MlboxError
from mlbox.records import ModelVersion, RunArtifact
from mlbox.store.artifacts import Artifacts, check_path
from mlbox.store.registry.registry import Registry

FOLDER = "models"
MAIN = "model.onnx"
SUFFIX = ".model"
"""By which the name of a model's own folder ends."""
MOST_FILES = 1000
_NAME_BYTES = 24


class ModelFolders:
    """The folders of the models in one artifact store, beside it."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._root = artifacts.root.with_name(FOLDER)

    def clear(self) -> None:
        """Remove what a former server left: its links keep artifacts on the disk that are no more."""
        shutil.rmtree(self._root, ignore_errors=True)

    def of_version(self, registry: Registry, version: ModelVersion, *, verify: bool = False) -> Path:
        """A version's file, as `of`, with its other files that lie beside it; to `verify` reads them all, and compares."""
        assert version.artifact is not None
        others = _others(version.artifact, registry.files_of(version.id))
        if verify:
            for digest in (version.artifact, *(file.sha256 for file in others)):
                self._artifacts.verified(digest)
        return self.of(version.artifact, others)

    def among(self, artifact: str, files: Sequence[RunArtifact]) -> Path:
        """A model that is one of some files, as `of`, with those that lie beside it."""
        return self.of(artifact, _others(artifact, files))

    def of(self, artifact: str, beside: Sequence[RunArtifact]) -> Path:
        """A model, by its SHA-256, in a folder with files by their paths beside it; alone where there are none."""
        if not beside:
            return self._artifacts.path(artifact)
        listing = sorted([(MAIN, artifact), *((file.path, file.sha256) for file in beside)])
        name = hashlib.sha256(msgspec.json.encode(listing)).hexdigest()[:_NAME_BYTES]
        folder = self._root / (name + SUFFIX)
        if not folder.exists():
            self._make(folder, dict(listing))
        return folder / MAIN

    def _make(self, folder: Path, files: dict[str, str]) -> None:
        self._root.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=self._root))
        for name, digest in files.items():
            target = made / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(self._artifacts.path(digest), target)
        try:
            made.rename(folder)
        except OSError:  # another made it meanwhile
            shutil.rmtree(made)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _others(artifact: str, files: Sequence[RunArtifact]) -> list[RunArtifact]:
    path = next((file.path for file in files if file.sha256 == artifact), None)
    return [] if path is None else beside(path, files)


def beside(path: str, files: Sequence[RunArtifact]) -> list[RunArtifact]:
    """Of a run's or a version's files those in the folder of a model, or below it, with their paths from there."""
    folder = path.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    found = []
    for file in files:
        name = file.path.removeprefix(prefix)
        if file.path.startswith(prefix) and file.path != path and name != MAIN and _is_plain(name):
            found.append(msgspec.structs.replace(file, path=name))
    return found[:MOST_FILES]


def own_files(model: Path) -> frozenset[str]:
    """The files that a model may keep weights in, by their paths from it: those of its own folder, if it has one."""
    folder = model.parent
    if folder.suffix != SUFFIX:
        return frozenset()
    return frozenset(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _is_plain(name: str) -> bool:
    try:
        return check_path(name) == name
    except MlboxError:
        return False
