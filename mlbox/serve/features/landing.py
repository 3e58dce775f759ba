"""Files that land in folders which the operator named: each is taken into its source once, when it has stopped growing.

A file is copied and parsed as an upload is, in a process of its own, and noted in the transaction that adds its rows. One that
cannot be read, or that changed after it was taken, stays where it is, is told of once, and is tried again when it changes.
"""

from __future__ import annotations

import logging
import os
import threading

from mlbox.errors import MlboxError
from mlbox.records import Source, SourceFile
from mlbox.store.features.folders import Found, open_file
from mlbox.store.features.sources import Sources
from mlbox.store.sandbox.ingest import MIB, Upload, Uploads

_log = logging.getLogger(__name__)
_CHANGED = "It changed after it was taken: write new rows into a new file."


class Landing:
    """Looks at the folders of all sources; called by one thread, and asked by any."""

    def __init__(self, sources: Sources, uploads: Uploads) -> None:
        self._sources = sources
        self._uploads = uploads
        self._seen: dict[tuple[str, str], Found] = {}
        """As they were at the look before: who is the same twice has stopped growing."""
        self._refused: dict[tuple[str, str], tuple[Found, str]] = {}

    def look(self, *, stopping: threading.Event | None = None) -> int:
        """Take the files that have landed; how many."""
        taken, seen = 0, {}
        for source in self._sources.declarations():
            if not source.folder:
                continue
            landed = self._sources.landed(source.name)
            for found in self._sources.folders.files(source.folder):
                if stopping is not None and stopping.is_set():
                    return taken
                key = (source.name, found.path)
                seen[key] = found
                known, modified = landed.get(found.path, (None, 0))
                if known is not None:
                    if (known.size, modified) != (found.size, found.modified_ns):
                        self._refuse(source, found, _CHANGED)
                elif self._seen.get(key) == found and not self._is_refused(key, found):
                    taken += self._take(source, found)
        self._seen = seen
        self._refused = {key: kept for key, kept in self._refused.items() if key in seen}
        return taken

    def files(self, source: str) -> list[SourceFile]:
        """What became of the files of a source's folder, by path: those taken, and those refused with the reason."""
        landed = self._sources.landed(source)
        refused = [
            SourceFile(path=found.path, size=found.size, error=error)
            for (name, _), (found, error) in list(self._refused.items())
            if name == source
        ]
        told = {one.path for one in refused}
        taken = [known for known, _ in landed.values() if known.path not in told]
        return sorted([*taken, *refused], key=lambda one: one.path)

    def _take(self, source: Source, found: Found) -> int:
        try:
            with self._uploads.begin() as upload:
                _copy(found, upload)
                table = self._uploads.parse(upload, found.format, source.columns, required=(source.event_time,))
            self._sources.append(source.name, table, file=found, actor="mlbox")
        except OSError as err:
            self._refuse(source, found, f"It cannot be read: {err.strerror}.")
        except MlboxError as err:
            self._refuse(source, found, str(err))
        else:
            self._refused.pop((source.name, found.path), None)
            return 1
        return 0

    def _is_refused(self, key: tuple[str, str], found: Found) -> bool:
        return self._refused.get(key, (None, ""))[0] == found

    def _refuse(self, source: Source, found: Found, reason: str) -> None:
        key = (source.name, found.path)
        if not self._is_refused(key, found):
            self._refused[key] = (found, reason)
            _log.warning("%s was not taken into %s: %s", found.path, source.name, reason)
            self._sources.note_refused(source.name, found.path, reason)


def _copy(found: Found, upload: Upload) -> None:
    """What is parsed is what was there at once: the file may change meanwhile."""
    descriptor = open_file(found)
    with open(descriptor, "rb", closefd=True) as file:
        while chunk := file.read(MIB):
            upload.write(chunk)
        now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns) != (found.size, found.modified_ns):
        raise OSError(0, "it is being written to")
