"""A prediction log with labels, outcomes, and what keeps it; it can be opened again after a crash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import Column, LabelSet, Prediction
from mlbox.serve.monitoring.business import Business
from mlbox.serve.monitoring.keeping import Keeping
from mlbox.serve.monitoring.outcomes import Outcomes
from mlbox.serve.monitoring.skew import Skew
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features.features import FeatureStore
from mlbox.store.features.online import Online
from mlbox.store.keyfile import KeyFile
from mlbox.store.labels.history import LabelHistory
from mlbox.store.monitoring.prediction_rows import PredictionRows
from mlbox.store.monitoring.sure_time import SureTime
from mlbox.store.offline.offline import Offline
from mlbox.store.registry.history import History
from mlbox.store.registry.registry import Registry
from tests.serve.batches import batches

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SET = LabelSet(
    name="gone", keys=(Column(name="who", dtype="STRING"),), value=Column(name="gone", dtype="INT64"), classes=(0, 1)
)


class Kept:
    """`make` is for a folder that is new."""

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        self.clock = ManualClock(NOW)
        bus = EventBus()
        names = ("features", "datasets", "registry", "monitoring")
        self.dbs = {n: Database(folder / f"{n}.sqlite", getattr(migrations, n), self.clock, bus) for n in names}
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        features = FeatureStore(self.dbs["features"], self.offline, self.online, self.clock)
        self.labels = LabelHistory(self.dbs["datasets"], self.offline, self.clock, sources=features)
        self.registry = Registry(self.dbs["registry"])
        self.log = PredictionLog(folder / "predictions", flush_seconds=3600)
        self.outcomes = Outcomes(self.offline, self.labels, self.log)
        db = self.dbs["monitoring"]
        history = History(self.dbs["registry"], self.registry)
        self.business = Business(db, self.registry, history, self.log, self.clock)
        self.rows = PredictionRows(db, self.clock)
        self.keeping = Keeping(
            self.log,
            self.rows,
            self.registry,
            self.outcomes,
            self.business,
            Skew(db, self.registry, features, self.log, self.clock),
            SureTime(db, self.clock),
            days=183,
            key_file=KeyFile(folder / "keys" / "erasure.key"),
        )
        if make:
            self.labels.apply(SET, actor="ann")

    def model(self, name: str) -> str:
        self.registry.create_model(name, actor="ann")
        return name

    def put(self, model: str, who: Any, *, days_ago: float = 0, version: int = 1, **ids: Any) -> Prediction:
        at = self.clock.real() - timedelta(days=days_ago)
        row = Prediction(
            id=new_id(),
            model=model,
            version=version,
            role="champion",
            at=at,
            domain_at=at,
            caller="carl",
            entity={"who": who, **ids},
            features={"f": 1.0},
            score=0.5,
            latency_ms=1.0,
        )
        self.log.put(batches([row]))
        return row

    def ids(self, model: str) -> set[str]:
        """What the log has; each row once."""
        found = [row.id for row in self.log.recent(model, 100_000)]
        assert len(found) == len(set(found))
        return set(found)

    def joined(self, model: str) -> set[str]:
        """What is joined with labels."""
        tables = self.outcomes.join(model, SET)
        return {row[0] for row in self.offline.rows(f"SELECT _id FROM {tables.asked}")}

    def close(self) -> None:
        self.keeping.close()
        self.log.close()
        self.online.close()
        self.offline.close()
        for db in self.dbs.values():
            db.close()
