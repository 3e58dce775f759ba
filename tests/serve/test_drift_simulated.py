"""Traffic of days against the real monitor, with a clock that is moved: what is healthy calls nobody, what shifts calls soon."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import ModelVersion
from mlbox.serve.alerts.notifier import Notifier
from mlbox.serve.monitoring.monitor import DRIFT, Monitor
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.serve.predictions.batches import Batch
from mlbox.store.monitoring.alert_rules import parse
from mlbox.store.outbox import Outbox
from mlbox.store.registry.registry import NewVersion
from tests.serve.house import House

COLUMNS = 30
NAMES = tuple(f"traffic@v1:f{number}" for number in range(COLUMNS))
RULES = parse(
    {"channel": {"ops": {"type": "slack", "url": "https://example.org"}}, "rule": {"default": {"channels": ["ops"]}}}
)
SHIFT = 0.6373
"""Two normal distributions that are so far apart have D = 0.25: 2 Φ(SHIFT / 2) - 1."""


class Traffic:
    """Rows of 30 features, by the hour: smooth ones, skewed ones, counts, categories and some that are often missing."""

    def __init__(self, house: House, *, window: int) -> None:
        self.house = house
        self.rng = np.random.default_rng(11)
        self.version = self._serve()
        self.monitor = Monitor(
            house.dbs["monitoring"], house.registry, house.artifacts, house.log, house.clock, window=window, rules=RULES
        )
        self.notifier = Notifier(house.dbs["monitoring"], RULES, house.clock, EventBus(), url="http://box")
        self.messages = Outbox(house.dbs["monitoring"])

    def _serve(self) -> ModelVersion:
        learned = pa.table(dict(zip(NAMES, self.rows(10_000).T, strict=True)))
        version = self.house.registry.register(
            NewVersion(
                model="score",
                features=NAMES,
                reference=store_reference(self.house.artifacts, make_reference(learned, NAMES)),
                trained_by="ann",
                submitted_by="ann",
            )
        )
        self.house.approve(self.house.promote(version))
        return version

    def rows(self, count: int, *, shift: float = 0.0) -> np.ndarray:
        """Float64 [N, 30]; the first feature is moved by `shift`."""
        kinds = [
            lambda: self.rng.normal(size=count),
            lambda: self.rng.lognormal(size=count),
            lambda: self.rng.poisson(3, count).astype(float),
            lambda: self.rng.integers(0, 5, count).astype(float),
            lambda: np.where(self.rng.random(count) < 0.3, np.nan, self.rng.normal(size=count)),
        ]
        values = np.stack([kinds[number % len(kinds)]() for number in range(COLUMNS)], axis=1)
        values[:, 0] += shift
        return values

    def hour(self, count: int, *, shift: float = 0.0) -> list[str]:
        """An hour of traffic, a check at its end, and who is told of it: the names of the alerts that fire."""
        self.house.clock.advance(self.house.clock.now() + np.timedelta64(1, "h").item())
        batch = Batch(
            model="score",
            version=self.version.version,
            role="champion",
            at=self.house.clock.real(),
            domain_at=self.house.clock.now(),
            caller="carl",
            latency_ms=1.0,
            ids=[new_id() for _ in range(count)],
            scores=self.rng.random(count).tolist(),
            names=NAMES,
            values=self.rows(count, shift=shift),
        )
        self.house.log.put([batch])
        self.monitor.check("score")
        self.notifier.run()
        return [alert.name for alert in self.monitor.alerts(state="firing")]

    def told(self) -> list[str]:
        return [found.text for found in self.messages.of("channel:ops", limit=1000)]


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[House]:
    built = House(tmp_path, clock, bus)
    yield built
    built.close()


@pytest.mark.parametrize(("hours", "an_hour"), [(12, 60), pytest.param(168, 120, marks=pytest.mark.slow)])
def test_healthy_traffic_of_thirty_features_calls_nobody(house: House, hours: int, an_hour: int) -> None:
    """From the first rows on, where by chance alone D is above 0.1 for a quarter of the features."""
    traffic = Traffic(house, window=10_000)
    seen = set()
    for _ in range(hours):
        assert traffic.hour(an_hour) == []
        seen |= {result.verdict for result in traffic.monitor.latest("score")}
    assert traffic.told() == []
    assert seen == {"not_enough_data", "ok", "investigate"}, "it was looked at, and what was by chance was shown"


def test_a_shift_of_a_quarter_is_told_within_one_window(house: House) -> None:
    traffic = Traffic(house, window=1000)
    for _ in range(5):
        assert DRIFT not in traffic.hour(200)
    hours = 0
    while DRIFT not in traffic.hour(100, shift=SHIFT):
        hours += 1
        assert hours < 10, "a window has passed"
    (message,) = traffic.told()[:1]
    assert f"{NAMES[0]} of score drifts" in message
    assert re.search("training [ ▁▂▃▄▅▆▇█]{20}, served [ ▁▂▃▄▅▆▇█]{20} from -", message), "with a picture"
    others = {alert.labels["feature"] for alert in traffic.monitor.alerts(state="firing")} - {NAMES[0]}
    assert others == set()
