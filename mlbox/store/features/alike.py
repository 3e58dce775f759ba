"""Features that repeat others: found before they are made, because computing the same thing twice is what a feature store ends.

A feature repeats another of the same entity where both come from the same SQL, by DuckDB's own parser, or from the same function
in free Python, or where their values agree on a sample of entities: of numbers and times by Spearman's rank correlation, of texts
and truths by the share of equal values. A view in free Python has values once it has run: until then those of its last version
that has stand for it. To look is a courtesy: it takes a few seconds at most, never fails, and leaves out what cannot be computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlbox.errors import MlboxError
from mlbox.records import Column, FeatureView, Record, ViewSpec
from mlbox.store.features.catalog import digest_of
from mlbox.store.features.viewtables import ViewTables, built_of
from mlbox.store.offline import views
from mlbox.store.offline.offline import quote
from mlbox.store.sandbox.sandbox import hand_over

if TYPE_CHECKING:
    import numpy as np

    from mlbox.store.offline.offline import Cursor

    Numbers = np.ndarray[Any, np.dtype[np.float64]]

_log = logging.getLogger(__name__)
SECONDS = 5.0
LEAST_PAIRS = 50
LEAST_AGREEMENT = 0.99
MOST_VIEWS = 1000
_GLANCE = 500
"""Pairs that are looked at first: most features differ at a glance."""
_NUMBERS = ("INT64", "FP64", "TIMESTAMP")
_SELECT_ITEMS = ("event_time", "arrival_time")
_MOST_KEPT = 5000
_normal: dict[tuple[str, str], dict[str, str]] = {}
"""Of views by reference and digest."""


class Alike(Record, frozen=True, kw_only=True):
    """A feature that repeats another."""

    feature: str
    """Of the view that is to be made."""
    other: str
    """Full reference of the one that is there."""
    why: Literal["same SQL", "same function", "same values"]
    correlation: float | None = None
    """Rank correlation of the values, of texts and truths the share of equal ones; None where they were not looked at."""


def find_alike(
    store: ViewTables,
    spec: ViewSpec,
    *,
    beside: Sequence[FeatureView] = (),
    sample: int = 10_000,
    seconds: float = SECONDS,
) -> list[Alike]:
    """The latest features of the same entity that a view's features repeat, by feature; `sample` entities are compared.

    `beside`: views that are about to be made as well.
    """
    import duckdb

    end = time.monotonic() + seconds
    found: dict[tuple[str, str], Alike] = {}
    try:
        others = list(_candidates(store, spec, beside))
        for one in _same_sql(store, spec, others, time.monotonic() + seconds / 2):
            found[one.feature, one.other] = one
        for one in _same_values(store, spec, others, sample, end):
            found.setdefault((one.feature, one.other), one)
    except (MlboxError, duckdb.Error, RecursionError):
        pass  # what is wrong with the view is said by whoever applies it
    except Exception:  # looking is a courtesy: a plan does not fail for it
        _log.exception("Features like those of %s could not be looked for.", spec.name)
    return sorted(found.values(), key=lambda one: (one.feature, one.why, -(one.correlation or 0), one.other))


def planned_view(spec: ViewSpec, ref: str, now: datetime) -> FeatureView:
    """A view that is about to be made."""
    version, digest = int(ref.partition("@v")[2]), digest_of(spec)
    return FeatureView(
        **{**msgspec.structs.asdict(spec), "digest": digest}, version=version, created_by="", created_at=now
    )


def _candidates(store: ViewTables, spec: ViewSpec, beside: Sequence[FeatureView]) -> Iterator[FeatureView]:
    """The latest versions of the other views of the same entity, those first that look most alike."""
    latest = {view.name: view for view in (*store.views(), *beside) if view.name != spec.name}
    same = [view for view in latest.values() if _entity(view) == _entity(spec)]
    yield from sorted(same, key=lambda view: _likeness(spec, view), reverse=True)[:MOST_VIEWS]


def _likeness(spec: ViewSpec, view: FeatureView) -> tuple[int, bool, datetime]:
    """How many features are called the same, whether a source is the same, and how new it is."""
    named = {column.name.lower() for column in spec.features} & {column.name.lower() for column in view.features}
    return len(named), bool(set(spec.sources) & set(view.sources)), view.created_at


def _entity(view: FeatureView | ViewSpec) -> frozenset[tuple[str, str]]:
    return frozenset((key.name, key.dtype) for key in view.join_keys)


# -- the same SQL -----------------------------------------------------------------------------------------------------------


def _same_sql(store: ViewTables, spec: ViewSpec, others: Sequence[FeatureView], end: float) -> list[Alike]:
    new = normalised(store, spec)
    why: Literal["same SQL", "same function"] = "same SQL" if spec.function is None else "same function"
    found: list[Alike] = []
    for other in others:
        if time.monotonic() >= end:
            break
        with contextlib.suppress(MlboxError, RecursionError):
            known: dict[str, str] = {}
            for feature, text in _normalised_once(store, other).items():
                known.setdefault(text, feature)
            found += [
                Alike(feature=feature, other=f"{other.ref}:{known[text]}", why=why)
                for feature, text in new.items()
                if text in known
            ]
    return found


def _normalised_once(store: ViewTables, view: FeatureView) -> dict[str, str]:
    """As `normalised`, kept: a version never changes."""
    key = (view.ref, view.digest)
    if key not in _normal:
        if len(_normal) >= _MOST_KEPT:
            _normal.clear()
        _normal[key] = normalised(store, view)
    return _normal[key]


def normalised(store: ViewTables, view: FeatureView | ViewSpec) -> dict[str, str]:
    """What each feature of a view is computed by, as a digest that is the same where only layout, aliases or capitals differ."""
    if view.function is not None:
        by = [view.function.text, view.function.window_seconds, sorted(view.sources)] if view.function.text else None
        return {c.name: _digest(_text(["function", c.name, c.dtype, by])) for c in view.features} if by else {}
    allowed = [name.partition("@")[0] for name in view.sources]
    looked = store._sandbox.look((), (), sql=view.sql, allowed=tuple(allowed), most_bytes=2**20)
    node = msgspec.json.decode(looked.tree)["statements"][0]["node"]
    if node["type"] != "SELECT_NODE":
        whole = _text(_plain(node, {}))
        return {column.name: _digest(f"{column.name.lower()} of {whole}") for column in view.features}
    renamed = _tables(node["from_table"])
    exact = {name.partition("@")[0].lower(): name for name in view.sources}
    items = {_name_of(item): _plain(item, renamed) for item in node["select_list"] if _name_of(item)}
    stars = [_plain(item, renamed) for item in node["select_list"] if item["class"] == "STAR"]
    rest = {key: value for key, value in node.items() if key not in ("select_list", "modifiers")}
    limits = [one for one in node["modifiers"] if one["type"] != "ORDER_MODIFIER"]

    def item(name: str) -> Any:
        bare = {"class": "COLUMN_REF", "type": "COLUMN_REF", "column_names": [name.lower()]}
        return items.get(name.lower(), [bare, stars] if stars else name.lower())

    keys = sorted(key.name for key in view.join_keys)
    shared = _text([_plain(rest, renamed), _plain(node["modifiers"] if limits else [], renamed), exact])
    around = _text([item(name) for name in (*keys, *_SELECT_ITEMS)])
    return {c.name: _digest(f"{_text(item(c.name))} {c.dtype} {around} {shared}") for c in view.features}


def _name_of(item: dict[str, Any]) -> str:
    """What an expression of a select list is called, in small letters; nothing where DuckDB chooses."""
    if item.get("alias"):
        return str(item["alias"]).lower()
    return str(item["column_names"][-1]).lower() if item["class"] == "COLUMN_REF" else ""


def _tables(tree: Any) -> dict[str, str]:
    """What tables are called in a FROM clause, each with its name in the normal form: nothing for one that is alone."""
    found: list[str] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if node.get("type") == "JOIN":
            stack += [node["right"], node["left"]]
        else:
            found.append(str(node.get("alias") or node.get("table_name") or "").lower())
    if len(found) == 1:
        return {found[0]: ""}
    return {name: f"t{number}" for number, name in enumerate(found)} if len(set(found)) == len(found) else {}


def _plain(node: Any, tables: dict[str, str]) -> Any:
    """A part of DuckDB's tree without places in the text, aliases and capitals."""
    if isinstance(node, list):
        return [_plain(one, tables) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: value for key, value in node.items() if key not in ("alias", "query_location", "query_location_length")
    }
    if kept.get("type") == "COLUMN_REF":
        words = [str(word).lower() for word in kept["column_names"]]
        if len(words) == 2 and words[0] in tables:
            words = [word for word in (tables[words[0]], words[1]) if word]
        return {**kept, "column_names": words}
    if kept.get("type") == "BASE_TABLE":
        kept |= {"table_name": kept["table_name"].lower(), "qualified_name": None}
    return {key: _plain(value, tables) for key, value in kept.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _text(tree: Any) -> str:
    return msgspec.json.encode(tree, order="sorted").decode()


# -- the same values --------------------------------------------------------------------------------------------------------


def _same_values(
    store: ViewTables, spec: ViewSpec, others: Sequence[FeatureView], sample: int, end: float
) -> list[Alike]:
    """Compares with one view after the other until the time is over."""
    import duckdb

    found: list[Alike] = []
    tried = _with_values(store, spec)
    if tried is None:
        return []
    spec = msgspec.structs.replace(spec, features=_shared(spec, tried))

    def read(cursor: Cursor) -> None:
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE asked AS {_latest(store, cursor, tried, sample, end)}")
        if cursor.execute("SELECT count(*) FROM asked").fetchall()[0][0] < LEAST_PAIRS:
            return  # whatever the others have
        for other in others:
            if time.monotonic() >= end:
                return
            with contextlib.suppress(MlboxError, duckdb.Error):
                found.extend(_agreeing(store, cursor, spec, other, sample, end))

    with contextlib.suppress(MlboxError, duckdb.Error):
        store._offline.read(read, seconds=max(end - time.monotonic(), 0.1))
    return found


def _with_values(store: ViewTables, spec: ViewSpec) -> FeatureView | None:
    """The view as one that values are computed of; of one in free Python its last version that has run, if any."""
    if spec.function is None:
        return FeatureView(**msgspec.structs.asdict(spec), version=0, created_by="", created_at=store._clock.real())
    versions = [view for view in store.views() if view.name == spec.name and _entity(view) == _entity(spec)]
    ran = store._offline.read(lambda cursor: [view for view in versions if built_of(cursor, view.ref) is not None])
    return ran[-1] if ran else None


def _shared(spec: ViewSpec, tried: FeatureView) -> tuple[Column, ...]:
    """The features that both have, in the same type."""
    known = {(column.name, column.dtype) for column in tried.features}
    return tuple(column for column in spec.features if (column.name, column.dtype) in known)


def _latest(store: ViewTables, cursor: Cursor, view: FeatureView, sample: int, end: float) -> str:
    """A SELECT of the latest row of each entity: of the view's table where there is one, else, of some, by its SQL."""
    columns, keys = views.names((*view.join_keys, *view.features)), views.names(view.join_keys)
    latest = f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _event DESC, _arrival DESC) = 1"
    some = f"ORDER BY hash({keys}), {keys} LIMIT {int(sample)}"
    if view.version and built_of(cursor, view.ref) is not None:
        return f"SELECT {columns} FROM {views.view_table(view.ref)} {latest}"
    rows = f"computed:{view.ref}"
    relations = store._relations(cursor, view)
    if view.function is not None:
        view = views.over_fed(view)[0]
    with store._sandbox.files() as folder:
        inputs = [hand_over(cursor, folder, one) for one in relations]
        ran = store._sandbox.run(
            folder, relations, inputs, view=view, limit=f"{latest} {some}", seconds=max(end - time.monotonic(), 0.1)
        )
    cursor.register(rows, ran.rows)
    return f"SELECT {columns} FROM {quote(rows)}"


