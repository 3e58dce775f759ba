"""A set of definitions: planned as it is applied, all or none, and never mixed with another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, MlboxError, NotFound
from mlbox.events import EventBus
from mlbox.records import Column, Definitions, Entity, ServiceSpec, SourceSpec, TransformInput, TransformSpec, ViewSpec
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features.definitions import FeatureDefinitions
from mlbox.store.features.online import Online
from mlbox.store.offline.offline import Offline
from tests.store.test_features import START

WHO = Column(name="who", dtype="STRING")
AMOUNT = Column(name="amount", dtype="FP64")
SOURCE = SourceSpec(name="sales", columns=(WHO, AMOUNT, Column(name="bought", dtype="TIMESTAMP")), event_time="bought")
ENTITY = Entity(name="customer", join_keys=(WHO,))
VIEW = ViewSpec(
    name="last",
    entity="customer",
    join_keys=(WHO,),
    features=(AMOUNT,),
    sql="SELECT who, amount, bought AS event_time\nFROM sales",
    sources=("sales",),
)
OVER = ViewSpec(
    name="twice",
    join_keys=(WHO,),
    features=(AMOUNT,),
    sql="SELECT who, 2 * amount AS amount, event_time FROM last",
    sources=("last",),
)
TRANSFORM = TransformSpec(
    name="ratio",
    inputs=(TransformInput(name="amount", feature="last:amount"),),
    outputs=(Column(name="half", dtype="FP64"),),
    code="def ratio(amount):\n    return amount / 2",
)
SERVICE = ServiceSpec(name="both", features=("last:amount", "twice:amount", "ratio:half"))
ALL = Definitions(
    sources=(SOURCE,), entities=(ENTITY,), views=(OVER, VIEW), transforms=(TRANSFORM,), services=(SERVICE,)
)


def make(folder: Path) -> tuple[FeatureDefinitions, list[Any]]:
    clock = ManualClock(START)
    opened = [
        Database(folder / "features.sqlite", migrations.features, clock, EventBus()),
        Offline(folder / "offline.duckdb"),
        Online(folder / "online"),
    ]
    return FeatureDefinitions(*opened, clock), opened  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureDefinitions]:
    made, opened = make(tmp_path)
    yield made
    for one in opened:
        one.close()


def actions(changes: Any) -> dict[str, str]:
    return {f"{one.kind} {one.ref}": one.action for one in changes.changes}


def test_a_set_may_name_what_it_defines_itself_in_any_order(store: FeatureDefinitions) -> None:
    planned = store.plan(ALL)
    assert actions(planned) == {
        "source sales": "create",
        "entity customer": "create",
        "view last@v1": "create",
        "view twice@v1": "create",
        "transform ratio@v1": "create",
        "service both@v1": "create",
    }
    assert (store.views(), store.declarations(), store.entities(), store.services()) == ([], [], [], [])
    assert actions(store.apply(ALL, base=planned.base, actor="ann")) == actions(planned)
    assert store.view("twice").sources == ("last@v1",)
    assert store.service("both").features == ("last@v1:amount", "twice@v1:amount", "ratio@v1:half")
    assert set(actions(store.plan(ALL)).values()) == {"none"}
    assert set(actions(store.apply(ALL, actor="bea")).values()) == {"none"}


def test_a_plan_says_what_changes_by_the_line(store: FeatureDefinitions) -> None:
    store.apply(ALL, actor="ann")
    changed = msgspec.structs.replace(
        VIEW,
        sql="SELECT who, amount, bought AS event_time, 1 AS one\nFROM sales",
        features=(AMOUNT, Column(name="one", dtype="INT64")),
        ttl_seconds=60,
        owner="bea",
    )
    (change,) = store.plan(Definitions(views=(changed,))).changes
    assert (change.action, change.ref) == ("new version", "last@v2")
    assert set(change.differences) == {
        "feature one INT64 comes",
        "sql:",
        "  -SELECT who, amount, bought AS event_time",
        "  +SELECT who, amount, bought AS event_time, 1 AS one",
        "   FROM sales",
        "ttl_seconds: null -> 60",
        'owner: "" -> bea',
    }
    described = msgspec.structs.replace(
        VIEW, schedule="upstream", features=(msgspec.structs.replace(AMOUNT, unit="EUR"),)
    )
    (change,) = store.plan(Definitions(views=(described,))).changes
    assert (change.action, change.ref) == ("describe", "last@v1")
    assert set(change.differences) == {'feature amount: unit "" -> EUR', 'schedule: "" -> upstream'}
    assert store.view("last").schedule == ""


def test_a_new_version_of_what_a_view_reads_is_a_new_version_of_the_view(store: FeatureDefinitions) -> None:
    store.apply(ALL, actor="ann")
    changed = msgspec.structs.replace(VIEW, ttl_seconds=60)
    wanted = msgspec.structs.replace(ALL, views=(OVER, changed))
    assert actions(store.apply(wanted, actor="ann")) == {
        "source sales": "none",
        "entity customer": "none",
        "view last@v2": "new version",
        "view twice@v2": "new version",
        "transform ratio@v2": "new version",
        "service both@v2": "new version",
    }
    assert store.view("twice@v1").sources == ("last@v1",)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"views": (VIEW, msgspec.structs.replace(OVER, sql="SELECT 1 FROM last"))}, InvalidInput, "view twice: "),
        ({"views": (OVER,)}, NotFound, "view twice: There is no source 'last'"),
        ({"views": (VIEW, VIEW)}, InvalidInput, "defined twice"),
        ({"services": (ServiceSpec(name="s", features=("last:no",)),)}, InvalidInput, "service s: "),
        ({"views": (msgspec.structs.replace(VIEW, sources=("twice",)), OVER)}, InvalidInput, "read one another"),
        ({"views": (msgspec.structs.replace(VIEW, entity="shop"),)}, NotFound, "view last: There is no entity"),
        (
            {"entities": (msgspec.structs.replace(ENTITY, join_keys=(AMOUNT,)),)},
            InvalidInput,
            "The join keys of customer are amount FP64",
        ),
    ],
)
def test_one_wrong_definition_keeps_out_all(
    store: FeatureDefinitions, changes: dict[str, Any], kind: type[MlboxError], message: str
) -> None:
    wanted = msgspec.structs.replace(ALL, **changes)
    for call in (lambda: store.plan(wanted), lambda: store.apply(wanted, actor="ann")):
        with pytest.raises(kind, match=message):
            call()
    assert (store.views(), store.declarations(), store.entities(), store.transforms()) == ([], [], [], [])
    store.add_source(
        "sales", (WHO, SOURCE.columns[2]), "bought", None, actor="bea"
    )  # no table was left of the other one


def test_a_source_that_is_another_is_refused(store: FeatureDefinitions) -> None:
    store.apply(ALL, actor="ann")
    other = msgspec.structs.replace(SOURCE, columns=SOURCE.columns[::2])
    with pytest.raises(AlreadyExists, match="source sales: "):
        store.plan(Definitions(sources=(other,)))


def test_the_keys_of_an_entity_stay_while_a_view_names_it(store: FeatureDefinitions) -> None:
    store.apply(ALL, actor="ann")
    store.apply_entity(msgspec.structs.replace(ENTITY, description="Who buys."), actor="ann")
    assert store.entity("customer").description == "Who buys."
    with pytest.raises(Conflict, match="last@v1 names it"):
        store.apply_entity(msgspec.structs.replace(ENTITY, join_keys=(AMOUNT,)), actor="ann")


def test_an_apply_after_another_says_who_came_first(store: FeatureDefinitions) -> None:
    mine = store.plan(ALL)
    store.apply(Definitions(sources=(SOURCE,), entities=(ENTITY,), views=(VIEW,)), actor="bea")
    with pytest.raises(Conflict, match="bea changed last@v1"):
        store.apply(ALL, base=mine.base, actor="ann")
    assert [view.ref for view in store.views()] == ["last@v1"]


def test_two_applies_at_once_never_mix(store: FeatureDefinitions) -> None:
    store.apply(ALL, actor="ann")
    planned = store.plan(ALL)
    answers: list[Any] = []

    def change(ttl: int) -> None:
        views = tuple(msgspec.structs.replace(view, ttl_seconds=ttl) for view in ALL.views)
        try:
            answers.append(store.apply(msgspec.structs.replace(ALL, views=views), base=planned.base, actor=f"u{ttl}"))
        except Conflict as err:
            answers.append(err)

    threads = [threading.Thread(target=change, args=(ttl,)) for ttl in range(10, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(answer, Conflict) for answer in answers) == 5
    assert store.view("last").ttl_seconds == store.view("twice").ttl_seconds
    assert [view.ref for view in store.views()] == ["last@v1", "last@v2", "twice@v1", "twice@v2"]


@settings(max_examples=6, deadline=None)
@given(
    rounds=st.lists(
        st.fixed_dictionaries(
            {
                "ttl": st.sampled_from([None, 5, 6]),
                "owner": st.sampled_from(["", "ann"]),
                "factor": st.integers(1, 3),
                "with_service": st.booleans(),
            }
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_plan_says_exactly_what_an_apply_does(tmp_path_factory: pytest.TempPathFactory, rounds: list[Any]) -> None:
    store, opened = make(tmp_path_factory.mktemp("box"))
    for one in rounds:
        sql = OVER.sql.replace("2 *", f"{one['factor']} *")
        wanted = msgspec.structs.replace(
            ALL,
            views=(
                msgspec.structs.replace(OVER, sql=sql),
                msgspec.structs.replace(VIEW, ttl_seconds=one["ttl"], owner=one["owner"]),
            ),
            services=ALL.services if one["with_service"] else (),
        )
        planned = store.plan(wanted)
        done = store.apply(wanted, base=planned.base, actor="ann")
        assert [msgspec.structs.replace(change, alike=()) for change in planned.changes] == list(done.changes)
        assert set(actions(store.plan(wanted)).values()) == {"none"}
    for each in opened:
        each.close()


def test_what_repeats_a_feature_is_named(store: FeatureDefinitions) -> None:
    store.apply(ALL, actor="ann")
    again = msgspec.structs.replace(VIEW, name="newest", sql="select who, amount, bought as event_time from sales")
    (change,) = store.plan(Definitions(views=(again,))).changes
    assert change.alike == ("newest:amount repeats last@v1:amount (same SQL)",)
    twin = msgspec.structs.replace(again, name="newer")
    changes = store.plan(Definitions(views=(again, twin))).changes
    assert changes[1].alike == (
        "newer:amount repeats last@v1:amount (same SQL)",
        "newer:amount repeats newest@v1:amount (same SQL)",
    )


def test_a_name_means_what_was_defined_last_and_a_plan_changes_nothing(store: FeatureDefinitions) -> None:
    store.apply(ALL, actor="ann")
    first = store.resolve(["last:amount"])
    assert first == ("last@v1:amount",)
    assert store.resolve(["both"]) == ("last@v1:amount", "twice@v1:amount", "ratio@v1:half")
    changed = msgspec.structs.replace(VIEW, ttl_seconds=60)
    store.plan(Definitions(views=(changed,)))
    assert store.resolve(["last:amount"]) == first
    store.apply_view(changed, actor="ann")
    assert store.resolve(["last:amount"]) == ("last@v2:amount",)
    store.apply(Definitions(views=(msgspec.structs.replace(VIEW, ttl_seconds=90),)), actor="ann")
    assert store.resolve(["last:amount"]) == ("last@v3:amount",)
    assert store.resolve(["last@v1:amount", "both"]) == ("last@v1:amount", "twice@v1:amount", "ratio@v1:half")
    with pytest.raises(InvalidInput, match="named twice"):
        store.resolve(["last@v1:amount", "both", "last@v1:amount"])
