"""Predictions are kept for their time, held where somebody says so, and erased for good; against a plain list."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.errors import Conflict, InvalidInput, NotFound, Unavailable
from mlbox.records import BusinessNumber, HoldSpec, Prediction, SkewResult
from mlbox.serve.predictions.export import Format, export
from mlbox.serve.predictions.files import MERGE_AT, READING
from mlbox.serve.predictions.selection import Selection, between
from tests.conftest import wait_for
from tests.serve.kept import NOW, SET, Kept

NUMBER = itertools.count()
ALL = Selection()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    made = Kept(tmp_path_factory.mktemp("kept"))
    yield made
    made.close()


@pytest.fixture
def model(shared: Kept) -> str:
    return shared.model(f"m{next(NUMBER)}")


# -- by age ----------------------------------------------------------------------------------------------------------------


def test_what_is_too_old_goes_from_the_log_and_from_the_joins(shared: Kept, model: str) -> None:
    old = [shared.put(model, "a", days_ago=days) for days in (400, 190)]
    shared.log.flush()
    mixed = [shared.put(model, "a", days_ago=days) for days in (184.5, 183.5, 1)]
    assert shared.joined(model) == {row.id for row in (*old, *mixed)}
    assert shared.keeping.expire(dry_run=True)[0] == 4
    assert shared.ids(model) == {row.id for row in (*old, *mixed)}, "it was only asked"
    rows, freed = shared.keeping.expire()
    assert rows == 4
    assert freed > 0
    assert shared.ids(model) == shared.joined(model) == {mixed[2].id}
    (removal,) = shared.rows.removals(limit=1)
    assert (removal.kind, removal.model, removal.state, removal.predictions) == ("age", model, "done", 4)
    assert shared.keeping.expire() == (0, 0)
    assert shared.rows.removals(limit=1) == [removal], "what removes nothing is not told"


def test_a_file_is_not_written_anew_for_a_few_hours(shared: Kept, model: str) -> None:
    rows = [shared.put(model, "a", days_ago=days) for days in (183.5, 1)]
    shared.log.flush()
    assert shared.keeping.expire() == (0, 0)
    assert shared.ids(model) == {row.id for row in rows}


def test_a_model_says_itself_how_long(shared: Kept, model: str) -> None:
    row, gone = shared.put(model, "a", days_ago=300), shared.put(model, "a", days_ago=800)
    found = shared.keeping.keep(model, 730, actor="ann")
    assert (found.days, found.own, found.oldest) == (730, True, gone.at)
    shared.keeping.expire()
    assert shared.ids(model) == {row.id}
    assert shared.keeping.keep(model, None, actor="ann").days == 183
    with pytest.raises(NotFound):
        shared.keeping.keep("nobody", 1, actor="ann")


def test_numbers_go_on_where_everything_was_removed(tmp_path: Path) -> None:
    first = Kept(tmp_path)
    first.model("m")
    row = first.put("m", "a", days_ago=400)
    assert first.joined("m") == {row.id}
    first.keeping.expire()
    assert first.ids("m") == first.joined("m") == set()
    first.close()
    again = Kept(tmp_path, make=False)
    try:
        row = again.put("m", "a")
        assert again.joined("m") == {row.id}, "a file with a lower number than before would not be joined"
    finally:
        again.close()


# -- holds -----------------------------------------------------------------------------------------------------------------


def hold(kept: Kept, **given: Any) -> str:
    return kept.keeping.hold(HoldSpec(**{"reason": "case 12", **given}), actor="lea").id


def test_nothing_under_a_hold_is_removed(shared: Kept, model: str) -> None:
    rows = {name: shared.put(model, name, days_ago=days) for name, days in (("a", 400), ("b", 300), ("c", 250))}
    own = hold(shared, model=model, entity={"who": "a"})
    timed = hold(shared, model=model, since=NOW - timedelta(days=260), until=NOW - timedelta(days=240))
    shared.keeping.expire()
    assert shared.ids(model) == {rows["a"].id, rows["c"].id}
    with pytest.raises(Conflict, match=f"under the hold {own} of lea: case 12") as refused:
        shared.keeping.erase({"who": "a"}, model=None, reason="asked", actor="ann")
    assert own in refused.value.hint
    for one in (own, timed):
        assert shared.rows.release(one, actor="lea").active is False
    assert shared.keeping.erase({"who": "a"}, model=model, reason="asked", actor="ann").predictions == 1
    shared.keeping.expire()
    assert shared.ids(model) == set()


def test_a_hold_of_a_whole_model_ends_by_itself(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    try:
        row = kept.put(kept.model("m"), "a", days_ago=400)
        own = hold(kept, model="m", expires_at=NOW + timedelta(days=1))
        assert kept.keeping.of("m").holds == 1
        kept.keeping.expire()
        assert kept.ids("m") == {row.id}
        kept.clock.advance(NOW + timedelta(days=2))
        assert kept.rows.get(own).active is False
        kept.keeping.expire()
        assert kept.ids("m") == set()
    finally:
        kept.close()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "model"),
        ({"entity": {"who": None}}, "entity"),
        ({"entity": {"who": ["a"]}}, "entity"),
        ({"entity": {"": "a"}}, "entity"),
        ({"since": NOW, "until": NOW}, "until"),
        ({"since": NOW, "expires_at": NOW - timedelta(days=1)}, "expires_at"),
        ({"since": NOW, "reason": " "}, "reason"),
    ],
)
def test_a_hold_of_nothing_is_refused(shared: Kept, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        hold(shared, **given)
    assert refused.value.field == field


# -- by an entity ----------------------------------------------------------------------------------------------------------


def test_an_entity_goes_from_all_that_is_kept_of_it(shared: Kept) -> None:
    models = [shared.model(f"m{next(NUMBER)}") for _ in range(2)]
    gone, stays = [], []
    for model in models:
        for who in (17, "17", 17.0, "170"):
            (gone if who != "170" else stays).append(shared.put(model, who, version=2, moment="x"))
    shared.log.flush()
    gone.append(shared.put(models[0], "17"))  # waits in memory
    shared.outcomes.complete(SET, [])
    shared.labels.append_rows(
        "gone", [{"who": "17", "event_time": NOW.isoformat(), "gone": 1}], source=None, actor="ann"
    )
    assert shared.joined(models[0]) == {row.id for row in (*gone, *stays) if row.model == models[0]}
    shared.business.post(
        models[0], [BusinessNumber(name="kept", value=1, prediction_id=r.id) for r in (gone[0], stays[0])], actor="ann"
    )
    example = SkewResult(
        model=models[0],
        feature="f",
        rows=1,
        equal=0,
        share=0.0,
        verdict="alert",
        at=NOW,
        entity={"who": "17"},
        moment=NOW,
        served=1.0,
        recomputed=2.0,
    )
    insert = "INSERT INTO skew (model, feature, check_id, at_us, result) VALUES (?, 'f', 'x', 0, ?)"
    shared.dbs["monitoring"].write(lambda tx: tx.run(insert, (models[0], example.to_json().decode())))

    done = shared.keeping.erase({"who": 17}, model=None, reason="request 4711", actor="ann")
    assert (done.state, done.predictions, done.outcomes) == ("done", len(gone), 1)
    for model in models:
        assert shared.ids(model) == shared.joined(model) == {row.id for row in stays if row.model == model}
    assert [one.count for one in shared.business.series(models[0])] == [1]
    (kept,) = shared.dbs["monitoring"].all("SELECT result FROM skew WHERE model = ?", (models[0],))
    assert '"17"' not in kept["result"]
    events = [event for event in shared.dbs["monitoring"].events(limit=10) if event.data.get("removal") == done.id]
    assert [event.type for event in events] == ["predictions.erased", "predictions.erasure_asked"]
    assert done.key.startswith("hmac-sha256:")
    assert all(event.data["key"] == done.key for event in events)
    assert shared.keeping.erase({"who": "17"}, model=None, reason="again", actor="ann").key == done.key
    assert shared.keeping.erase({"who": "18"}, model=None, reason="another", actor="ann").key != done.key
    rows = shared.dbs["monitoring"].all("SELECT entity FROM prediction_removal WHERE kind = 'erasure'")
    assert {row["entity"] for row in rows} == {None}, "the key itself is nowhere"


def test_live_performance_forgets_too(shared: Kept, model: str) -> None:
    shared.put(model, "x")
    before = shared.outcomes.join(model, SET).state
    shared.keeping.erase({"who": "x"}, model=model, reason="asked", actor="ann")
    assert shared.outcomes.join(model, SET).state != before, "figures that are remembered by it are made anew"


def test_an_erasure_that_cannot_be_made_waits_and_is_made_later(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.model("m")
    kept.put("m", "a")
    kept.log.flush()
    (file,) = (tmp_path / "predictions").rglob("*.parquet")
    content = file.read_bytes()
    file.write_bytes(b"broken")
    with pytest.raises(Unavailable, match="cannot be read"):
        kept.keeping.erase({"who": "a"}, model=None, reason="asked", actor="ann")
    ((waiting, entity),) = kept.rows.pending()
    assert entity == {"who": "a"}
    kept.close()
    file.write_bytes(content)
    again = Kept(tmp_path, make=False)
    try:
        again.keeping.start()
        wait_for(lambda: not again.rows.pending(), what="the erasure")
        assert again.ids("m") == set()
        assert again.rows.removals()[0].id == waiting.id
    finally:
        again.close()


def test_bad_erasures_are_refused(shared: Kept) -> None:
    for entity, model, reason, field in (
        ({}, None, "x", "entity"),
        ({"who": "a"}, None, "", "reason"),
        ({"who": {}}, None, "x", "entity"),
    ):
        with pytest.raises(InvalidInput) as refused:
            shared.keeping.erase(entity, model=model, reason=reason, actor="ann")
        assert refused.value.field == field
    with pytest.raises(NotFound):
        shared.keeping.erase({"who": "a"}, model="nobody", reason="x", actor="ann")


def test_it_goes_from_merged_files_too_and_others_stay(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    try:
        kept.model("m")
        rows = []
        for n in range(MERGE_AT + 3):
            rows.append(kept.put("m", n % 3))
            kept.log.flush()
        kept.keeping.erase({"who": 1}, model="m", reason="asked", actor="ann")
        assert kept.ids("m") == kept.joined("m") == {row.id for row in rows if row.entity["who"] != 1}
    finally:
        kept.close()


# -- against a plain list ----------------------------------------------------------------------------------------------------


class Held(NamedTuple):
    own: str
    model: str | None
    who: str | None
    days: tuple[int, int] | None


WHO = st.sampled_from(["1", "2", "3"])
MODEL = st.sampled_from([0, 1])
AGE = st.sampled_from([0, 100, 200, 400])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), MODEL, WHO, AGE),
        st.tuples(st.just("put"), MODEL, WHO, AGE),
        st.tuples(st.just("flush")),
        st.tuples(st.just("hold"), st.one_of(st.none(), MODEL), st.one_of(st.none(), WHO), st.booleans()),
        st.tuples(st.just("release"), st.integers(0, 3)),
        st.tuples(st.just("erase"), st.one_of(st.none(), MODEL), WHO),
        st.tuples(st.just("expire")),
    ),
    min_size=3,
    max_size=12,
)


class Plain:
    """The log as a list, beside the real one."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.models = [kept.model(f"m{next(NUMBER)}") for _ in range(2)]
        self.prefix = str(next(NUMBER))
        """Of its entities: another example's are others."""
        self.rows: list[Prediction] = []
        self.holds: list[Held] = []

    def put(self, model: int, who: str, age: int) -> None:
        who = self.prefix + who
        self.rows.append(self.kept.put(self.models[model], int(who) if age else who, days_ago=age))

    def flush(self) -> None:
        self.kept.log.flush()

    def hold(self, model: int | None, who: str | None, timed: bool) -> None:
        name = self.models[model or 0]  # not of every model, so that another example's rows are not meant
        who = self.prefix + who if who else None
        days = (150, 250) if timed else None
        times = {"since": NOW - timedelta(days=days[1]), "until": NOW - timedelta(days=days[0])} if days else {}
        own = hold(self.kept, model=name, entity={"who": who} if who else {}, **times)
        self.holds.append(Held(own, name, who, days))

    def release(self, place: int) -> None:
        if place < len(self.holds):
            self.kept.rows.release(self.holds.pop(place).own, actor="lea")

    def is_held(self, row: Prediction) -> bool:
        def age(row: Prediction) -> timedelta:
            return NOW - row.domain_at

        return any(
            one.model == row.model
            and one.who in (None, str(row.entity["who"]))
            and (one.days is None or timedelta(days=one.days[0]) < age(row) <= timedelta(days=one.days[1]))
            for one in self.holds
        )

    def erase(self, model: int | None, who: str) -> None:
        name, who = None if model is None else self.models[model], self.prefix + who
        meant = [r for r in self.rows if str(r.entity["who"]) == who and name in (None, r.model)]
        if any(self.is_held(row) for row in meant):
            with pytest.raises(Conflict):
                self.kept.keeping.erase({"who": who}, model=name, reason="asked", actor="ann")
            return
        assert self.kept.keeping.erase({"who": who}, model=name, reason="asked", actor="ann").predictions == len(meant)
        self.rows = [row for row in self.rows if row not in meant]

    def expire(self) -> None:
        self.kept.keeping.expire()
        limit = NOW - timedelta(days=183)
        self.rows = [row for row in self.rows if row.at >= limit or self.is_held(row)]

    def check(self) -> None:
        for model in self.models:
            wanted = {row.id for row in self.rows if row.model == model}
            assert self.kept.ids(model) == wanted
            assert self.kept.joined(model) == wanted


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(STEPS)
def test_it_is_as_a_plain_list(plain_kept: Kept, steps: list[tuple[Any, ...]]) -> None:
    plain = Plain(plain_kept)
    try:
        for name, *arguments in steps:
            getattr(plain, name)(*arguments)
            if name in ("erase", "expire"):
                plain.check()
        plain.check()
    finally:
        for one in plain.holds:
            plain_kept.rows.release(one.own, actor="lea")


