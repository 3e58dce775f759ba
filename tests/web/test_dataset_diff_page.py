"""What two versions of a dataset have different, as a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from mlbox.store.datasets.datasets import DatasetFrom
from tests.web.site import Site, open_box


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    box = open_box(tmp_path / "data")
    first = pa.table({"id": [1, 2, 3], "x": [0.5, 1.5, 2.5], "note": ["a", "<b>", None]})
    second = pa.table({"id": [2, 3, 4], "x": [1.5, 9.75, 4.5], "more": [7, 8, 9]})
    for rows in (first, second):
        box.datasets.keep_rows("d", rows, DatasetFrom(), actor="ann")
    yield Site(box)
    box.close()


def test_a_version_leads_to_what_changed_since_the_others(site: Site) -> None:
    assert 'href="/datasets/d@v1/diff/d@v2"' in site.get("/datasets/d@v2").text
    assert 'href="/datasets/d@v1/diff/d@v2"' in site.get("/datasets/d@v1").text


def test_rows_are_compared_by_key_with_examples(site: Site) -> None:
    text = site.get("/datasets/d@v1/diff/d@v2?key=id").text
    for panel in ("Schema", "Changed rows", "Added rows", "Removed rows", "Statistics that moved"):
        assert panel in text, panel
    assert "9.75" in text, "what x of 3 became"
    assert "mlbox dataset diff d@v1 d@v2" in text


def test_without_a_key_rows_are_compared_as_a_whole(site: Site) -> None:
    text = site.get("/datasets/d@v1/diff/d@v2").text
    assert "no key names a row" in text
    assert "Changed rows" not in text


def test_the_same_version_differs_in_nothing(site: Site) -> None:
    assert "nothing differs" in site.get("/datasets/d@v1/diff/d@v1").text


def test_a_key_that_is_no_column_is_told_beside_the_form(site: Site) -> None:
    answer = site.get("/datasets/d@v1/diff/d@v2?key=nothing")
    assert answer.status_code == 200
    assert "is no column of both" in answer.text
    assert site.get("/datasets/d@v1/diff/d@v9").status_code == 404
