"""Everything that serves, over real stores: one model `score` on one feature view, without HTTP."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.records import Column, GateResult, ModelVersion, Prediction, PromotionPolicy, RampStep, TensorSpec, ViewSpec
from mlbox.serve.inference.server import ModelServer, PredictRow
from mlbox.serve.monitoring.monitor import Monitor
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.rollout.rollout import Rollouts
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database
from mlbox.store.features.features import FeatureStore
from mlbox.store.features.online import Online
from mlbox.store.offline.offline import Offline
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion, Registry
from mlbox.store.registry.rollout_log import RolloutLog
from tests.models import linear

FEATURES = ("spend@v1:amount", "spend@v1:visits")
POLICY = PromotionPolicy(
    shadow_seconds=0,
    shadow_min_predictions=1,
    guards=(),
    steps=(RampStep(percent=50, hold_seconds=0, min_predictions=1), RampStep(percent=100, hold_seconds=0)),
)


class House:
    def __init__(self, folder: Path, clock: ManualClock, bus: EventBus) -> None:
        self.clock = clock
        self.dbs = {
            name: Database(folder / f"{name}.sqlite", getattr(migrations, name), clock, bus)
            for name in ("features", "registry", "monitoring")
        }
        self.artifacts = Artifacts(folder / "artifacts")
        self.offline, self.online = Offline(folder / "offline.duckdb"), Online(folder / "online")
        self.features = FeatureStore(self.dbs["features"], self.offline, self.online, clock)
        self.registry = Registry(self.dbs["registry"])
        self.promotions = Promotions(self.dbs["registry"], self.registry)
        self.log = PredictionLog(folder / "predictions", flush_seconds=3600)
        kept = RolloutLog(self.dbs["registry"], self.promotions)
        self.rollouts = Rollouts(self.registry, self.promotions, kept, self.log, clock, bus, every=3600)
        self.server = ModelServer(self.registry, self.artifacts, self.features, self.rollouts, self.log, clock)
        self.monitor = Monitor(self.dbs["monitoring"], self.registry, self.artifacts, self.log, clock)
        self.registry.policies.set("score", POLICY, actor="admin")

    def with_view(self) -> None:
        key = Column(name="who", dtype="STRING")
        numbers = (Column(name="amount", dtype="FP64"), Column(name="visits", dtype="INT64"))
        columns = (key, Column(name="moment", dtype="TIMESTAMP"), *numbers)
        self.features.add_source("sales", columns, "moment", None, actor="ann")
        sql = "SELECT who, amount, visits, moment AS event_time FROM sales"
        spec = ViewSpec(name="spend", join_keys=(key,), features=numbers, sql=sql, sources=("sales",))
        self.features.apply_view(spec, actor="ann")
        now = pa.array([self.clock.now()] * 2, pa.timestamp("us", "UTC"))
        rows = {"who": ["a", "b"], "moment": now, "amount": [1.0, None], "visits": [2, 3]}
        self.features.append("sales", pa.table(rows), actor="ann")
        self.features.materialize()

    def register(self, *weights: float, model: str = "score") -> ModelVersion:
        onnx = linear(weights or (1.0, 1.0))
        rng = np.random.default_rng(0)
        training = pa.table({name: rng.normal(size=500) for name in FEATURES})
        digest, size = self.artifacts.put([onnx.SerializeToString()])
        return self.registry.register(
            NewVersion(
                model=model,
                features=FEATURES,
                artifact=digest,
                size=size,
                inputs=(TensorSpec(name="input", dtype="FP32", shape=(-1, len(FEATURES))),),
                outputs=(TensorSpec(name="score", dtype="FP32", shape=(-1, 1)),),
                reference=store_reference(self.artifacts, make_reference(training, FEATURES)),
                trained_by="ann",
                submitted_by="ann",
            )
        )

    def promote(self, version: ModelVersion) -> str:
        """To the state in which a person is asked, or to shadow; the promotion's id."""
        gate = GateResult(gate="size", passed=True, required="x", measured="x", at=self.clock.real())
        return self.promotions.record_gates(self.promotions.propose(version, actor="ann").id, [gate]).id

    def approve(self, promotion: str) -> None:
        self.promotions.decide(promotion, approver="bea", decision="approve")

    def serve_one(self, *weights: float) -> ModelVersion:
        version = self.register(*weights)
        self.approve(self.promote(version))
        return version

    def ask(self, *rows: PredictRow, version: int | None = None) -> list[Prediction]:
        return self.server.predict("score", rows=rows, caller="carl", version=version)

    def later(self, **by: float) -> None:
        self.clock.advance(self.clock.now() + timedelta(**by))

    def close(self) -> None:
        self.server.close()
        self.monitor.close()
        self.rollouts.close()
        self.log.close()
        self.online.close()
        self.offline.close()
        for db in self.dbs.values():
            db.close()
