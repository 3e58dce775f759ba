"""Feast's feature server over the feature store: `web/feast` only translates."""

from __future__ import annotations

from typing import Any

from mlbox.web.feast import online, writes

handlers: list[Any] = [*online.handlers, *writes.handlers]
"""Everything that Feast's SDK asks of a feature server, under /feast."""
fast = online.fast
