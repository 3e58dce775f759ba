"""Label Studio's JSON export as labels: one for each annotation that was not cancelled.

A task's data names the keys and `event_time`; the annotation's id, annotator, time and ground truth come along. Choices, ratings
and numbers are values; what another kind of task holds, such as boxes on an image, is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Column, LabelSet
from mlbox.store.labels.labels import EVENT_TIME

_KINDS = ("choices", "rating", "number")
_YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class _Annotation(msgspec.Struct):
    id: int | str
    result: list[dict[str, Any]] = []
    completed_by: int | str | dict[str, Any] | None = None
    was_cancelled: bool = False
    ground_truth: bool = False
    created_at: str | None = None
    updated_at: str | None = None


class _Task(msgspec.Struct):
    id: int | str
    data: dict[str, Any]
    annotations: list[_Annotation]


def read_export(content: bytes, labels: LabelSet) -> list[Mapping[str, Any]]:
    """The labels of an export, as `Labels.append_rows` takes them; raises InvalidInput with the task, by its id."""
    try:
        tasks = msgspec.json.decode(content, type=list[_Task])
    except (msgspec.MsgspecError, RecursionError) as err:
        raise InvalidInput(
            f"This is no JSON export of Label Studio: {err}.",
            hint="Export as JSON, not as JSON-MIN: a list of tasks with `data` and `annotations`.",
            field="body",
        ) from err
    return [label for task in tasks for label in _of_task(task, labels)]


def _of_task(task: _Task, labels: LabelSet) -> Iterator[Mapping[str, Any]]:
    columns = (*labels.keys, EVENT_TIME)
    missing = next((column.name for column in columns if column.name not in task.data), None)
    if missing is not None:
        raise InvalidInput(
            f"Task {task.id} has no {missing!r} in its data.",
            hint=f"Import tasks with {', '.join(column.name for column in columns)} in their data.",
            field=f"task {task.id}",
        )
    about = {column.name: _typed(task.data[column.name], column, task) for column in columns}
    for annotation in task.annotations:
        if annotation.was_cancelled:
            continue
        yield {
            **about,
            labels.value.name: _value(annotation, labels.value, task),
            "id": f"{task.id}.{annotation.id}",
            "annotator": _annotator(annotation.completed_by),
            "known_at": annotation.updated_at or annotation.created_at,
            "ground_truth": annotation.ground_truth,
        }


def _annotator(completed_by: int | str | dict[str, Any] | None) -> str | None:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return None if completed_by is None else str(completed_by)


def _value(annotation: _Annotation, column: Column, task: _Task) -> Any:
    """What an annotation says; None where it says nothing."""
    results = [one for one in annotation.result if one.get("type") not in ("relation", "textarea")]
    if not results:
        return None
    kind, said = results[0].get("type"), results[0].get("value")
    if len(results) > 1 or kind not in _KINDS or not isinstance(said, dict):
        raise InvalidInput(
            f"Task {task.id} is annotated with {len(results)} results of type {kind!r:.40}.",
            hint=f"A label is one value: {', '.join(_KINDS)}. Export a project of such a kind.",
            field=f"task {task.id}",
        )
    found = said.get(kind)
    if isinstance(found, list):
        if len(found) != 1:
            raise InvalidInput(
                f"Task {task.id} has {len(found)} choices, and a label is one.",
                hint="Use choices with choice='single'.",
                field=f"task {task.id}",
            )
        found = found[0]
    return _typed(found, column, task)


def _typed(value: Any, column: Column, task: _Task) -> Any:
    """A value in its column's type: numbers and truths are texts in many exports."""
    found = value
    try:
        if isinstance(value, str) and column.dtype in ("INT64", "FP64"):
            found = int(value) if column.dtype == "INT64" else float(value)
        elif isinstance(value, str) and column.dtype == "BOOL":
            found = _YES[value.strip().lower()]
        elif isinstance(value, int | float) and not isinstance(value, bool) and column.dtype == "STRING":
            found = str(value)
    except (ValueError, KeyError) as err:
        raise InvalidInput(
            f"Task {task.id}: {column.name!r} is {value!r:.60}, and {column.dtype} is wanted.",
            hint="Correct the task, or leave it out of the export.",
            field=f"task {task.id}",
        ) from err
    return found
