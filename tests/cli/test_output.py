"""The five formats: what people read, and what programs get back whole."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.cli import output
from mlbox.cli.output import Output, identifier, read_pairs, show, show_one
from mlbox.errors import InvalidInput
from mlbox.records import Column, Endpoint, FeatureView, Metric, RampStep, Run, User

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ANN = User(id="1", name="ann", role="admin", created_at=WHEN)
BEA = User(id="2", name="bea", role="viewer", created_at=WHEN)
COLUMNS = ("name", "role", "created_at")


def test_a_table_has_the_columns_that_the_command_names(capsys: pytest.CaptureFixture[str]) -> None:
    show([ANN, BEA], COLUMNS)
    assert capsys.readouterr().out.splitlines() == [
        "name  role    created at",
        "ann   admin   2026-01-02 03:04:05Z",
        "bea   viewer  2026-01-02 03:04:05Z",
    ]


def test_an_empty_list_is_a_header_or_nothing_or_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for form in Output:
        show([], COLUMNS, form)
        printed[form.value] = capsys.readouterr().out
    header = "name  role  created at\n"
    assert printed == {"table": header, "json": "[]\n", "jsonl": "", "csv": "name,role,created_at\n", "id": ""}


def test_programs_get_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    show([ANN, BEA], COLUMNS, Output.json)
    assert msgspec.json.decode(capsys.readouterr().out, type=list[User]) == [ANN, BEA]
    show([ANN, BEA], COLUMNS, Output.jsonl)
    assert [msgspec.json.decode(line, type=User) for line in capsys.readouterr().out.splitlines()] == [ANN, BEA]
    show([ANN], COLUMNS, Output.csv)
    assert (
        capsys.readouterr().out
        == "id,name,role,created_at,kind,disabled_at\n1,ann,admin,2026-01-02T03:04:05Z,person,\n"
    )


def test_one_record_is_a_list_of_its_fields_that_are_set(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(
        id="r1",
        experiment_id="e1",
        name="first",
        user="ann",
        status="RUNNING",
        started_at=WHEN,
        params={"lr": "0.1"},
        metrics={"auc": Metric(key="auc", value=0.75, step=3, at=WHEN)},
    )
    show_one(run)
    assert capsys.readouterr().out.splitlines() == [
        "id             r1",
        "experiment id  e1",
        "name           first",
        "user           ann",
        "status         RUNNING",
        "started at     2026-01-02 03:04:05Z",
        "params         lr=0.1",
        "metrics        auc=0.75",
    ]
    show_one(run, Output.json)
    assert msgspec.json.decode(capsys.readouterr().out, type=Run) == run


def test_numbers_carry_their_unit(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"size": 3 * 1024**2, "p95_ms": 1.23456789, "hold_seconds": 60, "percent": 5.0, "rows": 336776, "hot": True}
    show([row], list(row))
    assert capsys.readouterr().out.splitlines() == [
        "size   p95      hold  percent  rows     hot",
        "3 MiB  1.23 ms  60 s  5 %      336,776  yes",
    ]


def test_short_times_have_no_more_digits_than_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"p50_ms": 0.0190053, "p95_ms": 99.949, "p99_ms": 123.456, "timeout_ms": 60_000.0}
    show([row], list(row))
    assert capsys.readouterr().out.splitlines()[1].split("  ") == ["0.019 ms", "99.9 ms", "123.456 ms", "60,000 ms"]


@pytest.mark.parametrize(
    ("name", "value", "cell"),
    [
        ("ttl_seconds", 604800.0, "7 d"),
        ("hold_seconds", 86400, "24 h"),
        ("grace_seconds", 150, "2.5 min"),
        ("rows_per_second", 1446110.4, "1,446,110"),
        ("spec.on", "alert:delay", "alert:delay"),
        ("claims", [{"a": 1, "b": 2, "c": None}, {"a": 3, "b": 4}], "a=1, b=2; a=3, b=4"),
        (
            "steps",
            (RampStep(percent=5, hold_seconds=60, min_predictions=9),),
            "percent=5, hold_seconds=60, min_predictions=9",
        ),
    ],
)
def test_a_cell_is_for_people(name: str, value: object, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    show([{name: value, name.partition(".")[0]: {name.partition(".")[2]: value} if "." in name else value}], [name])
    header, row = capsys.readouterr().out.splitlines()
    assert (header, row) == (name.rpartition(".")[2].removesuffix("_seconds").replace("_", " "), cell)


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        (ANN, COLUMNS, "ann"),
        (ANN, (), "1"),
        (ANN, ("id", "name"), "1"),
        ({"name": "weather", "rows": 3}, (), "weather"),
        ({"model": "delay", "percent": 5}, ("model",), "delay"),
        (Endpoint(model="delay", champion=1), ("model", "champion"), "delay"),
    ],
)
def test_an_id_is_what_other_commands_take(row: output.Row, columns: tuple[str, ...], expected: str) -> None:
    assert identifier(row, columns) == expected


def test_a_versions_id_is_its_ref(capsys: pytest.CaptureFixture[str]) -> None:
    keys = (Column(name="origin", dtype="STRING"),)
    view = FeatureView(
        name="weather", version=2, join_keys=keys, features=keys, sql="", sources=(), created_by="ann", created_at=WHEN
    )
    show([view], ("name", "version"), Output.id)
    show([view], ("ref", "join_keys"), Output.table)
    assert capsys.readouterr().out == "weather@v2\nref         join keys\nweather@v2  origin\n"


def test_on_a_terminal_the_widest_column_gives_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    row = {"name": "x", "text": "y" * 100}
    show([row], ["name", "text"])
    assert "y" * 100 in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show([row], ["name", "text"])
    last = capsys.readouterr().out.splitlines()[1]
    assert last.endswith("y…")
    assert len(last) == 40


TEXT = st.dictionaries(st.sampled_from(["id", "name", "note"]), st.text(), min_size=3, max_size=3)


@given(rows=st.lists(TEXT))
def test_any_text_survives_csv_and_no_row_breaks_a_table(rows: list[dict[str, str]]) -> None:
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", written)
        show(rows, ["name", "note"], Output.csv)
        read = list(csv.DictReader(io.StringIO(written.getvalue(), newline="")))
        assert read == rows
        written.truncate(0)
        written.seek(0)
        show(rows, ["name", "note"], Output.table)
    table = written.getvalue()
    assert table.endswith("\n")
    assert len(table[:-1].split("\n")) == len(rows) + 1
    assert all(char.isprintable() or char == "\n" for char in table)


def test_pairs_are_read_or_refused() -> None:
    assert read_pairs(["a=1", "b=x=y", "c="], name="param") == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(InvalidInput, match="--param KEY=VALUE") as caught:
        read_pairs(["a"], name="param")
    assert caught.value.field == "param"
