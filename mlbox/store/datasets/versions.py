"""Dataset versions as they are kept: immutable, named, found by name or reference, tagged, and removed with care."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from mlbox.clock import Clock, to_us
from mlbox.errors import InvalidInput, NotFound, Refused, suggest
from mlbox.records import DataFile, DatasetVersion, VerifiedFile, check_name
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database, Row, Tx
from mlbox.store.features.catalog import split_ref

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TAGS = 100
_KEPT = "NOT EXISTS (SELECT 1 FROM dataset_state s WHERE s.id = dataset.id AND s.deleted_us IS NOT NULL)"
_TAGS = "(SELECT tags FROM dataset_state s WHERE s.id = dataset.id) AS tags"


class DatasetVersions:
    """All dataset versions."""

    def __init__(self, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._clock = clock
        self.used_by: Callable[[str], Sequence[str]] = lambda ref: ()
        """What depends on a version, in words; set by who knows models."""

    def keep(self, built: DatasetVersion) -> DatasetVersion:
        """Number a version and keep it; one whose hash is that of an earlier version of the name is that version."""
        check_name(built.name)
        point = built.basis.resume if built.basis is not None else None
        self._artifacts.keep({*(file.sha256 for file in built.files), *([point.facts] if point is not None else [])})

        def write(tx: Tx) -> int:
            same = tx.one(
                f"SELECT version FROM dataset WHERE name = ? AND hash = ? AND {_KEPT}", (built.name, built.hash)
            )
            if same is not None:
                known: int = same["version"]
                return known
            last = tx.one("SELECT coalesce(max(version), 0) AS n FROM dataset WHERE name = ?", (built.name,))
            assert last is not None
            made = msgspec.structs.replace(built, version=last["n"] + 1, tags={})
            tx.run(
                "INSERT INTO dataset VALUES (?,?,?,?,?,?)",
                (made.id, made.name, made.version, made.hash, made.to_json().decode(), tx.now_us),
            )
            if built.tags:
                tx.run("INSERT INTO dataset_state (id, tags) VALUES (?,?)", (made.id, _tags(built.tags)))
            tx.emit("dataset.created", f"dataset:{made.ref}", made.created_by, rows=made.rows, hash=made.hash)
            return made.version

        return self.version(f"{built.name}@v{self._db.write(write)}")

    # -- reading ----------------------------------------------------------------------------------------------------

    def version(self, ref: str) -> DatasetVersion:
        """`name@vN`, or the latest version of `name`; raises NotFound."""
        name, number = split_ref(ref)
        row = self._db.one(
            f"SELECT record, {_TAGS} FROM dataset WHERE name = :name AND visible('dataset', name)"
            f" AND (:version IS NULL OR version = :version) AND {_KEPT} ORDER BY version DESC LIMIT 1",
            {"name": name, "version": number},
        )
        if row is None:
            found = self._db.all(f"SELECT DISTINCT name FROM dataset WHERE visible('dataset', name) AND {_KEPT}")
            known = [row["name"] for row in found]
            raise NotFound(f"There is no dataset {ref[:200]!r}.", hint=suggest(name, known), field="dataset")
        return _dataset(row)

    def versions(self, name: str | None = None, *, limit: int = 100, after: str | None = None) -> list[DatasetVersion]:
        """All versions, or a dataset's, newest first, from below the id `after`."""
        rows = self._db.all(
            f"SELECT record, {_TAGS} FROM dataset WHERE id < :after AND (:name IS NULL OR name = :name)"
            f" AND visible('dataset', name) AND {_KEPT} ORDER BY id DESC LIMIT :limit",
            {"after": after or "~", "name": name, "limit": limit},
        )
        return [_dataset(row) for row in rows]

    def newest(self, part: str = "", *, limit: int = 100, after: str | None = None) -> list[tuple[DatasetVersion, int]]:
        """The latest version of each dataset whose name has a part, and how many it has; newest first, from below `after`."""
        rows = self._db.all(
            f"SELECT record, {_TAGS}, versions FROM dataset JOIN (SELECT name AS of, max(version) AS last, count(*) AS versions"
            f" FROM dataset WHERE instr(lower(name), lower(:part)) AND visible('dataset', name) AND {_KEPT} GROUP BY name)"
            " ON name = of AND version = last WHERE id < :after ORDER BY id DESC LIMIT :limit",
            {"part": part, "after": after or "~", "limit": limit},
        )
        return [(_dataset(row), row["versions"]) for row in rows]

    def file_of(self, ref: str, file: str) -> DataFile:
        """One of a version's files; raises NotFound."""
        version = self.version(ref)
        for known in version.files:
            if known.path == file:
                return known
        raise NotFound(
            f"{version.ref} has no file {file[:200]!r}.",
            hint=suggest(file, [f.path for f in version.files]),
            field="file",
        )

    def open_table(self, ref: str) -> pa.Table:
        """A version's rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        version = self.version(ref)
        check_tables(version)
        return pa.concat_tables(pq.read_table(self._artifacts.verified(file.sha256)) for file in version.files)

    def verify(self, ref: str) -> list[VerifiedFile]:
        """Read every file of a version again, and say of each whether it is what it was."""
        version = self.version(ref)
        return [VerifiedFile(path=file.path, error=self._fault(file)) for file in version.files]

    def _fault(self, file: DataFile) -> str:
        try:
            path = self._artifacts.path(file.sha256)
        except NotFound:
            return "it is gone"
        with path.open("rb") as content:
            same = hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
        return "" if same else "its content changed"

    # -- tags, and the end --------------------------------------------------------------------------------------------

    def tag(self, ref: str, changes: Mapping[str, str | None], *, actor: str) -> DatasetVersion:
        """Set tags of a version, or take those away that are None."""
        version = self.version(ref)
        for key, value in changes.items():
            check_name(key, field="tags")
            if value is not None and len(value) > 500:
                raise InvalidInput(f"The tag {key} is too long.", hint="500 characters at most.", field="tags")

        def write(tx: Tx) -> None:
            row = tx.one("SELECT tags FROM dataset_state WHERE id = ?", (version.id,))
            before = msgspec.json.decode(row["tags"], type=dict[str, str]) if row else {}
            tags = {key: value for key, value in {**before, **changes}.items() if value is not None}
            if len(tags) > MAX_TAGS:
                raise InvalidInput("There are too many tags.", hint=f"{MAX_TAGS} at most.", field="tags")
            if tags != before:
                tx.run(
                    "INSERT INTO dataset_state (id, tags) VALUES (?,?) ON CONFLICT (id) DO UPDATE SET tags = excluded.tags",
                    (version.id, _tags(tags)),
                )
                tx.emit("dataset.tagged", f"dataset:{version.ref}", actor, tags=tags)

        self._db.write(write)
        return self.version(version.ref)

    def delete(self, ref: str, *, actor: str) -> DatasetVersion:
        """Remove a version, softly; refused while something depends on it. Its number is never given again."""
        name, number = split_ref(ref)
        if number is None:
            raise InvalidInput(
                f"{name!r} is no version.", hint=f"Name one, such as {name}@v1: others are kept.", field="dataset"
            )
        version = self.version(ref)
        used = self.used_by(version.ref)
        if used:
            raise Refused(
                f"{version.ref} is needed by {', '.join(used[:5])}.",
                hint="Take those out of use first.",
                field="dataset",
            )

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO dataset_state (id, deleted_us) VALUES (?,?)"
                " ON CONFLICT (id) DO UPDATE SET deleted_us = excluded.deleted_us",
                (version.id, tx.now_us),
            )
            tx.emit("dataset.deleted", f"dataset:{version.ref}", actor)

        self._db.write(write)
        return version

    def restore(self, ref: str, *, within: timedelta, actor: str) -> DatasetVersion:
        """Take a removal back, while its files are there; raises NotFound."""
        name, number = split_ref(ref)
        oldest = to_us(self._clock.real() - within)

        def write(tx: Tx) -> None:
            row = tx.one(
                "SELECT dataset.id AS id, deleted_us FROM dataset JOIN dataset_state ON dataset_state.id = dataset.id"
                " WHERE name = ? AND version = ? AND deleted_us IS NOT NULL AND visible('dataset', name)",
                (name, number),
            )
            if row is None:
                raise NotFound(f"No removed dataset version is {ref[:200]!r}.", hint="See `mlbox deleted`.")
            if row["deleted_us"] <= oldest:
                raise NotFound(f"{ref[:200]} was removed for good.", hint="Build it again.", field="dataset")
            tx.run("UPDATE dataset_state SET deleted_us = NULL WHERE id = ?", (row["id"],))
            tx.emit("dataset.restored", f"dataset:{name}@v{number}", actor)

        self._db.write(write)
        return self.version(ref)


def check_tables(version: DatasetVersion) -> None:
    """Raise InvalidInput for a version of other files than Parquet, or that nobody has read yet: such as DVC brings."""
    other = next((file.path for file in version.files if not file.path.endswith(".parquet")), None)
    if other is not None or not version.columns:
        raise InvalidInput(
            f"{version.ref} is no table: {other or 'its columns are not known'}{' is no Parquet' if other else ''}.",
            hint="Upload its rows as a dataset: `mlbox dataset upload`.",
            field="dataset",
        )


def hash_of(files: Sequence[DataFile]) -> str:
    """A version's hash: SHA-256 over the sorted manifest of its files."""
    manifest = "".join(sorted(f"{file.sha256}  {file.path}\n" for file in files))
    return hashlib.sha256(manifest.encode()).hexdigest()


def _tags(tags: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(tags)).decode()


def _dataset(row: Row) -> DatasetVersion:
    found = msgspec.json.decode(row["record"], type=DatasetVersion)
    tags = msgspec.json.decode(row["tags"], type=dict[str, str]) if row["tags"] else {}
    return msgspec.structs.replace(found, tags=tags) if tags else found