def _agreeing(
    store: ViewTables, cursor: Cursor, spec: ViewSpec, other: FeatureView, sample: int, end: float
) -> Iterator[Alike]:
    """Pairs of features whose values agree on the entities that both know."""
    on = " AND ".join(f"a.{quote(key.name)} = b.{quote(key.name)}" for key in spec.join_keys)
    mine = [f"{_value('a', column)} AS a{n}" for n, column in enumerate(spec.features)]
    theirs = [f"{_value('b', column)} AS b{n}" for n, column in enumerate(other.features)]
    table = cursor.sql(
        f"SELECT {', '.join(mine + theirs)} FROM asked a JOIN ({_latest(store, cursor, other, sample, end)}) b ON {on}"
    ).to_arrow_table()
    if table.num_rows < LEAST_PAIRS:
        return
    left = [table.column(f"a{n}") for n in range(len(mine))]
    right = [table.column(f"b{n}") for n in range(len(theirs))]
    for i, new in enumerate(spec.features):
        for j, old in enumerate(other.features):
            if time.monotonic() >= end:
                return
            agreement = _agreement(new, left[i], old, right[j])
            if agreement is not None and abs(agreement) >= LEAST_AGREEMENT:
                yield Alike(feature=new.name, other=f"{other.ref}:{old.name}", why="same values", correlation=agreement)


