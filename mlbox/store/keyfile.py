"""The key file: what the secrets of jobs are encrypted with, kept apart from them.

One line per key, in base64: the first encrypts, the others only decrypt, while a rotation is under way. It is read on each use,
so a restored file works at once. By default it is in a folder of the data directory that backups leave out by their usual
markers; a copy of the data directory without it opens no secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from mlbox.errors import Unavailable
from mlbox.store.datadir import write_atomic

FOLDER = "keys"
"""In the data directory; whatever copies a data directory leaves it out."""
KEY_BYTES = 32
_MARKERS = {
    "CACHEDIR.TAG": "Signature: 8a477f597d28d172789f06886806bc55\n# Not a cache: keys, which a backup must not hold.\n",
    ".nobackup": "",
}


class KeyFile:
    """The keys at a path; every method raises Unavailable for a file that others may read, or that is damaged."""

    def __init__(self, path: Path, *, marked: bool = False) -> None:
        self.path = path
        self._marked = marked
        """Whether to mark its folder so that backups leave it out."""

    def keys(self) -> dict[str, bytes]:
        """Each key by its id, the one that encrypts first; nothing when there is no file."""
        try:
            with self.path.open("rb") as file:
                self._check(os.fstat(file.fileno()))
                lines = file.read().decode("ascii").split()
            keys = [base64.b64decode(line, validate=True) for line in lines]
        except FileNotFoundError:
            return {}
        except OSError as err:
            raise Unavailable(
                f"The key file {self.path} cannot be read: {err.strerror}.", hint="Check its owner and mode."
            ) from err
        except (UnicodeDecodeError, binascii.Error) as err:
            raise self._damaged() from err
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise self._damaged()
        return {key_id(key): key for key in keys}

    def current(self) -> tuple[str, bytes]:
        """The id and the key that encrypts; a first one is made."""
        keys = self.keys() or self.write([os.urandom(KEY_BYTES)])
        return next(iter(keys.items()))

    def write(self, keys: Sequence[bytes]) -> dict[str, bytes]:
        """Replace the file, whole and on disk, for this account only."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, content in _MARKERS.items() if self._marked else ():
                write_atomic(self.path.parent / name, content.encode())
            write_atomic(self.path, b"".join(base64.b64encode(key) + b"\n" for key in keys))
        except OSError as err:
            raise Unavailable(
                f"The key file {self.path} cannot be written: {err.strerror}.",
                hint="Check its folder, or choose another with secret_key_file.",
            ) from err
        return {key_id(key): key for key in keys}

    def _check(self, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise Unavailable(
                f"The key file {self.path} is open to other accounts of this machine (mode {mode:04o}).",
                hint="`chmod 600` it, then make a new key: `mlbox secret rotate-key`.",
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise Unavailable(
                f"The key file {self.path} belongs to another account of this machine.",
                hint="Give it to the account that runs the server.",
            )

    def _damaged(self) -> Unavailable:
        return Unavailable(
            f"The key file {self.path} is damaged: it is not one key of {KEY_BYTES} bytes in base64 a line.",
            hint="Restore it, or move it away and set the secrets again.",
        )


def key_id(key: bytes) -> str:
    """What a key is known by, from which it cannot be found."""
    return hashlib.sha256(b"mlbox key id\0" + key).hexdigest()[:16]
