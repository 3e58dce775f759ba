"""The table of runs: what its address says, the rows that follow from that, and the addresses that change it.

The address holds all of it: experiments, filter, order, columns, which of them stay in sight, grouping, and whether nested runs
stand by themselves. So a link shows what its sender saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Experiment, Run
from mlbox.store.tracking.experiments import DEFAULT_ID
from mlbox.store.tracking.filters import parse
from mlbox.store.tracking.keyset import wrong_page
from mlbox.store.tracking.run_filters import PARENT, RUNS
from mlbox.store.tracking.run_groups import MOST_METRICS, Group, Place
from mlbox.store.tracking.run_words import quoted_text
from mlbox.web.pages.run_columns import ASPECTS, ATTRIBUTES, NONE, Cell, Column, cell, column, columns, common, summary
from mlbox.web.pages.view import View

PAGE = 100
MOST_COUNTED = 10_000
MOST_PINNED = 4
_BIGGEST = 2**63
KEPT = ("filter", "order", "group", "flat", "column", "pin")
"""What of an address somebody may keep as their own view of an experiment."""
GROUPABLE = ("status", "user_id", "experiment_name", "dataset", "git_commit")


class State(NamedTuple):
    """What an address of the table says."""

    experiments: tuple[str, ...] = ()
    filter: str = ""
    order: str = ""
    group: str = ""
    flat: bool = False
    column: tuple[str, ...] = ()
    pin: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    """The columns of the table that a page or what folds out of a row goes into, where nobody chose them."""

    def fields(self) -> list[tuple[str, str]]:
        """As fields of a form."""
        plain = (("filter", self.filter), ("order", self.order), ("group", self.group), ("flat", "1" * self.flat))
        many = (("experiment", self.experiments), ("column", self.column), ("pin", self.pin))
        return [
            *((name, text) for name, texts in many[:1] for text in texts),
            *((name, text) for name, text in plain if text),
            *((name, text) for name, texts in many[1:] for text in texts),
        ]

    def query(self, **changes: Any) -> str:
        """As the query of an address, with changes."""
        return urlencode(self._replace(**changes).fields())

    def address(self, page: str = "/runs", **changes: Any) -> str:
        """As an address, with changes."""
        query = self.query(**changes)
        return f"{page}?{query}" if query else page


class Head(NamedTuple):
    """A column's head, and where its order is to be had, if at all."""

    label: str
    title: str
    href: str
    sorted: str
    css: str


class Line(NamedTuple):
    """A row: a run, or a group of them with what folds out of it."""

    title: str
    about: str
    run: Run | None
    cells: tuple[Cell, ...]
    href: str
    fold: str = ""
    """The address of the runs that are within, in the columns of this table."""
    within: int = 0


class Wrong(NamedTuple):
    """A filter that cannot be read, cut at what is wrong."""

    message: str
    before: str
    bad: str
    after: str


def wrong(filter: str) -> Wrong | None:
    """What is wrong with a filter, if anything is."""
    try:
        parse(filter, RUNS)
    except InvalidInput as err:
        begin, end = err.place or (0, len(filter))
        return Wrong(err.message, filter[:begin], filter[begin:end], filter[end:])
    return None


def fetch(view: View, state: State, after: str | None, error: Wrong | None) -> dict[str, Any]:
    """All that the page shows."""
    experiments = view.box.tracker.experiments()
    chosen = columns(state.column)
    pinned = [column(text, "pin") for text in state.pin]
    ids = [one.id for one in experiments if not state.experiments or one.name in state.experiments]
    table = _Table(view, state, experiments, ids, chosen, pinned)
    shown = {"lines": [], "heads": [], "next": None, "count": 0} if error else table.read(_place(after))
    kept = urlencode([pair for pair in state.fields() if pair[0] in KEPT])
    return {
        "state": state,
        "wrong": error,
        "experiments": experiments,
        "experiment": state.experiments[0] if len(state.experiments) == 1 else "",
        "deletable": _deletable(view, state, experiments),
        "most_counted": MOST_COUNTED,
        "groupings": _groupings(state, chosen, shown["lines"]),
        "chooser": state.address("/runs/columns"),
        "kept": kept,
        "own": bool(kept) and kept == own_query(view, state),
        **shown,
    }


def _deletable(view: View, state: State, experiments: Sequence[Experiment]) -> Experiment | None:
    """The one experiment that is shown, where whoever looks may delete it."""
    shown = [one for one in experiments if one.name in state.experiments and one.id != DEFAULT_ID]
    return shown[0] if len(state.experiments) == len(shown) == 1 and view.may("member", name=shown[0].name) else None


def _groupings(state: State, chosen: Sequence[Column], lines: Sequence[Line]) -> list[tuple[str, str]]:
    """By what runs may be grouped: what their first page has as parameters, and some attributes."""
    params = sorted({key for line in lines if line.run for key in line.run.params})[:60]
    found = [*(Column("param", key) for key in params), *(one for one in chosen if one.entity in ("param", "tag"))]
    found += [Column("attribute", key) for key in GROUPABLE]
    if state.group:
        found.append(grouping(state.group))
    return list({one.plain: one.label for one in found}.items())


