"""DVC's objects: which kept file is which object of a remote, and who may have it.

An object is named by the MD5 of its content, which is no secret: whoever has seen a pointer file knows it. So an object belongs
to the team under whose address it was pushed, and is there for nobody else. What is pushed to the box's own address is
everyone's. A dataset version's files are objects too, for whoever may see the version, at every address and as long as the
version is there.

Content is verified before it is named, and a name never comes to stand for other content.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import NamedTuple

from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.records import DataFile, DatasetVersion
from mlbox.store.artifacts import CHUNK_BYTES, Artifacts
from mlbox.store.datasets.versions import DatasetVersions
from mlbox.store.db import Database, Tx
from mlbox.transfer.dvc_pointer import Pointer

_OID = re.compile(r"[0-9a-f]{32}(\.dir)?")
_PUSHED = "SELECT sha256, size FROM dvc_object WHERE oid = ? AND team = ?"
_OF_VERSIONS = (
    "SELECT sha256, size, dataset.name AS dataset FROM dataset_oid JOIN dataset ON dataset.id = dataset_id"
    " WHERE oid = ? AND visible('dataset', dataset.name)"
    " AND NOT EXISTS (SELECT 1 FROM dataset_state s WHERE s.id = dataset.id AND s.deleted_us IS NOT NULL)"
    " ORDER BY dataset.id"
)


class DvcObject(NamedTuple):
    """A kept file that an object's name stands for; of which dataset, where it was not pushed."""

    oid: str
    sha256: str
    size: int
    dataset: str | None = None


class DvcObjects:
    """All objects, by the team that they are for."""

    def __init__(self, db: Database, versions: DatasetVersions, artifacts: Artifacts) -> None:
        self._db = db
        self._versions = versions
        self._artifacts = artifacts

    def pushed(self, oid: str, team: str) -> DvcObject | None:
        """What was pushed under a team's address."""
        row = self._db.one(_PUSHED, (oid, team))
        return DvcObject(oid, row["sha256"], row["size"]) if row is not None else None

    def of_versions(self, oid: str) -> list[DvcObject]:
        """The same object as a file of each dataset version that whoever asks may see."""
        return [DvcObject(oid, *row) for row in self._db.all(_OF_VERSIONS, (oid,))]

    def find(self, oid: str, team: str) -> DvcObject:
        """An object as it is there under a team's address; raises NotFound."""
        found = self.pushed(oid, team) or next(iter(self.of_versions(oid)), None)
        if found is None or not _OID.fullmatch(oid):
            raise no_object(oid)
        return found

    def add(self, oid: str, team: str, sha256: str, size: int, *, actor: str) -> DvcObject:
        """Name a kept file whose MD5 was verified; doing it again changes nothing.

        Raises Conflict where the name stands for other content of the same MD5.
        """
        check_oid(oid)
        if any(known.sha256 != sha256 for known in self.of_versions(oid)):
            raise _collision(oid)
        self._artifacts.keep([sha256])

        def write(tx: Tx) -> None:
            known = tx.one(_PUSHED, (oid, team))
            if known is not None and known["sha256"] != sha256:
                raise _collision(oid)
            tx.run("INSERT OR IGNORE INTO dvc_object VALUES (?,?,?,?,?,?)", (oid, team, sha256, size, actor, tx.now_us))

        self._db.write(write)
        return DvcObject(oid, sha256, size)

    # -- versions ---------------------------------------------------------------------------------------------------

    def pointer(self, ref: str) -> Pointer:
        """A version as DVC points to it: a directory with all its files, which from then on is an object, too."""
        version = self._versions.version(ref)
        files = [(file, file.md5 or self._md5(file)) for file in version.files]
        listing = sorted(({"md5": md5, "relpath": file.path} for file, md5 in files), key=lambda one: one["relpath"])
        body = json.dumps(listing).encode()  # as DVC writes it, byte for byte: its MD5 is the directory's name
        oid = f"{hashlib.md5(body, usedforsecurity=False).hexdigest()}.dir"
        if oid not in self._named(version):
            sha256, size = self._artifacts.put([body])
            rows = [(oid, version.id, sha256, size), *((md5, version.id, f.sha256, f.size) for f, md5 in files)]
            self._db.write(lambda tx: tx.many("INSERT OR IGNORE INTO dataset_oid VALUES (?,?,?,?)", rows))
        return Pointer(
            md5=oid,
            path=version.name,
            size=sum(file.size for file in version.files),
            nfiles=len(files),
            dataset=version.ref,
            hash=version.hash,
        )

    def _named(self, version: DatasetVersion) -> set[str]:
        sql = "SELECT oid FROM dataset_oid WHERE dataset_id = ? AND oid LIKE '%.dir'"
        return {row["oid"] for row in self._db.all(sql, (version.id,))}

    def _md5(self, file: DataFile) -> str:
        """Of a file from before versions had them."""
        digest = hashlib.md5(usedforsecurity=False)
        with self._artifacts.verified(file.sha256).open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()


def check_oid(oid: str) -> str:
    """An object's name, 32 hex digits and of a directory `.dir`; raises InvalidInput for another."""
    if not _OID.fullmatch(oid):
        raise InvalidInput(
            f"{oid[:80]!r} is no MD5.",
            hint="32 hexadecimal digits in lower case, and .dir for a directory.",
            field="md5",
        )
    return oid


def no_object(oid: str) -> NotFound:
    """That an object is not there, or not for whoever asks."""
    return NotFound(f"There is no object {oid[:80]!r} here.", hint="Has it been pushed, to this address?", field="md5")


def _collision(oid: str) -> Conflict:
    return Conflict(
        f"The object {oid} has other content of the same MD5.",
        hint="Two files were made to have one MD5. Keep this one as an artifact of a run, or as a dataset.",
        field="md5",
    )
