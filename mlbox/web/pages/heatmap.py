"""The heatmap of drift: each feature of a model at each of its last checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from mlbox.records import DriftResult
from mlbox.records.distances import distance

MOST_CHECKS = 48
MOST_FEATURES = 40


def spec(model: str, checks: Sequence[Sequence[DriftResult]]) -> dict[str, Any] | None:
    """What `<mlbox-heatmap>` draws of checks, oldest first: a row for each feature, the worst now first; None without two."""
    if len(checks) < 2:
        return None
    worst: dict[str, float] = {}
    for check in checks:  # the last word counts
        worst.update({one.feature: one.statistic or 0.0 for one in check if not one.segment})
    names = sorted(worst, key=lambda name: (-worst[name], name))[:MOST_FEATURES]
    by_name = [{one.feature: one for one in check if not one.segment} for check in checks]
    return {
        "label": f"Drift of {model} by feature and time",
        "times": [check[0].at.isoformat() for check in checks],
        "versions": [check[0].version for check in checks],
        "rows": [
            {
                "name": name,
                "href": f"/monitoring/{quote(model)}/{quote(name)}",
                "cells": [_cell(found.get(name)) for found in by_name],
            }
            for name in names
        ],
        "left_out": len(worst) - len(names),
    }


def _cell(result: DriftResult | None) -> tuple[float | None, str] | None:
    if result is None:
        return None
    return (None if result.statistic is None else float(distance(result.statistic, 4)), result.verdict)