def grouping(text: str) -> Column:
    """What runs are grouped by; raises InvalidInput for what nearly every run has a value of its own of."""
    by = column(text, "group")
    if by.entity == "metric" or (by.entity == "attribute" and by.key not in GROUPABLE):
        raise InvalidInput(
            f"Runs are not grouped by {text[:80]!r}.",
            hint=f"Take a parameter, a tag, or one of {', '.join(GROUPABLE)}.",
            field="group",
        )
    return by


class _Table:
    """One reading of the table."""

    def __init__(
        self,
        view: View,
        state: State,
        experiments: Sequence[Experiment],
        ids: Sequence[str],
        chosen: list[Column],
        pinned: list[Column],
    ) -> None:
        self._search = view.box.run_search
        self._state = state
        self._ids = ids
        self._names = {one.id: one.name for one in experiments}
        self._now: datetime = view.box.clock.real()
        self._chosen = chosen
        self._given = chosen or columns(state.shown)
        self._pinned = {(one.entity, one.key) for one in pinned}

    def read(self, place: list[Any] | None) -> dict[str, Any]:
        return self._groups(place) if self._state.group else self._runs(place)

    def _runs(self, place: list[Any] | None) -> dict[str, Any]:
        state = self._state
        roots = not state.flat and not state.filter
        page = self._search.runs(
            self._ids,
            state.filter,
            order_by=[state.order] if state.order else [],
            limit=PAGE,
            after=place,
            roots=roots,
        )
        runs: list[Run] = page.found
        nested = self._search.children([run.id for run in runs]) if runs else {}
        shown = self._arranged(self._given or common([*runs, *(self._some() if roots and nested else ())]))
        lines = [
            self._line(run, shown, nested.get(run.id, 0) if roots or state.filter.startswith(_NESTED) else 0)
            for run in runs
        ]
        count = self._search.count(self._ids, state.filter, roots=roots, most=MOST_COUNTED)
        return {"lines": lines, "heads": self._heads(shown), "next": self._next(page.next, shown), "count": count}

    def _some(self) -> list[Run]:
        """The newest runs, also those within others: of a sweep they are what has metrics."""
        return self._search.runs(self._ids, self._state.filter, limit=PAGE).found

    def _alike(self, address: str, shown: Sequence[Column]) -> str:
        """An address whose rows have the columns of this table, whatever its own runs have in common."""
        return address if self._chosen else f"{address}&{urlencode([('shown', one.id) for one in shown])}"

    def _arranged(self, shown: Sequence[Column]) -> list[Column]:
        """Columns as they stand: those that stay in sight first."""
        pinned = [one for one in shown if (one.entity, one.key) in self._pinned]
        return [*pinned, *(one for one in shown if one not in pinned)]

    def _line(self, run: Run, shown: Sequence[Column], within: int) -> Line:
        experiment = self._names.get(run.experiment_id, "")
        cells = [cell(one, run, experiment, self._now) for one in shown]
        filter = f"{_NESTED} = {quoted_text(run.id)}"
        fold = self._alike(self._state.address(filter=filter, experiments=()), shown) if within else ""
        about = f"{experiment} · {run.user}"
        return Line(run.name or run.id[-8:], about, run, self._dressed(shown, cells), f"/runs/{run.id}", fold, within)

    def _groups(self, place: list[Any] | None) -> dict[str, Any]:
        state, by = self._state, grouping(self._state.group)
        shown = self._arranged(self._given or common(self._some()))
        metrics = [one for one in shown if one.entity == "metric"][:MOST_METRICS]
        if place is not None and (len(place) != 2 or not isinstance(place[0], int)):
            raise wrong_page()
        found = self._search.groups(
            self._ids,
            state.filter,
            by=by.plain,
            metrics=[one.aspect for one in metrics],
            limit=PAGE + 1,
            after=None if place is None else Place(place[0], place[1]),
        )
        lines = [self._group(by, group, shown, metrics) for group in found[:PAGE]]
        last = found[PAGE - 1] if len(found) > PAGE else None
        return {
            "lines": lines,
            "heads": [head._replace(href="", sorted="none") for head in self._heads(shown)],
            "next": self._next([last.runs, last.value] if last else None, shown),
            "count": self._search.count(self._ids, state.filter, most=MOST_COUNTED),
        }

    def _group(self, by: Column, group: Group, shown: Sequence[Column], metrics: Sequence[Column]) -> Line:
        values = dict(zip(metrics, group.metrics, strict=True))
        cells = [summary(one, values[one]) if one in values else NONE for one in shown]
        said = "none" if group.value in (None, "") else str(group.value)
        clause = f"{by.plain} IS NULL" if group.value is None else f"{by.plain} = {quoted_text(group.value)}"
        narrowed = f"{self._state.filter} AND {clause}" if self._state.filter.strip() else clause
        href = self._state.address(filter=narrowed, group="", flat=True)
        about = f"{by.label} · {group.runs:,} runs"
        fold = self._alike(href, shown)
        return Line(said, about, None, self._dressed(shown, cells), href, fold, group.runs)

    # -- how it looks -----------------------------------------------------------------------------------------------

    def _css(self, one: Column, place: int) -> str:
        css = "num" if one.is_number else ""
        if (one.entity, one.key) in self._pinned and place < MOST_PINNED:
            return f"{css} pinned pin-{place + 1}".strip()
        return css if self._chosen or one.entity == "metric" or one.key == "status" else f"{css} wide".strip()

    def _dressed(self, shown: Sequence[Column], cells: Sequence[Cell]) -> tuple[Cell, ...]:
        return tuple(one._replace(css=self._css(shown[at], at)) for at, one in enumerate(cells))

    def _heads(self, shown: Sequence[Column]) -> list[Head]:
        return [self._head(one, at) for at, one in enumerate(shown)]

    def _head(self, one: Column, at: int) -> Head:
        rising, falling = one.order(ascending=True), one.order(ascending=False)
        now = {rising: "ascending", falling: "descending"}.get(self._state.order, "none")
        first, second = (rising, falling) if one.rises_first else (falling, rising)
        order = {first: second, second: ""}.get(self._state.order, first)
        of = f", {one.extreme} of the run" if one.of != "last" else ""
        return Head(one.label, f"{one.plain}{of}", self._state.address(order=order), now, self._css(one, at))

    def _next(self, after: list[Any] | None, shown: Sequence[Column]) -> str | None:
        if after is None:
            return None
        place = msgspec.json.encode(after).decode()
        return self._alike(f"/runs?{urlencode([*self._state.fields(), ('after', place)])}", shown)


