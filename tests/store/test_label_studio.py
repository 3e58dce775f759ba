"""Label Studio's JSON export: cancelled annotations dropped, ground truth first, annotators kept."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.records import Column, LabelSet
from mlbox.store.labels.studio import read_export
from tests.store.test_labels import SET, counts, house, moment  # noqa: F401

NUMBER = LabelSet(name="n", keys=(Column(name="id_", dtype="INT64"),), value=Column(name="stars", dtype="INT64"))


def annotation(number: int, choice: Any, **more: Any) -> dict[str, Any]:
    result = [{"type": "choices", "from_name": "is", "value": {"choices": [choice]}}] if choice else []
    return {"id": number, "result": result, "completed_by": number, "updated_at": moment(50).isoformat(), **more}


def task(number: int, *annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    about = {"who": f"w{number}", "event_time": moment(1).isoformat(), "image": "x.png", **data}
    return {"id": number, "data": about, "annotations": list(annotations), "predictions": [], "project": 3}


def export(*tasks: Any) -> bytes:
    return json.dumps(list(tasks)).encode()


def test_an_export_becomes_labels(house: Any) -> None:  # noqa: F811
    content = export(
        task(1, annotation(1, "cat"), annotation(2, "dog", was_cancelled=True)),
        task(2, annotation(3, "dog", ground_truth=True), annotation(4, "cat", updated_at=moment(90).isoformat())),
        task(3, annotation(5, "cow", completed_by={"id": 5, "email": "eve@example.org"})),
        task(4, annotation(6, None)),
    )
    rows = read_export(content, SET)
    done = house.labels.append_rows("kind", rows, source="vet", actor="ann")
    assert (done.rows, done.quarantined) == (4, 1), "an empty annotation is held: it has no value"
    assert {who: value for (who, _), value in counts(house).items()} == {"w1": "cat", "w2": "dog", "w3": "cow"}
    (item,) = [one for one in [house.labels.item("kind", {"who": "w3"}, moment(1))] if one]
    assert [(claim.annotator, claim.claimed_at) for claim in item.claims] == [("eve@example.org", moment(50))]
    assert house.labels.append_rows("kind", read_export(content, SET), source="vet", actor="ann").rows == 0


def test_numbers_and_ratings_are_values_too() -> None:
    rated = {"id": 1, "result": [{"type": "rating", "value": {"rating": 4}}], "completed_by": 1}
    typed = {"id": 2, "result": [{"type": "choices", "value": {"choices": ["5"]}}], "completed_by": 1}
    rows = read_export(export(task(1, rated, typed, id_="7")), NUMBER)
    assert [(row["id_"], row["stars"]) for row in rows] == [(7, 4), (7, 5)]


BOX = {"id": 1, "result": [{"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["cat"]}}]}
TWO = {"id": 1, "result": [{"type": "choices", "value": {"choices": ["cat", "dog"]}}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (export(task(17, BOX)), "Task 17 is annotated with 1 results of type 'rectanglelabels'"),
        (export(task(17, TWO)), "Task 17 has 2 choices"),
        (export({"id": 17, "data": {"who": "a"}, "annotations": []}), "Task 17 has no 'event_time'"),
        (b'[{"image": "x", "choice": "cat"}]', "no JSON export"),
        (b"{", "no JSON export"),
        (b"[" * 100_000, "no JSON export"),
    ],
)
def test_an_export_of_another_kind_is_refused_with_the_task(content: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_export(content, SET)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values, choice=json_values)
def test_anything_is_labels_or_refused(value: Any, choice: Any) -> None:
    result = [{"type": "choices", "value": {"choices": choice}}]
    for found in (
        value,
        [{"id": 1, "data": {"who": value, "event_time": value}, "annotations": [{"id": 1, "result": result}]}],
    ):
        with contextlib.suppress(InvalidInput):
            read_export(json.dumps(found).encode(), SET)