@pytest.fixture(scope="module")
def plain_kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    made = Kept(tmp_path_factory.mktemp("plain"))
    yield made
    made.close()


# -- taking it out ---------------------------------------------------------------------------------------------------------


def out(kept: Kept, model: str, form: Format, what: Selection = ALL) -> bytes:
    return b"".join(export(kept.log, model, what, form))


def test_it_is_taken_out_in_three_forms_and_by_what_is_asked(shared: Kept, model: str, tmp_path: Path) -> None:
    rows = [shared.put(model, f'u"{n % 3}', version=1 + n % 2, days_ago=n) for n in range(6)]
    shared.log.flush()
    table = pq.read_table(io.BytesIO(out(shared, model, "parquet")))
    assert table.column_names[:6] == ["id", "model", "version", "role", "at", "domain_at"]
    assert sorted(table.column("id").to_pylist()) == sorted(row.id for row in rows)
    assert table.column("f").to_pylist() == [1.0] * 6
    assert set(table.column("at").to_pylist()) == {row.at for row in rows}
    read = csv.read_csv(io.BytesIO(out(shared, model, "csv")))
    assert read.column_names == table.column_names
    assert {json.loads(text)["who"] for text in read.column("entity").to_pylist()} == {'u"0', 'u"1', 'u"2'}
    lines = [json.loads(line) for line in out(shared, model, "jsonl").splitlines()]
    assert {line["id"]: line["score"] for line in lines} == {row.id: 0.5 for row in rows}
    for what, wanted in (
        (Selection({"who": 'u"1'}), [rows[1], rows[4]]),
        (Selection(version=2), rows[1::2]),
        (Selection(role="shadow"), []),
        (Selection({}, *between(rows[3].at, rows[0].at)), rows[1:4]),
    ):
        assert {json.loads(line)["id"] for line in out(shared, model, "jsonl", what).splitlines()} == {
            row.id for row in wanted
        }
        assert pq.read_table(io.BytesIO(out(shared, model, "parquet", what))).num_rows == len(wanted)
    empty = shared.model(f"m{next(NUMBER)}")
    assert pq.read_table(io.BytesIO(out(shared, empty, "parquet"))).num_rows == 0
    assert out(shared, empty, "csv").count(b"\n") == 1


def test_what_is_read_is_as_it_was_whatever_is_merged_and_removed_meanwhile(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    try:
        kept.model("m")
        rows = []
        for n in range(4):
            rows.append(kept.put("m", n))
            kept.log.flush()
        pieces = export(kept.log, "m", ALL, "jsonl")
        first = next(pieces)
        assert list((tmp_path / "predictions" / READING).rglob("*.parquet"))
        kept.keeping.erase({"who": 2}, model=None, reason="asked", actor="ann")
        for n in range(MERGE_AT):
            kept.put("m", n)
            kept.log.flush()
        found = [json.loads(line)["id"] for line in (first + b"".join(pieces)).splitlines()]
        assert sorted(found) == sorted(row.id for row in rows)
        assert not list((tmp_path / "predictions" / READING).iterdir())
    finally:
        kept.close()
