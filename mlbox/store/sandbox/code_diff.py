"""In what two codes of jobs differ, by a disposable process: nothing that is in them can harm the server."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mlbox.store.sandbox.code_diff_worker import CodeDiff, CodeDiffRequest
from mlbox.store.sandbox.workers import FORKS

_MIB = 1 << 20


def code_diff(before: Path, after: Path, *, memory_mb: int, seconds: float) -> CodeDiff:
    """What the second tar.gz has otherwise than the first, as a unified diff; or why that cannot be said."""
    request = CodeDiffRequest(
        before=str(before),
        after=str(after),
        memory_bytes=memory_mb * _MIB,
        cpu_seconds=max(1, round(seconds)),
    )
    with FORKS.worker("diff") as worker:
        worker.send(request.to_json())
        said = worker.answer(seconds)
        if said is None:
            return CodeDiff(error=f"It took longer than {seconds:g} s to compare them.")
        if worker.wait():
            return CodeDiff(error="The process that compared them died.")
        return msgspec.json.decode(said, type=CodeDiff)
