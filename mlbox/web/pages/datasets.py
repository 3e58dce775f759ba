"""Dataset versions: their columns, what they were made from, and what was trained on them."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get
from litestar.params import Parameter

from mlbox.records import DatasetVersion
from mlbox.store.datasets.diff import diff
from mlbox.web.box import Box
from mlbox.web.pages.view import PAGE_SIZE, Node, View, keyset, next_page, part

RUNS_SHOWN = 200


def _list(view: View, name: str | None, part: str, after: str | None) -> dict[str, Any]:
    found: list[tuple[DatasetVersion, int]]
    if name:
        found = [(version, 1) for version in view.box.datasets.versions(name, limit=PAGE_SIZE + 1, after=after)]
    else:
        found = view.box.datasets.newest(part, limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda one: one[0].id)
    return {"found": shown, "next": next_page(view, last), "name": name, "part": part}


@get("/datasets", include_in_schema=False, action="dataset.read")
async def datasets(
    view: View,
    name: str | None = None,
    q: Annotated[str, Parameter(max_length=1000)] = "",
    after: str | None = None,
) -> Response[bytes]:
    """The latest version of each dataset, or all versions of one, newest first."""
    return await view.page("datasets.html", lambda: _list(view, name, q.strip(), after))


def _nodes(found: DatasetVersion) -> list[Node]:
    nodes = [Node("feature view", ref, f"/features/{ref}", beside=place > 0) for place, ref in enumerate(found.views)]
    if found.label_set:
        nodes.append(Node("labels", found.label_set, f"/labels/{found.label_set}", beside=bool(nodes)))
    return [*nodes, Node("dataset", found.ref, None, here=True)]


def _dataset(view: View, ref: str) -> dict[str, Any]:
    box = view.box
    found = box.datasets.version(ref)
    runs = box.tracker.reading(found.ref, limit=RUNS_SHOWN)
    return {
        "found": found,
        "may_write": view.may("member", name=found.name),
        "nodes": _nodes(found),
        "runs": runs,
        "models": [version for run in runs for version in box.registry.of_run(run.id)],
        "versions": box.datasets.versions(found.name, limit=PAGE_SIZE),
        "size": sum(file.size for file in found.files),
    }


@get("/datasets/{ref:str}", include_in_schema=False, action="dataset.read")
async def dataset(view: View, ref: str) -> Response[bytes]:
    """One version."""
    return await view.page("dataset.html", lambda: _dataset(view, ref))


def _diff(box: Box, ref: str, other: str, keys: list[str]) -> dict[str, Any]:
    before, after = box.datasets.version(ref), box.datasets.version(other)
    found = part(lambda: diff(box.artifacts, before, after, keys=keys, memory=box.settings.duckdb_memory))
    shared = [column.name for column in before.columns if column.name in {other.name for other in after.columns}]
    return {
        "before": before,
        "after": after,
        "diff": found,
        "chosen": keys,
        "shared": shared,
    }


@get("/datasets/{ref:str}/diff/{other:str}", include_in_schema=False, action="dataset.read")
async def compare(view: View, ref: str, other: str, key: list[str] | None = None) -> Response[bytes]:
    """What another version has different: columns, statistics, and rows by key, with examples."""
    return await view.page("dataset_diff.html", lambda: _diff(view.box, ref, other, key or []))


handlers: list[Any] = [datasets, dataset, compare]
