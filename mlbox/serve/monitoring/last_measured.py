"""What was measured of each model in Production last, so that a look at all of them measures few.

To measure joins a model's predictions with its labels: tens of milliseconds, and seconds for hundreds of models. What was found
is kept with what it was found from: the version, how many predictions there were, and how often the model or its label set has
changed since the start. As long as these stand nothing is measured again. Where they do not, a look measures a few, those first
that were measured longest ago, and shows of the others what was last known; a thread comes to these.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from mlbox.clock import Clock
from mlbox.events import EventBus
from mlbox.loop import Loop
from mlbox.records import Event, HealthArea, ModelVersion
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.asking import asking

AT_ONCE = 10
"""Models that one look measures itself."""
FRESH = timedelta(minutes=5)
"""The thread lets what changed be so old: a model that predicts all the time has always changed."""
REST = 0.05
"""Seconds that the thread leaves the machine to others between two models."""
IDLE = 3600.0
DATASETS = "dataset"
GONE_OR_BACK = ("dataset.deleted", "dataset.restored")
"""A model's label set may be its dataset's."""
Stamp = tuple[object, ...]


class Found(NamedTuple):
    """What measuring a version gave."""

    areas: tuple[HealthArea, ...]
    label_set: str | None
    """By whose labels; what is said by labels is for those who may see them."""
    lasts: bool
    """Whether it stays so while nothing changes: not where a store was down."""


class Kept(NamedTuple):
    """The same, when and from what."""

    found: Found
    version: str
    at: datetime
    """Real time."""
    stamp: Stamp | None


class LastMeasured:
    """Measures versions when that is due, as whoever sees everything."""

    def __init__(
        self,
        measure: Callable[[ModelVersion], Found],
        serving: Callable[[], list[ModelVersion]],
        predictions: PredictionLog,
        clock: Clock,
        bus: EventBus,
    ) -> None:
        self._measure = measure
        self._serving = serving
        self._predictions = predictions
        self._clock = clock
        self._kept: dict[str, Kept] = {}
        self._lock = threading.Lock()
        self._changes: Counter[str] = Counter()
        """How often each model and label set changed since the start, and how often datasets went or came back."""
        self._unsubscribe = bus.subscribe(self._on_event)
        self._left = False
        self._loop = Loop(self._work, name="mlbox-health", failed="The health of models could not be measured")

    def start(self) -> None:
        """Begin to measure what looks at many leave."""
        self._loop.start()

    def close(self) -> None:
        """Stop."""
        self._unsubscribe()
        self._loop.close()

    def now(self, version: ModelVersion) -> Kept:
        """A version, measured now."""
        predictions, changes = self._predicted(), dict(self._changes)  # as they are before: what comes meanwhile is new
        with asking(None):
            found = self._measure(version)
        stamp = _stamp(version, found.label_set, predictions, changes) if found.lasts else None
        kept = self._kept[version.model] = Kept(found, version.id, self._clock.real(), stamp)
        return kept

    def keep(self, version: ModelVersion) -> None:
        """Measure a version if what is known of it does not hold."""
        if not self._holding([version]):
            self.now(version)

    def last(self, versions: Sequence[ModelVersion]) -> dict[str, Kept]:
        """What is known of versions, by model, after a few were measured; nothing of those whose turn has not come yet."""
        holding = self._holding(versions)
        due = sorted((v for v in versions if v.model not in holding), key=self._measured_at)
        for version in due[:AT_ONCE]:
            self.now(version)
        if len(due) > AT_ONCE:
            self._left = True
            self._loop.wake()
        known = {version.model: self._known(version) for version in versions}
        return {model: kept for model, kept in known.items() if kept is not None}

    def _known(self, version: ModelVersion) -> Kept | None:
        kept = self._kept.get(version.model)
        return kept if kept is not None and kept.version == version.id else None

    def _measured_at(self, version: ModelVersion) -> float:
        kept = self._known(version)
        return kept.at.timestamp() if kept else 0.0

    def _holding(self, versions: Sequence[ModelVersion]) -> set[str]:
        """The models of which what is kept would be found again."""
        predictions, found = self._predicted(), set()
        for version in versions:
            kept = self._known(version)
            if kept and kept.stamp == _stamp(version, kept.found.label_set, predictions, self._changes):
                found.add(version.model)
        return found

    def _predicted(self) -> Mapping[str, int]:
        """Rows of each model that the log was given since the start."""
        rows: Counter[str] = Counter()
        for (model, _, _), (count, _) in self._predictions.counters().items():
            rows[model] += count
        return rows

    def _on_event(self, event: Event) -> None:
        kind, _, name = event.subject.partition(":")
        if kind in ("model", "label") or event.type in GONE_OR_BACK:
            with self._lock:
                self._changes[DATASETS if kind == "dataset" else f"{kind}:{name.partition('/')[0]}"] += 1

    def _work(self) -> float:
        if self._left:
            self._left = False
            versions = self._serving()
            holding, old = self._holding(versions), (self._clock.real() - FRESH).timestamp()
            for version in versions:
                if version.model not in holding and self._measured_at(version) <= old and not self._loop.stopping:
                    self.now(version)
                    self._loop.rest(REST)
        return IDLE


def _stamp(
    version: ModelVersion, label_set: str | None, predictions: Mapping[str, int], changes: Mapping[str, int]
) -> Stamp:
    names = (DATASETS, f"model:{version.model}", f"label:{label_set}")
    return (version.id, label_set, predictions.get(version.model, 0), *(changes.get(name, 0) for name in names))
