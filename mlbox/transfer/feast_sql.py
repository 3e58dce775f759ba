"""A feature view of Feast as one SELECT."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlbox.records import Column
from mlbox.transfer.feast_sources import Raw

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS = """
    all analyse analyze and anti any array as asc asof asymmetric at authorization between bigint binary bit boolean both by
    case cast char character check coalesce collate collation column columns concurrently constraint create cross dec decimal
    default deferrable desc describe distinct do else end except exists extract false fetch float for foreign freeze from full
    generated glob group grouping grouping_id having ilike in initially inner inout int integer intersect interval into is
    isnull join lambda lateral leading left like limit map national natural nchar none not notnull null nullif numeric offset
    on only or order out outer overlaps overlay pivot pivot_longer pivot_wider placing position positional precision primary
    qualify real references returning right row select semi setof show similar smallint some struct substring summarize
    symmetric table tablesample then time timestamp to trailing treat trim true try_cast tuple union unique unpack unpivot
    using values varchar variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest
    xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
    current_date current_time current_timestamp localtime localtimestamp
"""
"""DuckDB's words that are not names everywhere."""
_RESERVED = frozenset(_WORDS.split())


def name_of(name: str) -> str:
    """A name in SQL, in quotes where it needs them."""
    if _PLAIN.fullmatch(name) and name.lower() not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def select(raw: Raw, keys: Sequence[Column], features: Sequence[Column]) -> str:
    """The view's columns out of the source's, with their times."""
    times = {"event_time": raw.event_time, **({"arrival_time": raw.arrival_time} if raw.arrival_time else {})}
    lists = [
        [_as(raw.columns[column.name], column.name) for column in keys],
        [_as(data, name) for name, data in times.items()],
        [_as(raw.columns[column.name], column.name) for column in features],
    ]
    columns = ",\n  ".join(", ".join(some) for some in lists if some)
    return f"SELECT\n  {columns}\nFROM {name_of(raw.source)}"


def _as(data: str, name: str) -> str:
    return name_of(name) if data == name else f"{name_of(data)} AS {name_of(name)}"
