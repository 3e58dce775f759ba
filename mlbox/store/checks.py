"""Which check of a model was its last, of those whose results are kept feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from mlbox.store.db import Database


def last_checks(db: Database, table: Literal["drift", "skew"], models: Sequence[str]) -> dict[str, str | None]:
    """The id of each model's last check, None before the first: whether its results are still those that one knows."""
    rows = db.all(
        f"SELECT value AS model, (SELECT check_id FROM {table} WHERE model = value ORDER BY check_id DESC LIMIT 1) AS id"
        " FROM json_each(?)",
        (msgspec.json.encode(models).decode(),),
    )
    return {row["model"]: row["id"] for row in rows}
