"""Addresses of models: NAME, NAME@production, NAME@staging, NAME@ALIAS, NAME@v3.

A name alone, and `@production`, is whoever serves now: a canary takes its share of it. Any other address is one version.
"""

from __future__ import annotations

import re

from mlbox.errors import InvalidInput, NotFound
from mlbox.store.registry.registry import Registry

STAGES = ("", "production", "staging")
"""What may stand behind the @, in small letters, for whoever is in a stage."""
_VERSION = re.compile(r"v(\d{1,19})", re.IGNORECASE)


def parse(address: str) -> tuple[str, str]:
    """The model's name, and what stands behind its @, empty for nothing."""
    name, mark, what = address.partition("@")
    if mark and not what:
        raise InvalidInput(
            f"The address {address!r:.80} ends with @.", hint="NAME@staging, NAME@ALIAS or NAME@v3.", field="model"
        )
    return name, what


def version_meant(registry: Registry, model: str, what: str) -> int | None:
    """The version that an address names; None for whoever serves. Raises NotFound where there is none."""
    if not what or what.lower() == "production":
        return None
    if what.lower() == "staging":
        found = registry.by_stage(model, "Staging")
        if found is None:
            raise NotFound(
                f"No version of {model!r} is in Staging.",
                hint="One is there once it has passed its gates: `mlbox model promote NAME/N`.",
                field="model",
            )
        return found.version
    if numbered := _VERSION.fullmatch(what):
        return int(numbered[1])
    return registry.by_alias(model, what).version
