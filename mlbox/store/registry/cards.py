"""Model cards: the words that people write, every revision of them with its author."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mlbox.clock import from_us
from mlbox.errors import InvalidInput
from mlbox.records import Card, CardParts
from mlbox.store.db import Database, Tx
from mlbox.store.registry.registry import Registry

MOST = 20_000
"""Characters of one part."""


class Cards:
    """The cards of all models."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry

    def of(self, model: str) -> Card:
        """A model's card; raises NotFound for an unknown model."""
        row = self._db.one(
            "SELECT * FROM model_card WHERE model_id = ? ORDER BY revision DESC LIMIT 1",
            (self._registry.model(model).id,),
        )
        if row is None:
            return Card(model=model, parts=CardParts())
        return Card(
            model=model,
            parts=msgspec.json.decode(row["parts"], type=CardParts),
            revision=row["revision"],
            edited_by=row["actor"],
            edited_at=from_us(row["at_us"]),
        )

    def edit(self, model: str, changes: Mapping[str, str], *, actor: str) -> Card:
        """Write parts anew, as one more revision; the others stay. Raises InvalidInput for parts that a card has not."""
        known = CardParts.__struct_fields__
        for name, text in changes.items():
            if name not in known:
                raise InvalidInput(
                    f"A card has no part {name!r:.80}.", hint=f"Its parts: {', '.join(known)}.", field="card"
                )
            if len(text) > MOST:
                raise InvalidInput(f"{name} has {len(text):,} characters.", hint=f"Up to {MOST:,}.", field=name)
        model_id = self._registry.model(model).id

        def write(tx: Tx) -> None:
            row = tx.one(
                "SELECT revision, parts FROM model_card WHERE model_id = ? ORDER BY revision DESC LIMIT 1", (model_id,)
            )
            before = msgspec.json.decode(row["parts"]) if row else {}
            after = msgspec.convert({**before, **changes}, type=CardParts)
            tx.run(
                "INSERT INTO model_card VALUES (?,?,?,?,?)",
                (model_id, row["revision"] + 1 if row else 1, after.to_json().decode(), actor, tx.now_us),
            )
            tx.emit("model.card", f"model:{model}", actor, parts=", ".join(sorted(changes)))

        self._db.write(write)
        return self.of(model)
