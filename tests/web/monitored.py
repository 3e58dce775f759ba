"""A model in Production, and rows that it served, on a box without a socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from mlbox.ids import new_id
from mlbox.records import Column, GateResult, ModelVersion, Prediction, Promotion, ViewSpec
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.serve.batches import batches

FEATURES = ("weather@v1:temp", "weather@v1:wind")


def in_production(box: Box, model: str = "delay") -> ModelVersion:
    """A version with a reference of normal values, approved by another than who made it."""
    promotion = register(box, model)
    box.promotions.decide(promotion.id, approver="bea", decision="approve")
    return box.registry.version(model, promotion.version)


def register(box: Box, model: str = "delay") -> Promotion:
    """A version that passed its gates, and so is in shadow where the model has a champion."""
    rng = np.random.default_rng(0)
    training = pa.table({name: rng.normal(size=500) for name in FEATURES})
    version = box.registry.register(
        NewVersion(
            model=model,
            features=FEATURES,
            reference=store_reference(box.artifacts, make_reference(training, FEATURES)),
            trained_by="ann",
            submitted_by="ann",
        )
    )
    gate = GateResult(gate="size", passed=True, required="x", measured="x", at=box.clock.real())
    return box.promotions.record_gates(box.promotions.propose(version, actor="ann").id, [gate])


def served(box: Box, values: Iterable[float | None], *, score: float = 0.5, **changed: Any) -> list[Prediction]:
    """Rows whose first feature has these values, put into the log."""
    rng = np.random.default_rng(1)
    shared: dict[str, Any] = {
        "model": "delay",
        "version": 1,
        "role": "champion",
        "at": box.clock.real(),
        "domain_at": box.clock.now(),
        "caller": "carl",
        "entity": {},
        "latency_ms": 3.0,
    }
    rows = [
        Prediction(
            id=new_id(), features={FEATURES[0]: value, FEATURES[1]: rng.normal()}, score=score, **(shared | changed)
        )
        for value in values
    ]
    box.predictions.put(batches(rows))
    return rows


def with_history(box: Box, temp: float = 7.0) -> None:
    """The view that the features are of, with one place that was always so warm."""
    key, numbers = Column(name="place", dtype="STRING"), [Column(name=name, dtype="FP64") for name in ("temp", "wind")]
    columns = (key, Column(name="hour", dtype="TIMESTAMP"), *numbers)
    box.features.add_source("stations", columns, "hour", None, actor="ann")
    hours = pa.array([box.clock.now()], pa.timestamp("us", "UTC"))
    box.features.append(
        "stations", pa.table({"place": ["JFK"], "hour": hours, "temp": [temp], "wind": [1.0]}), actor="ann"
    )
    sql = "SELECT place, temp, wind, hour AS event_time FROM stations"
    spec = ViewSpec(name="weather", join_keys=(key,), features=tuple(numbers), sql=sql, sources=("stations",))
    box.features.apply_view(spec, actor="ann")
    box.features.materialize()
