"""Feature views on schedule: brought up to date when they ask for it, and an alert where one has waited too long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mlbox.errors import MlboxError
from mlbox.events import EventBus
from mlbox.loop import attempt
from mlbox.records import Event, FeatureView
from mlbox.serve.features.landing import Landing
from mlbox.store.db import Database, Tx
from mlbox.store.features.features import FeatureStore
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce
from mlbox.store.monitoring.alerts import Alerts

STALE = "staleness"
CLOSE_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Refresher:
    """Looks at the schedules every so many seconds, and as soon as a source was added to."""

    def __init__(
        self,
        features: FeatureStore,
        landing: Landing,
        db: Database,
        bus: EventBus,
        *,
        every: float,
        rules: InForce = DEFAULT,
    ) -> None:
        self._features = features
        self._landing = landing
        self._db = db
        self._alerts = Alerts(db, rules)
        self._every = every
        self.beside: list[Callable[[], object]] = []
        """What else follows schedules, and is asked at each look."""
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._unsubscribe = bus.subscribe(self._on_event, ["source.", "view.applied"])
        self._thread: threading.Thread | None = None

    def _on_event(self, event: Event) -> None:
        if event.type in ("source.appended", "source.resubmitted", "view.applied"):
            self._changed.set()

    def start(self) -> None:
        """Begin, if schedules are not switched off."""
        if self._every:
            self._thread = threading.Thread(target=self._loop, name="mlbox-refresh", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop; a view that is being written is, but for its last part, and goes on at the next start."""
        self._stopping.set()
        self._changed.set()
        self._unsubscribe()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._changed.clear()
            attempt(self.run, "The schedules of feature views could not be followed", otherwise=None)
            if not self._stopping.wait(min(1.0, self._every)):  # many pushes are one refresh
                self._changed.wait(self._every)

    def run(self) -> list[str]:
        """Take files that landed, bring up to date what is due, and say what is stale; the references of what was due."""
        self._landing.look(stopping=self._stopping)
        due = self._features.due()
        for ref in due:
            if self._stopping.is_set():
                break
            try:
                self._features.materialize(ref, actor="mlbox")
            except MlboxError as err:
                _log.warning("%s could not be brought up to date: %s", ref, err)
        for look in list(self.beside):
            look()
        stale = self._features.stale()
        if stale:
            self._db.write(lambda tx: self._judge(tx, stale))
        return due

    def _judge(self, tx: Tx, stale: dict[str, tuple[FeatureView, float]]) -> None:
        for ref, (view, over) in stale.items():
            words = (
                f"{ref} was not brought up to date for {view.stale_after_seconds} s"
                if over > 0
                else f"{ref} is up to date"
            )
            labels = {"view": view.name, "version": f"v{view.version}"}
            step = self._alerts.apply(tx, STALE, labels, "fire" if over > 0 else "resolve", summary=words)
            if step == "open":
                tx.emit("view.stale", f"view:{ref}", "mlbox", limit_seconds=view.stale_after_seconds)
