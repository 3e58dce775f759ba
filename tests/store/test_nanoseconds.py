"""Times to the nanosecond, in stores that keep microseconds: nothing is seen before it happened or was known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.clock import is_finer, parse_time, to_us
from mlbox.errors import InvalidInput
from mlbox.records import Column, ViewSpec
from mlbox.store.tables import conform, table_of
from tests.store.test_features import START, House

ZERO = to_us(START) * 1000
WHO, N, HAPPENED, KNOWN = (
    Column(name=name, dtype=dtype)  # type: ignore[arg-type]
    for name, dtype in (("who", "INT64"), ("n", "INT64"), ("happened", "TIMESTAMP"), ("known", "TIMESTAMP"))
)


class Row(NamedTuple):
    """A row of a source: nanoseconds after the start, and a number that no other row has."""

    who: int
    happened: int
    known: int
    n: int = 0


moments = st.integers(0, 4).flatmap(lambda us: st.sampled_from([0, 1, 500, 999]).map(lambda ns: us * 1000 + ns))
loads = st.lists(
    st.lists(st.builds(Row, who=st.integers(0, 3), happened=moments, known=moments), max_size=6), max_size=3
)
asks = st.lists(st.tuples(st.integers(0, 4), moments), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    built = House(tmp_path_factory.mktemp("house"))
    yield built
    built.close()


def arrow(rows: list[Row]) -> pa.Table:
    times = {
        name: pa.array([ZERO + getattr(row, name) for row in rows], pa.timestamp("ns", "Asia/Kathmandu"))
        for name in ("happened", "known")
    }
    return pa.table(
        {
            "who": pa.array([row.who for row in rows], pa.int64()),
            "n": pa.array([row.n for row in rows], pa.int64()),
            **times,
        }
    )


def up(ns: int) -> int:
    return -(-ns // 1000)


def answer(loaded: list[list[Row]], who: int, at: int, *, late: bool) -> int | None:
    """The rule as a loop: an event is at the next whole microsecond, a question at the last one."""
    in_order = [row for rows in loaded for row in sorted(rows, key=lambda row: row.happened)]
    best: tuple[int, int, int] | None = None
    found = None
    for order, row in enumerate(in_order):
        rank = (up(row.happened), up(row.known) if late else 0, order)
        if row.who == who and max(rank[:2]) <= at // 1000 and (best is None or rank > best):
            best, found = rank, row.n
    return found


@settings(max_examples=25, deadline=None)
@given(drawn=loads, ask=asks, late=st.booleans())
def test_what_happened_within_the_microsecond_of_a_question_is_not_told_before_it_happened(
    house: House, drawn: list[list[Row]], ask: list[tuple[int, int]], late: bool
) -> None:
    store, name = house.store, f"s{len(house.store.declarations())}"
    numbers = iter(range(1000))
    loaded = [[row._replace(n=next(numbers)) for row in rows] for rows in drawn]
    columns = (WHO, N, HAPPENED, KNOWN) if late else (WHO, N, HAPPENED)
    store.add_source(name, columns, "happened", "known" if late else None, actor="ann")
    known = ", known AS arrival_time" if late else ""
    sql = f"SELECT who, n, happened AS event_time{known} FROM {name}"
    view = store.apply_view(ViewSpec(name=name, join_keys=(WHO,), features=(N,), sql=sql, sources=(name,)), actor="ann")
    for rows in loaded:
        store.append(name, arrow(rows) if late else arrow(rows).drop_columns(["known"]), actor="ann")
    spine = pa.table(
        {
            "who": pa.array([who for who, _ in ask], pa.int64()),
            "at": pa.array([ZERO + at for _, at in ask], pa.timestamp("ns", "UTC")),
        }
    )
    found = store.historical([f"{view.ref}:n"], spine, event_time="at").column(f"{view.ref}:n").to_pylist()
    assert found == [answer(loaded, who, at, late=late) for who, at in ask]
    by_number = {row.n: row for rows in loaded for row in rows}
    for (_, at), n in zip(ask, found, strict=True):
        if n is not None:
            row = by_number[n]
            assert row.happened <= at
            assert not late or row.known <= at


def test_a_key_that_is_a_time_is_found_whatever_its_nanoseconds(house: House) -> None:
    store, key = house.store, Column(name="batch", dtype="TIMESTAMP")
    store.add_source("batches", (key, N, HAPPENED), "happened", None, actor="ann")
    sql = "SELECT batch, n, happened AS event_time FROM batches"
    spec = ViewSpec(name="batches", join_keys=(key,), features=(N,), sql=sql, sources=("batches",))
    view = store.apply_view(spec, actor="ann")
    at = pa.array([ZERO + 1], pa.timestamp("ns"))
    store.append("batches", pa.table({"batch": at, "n": [7], "happened": at}), actor="ann")
    later = pa.array([ZERO + 10**9], pa.timestamp("ns"))
    found = store.historical([f"{view.ref}:n"], pa.table({"batch": at, "at": later}), event_time="at")
    assert found.column(f"{view.ref}:n").to_pylist() == [7]


def test_events_within_a_microsecond_keep_their_order_in_text_as_well() -> None:
    columns = (N, HAPPENED)
    times = ["2026-01-01T00:00:00.000000900Z", "2026-01-01T00:00:00.000000100Z", "2026-01-01T00:00:01Z"]
    read = conform(pa.table({"n": ["2", "1", "3"], "happened": times}), columns, required=["happened"], text=True)
    assert read.column("n").to_pylist() == [1, 2, 3]
    assert len(set(read.column("happened").to_pylist())) == 2
    with pytest.raises(InvalidInput, match="'then' in row 2"):
        conform(
            pa.table({"n": ["2", "1"], "happened": ["2026-01-01", "then"]}), columns, required=["happened"], text=True
        )


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2026-01-01T00:00:00.000001Z", 1),
        ("2026-01-01T00:00:00.000001000Z", 1),
        ("2026-01-01T00:00:00.000001001Z", 2),
        ("2026-01-01T01:00:00.000000001+01:00", 1),
    ],
)
def test_a_time_in_json_is_rounded_up_where_it_says_when_something_happened(text: str, microseconds: int) -> None:
    (time,) = table_of([{"happened": text}], (HAPPENED,), "rows").column("happened").cast(pa.int64()).to_pylist()
    assert time - to_us(parse_time("2026-01-01T00:00Z")) == microseconds
    assert is_finer(text) == (to_us(parse_time(text)) < time), "a moment that is asked about is rounded down"
