"""The point-in-time join over the tables of views (see `views`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from mlbox.records import FeatureView
from mlbox.store.offline.offline import quote
from mlbox.store.offline.usersql import explaining
from mlbox.store.offline.views import view_table

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

Known = Literal["then", "latest"]
"""Whether only what was known at a row's time counts, or all that is known by now of what had happened."""


def join(
    cursor: Cursor,
    view: FeatureView,
    features: Mapping[str, str],
    keys: Mapping[str, str],
    known: Known,
    *,
    arrived: bool = True,
) -> pa.Table:
    """A view's features as of the registered table `spine`: one row for each of the spine's, in its order.

    `spine` has `_row`, which counts its rows, `_at`, the moment that each asks about, and the columns that `keys` names for
    the view's join keys. `features` is the result's columns, by name, and the feature that each shows. `arrived` is false
    where all rows were known as soon as they happened.
    """
    import numpy as np

    on = " AND ".join(f"spine.{quote(keys[k.name])} = seen.{quote(k.name)}" for k in view.join_keys)
    counts, moment = ("_eff IS NOT NULL", "_eff") if known == "then" else ("_last", "_event")
    event, counting = ("_event", f" WHERE {counts}") if arrived else (moment, "")
    columns = ", ".join(f"{_while_fresh(view, name, event)} AS {quote(column)}" for column, name in features.items())
    rows = f"(SELECT * FROM {view_table(view.ref)}{counting})"
    sql = f"SELECT {columns}, spine._row FROM spine ASOF LEFT JOIN {rows} seen ON {on} AND spine._at >= seen.{moment}"
    with explaining("spine"):
        found = cursor.sql(sql).to_arrow_table()
    places = np.empty(found.num_rows, np.int64)
    places[found.column(len(features)).to_numpy()] = np.arange(found.num_rows)  # cheaper than to have DuckDB sort
    return found.select(range(len(features))).take(places)


def chain(wanted: Sequence[tuple[FeatureView, Sequence[str]]], spine: str, at: str) -> str:
    """A SELECT of all columns of a relation, and of features of views by full reference, as known at each row's time.

    The relation, which is `spine` in the expression `at`, has the views' join keys, in types that compare with theirs.
    """
    columns, joins = ["spine.*"], []
    for number, (view, refs) in enumerate(wanted):
        seen = f"seen{number}"
        on = " AND ".join(f"spine.{quote(key.name)} = {seen}.{quote(key.name)}" for key in view.join_keys)
        rows = f"(SELECT * FROM {view_table(view.ref)} WHERE _eff IS NOT NULL)"
        joins.append(f"ASOF LEFT JOIN {rows} {seen} ON {on} AND {at} >= {seen}._eff")
        for ref in refs:
            value = f"{seen}.{quote(ref.partition(':')[2])}"
            if view.ttl_seconds is not None:
                age = f"epoch_us({at}) - epoch_us({seen}._event)"
                value = f"CASE WHEN {age} <= {view.ttl_seconds * 1_000_000} THEN {value} END"
            columns.append(f"{value} AS {quote(ref)}")
    return f"SELECT {', '.join(columns)} FROM {spine} spine {' '.join(joins)}"


def _while_fresh(view: FeatureView, feature: str, event: str) -> str:
    value = f"seen.{quote(feature)}"
    if view.ttl_seconds is None:
        return value
    return f"CASE WHEN epoch_us(spine._at) - epoch_us(seen.{event}) <= {view.ttl_seconds * 1_000_000} THEN {value} END"
