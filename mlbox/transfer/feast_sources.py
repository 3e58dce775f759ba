"""Feast's data sources as sources of mlbox. The registry does not hold their columns: the views that read them do."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import Column, DType, SourceSpec, check_name
from mlbox.transfer.feast_registry import DataSource, FeatureSpecV2, Registry

TYPES: dict[int, DType] = {
    2: "STRING",
    3: "INT64",
    4: "INT64",
    5: "FP64",
    6: "FP64",
    7: "BOOL",
    8: "TIMESTAMP",
    32: "STRING",
    36: "STRING",
    37: "STRING",
}
"""Feast's types that are one here; JSON and UUIDs are text."""
_TYPE_NAMES = (
    "INVALID BYTES STRING INT32 INT64 DOUBLE FLOAT BOOL UNIX_TIMESTAMP 9 10 BYTES_LIST STRING_LIST INT32_LIST INT64_LIST"
    " DOUBLE_LIST FLOAT_LIST BOOL_LIST UNIX_TIMESTAMP_LIST NULL MAP MAP_LIST BYTES_SET STRING_SET INT32_SET INT64_SET"
    " DOUBLE_SET FLOAT_SET BOOL_SET UNIX_TIMESTAMP_SET 30 31 JSON JSON_LIST STRUCT STRUCT_LIST UUID TIME_UUID UUID_LIST"
    " TIME_UUID_LIST UUID_SET TIME_UUID_SET VALUE_LIST VALUE_SET DECIMAL DECIMAL_LIST DECIMAL_SET SCALAR_MAP"
    " ZONED_TIMESTAMP"
)
"""By number."""
FILE, KAFKA, KINESIS, REQUEST, PUSH = 1, 3, 4, 7, 9
_STREAMS = {KAFKA: "Kafka", KINESIS: "Kinesis"}
_WAREHOUSES = ("bigquery", "redshift", "snowflake", "spark", "trino", "athena")


def type_name(number: int) -> str:
    """What Feast calls a type of values."""
    names = _TYPE_NAMES.split()
    return names[number] if 0 <= number < len(names) else str(number)


def is_name(name: str) -> bool:
    """Whether mlbox takes a name."""
    try:
        check_name(name)
    except InvalidInput:
        return False
    return True


class Raw(NamedTuple):
    """What a view needs of its source, under the names that the data has."""

    source: str
    event_time: str
    arrival_time: str
    columns: dict[str, str]
    """The data's name for each of the view's."""


class Gathered:
    """A source with the columns that were asked of it so far."""

    def __init__(self, name: str, feast: DataSource) -> None:
        self.name = name
        self.feast = feast
        self.columns: dict[str, DType] = {}
        self._raw = {mapped: raw for raw, mapped in sorted(feast.field_mapping.items(), reverse=True)}
        self.event_time = self.raw(feast.timestamp_field)
        self.arrival_time = self.raw(feast.created_timestamp_column)
        self._spelt = {name.lower(): name for name in (self.arrival_time, self.event_time)}
        self.dropped: set[str] = set()
        """Columns of types that there are none of."""

    def raw(self, name: str) -> str:
        """What the data calls what a view calls `name`."""
        return self._raw.get(name, name)

    def misspelt(self, names: Sequence[str]) -> str | None:
        """The first of some columns that differs from another of the source in capitals only; else they are noted."""
        fresh: dict[str, str] = {}
        for name in names:
            before = self._spelt.get(name.lower()) or fresh.setdefault(name.lower(), name)
            if before != name:
                return name
        self._spelt |= fresh
        return None


