"""The words of a filter of runs as it is typed: names, operators and values that may come next, and what is wrong with it.

Names and values are those of the newest runs of the experiments, so that an answer takes the time of a keystroke however many
runs there are; what is not offered may be typed all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, get_args

from mlbox.errors import InvalidInput
from mlbox.records import Record, RunStatus
from mlbox.store.tracking.experiments import Experiments
from mlbox.store.tracking.filters import MAX_FILTER, QUOTES, Kind, Token, comparators, located, next_token, parse
from mlbox.store.tracking.run_filters import RUNS
from mlbox.store.tracking.tracking import Tracker

NEWEST = 1000
MOST = 60
"""Suggestions of one answer."""
_TABLES = {"metric": "series", "param": "param", "tag": "tag"}
_PLURAL = {"metric": "metrics", "param": "params", "tag": "tags"}
_PLAIN = re.compile(r"[A-Za-z_][\w.]*")
_TEXTS = {
    "run_id": "id",
    "run_name": "name",
    "user_id": "user",
    "dataset": "dataset",
    "git_commit": "git_commit",
    "job_id": "job_id",
}
"""Attributes whose values are offered, and their columns."""


class Suggestion(Record, frozen=True, kw_only=True):
    """A word that may stand next."""

    text: str
    """What goes in place of the characters from `begin` to the cursor."""
    begin: int
    detail: str = ""


class Wrong(Record, frozen=True, kw_only=True):
    """What is wrong with a filter, and its characters from `begin` to `end`."""

    message: str
    begin: int
    end: int


class Completion(Record, frozen=True, kw_only=True):
    """What may be typed at the cursor, and whether the filter as a whole can be read."""

    suggestions: tuple[Suggestion, ...]
    wrong: Wrong | None = None


class Names(NamedTuple):
    """What the newest runs have, by name, and how many of them have each."""

    metrics: dict[str, int]
    params: dict[str, int]
    tags: dict[str, int]
    runs: int
    """How many runs were looked at."""


class Wanted(NamedTuple):
    """What stands at the cursor: a key, a comparator, a value or a joint, what is typed of it and since where."""

    what: str
    typed: str
    begin: int
    entity: str = ""
    key: str = ""
    kind: Kind = "text"


_NEXT = {
    ("comparator", "NOT"): "not",
    ("comparator", "IS"): "is",
    ("comparator", "IN"): "list",
    ("not", "IN"): "list",
    ("is", "NOT"): "null",
    ("is", "NULL"): "joint",
    ("null", "NULL"): "joint",
    ("list", "("): "item",
    ("after item", ","): "item",
    ("after item", ")"): "joint",
    ("joint", "AND"): "key",
}
_AFTER = {"comparator": "value", "value": "joint", "item": "after item"}
"""What follows whatever else stands somewhere."""


def wanted(text: str, at: int) -> Wanted | None:
    """What stands at the cursor; None where what is before it cannot be read."""
    try:
        pieces, typing = _pieces(text[:at])
        return _walk(pieces, typing, at)
    except InvalidInput:
        return None


def _pieces(head: str) -> tuple[list[Token], Token | None]:
    """The pieces before the cursor, and the one that is being typed: a word that ends there, or a quote that is open."""
    found: list[Token] = []
    place = 0
    while True:
        try:
            token = next_token(head, place)
        except InvalidInput as err:
            begin = err.place[0] if err.place else place
            if head[begin : begin + 1] not in QUOTES:
                raise
            return found, Token("open", head[begin + 1 :], begin, len(head))
        if token is None:
            break
        found.append(token)
        place = token.end
    if found and found[-1].end == len(head) and found[-1].kind in ("word", "number", "operator"):
        return found[:-1], found[-1]
    return found, None


def _walk(pieces: list[Token], typing: Token | None, at: int) -> Wanted | None:
    state, entity, key = "key", "", ""
    kind: Kind = "text"
    dotted: Token | None = None
    for token in pieces:
        if state == "key":
            if dotted is None and token.kind == "word" and token.text.endswith("."):
                dotted = token
                continue
            entity, key, kind = _key_of(dotted, token)
            dotted, state = None, "comparator"
        else:
            found = _NEXT.get((state, token.text.upper())) or _AFTER.get(state)
            if found is None:
                return None
            state = found
    begin = dotted.place if dotted else typing.place if typing else at
    typed = (dotted.text if dotted else "") + (typing.text if typing else "")
    return Wanted("value" if state == "item" else state, typed, begin, entity, key, kind)


def _key_of(dotted: Token | None, token: Token) -> tuple[str, str, Kind]:
    entity, dot, name = (dotted.text + token.text if dotted else token.text).partition(".")
    if not dot or entity not in RUNS.entities:
        entity, name = "attribute", token.text
    return located(token, RUNS, RUNS.entities[entity], name)


class RunWords:
    """Completion of filters, from what the newest runs of some experiments have."""

    def __init__(self, tracker: Tracker, experiments: Experiments) -> None:
        self._tracker = tracker
        self._experiments = experiments

    def names(self, experiment_ids: Sequence[str]) -> Names:
        """The metrics, parameters and tags of the newest runs of these experiments."""
        newest, values = self._newest(experiment_ids)
        found: dict[str, dict[str, int]] = {}
        for entity, table in _TABLES.items():
            sql = f"{newest} SELECT key, count(*) AS runs FROM {table} WHERE run_id IN newest GROUP BY key ORDER BY key"
            found[entity] = {row["key"]: row["runs"] for row in self._tracker.select(sql, values)}
        count = self._tracker.select(f"{newest} SELECT count(*) FROM newest", values)[0][0]
        return Names(found["metric"], found["param"], found["tag"], count)

    def complete(self, experiment_ids: Sequence[str], text: str, at: int) -> Completion:
        """What may be typed at a cursor, and what is wrong with the text as it is; raises InvalidInput for one too long."""
        if len(text) > MAX_FILTER:
            raise InvalidInput(
                f"The filter has {len(text):,} characters.", hint=f"At most {MAX_FILTER:,}.", field="text"
            )
        place = wanted(text, min(at, len(text)))
        offers: Sequence[tuple[str, str]] = ()
        if place is not None:
            offers = self._offers(place, experiment_ids)
        shown = [Suggestion(text=said, begin=place.begin if place else 0, detail=detail) for said, detail in offers]
        return Completion(suggestions=tuple(shown[:MOST]), wrong=_wrong(text))

    def _offers(self, place: Wanted, experiment_ids: Sequence[str]) -> list[tuple[str, str]]:
        if place.what == "key":
            return _matching(self._keys(experiment_ids), place.typed)
        if place.what == "value":
            return _matching(self._values(place, experiment_ids), place.typed.strip("'\"`"))
        words: dict[str, Sequence[str]] = {
            "comparator": comparators(RUNS, place.key, place.kind),
            "not": ("IN",),
            "is": ("NULL", "NOT NULL"),
            "null": ("NULL",),
            "list": ("(",),
            "after item": (",", ")"),
            "joint": ("AND",),
        }
        return _matching([(word, "") for word in words[place.what]], place.typed)

    def _keys(self, experiment_ids: Sequence[str]) -> list[tuple[str, str]]:
        found = self.names(experiment_ids)
        named = [
            (f"{plural}.{quoted_name(key)}", _of_runs(count, found.runs))
            for plural, keys in (("metrics", found.metrics), ("params", found.params), ("tags", found.tags))
            for key, count in keys.items()
        ]
        own = [(f"attributes.{name}", "") for name in sorted(RUNS.texts | RUNS.numbers)]
        return [*named, *own, *((f"dataset.{name}", "data that was read") for name in sorted(RUNS.datasets))]

    def _values(self, place: Wanted, experiment_ids: Sequence[str]) -> list[tuple[str, str]]:
        newest, values = self._newest(experiment_ids)
        if place.entity == "metric":
            sql = f"{newest} SELECT min(value) AS low, avg(value) AS mean, max(value) AS high FROM series"
            row = self._tracker.select(f"{sql} WHERE key = ? AND run_id IN newest", [*values, place.key])[0]
            named = (("low", "the least"), ("mean", "the mean"), ("high", "the greatest"))
            return [(f"{row[name]:.6g}", words) for name, words in named if row[name] is not None]
        if place.key == "status" and place.entity == "attribute":
            return [(quoted_text(status), "") for status in get_args(RunStatus)]
        if place.key == "experiment_name" and place.entity == "attribute":
            return [(quoted_text(one.name), "") for one in self._experiments.all() if one.id in experiment_ids]
        source = _value_source(place)
        if source is None:
            return []
        column, rows, more = source
        sql = (
            f"{newest} SELECT {column} AS value, count(DISTINCT run_id) AS runs FROM {rows} AND run_id IN newest"
            f" AND {column} IS NOT NULL AND {column} <> '' GROUP BY 1 ORDER BY runs DESC, value LIMIT {MOST * 10}"
        )
        found = self._tracker.select(sql, [*values, *more])
        return [(quoted_text(row["value"]), f"{row['runs']:,} runs") for row in found]

    def _newest(self, experiment_ids: Sequence[str]) -> tuple[str, list[str]]:
        visible = self._experiments.visible_ids()
        seen = [one for one in dict.fromkeys(experiment_ids) if one in visible]
        own = "+experiment_id" if len(seen) > 1 else "experiment_id"
        places = ",".join("?" * len(seen))
        return (
            f"WITH newest AS MATERIALIZED (SELECT id FROM run WHERE {own} IN ({places}) AND deleted_us IS NULL"
            f" ORDER BY started_us DESC LIMIT {NEWEST})",
            seen,
        )


def _value_source(place: Wanted) -> tuple[str, str, list[str]] | None:
    """The column that has a key's values, the rows with that key, and what is bound in them."""
    if place.entity in ("param", "tag"):
        return "value", f"{place.entity} WHERE key = ?", [place.key]
    if place.entity == "dataset" and place.key != "context":
        return f"dataset.{place.key}", "run_dataset JOIN dataset ON dataset.id = run_dataset.dataset WHERE 1", []
    if place.entity == "attribute" and place.key in _TEXTS:
        return _TEXTS[place.key], f"(SELECT id AS run_id, {_TEXTS[place.key]} FROM run) WHERE 1", []
    return None