_NESTED = f"tags.{PARENT}"


def _place(after: str | None) -> list[Any] | None:
    """Where a page begins, as an address has it; raises InvalidInput."""
    if not after:
        return None
    try:
        found = msgspec.json.decode(after)
    except msgspec.DecodeError as err:
        raise wrong_page() from err
    if not isinstance(found, list) or not all(_is_bound(value) for value in found):
        raise wrong_page()
    return found


def _is_bound(value: object) -> bool:
    """Whether SQLite takes a value."""
    if isinstance(value, int):
        return -_BIGGEST <= value < _BIGGEST
    return value is None or isinstance(value, str | float)


def own_query(view: View, state: State) -> str:
    """The view that whoever asks keeps of these runs; of several experiments together there is none."""
    if view.principal is None or len(state.experiments) > 1:
        return ""
    return view.box.run_views.get(view.principal.name, "".join(state.experiments))


def kept_query(text: str) -> str:
    """A view of somebody's own, checked: it says nothing but what may be kept; raises InvalidInput."""
    pairs = parse_qsl(text)
    if text and not pairs:
        raise InvalidInput(
            f"{text[:80]!r} is no query of an address.", hint="For example: order=params.lr ASC", field="query"
        )
    for name, value in pairs:
        if name not in KEPT:
            raise InvalidInput(f"{name[:40]!r} is not kept.", hint=f"One of {', '.join(KEPT)}.", field="query")
        if name in ("column", "pin", "group"):
            column(value, "query")
    return urlencode(pairs)


# -- the chooser --------------------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """A name that columns may be made of: the columns, which of them are shown, and whether it stays in sight."""

    plain: str
    label: str
    runs: str
    columns: tuple[tuple[str, str, bool], ...]
    pinned: bool


def choices(view: View, state: State) -> dict[str, Any]:
    """All columns there are, by kind."""
    box = view.box
    ids = [one.id for one in box.tracker.experiments() if not state.experiments or one.name in state.experiments]
    names = box.run_words.names(ids)
    shown = columns(state.column)
    if not shown:
        shown = common(box.run_search.runs(ids, limit=PAGE).found)
    chosen, pinned = {one.id for one in shown}, {column(text, "pin").plain for text in state.pin}
    known: dict[str, dict[Column, str]] = {
        "Attributes": {Column("attribute", key): "" for key in ATTRIBUTES},
        "Metrics": {Column("metric", key): f"{count:,}" for key, count in names.metrics.items()},
        "Parameters": {Column("param", key): f"{count:,}" for key, count in names.params.items()},
        "Tags": {Column("tag", key): f"{count:,}" for key, count in names.tags.items()},
    }
    for one in shown:  # also what older runs have
        known[_KINDS[one.entity]].setdefault(one._replace(of="last"), "")
    groups = {
        kind: [_choice(one, count, chosen, pinned) for one, count in found.items()]
        for kind, found in known.items()
        if found
    }
    hidden = [(name, text) for name, text in state.fields() if name not in ("column", "pin")]
    return {"state": state, "groups": groups, "hidden": hidden, "looked_at": names.runs}


_KINDS = {"attribute": "Attributes", "metric": "Metrics", "param": "Parameters", "tag": "Tags"}


def _choice(one: Column, runs: str, chosen: set[str], pinned: set[str]) -> Choice:
    made = [one._replace(of=of) for of in ASPECTS] if one.entity == "metric" else [one]
    shown = tuple((each.id, each.of, each.id in chosen) for each in made)
    return Choice(one.plain, one.label, runs, shown, one.plain in pinned)
