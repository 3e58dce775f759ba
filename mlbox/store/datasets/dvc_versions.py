"""A pushed pointer becomes a dataset version: its files, as they were pushed.

Where all of them are Parquet, or all CSV, with the same columns, the version has columns, rows and statistics, which a process of
its own reads. Else it is a version of plain files, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox import __version__
from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, TimedOut, TooLarge
from mlbox.ids import new_id
from mlbox.records import FILE_FORMATS, Column, DataFile, DatasetVersion, check_name
from mlbox.store.access.teams import EVERYONE
from mlbox.store.artifacts import CHUNK_BYTES, Artifacts, check_path
from mlbox.store.datasets.dvc import DvcObject, DvcObjects, check_oid, no_object
from mlbox.store.datasets.facts import Facts
from mlbox.store.datasets.versions import DatasetVersions, hash_of
from mlbox.store.db import Privacy
from mlbox.store.sandbox.ingest import Uploads
from mlbox.store.tables import dtype_of
from mlbox.transfer.dvc_pointer import Pointer

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LISTING = 64 << 20
MAX_FILES = 100_000
MAX_TABLES = 100
"""Files that are read for their columns: each takes a process of its own."""


class Listed(msgspec.Struct, frozen=True):
    """A file in a directory's listing."""

    md5: str
    relpath: str


class Read(NamedTuple):
    """What is known of files as tables; `why` not, where nothing is."""

    columns: tuple[Column, ...] = ()
    rows: Sequence[int] = ()
    statistics: dict[str, dict[str, Any]] = {}
    why: str = ""


