"""How every command prints what it found: `-o table|json|jsonl|csv|id`.

Data goes to stdout and nothing else does. `table` is for people: the columns that a command names, with units, and cells cut
to fit only where stdout is a terminal. The other formats are for programs: every field, times in ISO 8601, nothing cut.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from mlbox.errors import InvalidInput
from mlbox.records.distances import distance, is_on_its_side

Row = msgspec.Struct | Mapping[str, Any]


class Output(StrEnum):
    """The formats that every command knows."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    id = "id"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print what was found.")]

PIPE_CLOSED = 141
"""Exit code when who reads our output has gone, as for `mlbox run ls | head -1`: 128 and SIGPIPE's number."""
_IDS = ("ref", "id", "name", "path", "key")
"""Fields that can identify a row; without a column that says which, the first that a row has."""
_SHORT = ("value", "ref", "name", "path", "key")
"""What stands for a nested record in a table's cell."""
_EMPTY: tuple[Any, ...] = (None, "", {}, (), [])
_CELL_MIN = 12
_GAP = "  "


def show(
    rows: Sequence[Row], columns: Sequence[str], output: Output = Output.table, *, key: Sequence[str] = ()
) -> None:
    """Print a list; `columns` are the table's, and `key` those that only together identify a row."""
    writers: dict[Output, Callable[[], str]] = {
        Output.table: lambda: table(rows, columns),
        Output.json: lambda: _json(rows),
        Output.jsonl: lambda: "".join(f"{msgspec.json.encode(row).decode()}\n" for row in rows),
        Output.csv: lambda: _csv(rows, columns),
        Output.id: lambda: "".join(f"{_joined(row, key) or identifier(row, columns)}\n" for row in rows),
    }
    _write(writers[output]())
    if output is Output.table and not rows and sys.stdout.isatty():
        note("There is none.")


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """The table of a list, as `show` prints it."""
    return _table(columns, [[_cell(name, field(row, name)) for name in columns] for row in rows])


def show_one(record: Row, output: Output = Output.table, *, columns: Sequence[str] = ()) -> None:
    """Print one record: as a table, one line per field that is set, or per field of `columns`."""
    if output is Output.table:
        names = columns or [name for name in _names(record) if field(record, name) not in _EMPTY]
        width = max((len(name) for name in names), default=0)
        _write("".join(f"{_header(name).ljust(width)}{_GAP}{_cell(name, field(record, name))}\n" for name in names))
    elif output is Output.json:
        _write(_json(record))
    else:
        show([record], columns or _names(record), output)


def identifier(row: Row, columns: Sequence[str] = ()) -> str:
    """What other commands know a row by: its ref, else the first of the columns that identifies, else its id or name."""
    wanted = ("ref", *(name for name in columns if name in _IDS), *_IDS, *columns, *_names(row))
    return next((str(found) for name in wanted if (found := field(row, name)) is not None), "")


def _joined(row: Row, key: Sequence[str]) -> str:
    return "/".join(str(field(row, name)) for name in key)


def field(row: Row, name: str) -> Any:
    """A row's value by name, None where it has none; a dot looks inside."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def counted(number: int, noun: str, nouns: str = "") -> str:
    """A number of things in words: `1 row`, `2,000 rows`; `nouns` is a plural that does not end in s alone."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def note(text: str) -> None:
    """Say something to the person at the terminal, out of the data's way."""
    print(text, file=sys.stderr)


def pipe_closed() -> int:
    """The exit code for output that nobody reads any more, after quieting what the interpreter flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as err:
        raise typer.Exit(pipe_closed()) from err


def read_pairs(pairs: Iterable[str], *, name: str) -> dict[str, str]:
    """`KEY=VALUE` options as a dictionary; raises InvalidInput naming the option."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{pair!r} is not KEY=VALUE.", hint=f"Write --{name} KEY=VALUE.", field=name)
        found[key] = value
    return found


def _names(row: Row) -> list[str]:
    return [str(name) for name in row] if isinstance(row, Mapping) else list(row.__struct_fields__)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in _names(row))) or list(columns)
    return "".join(
        _csv_line(cells) for cells in (names, *([_plain(field(row, name)) for name in names] for row in rows))
    )


def _csv_line(cells: Iterable[str]) -> str:
    # csv quotes what is in its line terminator: with "\n" alone a cell's "\r" would go out bare.
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _plain(value: Any) -> str:
    """A value as one CSV cell: text as it is, everything else as in JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    encoded = msgspec.json.encode(value).decode()
    return encoded.strip('"') if isinstance(value, datetime) else encoded


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_header(name) for name in columns], *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    if sys.stdout.isatty():
        widths = _fit(widths, shutil.get_terminal_size().columns)
    return "".join(
        _GAP.join(_cut(cell, width).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def _fit(widths: list[int], room: int) -> list[int]:
    """Widths that fit into the terminal: the widest column gives way first."""
    widths = list(widths)
    while sum(widths) + len(_GAP) * (len(widths) - 1) > room and max(widths) > _CELL_MIN:
        widths[widths.index(max(widths))] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _header(name: str) -> str:
    last = name.rpartition(".")[2].replace("_", " ")
    return last.removesuffix(" ms").removesuffix(" seconds").removesuffix(" bytes")


def _cell(name: str, value: Any) -> str:
    """A value for people, with its unit; one line, and nothing that a terminal would obey."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(name, value)
    text = _text(value)
    return "".join(char if char.isprintable() else " " for char in text)


def _number(name: str, value: float) -> str:
    if name.rpartition(".")[2] in ("size", "bytes") or name.endswith("_bytes"):
        return _size(value)
    if name.endswith("_hours"):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if name.endswith("share"):
        return f"{value * 100:.4g} %"
    if name.endswith("_seconds"):
        return _duration(value)
    if name.endswith("statistic"):
        return text if is_on_its_side(text := f"{value:.6g}", value) else distance(value, 7)
    if name.endswith("_ms") and value < 100:
        return f"{value:.3g} ms"
    number = f"{value:,.0f}" if 10_000 <= value < 1e15 else f"{value:.6g}"
    units = {"_ms": " ms", "percent": " %", "_gb": " GiB"}
    return number + next((unit for suffix, unit in units.items() if name.endswith(suffix)), "")


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.4g} {unit}"
    return f"{seconds:.6g} s"


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return _listed([_text(inner) for inner in value])
    if isinstance(value, msgspec.Struct):
        found = next((getattr(value, name) for name in _SHORT if hasattr(value, name)), None)
        return _text(found) if found is not None else _text(msgspec.structs.asdict(value))
    if isinstance(value, Mapping):
        return _listed([f"{key}={_text(inner)}" for key, inner in value.items() if inner not in _EMPTY])
    return str(value)


def _listed(parts: Sequence[str]) -> str:
    """Parts with commas between them, or semicolons where one has commas itself."""
    return ("; " if any(", " in part for part in parts) else ", ").join(parts)
