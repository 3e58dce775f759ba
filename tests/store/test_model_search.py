"""MLflow's filter grammar over models and versions, orders, and pages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.registry.curation import Curation
from mlbox.store.registry.model_search import ModelSearch
from mlbox.store.registry.registry import NewVersion, Registry

NAMES = ("churn", "Churn_eu", "delay")


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSearch]:
    clock = ManualClock(parse_time("2026-01-01T00:00Z"))
    db = Database(tmp_path_factory.mktemp("search") / "registry.sqlite", migrations.registry, clock, EventBus())
    registry = Registry(db)
    curation = Curation(db, registry)
    for place, name in enumerate(NAMES):
        registry.create_model(name, actor="ann")
        curation.set_model_tag(name, "team", "ops" if place else "it's", actor="ann")
        for number in range(3):
            clock.advance(clock.now() + timedelta(hours=1))
            new = NewVersion(
                model=name, trained_by="a", submitted_by="a", run_id=f"r{number}", source=f"runs:/r{number}/{name}"
            )
            registry.register(new)
            curation.set_version_tag(name, number + 1, "mlflow.note", f"n{number}", actor="ann")
    yield ModelSearch(registry)
    db.close()


def names(search: ModelSearch, filter: str, **more: Any) -> list[str]:
    return [model.name for model in search.models(filter, **more).found]


def refs(search: ModelSearch, filter: str, **more: Any) -> list[str]:
    return [version.ref for version in search.versions(filter, **more).found]


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ("", ["Churn_eu", "churn", "delay"]),
        ("name = 'churn'", ["churn"]),
        ("attribute.name != 'churn'", ["Churn_eu", "delay"]),
        ("name LIKE 'churn%'", ["churn"]),
        ("name ilike 'CHURN%'", ["Churn_eu", "churn"]),
        ("name LIKE 'ch_rn'", ["churn"]),
        ("name LIKE 'churn*%'", []),
        ("name IN ('churn', 'delay', 'none')", ["churn", "delay"]),
        ("tags.team = 'ops' AND name LIKE '%a%'", ["delay"]),
        ("tag.`team` = 'it''s'", ["churn"]),
        ("tags.team != 'ops'", ["churn"]),
        ("tags.absent != 'x'", []),
        ("tags.absent IS NULL AND tags.team IS NOT NULL", ["Churn_eu", "churn", "delay"]),
        ("tags.`mlflow.prompt.is_prompt` != 'true'", ["Churn_eu", "churn", "delay"]),
        ("tags.`mlflow.prompt.is_prompt` = 'true'", []),
        ("name = 'x' OR 1=1", None),
        ("name = 'x'; DROP TABLE model", None),
        ("name = 'x' AND", None),
        ("name", None),
        ("name = churn", None),
        ("name > 'a'", None),
        ("metrics.auc > 1", None),
        ("colour = 'red'", None),
        ("name IN ()", None),
        ("name IN ('a' 'b')", None),
        ("name = 'unended", None),
        ("(" * 500, None),
        ("name = 'a' AND " * 2000, None),
        ("name LIKE 'churn' AND tags.`` = 'x'", None),
    ],
)
def test_models_by_filter(search: ModelSearch, filter: str, found: list[str] | None) -> None:
    if found is not None:
        assert names(search, filter) == found
        return
    with pytest.raises(InvalidInput) as caught:
        search.models(filter)
    assert caught.value.field == "filter"


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ("name = 'churn'", ["churn/3", "churn/2", "churn/1"]),
        ("name='churn' and version_number >= 2", ["churn/3", "churn/2"]),
        ("run_id IN ('r0') AND name = 'delay'", ["delay/1"]),
        ("run_id NOT IN ('r0', 'r1') AND name = 'delay'", ["delay/3"]),
        ("source_path = 'runs:/r1/churn'", ["churn/2"]),
        ("source_path LIKE 'runs:/%/delay' AND tags.`mlflow.note` = 'n0'", ["delay/1"]),
        ("version_number = 1.5", []),
        ("version_number = 'x'", None),
        (f"version_number = {'9' * 30}", []),
        ("version_number LIKE 1", None),
        ("stage = 'Production'", None),
    ],
)
def test_versions_by_filter(search: ModelSearch, filter: str, found: list[str] | None) -> None:
    if found is not None:
        assert sorted(refs(search, filter)) == sorted(found)
        return
    with pytest.raises(InvalidInput) as caught:
        search.versions(filter)
    assert caught.value.field == "filter"


def test_orders(search: ModelSearch) -> None:
    assert names(search, "", order_by=["name DESC"]) == ["delay", "churn", "Churn_eu"]
    assert names(search, "", order_by=["creation_timestamp"]) == ["churn", "Churn_eu", "delay"]
    assert refs(search, "", order_by=["version_number DESC", "name"])[:3] == ["Churn_eu/3", "churn/3", "delay/3"]
    assert refs(search, "")[0] == "delay/3"
    for order in ("colour", "name; DROP TABLE model", "name UP", ""):
        with pytest.raises(InvalidInput) as caught:
            search.models("", order_by=[order])
        assert caught.value.field == "order_by"
    with pytest.raises(InvalidInput, match="twice"):
        search.models("", order_by=["name", "name DESC"])


@pytest.mark.parametrize("order", [[], ["name"], ["version_number DESC"], ["creation_timestamp DESC", "name"]])
def test_pages_join_to_the_whole_whatever_the_order(search: ModelSearch, order: list[str]) -> None:
    whole, after, pages = refs(search, "", order_by=order), None, []
    while True:
        page = search.versions("", order_by=order, limit=2, after=after)
        pages += [version.ref for version in page.found]
        after = page.next
        if after is None:
            break
    assert pages == whole
    assert len(whole) == 9


def test_pages_the_other_way_round_are_the_same_backwards(search: ModelSearch) -> None:
    forth = refs(search, "", order_by=["creation_timestamp ASC"])
    back = refs(search, "", order_by=["creation_timestamp DESC"])
    assert forth == back[::-1]


def test_a_token_of_another_search_is_refused(search: ModelSearch) -> None:
    with pytest.raises(InvalidInput) as caught:
        search.versions("", after=["x"])
    assert caught.value.field == "page_token"
