"""Labels come late, twice and in conflict: each claim is kept, and which one counts follows from what was knowable."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.errors import AlreadyExists, InvalidInput, NotFound
from mlbox.records import Column, LabelItem, LabelSet, LabelSource
from tests.store.test_datasets import START, USER, House, moment, table

SET = LabelSet(
    name="kind",
    keys=(USER,),
    value=Column(name="is", dtype="STRING"),
    classes=("cat", "dog", "cow"),
    sources=(
        LabelSource(name="vet", kind="annotation", weight=2.0),
        LabelSource(name="owner", kind="feedback"),
        LabelSource(name="crowd", kind="annotation"),
        LabelSource(name="model", kind="suggestion", weight=100.0),
    ),
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    built.labels.apply(SET, actor="ann")
    built.clock.advance(moment(100))
    yield built
    built.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """For examples that each have a label set of their own; its clock goes on."""
    built = House(tmp_path_factory.mktemp("shared"))
    yield built
    built.close()


def say(
    house: House, source: str, value: str, *, who: str = "a", event: float = 1, name: str = "kind", **more: Any
) -> Any:
    row = {"who": who, "event_time": moment(event).isoformat(), "is": value, **more}
    return house.labels.append_rows(name, [row], source=source, actor="ann")


def counts(house: House, at: datetime | None = None, name: str = "kind") -> dict[tuple[str, datetime], Any]:
    labels = house.labels.declared(name)
    found = house.offline.read(
        lambda c: c.execute(house.labels.known_sql(c, labels, at or house.clock.now())).fetchall()
    )
    return {(who, event): value for who, event, value in found}


def only(house: House) -> Any:
    (value,) = counts(house).values() or (None,)
    return value


# -- which one counts ---------------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """One label, in the order of arrival."""

    who: str
    event: int
    value: str
    source: str
    annotator: str | None
    id: str | None
    claimed: int | None
    truth: bool
    wait: int
    """Seconds of the clock before it."""


said = st.builds(
    Said,
    who=st.sampled_from("ab"),
    event=st.integers(0, 1),
    value=st.sampled_from(["cat", "dog", "cow"]),
    source=st.sampled_from(["vet", "owner", "crowd", "model"]),
    annotator=st.sampled_from([None, "x", "y"]),
    id=st.sampled_from([None, None, "1", "2"]),
    claimed=st.one_of(st.none(), st.integers(1, 12)),
    truth=st.sampled_from([False] * 7 + [True]),
    wait=st.integers(0, 3),
)


def by_hand(every: list[Said], policy: str, at: int) -> dict[tuple[str, int], str]:
    """The rule of `label_views`, written out."""
    now, kept, seen = 10, [], set()
    for number, one in enumerate(every):
        now += one.wait
        payload = (one.source, one.id, *one[:3], one.annotator, one.claimed, one.truth)
        if (one.claimed is not None and (one.claimed > now or one.claimed < one.event)) or payload in seen:
            continue
        seen.add(payload)
        claimed = now if one.claimed is None else one.claimed
        kept.append((one, claimed, max(claimed, now), number))
    truth = [row for row in kept if row[2] <= at and row[0].source != "model"]
    last_by_id = {(row[0].source, row[0].id or row[3]): row for row in truth}
    last_words: dict[Any, Any] = {}
    for row in last_by_id.values():
        key = (row[0].who, row[0].event, row[0].source, row[0].annotator)
        if key not in last_words or (row[1], row[3]) > (last_words[key][1], last_words[key][3]):
            last_words[key] = row
    found = {}
    for item in {key[:2] for key in last_words}:
        claims = [row for key, row in last_words.items() if key[:2] == item]
        settled = [row for row in claims if row[0].truth]
        if settled or policy == "latest":
            found[item] = max(settled or claims, key=lambda row: (row[1], row[3]))[0].value
            continue
        trust = {source.name: place for place, source in enumerate(SET.sources)}
        if policy == "priority":
            best = min(trust[row[0].source] for row in claims)
            claims = [row for row in claims if trust[row[0].source] == best]
        score: Counter[str] = Counter()
        for row in claims:
            score[row[0].value] += 2 if policy == "weighted" and row[0].source == "vet" else 1
        ranked = score.most_common()
        if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
            found[item] = ranked[0][0]
    return found


NUMBERS = itertools.count()


@settings(max_examples=30, deadline=None)
@given(
    every=st.lists(said, min_size=1, max_size=14),
    policy=st.sampled_from(["latest", "priority", "majority", "weighted"]),
    back=st.integers(0, 8),
)
def test_what_counts_is_what_the_rule_says_at_every_moment(
    shared: House, every: list[Said], policy: Any, back: int
) -> None:
    name, base = f"kind{next(NUMBERS)}", (shared.clock.now() - START).total_seconds()
    shared.labels.apply(msgspec.structs.replace(SET, name=name, policy=policy), actor="ann")
    now = 10
    for one in every:
        now += one.wait
        shared.clock.advance(moment(base + now))
        more = {"annotator": one.annotator, "id": one.id, "ground_truth": one.truth}
        if one.claimed is not None:
            more["known_at"] = moment(base + one.claimed).isoformat()
        say(shared, one.source, one.value, who=one.who, event=base + one.event, name=name, **more)
    at = now - back
    expected = by_hand(every, policy, at)
    found = counts(shared, moment(base + at), name)
    first = moment(base).replace(tzinfo=None)
    assert {(who, round((event - first).total_seconds())): value for (who, event), value in found.items()} == expected
    assert shared.labels.known(name, at=moment(base + at)) == len(expected)


def test_another_policy_rewrites_nothing_and_has_a_number(house: House) -> None:
    for source, value in (("owner", "dog"), ("crowd", "dog"), ("vet", "cat")):
        say(house, source, value)
    assert only(house) == "cat"
    before = house.labels.label_set("kind")
    refs = [before.policy_ref]
    for policy, expected in (("majority", "dog"), ("weighted", None), ("priority", "cat")):
        refs.append(house.labels.apply(msgspec.structs.replace(SET, policy=policy), actor="ann").policy_ref)
        assert only(house) == expected if expected else counts(house) == {}
    assert refs == ["latest@1", "majority@2", "weighted@3", "priority@4"]
    assert house.labels.label_set("kind").rows == before.rows == 3
    assert house.labels.apply(msgspec.structs.replace(SET, policy="priority"), actor="bea").policy_version == 4


# -- three times --------------------------------------------------------------------------------------------------------------


def test_what_arrives_today_was_not_known_yesterday_whatever_it_claims(house: House) -> None:
    say(house, "vet", "cat", known_at=moment(5).isoformat())
    assert counts(house, moment(99)) == {}
    assert len(counts(house, moment(100))) == 1


def test_a_declared_backfill_is_believed_and_marked(house: House) -> None:
    rows = table(who=["a"], event_time=[1], known_at=[5], **{"is": ["cat"]})
    house.labels.append("kind", rows, source="vet", backfill=True, actor="admin")
    assert (len(counts(house, moment(5))), counts(house, moment(4))) == (1, {})
    labels = house.labels.declared("kind")
    assert house.labels.has_backfill(labels, moment(5))
    assert not house.labels.has_backfill(labels, moment(4))


# -- twice --------------------------------------------------------------------------------------------------------------------


def test_the_same_again_is_nothing_new_and_another_payload_is_a_correction(house: House) -> None:
    first = say(house, "vet", "cat", id="7")
    again = say(house, "vet", "cat", id="7")
    corrected = say(house, "vet", "dog", id="7")
    late = say(house, "vet", "cat", id="7")
    assert [(one.rows, one.duplicates) for one in (first, again, corrected, late)] == [(1, 0), (0, 1), (1, 0), (0, 1)]
    assert (only(house), house.labels.label_set("kind").rows) == ("dog", 2)
    assert say(house, "owner", "cat", id="7").rows == 1, "ids are a source's own"


def test_a_hundred_thousand_duplicates_are_one(house: House) -> None:
    rows = table(who=["a"] * 100_000, event_time=[1] * 100_000, **{"is": ["cat"] * 100_000})
    done = house.labels.append("kind", rows, source="vet", actor="ann")
    assert (done.rows, done.duplicates, done.quarantined) == (1, 99_999, 0)


# -- what is held back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is": "bird"}, "none of the classes"),
        ({"is": None}, "no value"),
        ({"event": 200}, "still to come"),
        ({"known_at": moment(200).isoformat()}, "still to come"),
        ({"event": 50, "known_at": moment(10).isoformat()}, "before the event"),
        ({"who": None}, "who is missing"),
    ],
)
def test_a_label_that_makes_no_sense_is_held_with_the_reason(house: House, change: dict[str, Any], reason: str) -> None:
    value = change.pop("is", "cat")
    done = say(house, "vet", value, **change)
    assert (done.rows, done.quarantined, counts(house)) == (0, 1, {})
    (held,) = house.labels.held("kind")
    assert any(reason in why for why in held.reasons)
    assert held.source == "vet"
    say(house, "vet", value, **change)
    assert len(house.labels.held("kind")) == 1, "the same again is held once"


def test_held_rows_are_mended_and_sent_again_or_dropped(house: House) -> None:
    say(house, "vet", "bird", who="a", id="n1")
    say(house, "owner", "fish", who="b")
    say(house, "owner", "worm", who="c")
    bird, fish, worm = house.labels.held("kind")
    assert house.labels.resubmit("kind", [bird.id], {bird.id: {"is": "cat"}}, actor="ann").rows == 1
    assert list(counts(house).values()) == ["cat"]
    assert say(house, "vet", "cat", who="a", id="n1").duplicates == 1, "its id came along"
    again = house.labels.resubmit("kind", actor="ann")
    assert (again.rows, again.quarantined) == (0, 2)
    held = house.labels.held("kind")
    assert [one.row["is"] for one in held] == ["fish", "worm"]
    assert house.labels.discard("kind", [held[1].id], actor="ann") == 1
    assert [one.row["is"] for one in house.labels.held("kind")] == ["fish"]
    with pytest.raises(NotFound, match=f"No row {bird.id}"):
        house.labels.resubmit("kind", [bird.id], actor="ann")
    assert (fish.reasons, worm.by) == (("its value is none of the classes",), "ann")


def test_what_is_held_of_many_says_which_row_it_was(house: House) -> None:
    values = ["cat", "bird", "dog", "fish"]
    rows = table(who=list("abcd"), event_time=[1] * 4, **{"is": values})
    assert house.labels.append("kind", rows, source="vet", actor="ann").quarantined == 2
    assert [(one.number, one.row["is"]) for one in house.labels.held("kind")] == [(2, "bird"), (4, "fish")]


def test_a_label_of_an_entity_that_nobody_knows_is_held(house: House) -> None:
    house.features.append("visits", table(who=["a"], moment=[1]), actor="ann")
    house.labels.apply(msgspec.structs.replace(SET, entities="visits"), actor="ann")
    assert say(house, "vet", "cat", who="a").rows == 1
    assert say(house, "vet", "cat", who="zz").quarantined == 1
    (held,) = house.labels.held("kind")
    assert held.reasons == ("visits knows no such entity",)


def test_a_measure_has_a_range(house: House) -> None:
    weight = LabelSet(
        name="weight", keys=(USER,), value=Column(name="kg", dtype="FP64"), minimum=0.5, maximum=900, policy="priority"
    )
    house.labels.apply(weight, actor="ann")
    rows = table(who=list("abcd"), event_time=[1] * 4, kg=[0.5, 900.0, 0.4, float("nan")])
    done = house.labels.append("weight", rows, actor="ann")
    assert (done.rows, done.quarantined) == (2, 2)
    assert [one.reasons for one in house.labels.held("weight")] == [
        ("its value is below 0.5",),
        ("its value is no finite number", "its value is above 900"),
    ]


# -- declarations -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"keys": ()}, "keys"),
        ({"keys": (Column(name="event_time", dtype="TIMESTAMP"),)}, "keys"),
        ({"value": Column(name="annotator", dtype="STRING")}, "keys"),
        ({"classes": ("cat", "cat")}, "classes"),
        ({"classes": (1,)}, "classes"),
        ({"minimum": 1.0}, "minimum"),
        ({"sources": (LabelSource(name="review"),)}, "sources"),
        ({"sources": (LabelSource(name="x"), LabelSource(name="x"))}, "sources"),
        ({"value": Column(name="is", dtype="FP64"), "classes": (), "policy": "majority"}, "policy"),
    ],
)
def test_a_set_that_cannot_be_is_refused_by_field(house: House, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.labels.apply(msgspec.structs.replace(SET, name="other", **change), actor="ann")
    assert caught.value.field == field


def test_keys_type_and_sources_stay(house: House) -> None:
    for change in ({"name": "Kind"}, {"value": Column(name="is", dtype="INT64"), "classes": ()}):
        with pytest.raises(AlreadyExists):
            house.labels.apply(msgspec.structs.replace(SET, **change), actor="ann")
    with pytest.raises(InvalidInput, match="'vet' of kind is left out"):
        house.labels.apply(msgspec.structs.replace(SET, sources=SET.sources[1:]), actor="ann")
    with pytest.raises(InvalidInput, match="no source 'vat'") as caught:
        say(house, "vat", "cat")
    assert "vet" in caught.value.hint
    with pytest.raises(InvalidInput, match="several sources"):
        house.labels.append_rows("kind", [], actor="ann")
    with pytest.raises(NotFound, match="no label set"):
        house.labels.known("kinds", at=START)


# -- the review ---------------------------------------------------------------------------------------------------------------


def test_a_tie_is_nobodys_label_until_somebody_settles_it(house: House) -> None:
    house.labels.apply(msgspec.structs.replace(SET, policy="majority"), actor="ann")
    say(house, "owner", "cat", event=2)
    say(house, "crowd", "dog", event=2, annotator="x")
    say(house, "crowd", "dog", event=3)
    assert house.labels.unresolved("kind", at=house.clock.now()) == 1
    (item,) = house.labels.review("kind")
    assert (item.keys, item.event_time, item.value) == ({"who": "a"}, moment(2), None)
    assert {(one.source, one.annotator, one.value) for one in item.claims} == {
        ("owner", None, "cat"),
        ("crowd", "x", "dog"),
    }
    settled: LabelItem = house.labels.settle("kind", item.keys, item.event_time, "cow", actor="bea")
    assert (settled.value, house.labels.review("kind")) == ("cow", [])
    house.clock.advance(moment(101))
    assert house.labels.settle("kind", item.keys, item.event_time, "cat", actor="cleo").value == "cat"
    say(house, "owner", "dog", event=2)
    assert counts(house)["a", moment(2).replace(tzinfo=None)] == "cat", "what was settled stays"
    assert counts(house, moment(100))["a", moment(2).replace(tzinfo=None)] == "cow", "and then it was the other"


def test_two_items_are_settled_at_one_moment_of_a_clock_that_stands(house: House) -> None:
    house.labels.apply(msgspec.structs.replace(SET, policy="majority"), actor="ann")
    for who in ("a", "b"):
        say(house, "vet", "cat", who=who)
        say(house, "owner", "dog", who=who)
        house.labels.settle("kind", {"who": who}, moment(1), "cow", actor="ann")
    assert [value for _, value in sorted(counts(house).items())] == ["cow", "cow"]
    assert house.labels.review("kind") == []


def test_settling_takes_a_class_and_an_item_that_is_there(house: House) -> None:
    say(house, "vet", "cat", event=2)
    for value in ("bird", None):
        with pytest.raises(InvalidInput):
            house.labels.settle("kind", {"who": "a"}, moment(2), value, actor="bea")
    with pytest.raises(NotFound):
        house.labels.settle("kind", {"who": "b"}, moment(2), "cat", actor="bea")
    with pytest.raises(InvalidInput, match="key 'who' is missing"):
        house.labels.settle("kind", {}, moment(2), "cat", actor="bea")
    assert house.labels.label_set("kind").rows == 1


def test_counts_and_delays_are_by_source_and_day(house: House) -> None:
    say(house, "vet", "cat", event=40)
    say(house, "vet", "dog", event=80)
    house.clock.advance(moment(86_400 + 100))
    say(house, "crowd", "cat", event=100)
    found = [(one.source, one.day, one.rows, one.delay_seconds) for one in house.labels.counts("kind")]
    assert found == [("vet", "2026-01-01", 2, 40.0), ("crowd", "2026-01-02", 1, 86_400.0)]
