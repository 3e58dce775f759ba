"""Another system's own JSON as labels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.records import Column, LabelSet, LabelSource
from mlbox.store.labels.webhook import check_fields, read_body

CRM = LabelSource(
    name="crm",
    each="/events",
    fields={"id": "/id", "who": "/customer/ids/0", "event_time": "/at", "churned": "/a~1b/c~0d"},
)
SET = LabelSet(
    name="churned",
    keys=(Column(name="who", dtype="STRING"),),
    value=Column(name="churned", dtype="BOOL"),
    sources=(CRM,),
)
EVENT = {"id": "17", "customer": {"ids": ["c7", "c8"]}, "at": 1767348000, "a/b": {"c~d": True}}


def test_each_event_of_a_body_is_a_label() -> None:
    row = {"id": "17", "who": "c7", "event_time": "2026-01-02T10:00:00+00:00", "churned": True}
    assert read_body({"events": [EVENT, EVENT]}, SET, CRM) == [row, row]
    assert read_body({"events": EVENT}, SET, CRM) == [row], "one that is no list"


def test_what_is_not_there_is_null_and_so_held_back_by_name() -> None:
    nothing = dict.fromkeys(CRM.fields)
    for body in ({}, {"events": [{}]}, [], None, 7, {"events": [{"customer": {"ids": []}}]}):
        assert read_body(body, SET, CRM) in ([nothing], [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*"ab", "events", "at"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(body=json_values)
def test_any_body_is_rows_of_those_columns(body: Any) -> None:
    assert all(row.keys() == CRM.fields.keys() for row in read_body(body, SET, CRM))


def test_a_source_without_fields_and_odd_fields_are_refused() -> None:
    with pytest.raises(InvalidInput, match="does not say where"):
        read_body({}, SET, LabelSource(name="other"))
    for fields, each in (({"nothing": "/a"}, ""), ({"who": "a"}, ""), ({"who": "/a"}, "b")):
        with pytest.raises(InvalidInput):
            check_fields(SET, LabelSource(name="crm", fields=fields, each=each))
    with pytest.raises(InvalidInput, match="too many"):
        read_body({"events": [EVENT] * 10_001}, SET, CRM)
