"""Uploads of rows: to a file, through a disposable process, out as a checked Arrow table.

The server itself never parses what was sent. It streams the bytes to a file, has `parse_worker` read them under limits, and maps
the table that the worker wrote. Whatever happens to the worker, the answer is an error that says so, and no row is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, get_args

import msgspec

from mlbox.errors import BY_CODE, InvalidInput, MlboxError, TimedOut, TooLarge, TooMany, Unavailable
from mlbox.records import Column
from mlbox.store.sandbox.parse_worker import Format, ParseAnswer, ParseRequest
from mlbox.store.sandbox.stream_worker import StreamRequest
from mlbox.store.sandbox.workers import FORKS, Worker

if TYPE_CHECKING:
    import pyarrow as pa

MIB = 1 << 20
_SLOWEST = 2 * MIB
"""Bytes of an upload that are read in a second at least."""
_BLOWN_UP = {signal.SIGXCPU: "took too long", signal.SIGXFSZ: "became too large"}


class Upload:
    """One file that is being sent. Use `with`: it is removed at the end."""

    def __init__(self, folder: Path, most_bytes: int, setting: str) -> None:
        self._most_bytes = most_bytes
        self._setting = setting
        self.size = 0
        self._hash = hashlib.sha256()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=folder)
        except OSError as err:
            raise Unavailable(f"The upload cannot be kept: {err.strerror}.", hint="Check the disk.") from err
        self.path = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, chunk: bytes) -> None:
        """Add bytes; raises TooLarge past the limit."""
        self.size += len(chunk)
        if self.size > self._most_bytes:
            raise TooLarge(
                f"The upload is larger than {self._most_bytes:,} bytes.",
                hint=f"Send it in parts, or raise {self._setting}.",
                field="body",
            )
        self._hash.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as err:
            raise Unavailable(f"The upload cannot be kept: {err.strerror}.", hint="Check the disk.") from err

    def finish(self, sha256: str | None = None) -> None:
        """Everything was sent; raises InvalidInput if that was nothing, or is not what a given hash is of."""
        if not self.size:
            raise InvalidInput("The body is empty.", hint="Send the rows as the body.", field="body")
        if sha256 is not None and self._hash.hexdigest() != sha256.lower():
            raise InvalidInput(
                f"The body's SHA-256 is {self._hash.hexdigest()}, and not {sha256[:80]}.",
                hint="Send the file again.",
                field="sha256",
            )
        self._file.close()

    def discard(self) -> None:
        """Remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class Uploads:
    """Takes uploads in and has them parsed, a few at a time."""

    def __init__(
        self, folder: Path, *, most_bytes: int, seconds: float = 120, memory_mb: int = 2048, at_once: int = 2
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._memory_mb = memory_mb
        self._slots = threading.BoundedSemaphore(at_once)
        self._streams = threading.BoundedSemaphore(at_once)
        """Apart from the others, because they may take hours."""
        if folder.exists():
            for left_over in folder.iterdir():
                left_over.unlink()

    def begin(self, most_bytes: int | None = None, *, setting: str = "max_upload") -> Upload:
        """A file to write an upload to, of at most so many bytes, which is what a setting says."""
        return Upload(self._folder, self._most_bytes if most_bytes is None else most_bytes, setting)

    def parse(
        self,
        upload: Upload,
        format: str,
        columns: Sequence[Column],
        *,
        required: Sequence[str] = (),
        optional: Sequence[str] = (),
        spine: bool = False,
    ) -> pa.Table:
        """The upload's rows: exactly the declared columns, in their types, in UTC, and no null where one is required.

        With `spine`, columns that are not declared come along, and moments are rounded down instead of up. Raises InvalidInput
        with the column, and the row counted from 1.
        """
        import pyarrow as pa

        upload.finish()
        with self._slot(self._slots), tempfile.NamedTemporaryFile(dir=self._folder) as target:
            request = ParseRequest(
                path=str(upload.path),
                target=target.name,
                format=check_format(format),
                columns=tuple(columns),
                required=tuple(required),
                optional=tuple(optional),
                spine=spine,
                memory_bytes=self._memory_mb * MIB,
                cpu_seconds=max(1, round(self._seconds)),
                output_bytes=self._memory_mb * MIB,
            )
            _raise_for(self._run(request))
            with pa.memory_map(target.name) as source:
                return pa.ipc.open_file(source).read_all()

    @contextlib.contextmanager
    def stream(self, upload: Upload, format: str, *, sha256: str | None = None) -> Iterator[pa.RecordBatchReader]:
        """The upload's rows as they are read, a few at a time, in plain types (see `tables.plain`).

        Whatever is wrong with them is raised here or by the reader, as late as at its end: keep nothing before that.
        """
        chosen = check_format(format)
        upload.finish(sha256)
        seconds = self._seconds + upload.size / _SLOWEST
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as pipe, self._slot(self._streams):
            request = StreamRequest(
                path=str(upload.path),
                format=chosen,
                memory_bytes=self._memory_mb * MIB,
                cpu_seconds=max(1, round(seconds)),
                output_bytes=MIB,
            )
            try:
                worker = FORKS.worker("stream", write_end)
            finally:
                os.close(write_end)
            late = threading.Event()

            def give_up() -> None:
                late.set()
                worker.kill()

            timer = threading.Timer(2 * seconds, give_up)
            timer.daemon = True
            with worker:
                timer.start()
                try:
                    yield _reader(worker, request, pipe, late)
                finally:
                    timer.cancel()

    @contextlib.contextmanager
    def _slot(self, slots: threading.BoundedSemaphore) -> Iterator[None]:
        if not slots.acquire(timeout=self._seconds):
            raise TooMany("Other uploads are still being read.", hint="Try again in a moment.")
        try:
            yield
        finally:
            slots.release()

    def _run(self, request: ParseRequest) -> ParseAnswer:
        with FORKS.worker("parse") as worker:
            worker.send(request.to_json())
            said = worker.answer(self._seconds)
            if said is None:
                raise TimedOut(
                    f"The upload took longer than {self._seconds:g} s to read.", hint="Send it in parts.", field="body"
                )
            if worker.wait():
                raise _dead(worker.wait())
            return msgspec.json.decode(said, type=ParseAnswer)


def _reader(worker: Worker, request: StreamRequest, pipe: BinaryIO, late: threading.Event) -> pa.RecordBatchReader:
    """What a worker hands over; its answer, which comes last, is raised if it is an error."""
    import pyarrow as pa

    worker.send(request.to_json())

    def answer() -> None:
        said = worker.answer()
        if worker.wait() and late.is_set():
            raise TimedOut("The upload took too long to read.", hint="Send it in parts.", field="body")
        if worker.wait() or said is None:
            raise _dead(worker.wait())
        _raise_for(msgspec.json.decode(said, type=ParseAnswer))

    def batches(found: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from found
        except (pa.ArrowException, OSError, EOFError):  # cut off: whoever wrote it is dead
            answer()
            raise
        answer()

    try:
        found = pa.ipc.open_stream(pipe)
    except (pa.ArrowException, OSError, EOFError):
        answer()
        raise
    return pa.RecordBatchReader.from_batches(found.schema, batches(found))


def check_format(format: str) -> Format:
    """The format that a request names; raises InvalidInput."""
    formats: tuple[Format, ...] = get_args(Format)
    for known in formats:
        if format == known:
            return known
    said = f"{format[:40]!r} is no format." if format else "The format is not named."
    raise InvalidInput(said, hint=f"One of {', '.join(formats)}.", field="format")


def _dead(code: int) -> MlboxError:
    """What to say of a worker that did not live to answer."""
    if -code in _BLOWN_UP:
        return TooLarge(
            f"The upload {_BLOWN_UP[signal.Signals(-code)]} to read.", hint="Send it in parts.", field="body"
        )
    if code == -signal.SIGKILL:
        return TooLarge("The upload takes too much memory to read.", hint="Send it in parts.", field="body")
    return InvalidInput("The upload broke the parser that read it.", hint="Is the file damaged?", field="body")


def _raise_for(answer: ParseAnswer) -> None:
    if answer.code:
        raise BY_CODE.get(answer.code, MlboxError)(answer.message, hint=answer.hint, field=answer.field)
