"""What counted, when: the history of resolved labels, and the source of features that it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.errors import AlreadyExists, InvalidInput
from mlbox.records import Column, ViewSpec
from mlbox.store.datasets.datasets import DatasetSpec
from mlbox.store.labels import history as label_history
from mlbox.store.labels.history import resolved_table
from tests.store.test_datasets import START, USER, House, moment, table
from tests.store.test_labels import SET, Said, said, say

VIEW = ViewSpec(
    name="kind",
    join_keys=(USER,),
    features=(Column(name="is", dtype="STRING"),),
    sql='SELECT who, "is", event_time, knowable AS arrival_time FROM kinds',
    sources=("kinds",),
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    built.labels.apply(SET, actor="ann")
    built.clock.advance(moment(100))
    yield built
    built.close()


def history(house: House, at: datetime, name: str = "kind") -> dict[tuple[str, datetime], Any]:
    """What the rows say that counted at a moment, read by hand."""
    labels = house.labels.declared(name)
    house.offline.write(lambda c: house.labels.bring(c, labels))
    rows = house.offline.rows(
        f'SELECT who, event_time, "is", _tied, _knowable FROM {resolved_table(name)} ORDER BY _knowable, _seq'
    )
    found = {(r[0], r[1]): (r[2], r[3]) for r in rows if r[4] <= at.replace(tzinfo=None)}
    return {item: value for item, (value, tied) in found.items() if tied is False}


class Told:
    """A label set of its own in a house that many examples share: its clock goes on, so each begins later."""

    def __init__(self, house: House, policy: Any) -> None:
        self.house = house
        self.name = f"kind{next(NUMBERS)}"
        self.base = (house.clock.now() - START).total_seconds() + 10
        house.labels.apply(msgspec.structs.replace(SET, name=self.name, policy=policy), actor="ann")
        self.now = 10

    def at(self, seconds: float) -> datetime:
        return moment(self.base + seconds)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.house.clock.advance(self.at(self.now))

    def say(self, one: Said, *, backfill: bool = False) -> None:
        claimed = one.claimed
        if backfill:
            claimed = 5 if claimed is None else min(claimed, 9)
        row: dict[str, list[Any]] = {"who": [one.who], "event_time": [self.base + one.event], "is": [one.value]}
        row |= {"annotator": [one.annotator], "id": [one.id], "ground_truth": [one.truth]}
        if claimed is not None:
            row["known_at"] = [self.base + claimed]
        self.house.labels.append(self.name, table(**row), source=one.source, backfill=backfill, actor="ann")

    def counts(self, at: datetime) -> dict[tuple[str, datetime], Any]:
        """What counted at a moment, derived from all claims."""
        labels = self.house.labels.declared(self.name)
        found = self.house.offline.read(lambda c: c.execute(self.house.labels.known_sql(c, labels, at)).fetchall())
        return {(who, event): value for who, event, value in found}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    built = House(tmp_path_factory.mktemp("shared"))
    yield built
    built.close()


steps = st.lists(st.tuples(said, st.sampled_from(["say", "say", "say", "backfill", "look"])), min_size=1, max_size=12)
POLICIES = st.sampled_from(["latest", "priority", "majority", "weighted"])
NUMBERS = itertools.count()
SHARED = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("many", [64, 1])
@SHARED
@given(steps=steps, policy=POLICIES, back=st.integers(0, 30))
def test_the_history_is_what_counted_at_every_moment(
    shared: House, many: int, steps: list[tuple[Said, str]], policy: Any, back: int
) -> None:
    """However it was brought up to date in between, with corrections that move a label to another item, and backfills; also where
    more labels speak of an item than are looked at together.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_history, "MANY", many)
        _check_history(Told(shared, policy), steps, back)


def _check_history(told: Told, steps: list[tuple[Said, str]], back: int) -> None:
    for one, what in steps:
        told.wait(one.wait)
        if what == "look":
            history(told.house, told.at(told.now), told.name)
        told.say(one, backfill=what == "backfill")
    for at in (told.at(max(0, told.now - back)), told.at(told.now)):
        assert history(told.house, at, told.name) == told.counts(at)


def test_an_item_of_very_many_labels_is_looked_at_in_pages(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_history, "PAGE_LABELS", 50)
    house.labels.apply(msgspec.structs.replace(SET, policy="majority"), actor="ann")
    for at in range(30):
        house.clock.advance(moment(100 + at))
        say(house, "crowd", "cat" if at % 3 else "dog", annotator=f"p{at}", id=str(at))
    labels = house.labels.declared("kind")
    for at in (moment(100 + second) for second in range(0, 30, 4)):
        known = house.offline.read(lambda c, at=at: c.execute(house.labels.known_sql(c, labels, at)).fetchall())
        assert history(house, at) == {(who, event): value for who, event, value in known}


def test_nothing_is_added_where_nothing_changed(house: House) -> None:
    say(house, "vet", "cat")
    say(house, "owner", "cat")
    history(house, house.clock.now())
    size = len(house.offline.rows(f"SELECT * FROM {resolved_table('kind')}"))
    house.clock.advance(moment(200))
    say(house, "crowd", "cat")
    assert history(house, house.clock.now())
    assert (size, len(house.offline.rows(f"SELECT * FROM {resolved_table('kind')}"))) == (1, 1)


