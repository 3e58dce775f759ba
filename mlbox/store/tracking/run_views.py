"""The view of a table of runs that somebody keeps as their own, for an experiment or for all of them."""

from __future__ import annotations

from mlbox.errors import InvalidInput
from mlbox.store.db import Database

MAX_QUERY = 4000


class RunViews:
    """By person and experiment, the query of an address."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, person: str, experiment: str) -> str:
        """What somebody keeps; empty where that is nothing."""
        row = self._db.one("SELECT query FROM run_view WHERE person = ? AND experiment = ?", (person, experiment))
        return "" if row is None else str(row["query"])

    def put(self, person: str, experiment: str, query: str) -> None:
        """Keep a view instead of the one before; an empty one is none."""
        if len(query) > MAX_QUERY:
            raise InvalidInput(
                f"The view has {len(query):,} characters.", hint=f"At most {MAX_QUERY:,}.", field="query"
            )
        keep = (
            ("INSERT OR REPLACE INTO run_view VALUES (?,?,?)", (person, experiment, query))
            if query
            else ("DELETE FROM run_view WHERE person = ? AND experiment = ?", (person, experiment))
        )
        self._db.write(lambda tx: tx.run(*keep))
