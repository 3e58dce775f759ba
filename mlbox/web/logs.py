"""The server's log: one JSON object a line, or one line for people, on stderr or in a file, without secrets.

Where it goes is a `Sink`, which the records of `logging` and the access log share. A record carries the id of the request that
it was written for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from mlbox.errors import StartupError
from mlbox.settings import Settings
from mlbox.web.redaction import redact

request_id: ContextVar[str] = ContextVar("mlbox_request_id", default="")
"""The request that this context works for; empty outside of one."""
_OURS = "mlbox"
Entry = dict[str, Any]
Formatter = Callable[[Entry], str]


class Sink:
    """Lines to stderr, or to a file, which is opened anew when it was moved away (as logrotate does)."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fd = os.dup(2) if path is None else _open(path)

    def write(self, text: str) -> None:
        """Write lines; where that fails they are lost, because there is nowhere to say so."""
        content = text.encode(errors="backslashreplace")
        with self._lock, contextlib.suppress(OSError):
            self._reopen()
            while content:
                content = content[os.write(self._fd, content) :]

    def _reopen(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
                return
        new = _open(self._path)
        os.close(self._fd)
        self._fd = new

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class Handler(logging.Handler):
    """Records of `logging`, redacted, as entries."""

    def __init__(self, sink: Sink, formatter: Formatter) -> None:
        super().__init__()
        self._sink = sink
        self._as_line = formatter

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._sink.write(self._as_line(entry_of(record)))
        except Exception:  # a record that cannot be formatted is no reason to fail what it tells of
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say which line of code wrote what cannot be formatted, without what it was: that may be a secret."""
        place = f"{record.pathname}:{record.lineno}"
        entry = {"time": timestamp(record.created), "level": "error", "logger": __name__}
        self._sink.write(self._as_line({**entry, "message": f"A record of {place} cannot be written."}))


def entry_of(record: logging.LogRecord) -> Entry:
    """A record as fields, with its traceback, and without what looks like a secret."""
    entry: Entry = {
        "time": timestamp(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": redact(record.getMessage()),
    }
    if found := request_id.get():
        entry["request_id"] = found
    if record.exc_info and record.exc_info[0] is not None:
        entry["traceback"] = redact("".join(traceback.format_exception(*record.exc_info))).rstrip()
    return entry


def timestamp(seconds: float) -> str:
    """A moment since 1970 in ISO 8601, with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_json(entry: Entry) -> str:
    """One line for programs."""
    return msgspec.json.encode(entry).decode() + "\n"


def as_text(entry: Entry) -> str:
    """One line for people, and the traceback below it."""
    rest = {name: value for name, value in entry.items() if name not in _SHOWN and value not in (None, "")}
    words = [entry["time"][11:23], entry["level"].upper().ljust(7), _one_line(entry["message"])]
    words += [f"{name}={_one_line(str(value))}" for name, value in rest.items()]
    below = f"\n{entry['traceback']}" if "traceback" in entry else ""
    return " ".join(words) + below + "\n"


_SHOWN = ("time", "level", "message", "traceback", "logger", "method", "path", "status")
"""What a line for people shows by itself, or within its message."""


def _one_line(text: str) -> str:
    """A text of others cannot begin a line of its own, nor move the cursor."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def formatter_of(settings: Settings) -> Formatter:
    """How lines look: for people on a terminal, for programs elsewhere, unless the settings say."""
    chosen = settings.log_format
    if chosen == "auto":
        chosen = "text" if not settings.log_file and sys.stderr.isatty() else "json"
    return as_text if chosen == "text" else as_json


@contextlib.contextmanager
def logging_to(settings: Settings) -> Iterator[Sink]:
    """Send every record of this process to where the settings say, for the length of a block; raises StartupError."""
    sink = _sink(settings)
    handler = Handler(sink, formatter_of(settings))
    root, ours = logging.getLogger(), logging.getLogger(_OURS)
    before = (root.level, ours.level, threading.excepthook)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.addHandler(handler)
    threading.excepthook = _of_thread
    root.setLevel(max(level, logging.WARNING))  # of what other packages do, only what went wrong
    ours.setLevel(level)
    try:
        yield sink
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])
        threading.excepthook = before[2]
        sink.close()


def _sink(settings: Settings) -> Sink:
    path = Path(settings.log_file) if settings.log_file else None
    try:
        return Sink(path)
    except OSError as err:
        raise StartupError(
            f"The log file {path} cannot be written: {err.strerror}.", hint="Choose another with --log-file."
        ) from err


def _of_thread(failed: threading.ExceptHookArgs) -> None:
    """What ended a thread, as a record like all others."""
    name = failed.thread.name if failed.thread else "?"
    value = failed.exc_value
    logging.getLogger(__name__).error("The thread %s ended.", name, exc_info=value or True)