def test_another_policy_counts_from_when_it_is_noticed_and_rewrites_nothing(house: House) -> None:
    say(house, "vet", "cat")
    house.clock.advance(moment(110))
    say(house, "owner", "dog")
    house.labels.publish("kind", "kinds", actor="ann")
    assert list(history(house, moment(110)).values()) == ["dog"]
    house.clock.advance(moment(120))
    house.labels.apply(msgspec.structs.replace(SET, policy="priority"), actor="ann")
    assert list(history(house, moment(119)).values()) == ["dog"], "as it was seen then"
    assert list(history(house, moment(120)).values()) == ["cat"]


# -- a source of features --------------------------------------------------------------------------------------------------------


def asked(house: House, *rows: tuple[str, float]) -> list[Any]:
    spine = table(who=[who for who, _ in rows], event_time=[at for _, at in rows])
    found = house.features.historical(["kind:is"], spine, event_time="event_time")
    return found.column("kind@v1:is").to_pylist()


def test_what_counts_is_a_feature_from_when_it_was_knowable(house: House) -> None:
    house.labels.publish("kind", "kinds", actor="ann")
    house.features.apply_view(VIEW, actor="ann")
    say(house, "owner", "dog", event=50)
    house.clock.advance(moment(120))
    say(house, "owner", "cat", event=50, id="2")
    assert asked(house, ("a", 60), ("a", 99), ("a", 100), ("a", 119), ("a", 120), ("b", 120)) == [
        *(None, None, "dog", "dog", "cat", None)
    ]
    house.features.materialize()
    (online,) = house.features.online_features(["kind:is"], [{"who": "a"}])
    assert online.values == {"kind@v1:is": "cat"}


@SHARED
@given(
    every=st.lists(said, min_size=1, max_size=10),
    policy=POLICIES,
    first=st.booleans(),
    at=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 45)), min_size=1, max_size=6),
)
def test_no_row_is_given_a_label_before_it_was_knowable(
    shared: House, every: list[Said], policy: Any, first: bool, at: list[tuple[str, int]]
) -> None:
    """Whether the set was published before or after the labels came: what a row gets is what counted at its time."""
    told = Told(shared, policy)
    source = f"source-of-{told.name}"
    if first:
        shared.labels.publish(told.name, source, actor="ann")
    for one in every:
        told.wait(one.wait)
        told.say(one)
    shared.labels.publish(told.name, source, actor="ann")
    view = shared.features.apply_view(
        msgspec.structs.replace(VIEW, name=told.name, sources=(source,), sql=VIEW.sql.replace("kinds", f'"{source}"')),
        actor="ann",
    )
    ref = f"{view.ref}:is"
    spine = table(who=[who for who, _ in at], event_time=[told.base + when for _, when in at])
    found = shared.features.historical([ref], spine, event_time="event_time").column(ref).to_pylist()
    for (who, when), value in zip(at, found, strict=True):
        known = told.counts(told.at(when))
        events = shared.offline.rows(  # of a tie, or of a label that was corrected away, too: they have no value
            f"SELECT max(event_time) FROM {resolved_table(told.name)} WHERE who = ? AND _knowable <= ?",
            [who, told.at(when).replace(tzinfo=None)],
        )
        assert value == known.get((who, events[0][0])), (who, when)


def test_it_joins_into_a_dataset_like_any_feature(house: House) -> None:
    house.labels.publish("kind", "kinds", actor="ann")
    house.features.apply_view(VIEW, actor="ann")
    say(house, "owner", "dog", who="a", event=2)
    house.clock.advance(moment(200))
    house.features.append("visits", table(who=["a", "a", "b"], moment=[50, 150, 150]), actor="ann")
    spec = DatasetSpec(name="past", spine="SELECT who, moment AS event_time FROM visits", features=("kind:is",))
    made = house.datasets.create(spec, actor="ann")
    assert house.datasets.open_table(made.ref).column("kind@v1:is").to_pylist() == [None, "dog", None]
    assert made.views == ("kind@v1",)


def test_nobody_else_adds_to_it_and_no_source_of_others_is_taken(house: House) -> None:
    house.features.append("visits", table(who=["a"], moment=[1]), actor="ann")
    with pytest.raises(AlreadyExists, match="rows of others"):
        house.labels.publish("kind", "visits", actor="ann")
    house.labels.publish("kind", "kinds", actor="ann")
    rows = table(who=["a"], event_time=[1], **{"is": ["cat"]})
    rows = rows.append_column("knowable", pa.array([START], pa.timestamp("us", "UTC")))
    for add in (house.features.append, house.features.push):
        with pytest.raises(InvalidInput, match="label set kind"):
            add("kinds", rows, actor="ann")
    with pytest.raises(AlreadyExists, match="published as 'kinds'"):
        house.labels.publish("kind", "others", actor="ann")
    assert house.labels.apply(SET, actor="ann").published == "kinds", "declaring it again changes nothing"