class Sources:
    """The sources that the views of a project turn out to read."""

    def __init__(self, registry: Registry, project: str, folder: Path) -> None:
        self._folder = folder
        mine = [one for one in registry.data_sources if one.project == project]
        self._registered = sorted(mine, key=lambda one: one.name)
        self._pushes: dict[str, list[DataSource]] = {}
        for one in self._registered:
            if one.type == PUSH and one.batch_source is not None and one.batch_source.name:
                self._pushes.setdefault(one.batch_source.name, []).append(one)
        self._found: dict[tuple[str, str], Gathered] = {}
        self._numbers: dict[str, int] = {}
        self._asked: set[str] = set()
        self._left: dict[str, None] = {}
        self._notes: dict[str, None] = {}

    def of_view(self, view: str, batch: DataSource | None, stream: DataSource | None) -> Gathered | None:
        """The source of a view: a push source stands for the files behind it too, so that one table takes both."""
        push = stream if stream is not None and stream.type == PUSH else None
        data = batch or (stream.batch_source if stream is not None else None) or stream
        if data is None:
            return None
        self._asked |= {one.name for one in (batch, stream, data, self._only_push(data)) if one is not None}
        if stream is not None and stream.type in _STREAMS and stream is not data:
            self._say(
                f"source {stream.name}",
                f"mlbox does not read from {_STREAMS[stream.type]}",
                f"let what reads the stream push its rows (`mlbox source push`) to the source of {view}",
            )
        found = self._gathered(push or self._only_push(data) or data, data)
        return found if self._is_usable(found, view) else None

    def _only_push(self, data: DataSource) -> DataSource | None:
        """The push source over some data, where there is one and not more."""
        over = self._pushes.get(data.name, [])
        return over[0] if len(over) == 1 else None

    def _gathered(self, called: DataSource, data: DataSource) -> Gathered:
        key = (called.name, location(data))
        if key not in self._found:
            name = self._free_name(called.name or location(data))
            if name != called.name:
                self._note(f"source {called.name[:200]!r} is called {name} here")
            elif called is not data and data.name != called.name:
                self._note(
                    f"source {data.name[:200]} and its push source are one here, {name}: append and push to that"
                )
            self._found[key] = Gathered(name, data)
            self._say_words(called, name)
        return self._found[key]

    def _free_name(self, wanted: str) -> str:
        """A valid name that comes close, and that none of the others has, capitals or not."""
        clean = wanted if is_name(wanted) else re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(wanted).stem)
        clean = clean.lstrip("._-")[:200] or "source"
        name = clean
        while name.lower() in self._numbers:
            self._numbers[clean.lower()] = number = self._numbers[clean.lower()] + 1
            name = f"{clean}_{number}"
        self._numbers[name.lower()] = 1
        return name

    def _is_usable(self, found: Gathered, view: str) -> bool:
        times = [found.event_time, *([found.arrival_time] if found.arrival_time else [])]
        wrong = next((name for name in times if not is_name(name)), None)
        wrong = wrong if wrong is not None else found.misspelt(times)
        if wrong is None:
            return True
        why = f"the column {wrong!r} is no name here" if wrong else "it does not say when its rows happened"
        self._say(f"view {view}", f"of its source {found.name}, {why}", "give it a timestamp_field that is one")
        return False

    def ask(self, found: Gathered, view: str, columns: Sequence[Column]) -> Raw | None:
        """Have columns in a source; what they are called there, or None, and said, where two differ in capitals only."""
        names: dict[str, str] = {}
        wrong = found.misspelt([found.raw(column.name) for column in columns])
        if wrong is not None:
            why = f"the column {wrong} differs from another of its source {found.name} in capitals only"
            self._say(f"view {view}", why, "rename one of them")
            return None
        for column in columns:
            names[column.name] = raw = found.raw(column.name)
            kind = "TIMESTAMP" if raw in (found.event_time, found.arrival_time) else column.dtype
            before = found.columns.setdefault(raw, kind)
            if before != column.dtype:
                self._say(
                    f"source {found.name}",
                    f"its column {raw} is {before}, and {column.dtype} in the view {view}",
                    "see which one its data fits",
                )
        return Raw(found.name, found.event_time, found.arrival_time, names)

    def specs(self) -> list[SourceSpec]:
        """The sources with all that was asked of them."""
        return [self._spec(one) for one in self._found.values() if one.columns]

    @staticmethod
    def _spec(one: Gathered) -> SourceSpec:
        columns: dict[str, DType] = {**one.columns, one.event_time: "TIMESTAMP"}
        if one.arrival_time:
            columns[one.arrival_time] = "TIMESTAMP"
        return SourceSpec(
            name=one.name,
            columns=tuple(Column(name=name, dtype=kind) for name, kind in columns.items()),
            event_time=one.event_time,
            arrival_time=one.arrival_time or None,
        )

    # -- what is said of them -------------------------------------------------------------------------------------------

    def _say(self, what: str, why: str, do: str) -> None:
        self._left[f"{what}: {why}; {do}"] = None

    def _note(self, line: str) -> None:
        self._notes[line] = None

    @property
    def left(self) -> tuple[str, ...]:
        """What cannot be carried over, a line each."""
        return tuple(self._left)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is another way here."""
        return tuple(self._notes)

    def _say_words(self, feast: DataSource, name: str) -> None:
        words = [word for word in ("description", "owner", "tags") if getattr(feast, word)]
        if words:
            self._say(f"source {name}", f"it has no place for its {listed(words)}", "say it in the views that read it")

    def unread(self) -> None:
        """Say of each source that no view reads why it does not come over."""
        for one in self._registered:
            if one.name in self._asked:
                continue
            if one.type == REQUEST:
                fields = ", ".join(f"{field.name} {type_name(field.value_type)}" for field in _schema(one))
                self._say(f"source {one.name}", f"it comes with a request ({fields})", "make it inputs of a transform")
            else:
                self._say(
                    f"source {one.name}",
                    "no view reads it, and the registry does not say which columns it has",
                    "declare it with `mlbox source create`",
                )

    def loads(self) -> Iterator[str]:
        """How to bring each source's rows in, as commands and as words."""
        for one in self._found.values():
            if one.columns:
                yield from self._load(one, self._spec(one))

    def _load(self, one: Gathered, spec: SourceSpec) -> Iterator[str]:
        where = location(one.feast)
        command = f"mlbox source append {one.name} "
        if one.feast.type in _STREAMS or (one.feast.type == PUSH and not where):
            yield f"mlbox source push {one.name} --file ROWS.jsonl   # its rows come as they happen"
        elif one.feast.type != FILE or "://" in where.removeprefix("file://"):
            yield f"{command}{one.name}.parquet   # first export it: it is {where or 'a source of its own kind'}"
        else:
            path = self._path(where)
            if one.dropped:
                names = ", ".join(repr(column.name) for column in spec.columns)
                kept = f"{one.name}.parquet"
                code = f"from pyarrow.parquet import *; write_table(read_table({path!r}, columns=[{names}]), {kept!r})"
                yield f"python -c {_in_shell(code)}   # without {listed(sorted(one.dropped))}"
                path = kept
            yield f"{command}{shlex.quote(path)}"

    def _path(self, uri: str) -> str:
        """A file's path as it is from here."""
        path = Path(uri.removeprefix("file://"))
        whole = path if path.is_absolute() else self._folder / path
        return os.path.relpath(whole) if not path.is_absolute() and not self._folder.is_absolute() else str(whole)


def location(source: DataSource) -> str:
    """Where a source's rows are: a file's address, or the table or query of a warehouse."""
    if source.file_options is not None:
        return source.file_options.uri
    for kind in _WAREHOUSES:
        options = getattr(source, f"{kind}_options")
        if options is not None:
            return f"{kind}: {' '.join((options.table or options.query).split())[:200]}"
    return ""


def _in_shell(code: str) -> str:
    """Code as a word of a shell, in double quotes where that is the same."""
    return shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'


def listed(words: Sequence[str]) -> str:
    """Words in one phrase."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _schema(source: DataSource) -> list[FeatureSpecV2]:
    return source.request_data_options.schema if source.request_data_options is not None else []
