"""One search over everything that has a name and a page, in each room's own tables and as whoever asks may read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlbox.clock import from_us
from mlbox.errors import InvalidInput, Unavailable
from mlbox.records import SearchHit, SearchResult
from mlbox.store.db import Database

MOST_WORDS = 8
_EXPERIMENT = "(SELECT name FROM experiment WHERE experiment.id = run.experiment_id)"
_LATEST = """
SELECT name || '@v' || max(version) AS ref, name, coalesce(spec ->> '$.description', '') || ' '
  || (SELECT coalesce(group_concat(value ->> '$.name', ' '), '') FROM json_each(spec, '$.{outputs}')) AS about,
  created_us AS at_us
FROM {table} WHERE visible('view', name) GROUP BY name
"""


class Room(NamedTuple):
    """Where things of a kind are: a store, and SQL that gives ref, name, about and at_us of each that one may know of."""

    kind: str
    store: str
    sql: str


ROOMS = (
    Room(
        "model",
        "registry",
        "SELECT name AS ref, name, purpose AS about, updated_us AS at_us FROM model"
        " WHERE deleted_us IS NULL AND visible('model', name)",
    ),
    Room("view", "features", _LATEST.format(table="view", outputs="features")),
    Room("transform", "features", _LATEST.format(table="transform", outputs="outputs")),
    Room(
        "source",
        "features",
        "SELECT name AS ref, name, (SELECT group_concat(value ->> '$.name', ' ') FROM json_each(columns)) AS about,"
        " created_us AS at_us FROM source WHERE visible('source', name)",
    ),
    Room(
        "dataset",
        "datasets",
        "SELECT name || '@v' || max(version) AS ref, name, coalesce(record ->> '$.description', '') AS about,"
        " created_us AS at_us FROM dataset WHERE visible('dataset', name) AND NOT EXISTS"
        " (SELECT 1 FROM dataset_state s WHERE s.id = dataset.id AND s.deleted_us IS NOT NULL) GROUP BY name",
    ),
    Room(
        "label",
        "datasets",
        "SELECT name AS ref, name, coalesce(spec ->> '$.description', '') AS about, created_us AS at_us FROM label_set"
        " WHERE visible('label', name)",
    ),
    Room(
        "experiment",
        "tracking",
        "SELECT name AS ref, name, '' AS about, created_us AS at_us FROM experiment"
        " WHERE deleted_us IS NULL AND visible('experiment', name)",
    ),
    Room(
        "run",
        "tracking",
        f"SELECT id AS ref, name, {_EXPERIMENT} AS about, started_us AS at_us FROM run"
        f" WHERE deleted_us IS NULL AND visible('experiment', {_EXPERIMENT})",
    ),
    Room(
        "job",
        "jobs",
        "SELECT id AS ref, coalesce(name, '') AS name, (SELECT group_concat(value, ' ') FROM json_each(spec, '$.command'))"
        " || ' ' || user AS about, created_us AS at_us FROM job WHERE visible('team', team)",
    ),
    Room(
        "cron",
        "jobs",
        "SELECT id AS ref, name, owner AS about, created_us AS at_us FROM cron WHERE visible('team', team)",
    ),
)


class Search:
    """Everything that has a name, by words."""

    def __init__(self, stores: Mapping[str, Database]) -> None:
        self._stores = stores

    def find(self, text: str, *, limit: int = 10) -> SearchResult:
        """At most `limit` of each kind that have every word in their name, id or description; what is called so comes first.

        A store that is down leaves its kinds out and is named. Raises InvalidInput for no word, or too many.
        """
        words = text.split()
        if not 1 <= len(words) <= MOST_WORDS:
            raise InvalidInput(f"{len(words)} words to search for.", hint=f"Give 1 to {MOST_WORDS}.", field="q")
        hits: list[SearchHit] = []
        down: dict[str, None] = {}
        for room in ROOMS:
            try:
                hits += self._in(room, words, limit)
            except Unavailable:
                down[room.store] = None
        return SearchResult(hits=tuple(hits), down=tuple(down))

    def _in(self, room: Room, words: Sequence[str], limit: int) -> list[SearchHit]:
        has = r"(name || ' ' || ref || ' ' || about) LIKE ? ESCAPE '\'"
        rows = self._stores[room.store].all(
            f"SELECT * FROM ({room.sql}) WHERE {' AND '.join([has] * len(words))}"
            r" ORDER BY name <> ?, name NOT LIKE ? ESCAPE '\', name NOT LIKE ? ESCAPE '\', at_us DESC, ref LIMIT ?",
            [
                *(f"%{_literal(word)}%" for word in words),
                " ".join(words),
                f"{_literal(words[0])}%",
                f"%{_literal(words[0])}%",
                limit,
            ],
        )
        return [
            SearchHit(kind=room.kind, ref=row["ref"], name=row["name"], about=row["about"], at=from_us(row["at_us"]))
            for row in rows
        ]


def _literal(word: str) -> str:
    return word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