class DvcVersions:
    """Makes versions of pushed objects."""

    def __init__(
        self,
        objects: DvcObjects,
        versions: DatasetVersions,
        artifacts: Artifacts,
        uploads: Uploads,
        privacy: Privacy,
        clock: Clock,
        *,
        most_bytes: int,
    ) -> None:
        self._objects = objects
        self._versions = versions
        self._artifacts = artifacts
        self._uploads = uploads
        self._privacy = privacy
        self._clock = clock
        self._most_bytes = most_bytes

    def create(
        self, name: str, pointer: Pointer, team: str, *, actor: str, hidden: bool, job_id: str | None = None
    ) -> DatasetVersion:
        """Keep what a pointer names as a version; the same files again are the same version.

        Objects of the team's own address may go into a version that is `hidden` from others only. Raises NotFound for what was
        not pushed, and InvalidInput for what does not fit.
        """
        check_name(name)
        files = self._files(pointer, lambda oid: self._take(oid, name, team, hidden=hidden))
        read = self._read(files)
        kept = tuple(
            msgspec.structs.replace(file, rows=rows)
            for file, rows in zip(files, read.rows or [0] * len(files), strict=True)
        )
        return self._versions.keep(
            DatasetVersion(
                id=new_id(),
                name=name,
                version=0,
                hash=hash_of(kept),
                files=kept,
                columns=read.columns,
                rows=sum(read.rows),
                query="",
                parameters={"dvc": {"md5": pointer.md5, "path": pointer.path}}
                | ({"plain_files": read.why} if read.why else {}),
                job_id=job_id,
                statistics=read.statistics,
                software={"mlbox": __version__},
                created_by=actor,
                created_at=self._clock.real(),
            )
        )

    # -- what it is made of -----------------------------------------------------------------------------------------

    def _take(self, oid: str, name: str, team: str, *, hidden: bool) -> DvcObject:
        """An object that may go into a version of this name, from wherever it does so most freely."""
        shared = self._objects.pushed(oid, EVERYONE)
        if shared is not None:
            return shared
        refused: MlboxError = no_object(oid)
        for found in self._objects.of_versions(oid):
            try:
                self._privacy.shelter("dataset", name, [("dataset", found.dataset or "")])
            except InvalidInput as err:
                refused = err
            else:
                return found
        own = self._objects.pushed(oid, team)
        if own is not None and hidden:
            return own
        if own is not None:
            refused = InvalidInput(
                f"The dataset {name!r} would tell everyone of what was pushed for the team {team} alone.",
                hint=f"Hide it first, `mlbox team hide dataset {name}`, or push to the address of everyone.",
                field="name",
            )
        raise refused

    def _files(self, pointer: Pointer, take: Callable[[str], DvcObject]) -> list[DataFile]:
        found = take(check_oid(pointer.md5))
        if pointer.md5.endswith(".dir"):
            files = [_file(take(one.md5), one.relpath) for one in self._listing(found)]
        else:
            files = [_file(found, pointer.path.rpartition("/")[2])]
        size = sum(file.size for file in files)
        if pointer.size is not None and pointer.size != size:
            raise InvalidInput(
                f"The pointer says {pointer.size:,} bytes, and what it names has {size:,}.",
                hint="Was the pointer file edited? Run `dvc add` again.",
                field="size",
            )
        return files

    def _listing(self, found: DvcObject) -> list[Listed]:
        if found.size > MAX_LISTING:
            raise TooLarge(
                f"The directory's listing has {found.size:,} bytes, and {MAX_LISTING:,} are read.",
                hint="Split it.",
                field="md5",
            )
        try:
            listed = msgspec.json.decode(self._artifacts.read(found.sha256), type=list[Listed])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as err:
            raise InvalidInput(
                f"{found.oid} is no listing of a directory: {err}.", hint="Push it with DVC.", field="md5"
            ) from err
        paths = {check_oid(one.md5) and one.relpath for one in listed}
        if not listed or len(listed) > MAX_FILES or len(paths) < len(listed):
            wrong = "names a file twice" if len(paths) < len(listed) else f"has {len(listed):,} files"
            raise InvalidInput(f"The directory {wrong}.", hint=f"1 to {MAX_FILES:,} are taken.", field="md5")
        return listed

    # -- as tables --------------------------------------------------------------------------------------------------

    def _read(self, files: Sequence[DataFile]) -> Read:
        formats = {FILE_FORMATS.get(f".{file.path.rpartition('.')[2].lower()}", "") for file in files}
        if formats not in ({"parquet"}, {"csv"}):
            return Read(why="Not all files are Parquet, and not all are CSV.")
        if len(files) > MAX_TABLES or sum(file.size for file in files) > self._most_bytes:
            return Read(why=f"More than {MAX_TABLES} files, or {self._most_bytes:,} bytes (max_upload), are not read.")
        tables: list[pa.Table] = []
        for file in files:
            try:
                table = self._parse(file, next(iter(formats)))
            except (InvalidInput, TooLarge, TimedOut) as err:
                return Read(why=f"{file.path}: {err.message}")
            if tables and not table.schema.equals(tables[0].schema):
                return Read(why=f"{file.path} has other columns, or of other types, than {files[0].path}.")
            tables.append(table)
        return _facts(tables)

    def _parse(self, file: DataFile, format: str) -> pa.Table:
        with self._uploads.begin() as upload:
            for chunk in self._content(file.sha256):
                upload.write(chunk)
            return self._uploads.parse(upload, format, (), spine=True)

    def _content(self, sha256: str) -> Iterator[bytes]:
        with self._artifacts.path(sha256).open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                yield chunk


def _file(found: DvcObject, path: str) -> DataFile:
    if check_path(path) != path:
        raise InvalidInput(f"{path[:100]!r} is not a plain relative path.", hint="Rename the file.", field="path")
    return DataFile(path=path, sha256=found.sha256, size=found.size, rows=0, md5=found.oid)


def _facts(tables: Sequence[pa.Table]) -> Read:
    import pyarrow as pa

    columns = tuple(Column(name=field.name, dtype=dtype_of(field.type)) for field in tables[0].schema)
    facts = Facts(columns)
    try:
        for table in tables:
            facts.add(table)
        statistics = facts.found()
    except pa.ArrowException as err:
        return Read(why=f"A column cannot be counted: {str(err).splitlines()[0][:300]}")
    return Read(columns, [table.num_rows for table in tables], statistics)
