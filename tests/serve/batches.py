"""Predictions as the log takes them."""

from __future__ import annotations

from collections.abc import Sequence

from mlbox.records import Prediction
from mlbox.serve.predictions.batches import Batch


def batches(rows: Sequence[Prediction]) -> list[Batch]:
    """One batch for each row."""
    return [
        Batch(
            model=row.model,
            version=row.version,
            role=row.role,
            at=row.at,
            domain_at=row.domain_at,
            caller=row.caller,
            latency_ms=row.latency_ms,
            ids=(row.id,),
            scores=(row.score,),
            names=tuple(row.features),
            values=(tuple(row.features.values()),),
            entities=(row.entity,),
        )
        for row in rows
    ]
