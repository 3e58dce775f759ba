"""How each model is served, as its owner set it: a revision for each change, and an event in the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import ServingConfig
from mlbox.store.db import Database, Tx
from mlbox.store.registry.registry import Registry

EVENT = "serving.set"
"""What is told when a model's configuration changed; its data hold the whole of it."""
_LATEST = """
SELECT model.name, config FROM serving_config s JOIN model ON model.id = s.model_id
WHERE revision = (SELECT max(revision) FROM serving_config WHERE model_id = s.model_id)
"""


class ServingConfigs:
    """The configurations of all models."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry

    def of(self, model: str) -> ServingConfig:
        """A model's configuration, or the defaults; raises NotFound."""
        self._registry.model(model)
        return self.latest(model)

    def latest(self, model: str) -> ServingConfig:
        """The same of a model that is known to be there."""
        row = self._db.one(f"{_LATEST} AND model.name = ?", (model,))
        return msgspec.json.decode(row["config"], type=ServingConfig) if row else ServingConfig()

    def change(self, model: str, changes: Mapping[str, Any], *, actor: str) -> ServingConfig:
        """Set some of it, and leave the rest; raises InvalidInput naming the field that is wrong."""
        model_id = self._registry.model(model).id

        def write(tx: Tx) -> ServingConfig:
            row = tx.one(f"{_LATEST} AND model.id = ?", (model_id,))
            before = msgspec.json.decode(row["config"], type=ServingConfig) if row else ServingConfig()
            config = changed(before, changes)
            if row is not None and config == before:
                return before
            config = msgspec.structs.replace(config, revision=before.revision + 1)
            tx.run(
                "INSERT INTO serving_config VALUES (?,?,?,?,?)",
                (model_id, config.revision, config.to_json().decode(), actor, tx.now_us),
            )
            tx.emit(EVENT, f"model:{model}", actor, config=msgspec.to_builtins(config))
            return config

        return self._db.write(write)


def changed(before: ServingConfig, changes: Mapping[str, Any]) -> ServingConfig:
    """A configuration with some values set anew; raises InvalidInput naming the field."""
    known = [name for name in ServingConfig.__struct_fields__ if name != "revision"]
    for name, value in changes.items():
        if name not in known:
            raise InvalidInput(
                f"There is no {name[:80]!r} in how a model is served.",
                hint=f"One of {', '.join(known)}.",
                field=name[:80],
            )
        try:
            msgspec.convert({name: value}, type=ServingConfig)
        except msgspec.ValidationError as err:
            raise InvalidInput(
                f"{name} is {value!r:.60}: {err}.", hint="See `mlbox model serving`.", field=name
            ) from err
    found = msgspec.convert(msgspec.to_builtins(before) | dict(changes), type=ServingConfig)
    if found.default_priority > found.priority_levels:
        raise InvalidInput(
            f"The default priority {found.default_priority} is none of 1 to {found.priority_levels}.",
            hint="Set priority_levels with it.",
            field="default_priority",
        )
    return found