def _value(table: str, column: Column) -> str:
    name = f"{table}.{quote(column.name)}"
    if column.dtype == "TIMESTAMP":
        return f"epoch({name})"
    return f"CAST({name} AS {'DOUBLE' if column.dtype in _NUMBERS else 'VARCHAR'})"


def _agreement(new: Column, a: Any, old: Column, b: Any) -> float | None:
    """How well two columns agree; None where they cannot be compared or there is too little to go by."""
    import numpy as np

    numeric = new.dtype in _NUMBERS
    if numeric != (old.dtype in _NUMBERS) or not (numeric or new.dtype == old.dtype):
        return None
    if not numeric:
        return equal_share(a.to_pylist(), b.to_pylist())
    left, right = np.asarray(a.to_numpy(), np.float64), np.asarray(b.to_numpy(), np.float64)
    glance = spearman(left[:_GLANCE], right[:_GLANCE])
    if glance is not None and abs(glance) < LEAST_AGREEMENT - 0.1:
        return None
    return spearman(left, right) if len(left) > _GLANCE else glance


def equal_share(a: Sequence[str | None], b: Sequence[str | None]) -> float | None:
    """The share of equal texts among pairs that are there; None for fewer than 50, or where one side never varies."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(pairs) < LEAST_PAIRS or len({x for x, _ in pairs}) < 2 or len({y for _, y in pairs}) < 2:
        return None
    return sum(x == y for x, y in pairs) / len(pairs)


def spearman(a: Numbers, b: Numbers) -> float | None:
    """Spearman's rank correlation, ties at their mean rank, of the pairs without NaN.

    None for fewer than 50 pairs, or where one side never varies.
    """
    import numpy as np

    both = ~(np.isnan(a) | np.isnan(b))
    if int(both.sum()) < LEAST_PAIRS:
        return None
    ranked = [_ranks(side[both]) for side in (a, b)]
    spreads = [float(side @ side) for side in ranked]
    if min(spreads) == 0.0:
        return None
    return float(np.clip(ranked[0] @ ranked[1] / np.sqrt(spreads[0] * spreads[1]), -1.0, 1.0))


def _ranks(values: Numbers) -> Numbers:
    """Ranks around their mean; equal values share the middle of theirs."""
    import numpy as np

    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts - 1) / 2
    centred: Numbers = middle[places] - (len(values) + 1) / 2
    return centred
