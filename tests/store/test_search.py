"""One search over everything: what it finds, in which order, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.store.db import DownDatabase
from mlbox.store.search import MOST_WORDS, ROOMS, Search
from mlbox.web.box import Box
from tests.web.site import NASTY, Filled, fill, open_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("search") / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def filled(box: Box) -> Filled:
    return fill(box)


def refs(box: Box, text: str, **options: int) -> dict[str, list[str]]:
    """What is found, by kind."""
    found: dict[str, list[str]] = {}
    for hit in box.search.find(text, **options).hits:
        found.setdefault(hit.kind, []).append(hit.ref)
    return found


def test_every_kind_is_found_by_its_name(box: Box, filled: Filled) -> None:
    assert refs(box, "churn")["model"] == ["churn"]
    assert refs(box, "churn")["dataset"] == ["churn@v1"]
    assert refs(box, "churn")["experiment"] == ["churn"]
    assert refs(box, "sales")["source"] == ["sales"]
    assert refs(box, "SPEND")["view"] == ["spend@v1"]
    assert refs(box, "ratio")["transform"] == ["ratio@v1"]
    assert refs(box, "left")["label"] == ["left"]
    assert refs(box, "first")["run"] == [filled.run]
    assert filled.job in refs(box, "job")["job"]
    assert refs(box, "every-night")["cron"] == [filled.cron]
    assert {room.kind for room in ROOMS} == {
        *("model", "dataset", "experiment", "source", "view", "transform", "label", "run", "job", "cron")
    }


def test_a_view_is_found_by_a_feature_a_run_by_its_id_and_a_job_by_its_command(box: Box, filled: Filled) -> None:
    assert refs(box, "amount")["view"] == ["spend@v1"]
    assert refs(box, "share")["transform"] == ["ratio@v1"]
    assert refs(box, filled.run[:12])["run"] == [filled.run]
    assert filled.job in refs(box, "python hello")["job"]


def test_every_word_counts_and_signs_are_only_signs(box: Box, filled: Filled) -> None:
    assert refs(box, "churn nothing") == {}
    assert refs(box, "%") == {}
    assert refs(box, "chu_n") == {}
    assert filled.other_run in refs(box, NASTY[:20])["run"]


def test_what_is_called_so_comes_first_and_each_kind_has_a_limit(box: Box, filled: Filled) -> None:
    for name in ("late-churner", "churner"):
        box.registry.create_model(name, actor="ada")
    assert refs(box, "churn")["model"] == ["churn", "churner", "late-churner"]
    assert refs(box, "churn", limit=2)["model"] == ["churn", "churner"]


@pytest.mark.parametrize("text", ["", "   ", "a " * (MOST_WORDS + 1)])
def test_no_word_and_too_many_are_refused(box: Box, text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        box.search.find(text)
    assert refused.value.field == "q"


@settings(max_examples=60)
@given(st.text(min_size=1).filter(lambda text: 1 <= len(text.split()) <= MOST_WORDS))
def test_any_text_is_searched_for(box: Box, filled: Filled, text: str) -> None:
    for hit in box.search.find(text).hits:
        whole = f"{hit.name} {hit.ref} {hit.about}".lower()
        assert all(word.lower() in whole or not word.isascii() for word in text.split())


def test_stores_that_are_down_are_named(tmp_path: Path) -> None:
    stores = {room.store: DownDatabase(tmp_path / f"{room.store}.sqlite", "it is no database") for room in ROOMS}
    found = Search(stores).find("churn")
    assert (found.hits, set(found.down)) == ((), stores.keys())
