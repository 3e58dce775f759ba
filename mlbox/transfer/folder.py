"""A folder as what lies between two boxes: written from a source, and a source itself.

`format.json` names the format; `experiments.jsonl` and `models.jsonl` have an item a line; below `runs/` and `logged/` is a
file for each experiment, below `points/` and `files/` one for each run, and below `blobs/` each content once, by its SHA-256.
`SHA256SUMS` has the hash of every other file but the blobs, and is written last: a folder without it is not whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mlbox.errors import InvalidInput, NotFound
from mlbox.transfer.items import ExperimentItem, File, LoggedModelItem, ModelItem, Point, RunItem, Source

FORMAT = "mlbox-export/1"
SUMS = "SHA256SUMS"
CHUNK = 1 << 20
_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_DIGEST = re.compile("[0-9a-f]{64}")
T = TypeVar("T")


class Head(msgspec.Struct):
    """What a folder says of itself."""

    format: str
    source: str


# -- writing ------------------------------------------------------------------------------------------------------------


class Writer:
    """Writes what a source has into a folder. A folder that was begun is gone on with: contents that are there are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.exists() and any(folder.iterdir()) and not (folder / "format.json").exists():
            raise InvalidInput(f"{folder} is there and is no export.", hint="Give a new folder.", field="folder")
        for name in ("runs", "logged", "points", "files", "blobs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / SUMS).unlink(missing_ok=True)
        self._sums: dict[str, str] = {}
        self.problems: list[str] = []
        self.counts = {"experiments": 0, "runs": 0, "logged models": 0, "models": 0, "files": 0}

    def write(
        self, source: Source, *, experiments: Collection[str] | None = None, models: Collection[str] | None = None
    ) -> None:
        """Write all that is wanted; None means all."""
        self._json("format.json", Head(FORMAT, source.name))
        wanted = [one for one in source.experiments() if experiments is None or one.name in experiments]
        self._lines("experiments.jsonl", wanted)
        for experiment in wanted:
            self.counts["experiments"] += 1
            self._lines(f"runs/{experiment.id}.jsonl", self._runs(source, experiment))
            self._lines(f"logged/{experiment.id}.jsonl", self._logged(source, experiment))
        self._lines("models.jsonl", self._models(source, models))
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self._sums.items()))
        self._put(SUMS, [lines.encode()])

    def _runs(self, source: Source, experiment: ExperimentItem) -> Iterator[RunItem]:
        for run in source.runs(experiment):
            points = ((key, *point) for key in run.metrics for point in source.points(run, key))
            self._lines(f"points/{run.id}.jsonl", points)
            self._files(source, run)
            self.counts["runs"] += 1
            yield run

    def _logged(self, source: Source, experiment: ExperimentItem) -> Iterator[LoggedModelItem]:
        for model in source.logged_models(experiment):
            self._files(source, model)
            self.counts["logged models"] += 1
            yield model

    def _models(self, source: Source, wanted: Collection[str] | None) -> Iterator[ModelItem]:
        for model in source.models():
            if wanted is None or model.name in wanted:
                self.counts["models"] += 1
                yield model

    def _files(self, source: Source, owner: RunItem | LoggedModelItem) -> None:
        try:
            files = source.files(owner)
        except NotFound as err:
            self.problems.append(f"{owner.id}: {err}")
            files = []
        self._lines(f"files/{owner.id}.jsonl", (self._blob(source, owner, file) for file in files))

    def _blob(self, source: Source, owner: RunItem | LoggedModelItem, file: File) -> File:
        digest, size = hashlib.sha256(), 0
        partial = self._folder / "blobs" / "partial"
        with partial.open("wb") as out:
            for piece in source.read(owner, file):
                digest.update(piece)
                size += out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        name = digest.hexdigest()
        target = self._folder / "blobs" / name[:2] / name[2:]
        target.parent.mkdir(exist_ok=True)
        partial.replace(target)
        self.counts["files"] += 1
        return File(file.path, size, name)

    def _json(self, name: str, value: Any) -> None:
        self._put(name, [msgspec.json.encode(value)])

    def _lines(self, name: str, items: Iterable[Any]) -> None:
        self._put(name, (msgspec.json.encode(item) + b"\n" for item in items))

    def _put(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file under its name only once it is whole."""
        digest = hashlib.sha256()
        target = self._folder / name
        partial = target.with_name(target.name + ".part")
        with partial.open("wb") as out:
            for piece in pieces:
                digest.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(target)
        self._sums[name] = digest.hexdigest()


# -- reading ------------------------------------------------------------------------------------------------------------


class Folder:
    """A folder as a source. All of it but the blobs is checked when it is opened, and each blob when it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / SUMS).is_file():
            raise InvalidInput(
                f"{folder} is no whole export: it has no {SUMS}.", hint="Run `mlbox export` again.", field="folder"
            )
        self._sums = dict(self._read_sums())
        for name in self._sums:
            self._check(name)
        head = self._decode("format.json", (folder / "format.json").read_bytes(), Head)
        if head.format != FORMAT:
            raise InvalidInput(f"{folder} is of the format {head.format!r}.", hint=f"This release reads {FORMAT}.")
        self.name = head.source

    def _read_sums(self) -> Iterator[tuple[str, str]]:
        for line in (self._folder / SUMS).read_text(errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            parts = name.split("/")
            plain = len(parts) <= 2 and all(re.fullmatch(r"[A-Za-z0-9_\-]{1,64}(\.jsonl?)?", part) for part in parts)
            if not _DIGEST.fullmatch(digest) or not plain:
                raise self._odd(SUMS, f"the line {line[:100]!r}")
            yield name, digest
        if "format.json" not in (self._folder / SUMS).read_text(errors="replace"):
            raise self._odd(SUMS, "no format.json")

    def _check(self, name: str) -> None:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as err:
            raise self._odd(name, f"it cannot be read: {err.strerror}") from err
        if digest != self._sums[name]:
            raise self._odd(name, "it is not what was written")

    def _odd(self, name: str, what: str) -> InvalidInput:
        return InvalidInput(
            f"{self._folder / name} is broken: {what}.", hint="Copy the export again, or make it anew.", field="folder"
        )

    def _decode(self, name: str, text: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.MsgspecError as err:
            raise self._odd(name, str(err)) from err

    def _items(self, name: str, kind: type[T]) -> Iterator[T]:
        """The lines of a file of the export; one that is not in its sums was not written by it."""
        if name not in self._sums:
            return
        with (self._folder / name).open("rb") as file:
            for line in file:
                yield self._decode(name, line, kind)

    def experiments(self) -> Iterator[ExperimentItem]:
        """All that were exported."""
        return self._items("experiments.jsonl", ExperimentItem)

    def runs(self, experiment: ExperimentItem) -> Iterator[RunItem]:
        """An experiment's."""
        return self._items(f"runs/{self._id(experiment.id)}.jsonl", RunItem)

    def points(self, run: RunItem, key: str) -> Iterator[Point]:
        """A metric's points."""
        for name, step, at, value in self._items(f"points/{self._id(run.id)}.jsonl", tuple[str, int, int, str]):
            if name == key:
                yield step, at, value

    def logged_models(self, experiment: ExperimentItem) -> Iterator[LoggedModelItem]:
        """An experiment's."""
        return self._items(f"logged/{self._id(experiment.id)}.jsonl", LoggedModelItem)

    def files(self, owner: RunItem | LoggedModelItem) -> list[File]:
        """All files."""
        return list(self._items(f"files/{self._id(owner.id)}.jsonl", File))

    def read(self, owner: RunItem | LoggedModelItem, file: File) -> Iterator[bytes]:
        """A file's content; what is not what was exported raises before its end."""
        if not _DIGEST.fullmatch(file.sha256):
            raise self._odd(f"files/{owner.id}.jsonl", f"no hash of {file.path[:100]!r}")
        name = f"blobs/{file.sha256[:2]}/{file.sha256[2:]}"
        digest = hashlib.sha256()
        try:
            with (self._folder / name).open("rb") as opened:
                held = b""
                while piece := opened.read(CHUNK):
                    digest.update(piece)
                    if held:
                        yield held
                    held = piece
        except OSError as err:
            raise self._odd(name, f"it cannot be read: {err.strerror}") from err
        if digest.hexdigest() != file.sha256:
            raise self._odd(name, "it is not what was written")
        yield held

    def models(self) -> Iterator[ModelItem]:
        """All that were exported."""
        return self._items("models.jsonl", ModelItem)

    def _id(self, own: str) -> str:
        if not _ID.fullmatch(own):
            raise self._odd("experiments.jsonl", f"the id {own[:100]!r}")
        return own
