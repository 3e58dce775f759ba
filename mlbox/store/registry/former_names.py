"""What models were called before, and whose the things are that other stores keep under such a name.

Those stores know a model by its name. What lies under a name that no model has is the last owner's: of one that was renamed, or
deleted, whose row is then called `~ID~NAME`. Before another model gets the name, what lies there follows its owner.
"""

from __future__ import annotations

from typing import Protocol

from mlbox.store.db import Database, Tx

_LAST_OWNER = """
SELECT f.model_id, model.name FROM former_name f JOIN model ON model.id = f.model_id
WHERE f.name = ? ORDER BY f.until_us DESC, f.model_id DESC LIMIT 1
"""
_STRAYS = """
SELECT DISTINCT f.name FROM former_name f JOIN model ON model.id = f.model_id
WHERE model.deleted_us IS NULL AND f.name NOT IN (SELECT name FROM model)
"""


class Belongings(Protocol):
    """What other stores keep of models."""

    def moved(self, former: str, name: str) -> None:
        """Have what lies under a former name follow to another; doing it again changes nothing. Raises Unavailable."""


class Nothing:
    """No other store keeps anything."""

    def moved(self, former: str, name: str) -> None:
        """Nothing follows."""


def vacate(tx: Tx, name: str, belongings: Belongings, *, to: str = "") -> None:
    """Have what the last owner of a name left under it follow that one, unless it is the model with the id `to` that gets it."""
    row = tx.one(_LAST_OWNER, (name,))
    if row is not None and row["model_id"] != to and row["name"] != name:
        belongings.moved(name, row["name"])


def strays(db: Database) -> list[tuple[str, str]]:
    """Names that models had and no model has, each with what its last owner is called: where a crash came in between."""
    owners = [(row["name"], db.one(_LAST_OWNER, (row["name"],))) for row in db.all(_STRAYS)]
    return [(name, owner["name"]) for name, owner in owners if owner is not None]
