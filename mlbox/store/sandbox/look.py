"""A look into a kept file, by a disposable process: nothing that is in it can harm the server."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mlbox.store.sandbox.look_worker import Format, LookAnswer, LookRequest
from mlbox.store.sandbox.workers import FORKS

ROWS = 200
MOST_BYTES = 1 << 30
"""Files past this are not looked into."""
_MIB = 1 << 20


def look(path: Path, format: Format, *, memory_mb: int, seconds: float) -> LookAnswer:
    """The first rows of a Parquet or Arrow file, or what an ONNX file has; or why nothing can be seen."""
    if path.stat().st_size > MOST_BYTES:
        return LookAnswer(error="It is too large to be looked into.")
    request = LookRequest(
        path=str(path),
        format=format,
        rows=ROWS,
        memory_bytes=memory_mb * _MIB,
        cpu_seconds=max(1, round(seconds)),
    )
    with FORKS.worker("look") as worker:
        worker.send(request.to_json())
        said = worker.answer(seconds)
        if said is None:
            return LookAnswer(error=f"It took longer than {seconds:g} s to be looked into.")
        if worker.wait():
            return LookAnswer(error="The process that looked into it died.")
        return msgspec.json.decode(said, type=LookAnswer)