def _matching(offers: Sequence[tuple[str, str]], typed: str) -> list[tuple[str, str]]:
    """Those that begin with what is typed, then those that have it in them."""
    plain = re.sub("['\"`]", "", typed).lower()
    entity, _, rest = plain.partition(".")
    if entity in RUNS.entities and "." in plain:
        plain = f"{_PLURAL.get(RUNS.entities[entity], RUNS.entities[entity] + 's')}.{rest}".replace(
            "datasets.", "dataset."
        )
    said = [(offer, re.sub("['\"`]", "", offer[0]).lower()) for offer in offers]
    first = [offer for offer, text in said if text.startswith(plain)]
    return [*first, *(offer for offer, text in said if plain in text and not text.startswith(plain))]


def _wrong(text: str) -> Wrong | None:
    try:
        parse(text, RUNS)
    except InvalidInput as err:
        begin, end = err.place or (0, len(text))
        return Wrong(message=err.message, begin=begin, end=end)
    return None


def _of_runs(count: int, runs: int) -> str:
    return f"{count:,} of {runs:,} runs"


def quoted_name(key: str) -> str:
    """A name as a filter takes it: in quotes where it is no plain word."""
    if _PLAIN.fullmatch(key):
        return key
    return f"`{key}`" if "`" not in key else '"' + key.replace('"', '""') + '"'


def quoted_text(value: object) -> str:
    """A text as a filter takes it."""
    return "'" + str(value).replace("'", "''") + "'"
