"""What was asked of a model, asked again: requests for a gate's command to send."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlbox.errors import MlboxError
from mlbox.records import ModelVersion, Promotion
from mlbox.serve.monitoring.reference import load_reference
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import numpy as np

MOST_REQUESTS = 200
MOST_RECORDED = 10_000
"""Rows of a dataset that are taken for requests."""
Recorded = Callable[[str], Sequence[Mapping[str, "np.ndarray"]]]
Columns = tuple[Mapping[str, "np.ndarray"], str]
"""Features by name, and where they are from."""


class Requests:
    """Finds requests for a candidate, of what there is the nearest to its traffic."""

    def __init__(
        self,
        registry: Registry,
        predictions: PredictionLog,
        datasets: Datasets,
        artifacts: Artifacts,
        recorded: Recorded,
    ) -> None:
        self._registry = registry
        self._predictions = predictions
        self._datasets = datasets
        self._artifacts = artifacts
        self._recorded = recorded

    def of(self, promotion: Promotion) -> tuple[list[dict[str, Any]], str]:
        """Each as `path` and `body`, and in words where they are from.

        In this order: the champion's logged traffic, the rows that the policy compares or judges on, the training sample; of a
        model of tensors, those that are kept in memory.
        """
        version = self._registry.version(promotion.model, promotion.version)
        address = f"{version.model}@staging"
        if not version.features:
            found = [_tensors(version, feeds) for feeds in self._recorded(version.model)]
            path = f"/v2/models/{address}/infer"
            return [
                {"path": path, "body": body} for body in found if body
            ], "the model's requests that are kept in memory"
        for columns, source in self._columns(promotion, version):
            rows = _vectors(columns, version.features)
            if rows:
                path = f"/api/v1/models/{address}/predict"
                return [{"path": path, "body": {"features": [row]}} for row in rows], source
        return [], "nowhere: there is no traffic, no evaluation dataset and no training sample"

    def recorded(self, promotion: Promotion, version: ModelVersion) -> Iterable[Columns]:
        """What is the nearest to traffic where there is none: the rows that a policy judges on, and the training sample."""
        for spec in (promotion.policy.compare, promotion.policy.fairness):
            if spec is not None and (found := self._evaluation(spec.dataset, version)):
                yield found, f"rows of {spec.dataset}"
        try:
            yield load_reference(self._artifacts, version), "the sample of the training data"
        except MlboxError:
            return

    def _columns(self, promotion: Promotion, version: ModelVersion) -> Iterable[Columns]:
        if promotion.champion is not None:
            yield self._logged(promotion.champion, version), f"logged traffic of version {promotion.champion}"
        yield from self.recorded(promotion, version)

    def _logged(self, champion: int, version: ModelVersion) -> dict[str, np.ndarray]:
        window = self._predictions.window(version.model, limit=5 * MOST_REQUESTS)
        if not window.features.keys() & set(version.features):
            return {}
        own = window.versions == champion
        return {name: values[own] for name, values in window.features.items()}

    def _evaluation(self, ref: str, version: ModelVersion) -> dict[str, np.ndarray]:
        from mlbox.serve.promotion.frozen_rows import numbers

        try:
            table = self._datasets.open_table(ref).slice(0, MOST_RECORDED)
            return {name: numbers(table, name) for name in version.features}
        except MlboxError:  # it was removed, is not for whoever proposed this, or has other columns
            return {}


def _vectors(columns: Mapping[str, np.ndarray], features: Sequence[str]) -> list[dict[str, float | None]]:
    """The last rows, by feature; what a column does not have is missing."""
    there = [columns[name] for name in features if name in columns]
    rows = min((len(values) for values in there), default=0)
    return [
        {name: _number(columns[name][place]) if name in columns else None for name in features}
        for place in range(max(0, rows - MOST_REQUESTS), rows)
    ]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _tensors(version: ModelVersion, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A request of tensors as the Open Inference Protocol's JSON has it; empty for one that says no number there."""
    types = {spec.name: spec.dtype for spec in version.inputs}
    if not feeds.keys() <= types.keys():
        return {}
    return {
        "inputs": [
            {"name": name, "datatype": types[name], "shape": list(data.shape), "data": data.reshape(-1).tolist()}
            for name, data in feeds.items()
        ]
    }
