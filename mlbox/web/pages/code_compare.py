"""In what the code of one run differs from that of another: as their jobs sent it, changes that no commit has with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from litestar import Response, get

from mlbox.errors import InvalidInput
from mlbox.records import Run
from mlbox.store.sandbox.code_diff import code_diff
from mlbox.store.sandbox.code_diff_worker import CodeDiff
from mlbox.web.box import Box
from mlbox.web.pages.file_view import diff
from mlbox.web.pages.run_charts import titles
from mlbox.web.pages.run_compare import Ids, compared
from mlbox.web.pages.view import View, part

DIRTY = "-dirty"


class Side(NamedTuple):
    """A run, and what is known of its code."""

    run: Run
    title: str
    commit: str
    has_changes: bool
    snapshot: str
    """Its hash; empty where the box was not given the code, or whoever asks may not see the job."""


def _side(box: Box, run: Run, title: str) -> Side:
    job = part(partial(box.scheduler.find, run.job_id)).value if run.job_id else None
    commit = (job and job.spec.git_commit) or run.git_commit or ""
    changed = commit.endswith(DIRTY) or bool(job and job.spec.git_diff)
    return Side(run, title, commit.removesuffix(DIRTY), changed, (job and job.spec.snapshot) or "")


def _chosen(runs: Sequence[Run], id: str, name: str, otherwise: Run) -> Run:
    """The run of an id among those that are compared; raises InvalidInput."""
    found = next((run for run in runs if run.id == id), None) if id else otherwise
    if found is None:
        raise InvalidInput(f"{id[:80]!r} is not among the runs.", hint="Choose one of them.", field=name)
    return found


def _code(view: View, ids: Sequence[str] | None, first: str, second: str) -> dict[str, Any]:
    runs = compared(view.box, ids)
    names = {run.id: name for run, name in zip(runs, titles(runs), strict=True)}
    by_age = sorted(runs, key=lambda run: (run.started_at, run.id))
    chosen = _chosen(runs, first, "first", by_age[0]), _chosen(runs, second, "second", by_age[-1])
    sides = [_side(view.box, run, names[run.id]) for run in chosen]
    return {
        "choices": list(names.items()),
        "together": ",".join(names),
        "sides": sides,
        **_difference(view.box, *sides),
    }


def _difference(box: Box, before: Side, after: Side) -> dict[str, Any]:
    """What the page says of it: a patch, or words."""
    nothing = {"found": None, "counted": "", "words": "", "wrong": False}
    unkept = [side.title for side in (before, after) if not side.snapshot]
    if unkept:
        words = f"There is no code of {' and of '.join(unkept)} to compare: no job that you may see sent it."
        return {**nothing, "words": words}
    if before.snapshot == after.snapshot:
        return {**nothing, "words": "Both ran the same code, to the byte."}
    said = part(lambda: _compared(box, before, after))
    if said.value is None or said.value.error:
        words = said.value.error if said.value else f"It cannot be read: {said.error}"
        return {**nothing, "words": words, "wrong": True}
    if not said.value.text:
        return {**nothing, "words": "Both ran the same code, file by file."}
    patch = diff(said.value.text.encode())
    return {
        **nothing,
        "found": patch._replace(is_cut=said.value.is_cut or patch.is_cut),
        "counted": _counted(said.value),
    }


def _compared(box: Box, before: Side, after: Side) -> CodeDiff:
    return code_diff(
        box.artifacts.path(before.snapshot),
        box.artifacts.path(after.snapshot),
        memory_mb=box.settings.upload_memory_mb,
        seconds=box.settings.upload_seconds,
    )


def _counted(found: CodeDiff) -> str:
    counts = ((found.changed, "changed"), (found.added, "added"), (found.removed, "removed"))
    return ", ".join(f"{count:,} file{'s' if count != 1 else ''} {what}" for count, what in counts if count)


@get("/runs/compare/code", include_in_schema=False, action="run.read")
async def code_page(view: View, run_ids: Ids = None, first: str = "", second: str = "") -> Response[bytes]:
    """The code of two runs beside each other; of more than two the oldest and the newest, unless the address says which."""
    return await view.page("code_compare.html", lambda: _code(view, run_ids, first, second))


handlers: list[Any] = [code_page]
