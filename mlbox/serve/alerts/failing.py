"""Alerts of what the server sees go wrong itself: a model whose predictions fail, and predictions that are not logged.

Both follow the counters of the prediction log, which count every request. A model fails where more than half of its latest rows
had no answer, and works again where nine of ten have one; in between, and while nobody asks, its alert stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mlbox.loop import Loop
from mlbox.serve.predictions.intake import Role
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.db import Database, Tx
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce
from mlbox.store.monitoring.alerts import Alerts, Signal

FAILING = "model_failing"
DROPPED = "predictions_dropped"
MINIMUM = 10
"""Rows that are waited for before anything is said of them."""
FAILS, WORKS = 0.5, 0.1
"""Above the first share of rows that fail it fires, up to the second it is resolved."""
EVERY_SECONDS = 30.0
_ANSWERING = ("champion", "canary", "control")


class Failing:
    """Looks at the counters every half minute, while the server runs."""

    def __init__(self, db: Database, predictions: PredictionLog, *, rules: InForce = DEFAULT) -> None:
        self._db = db
        self._alerts = Alerts(db, rules)
        self._predictions = predictions
        self._seen: dict[str, tuple[int, int]] = {}
        """By model, its rows and errors when something was last said of them."""
        self._dropped = 0
        self._loop = Loop(self._work, name="mlbox-failing", failed="What fails could not be looked at")

    def start(self) -> None:
        """Begin to look."""
        self._loop.start()

    def close(self) -> None:
        """Stop."""
        self._loop.close()

    def _work(self) -> float:
        self.look()
        return EVERY_SECONDS

    def look(self) -> None:
        """Raise and end alerts by what happened since the last look."""
        now = totals(self._predictions.counters())
        signals = {model: found for model, sums in now.items() if (found := self._signal(model, sums)) is not None}
        dropped, self._dropped = self._predictions.dropped - self._dropped, self._predictions.dropped
        open_now = self._db.one(
            "SELECT 1 FROM alert WHERE name IN (?, ?) AND state IN ('pending', 'firing')", (FAILING, DROPPED)
        )
        if open_now is not None or dropped or any(signal == "fire" for signal, _, _ in signals.values()):
            self._db.write(lambda tx: self._apply(tx, signals, dropped))

    def _signal(self, model: str, sums: tuple[int, int]) -> tuple[Signal, float, int] | None:
        """What the latest rows of a model say, the share of them that failed, and how many; None where they are too few."""
        before = self._seen.get(model, (0, 0))
        rows, errors = sums[0] - before[0], sums[1] - before[1]
        if rows < 0 or errors < 0:  # another model has the name, and is counted anew
            self._seen[model] = sums
            return None
        if rows + errors < MINIMUM:
            return None
        self._seen[model] = sums
        share = errors / (rows + errors)
        return ("fire" if share > FAILS else "resolve" if share <= WORKS else "hold"), share, rows + errors

    def _apply(self, tx: Tx, signals: Mapping[str, tuple[Signal, float, int]], dropped: int) -> None:
        for model, (signal, share, rows) in signals.items():
            words = f"{model} failed on {share:.0%} of the last {rows:,} rows"
            self._alerts.apply(tx, FAILING, {"model": model}, signal, summary=words, value=share)
        words = f"{dropped:,} predictions were answered and are not in the log"
        self._alerts.apply(tx, DROPPED, {}, "fire" if dropped else "resolve", summary=words, value=float(dropped))


def totals(counters: Mapping[Role, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Rows that users were given, and those that failed, by model."""
    rows: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for (model, _, role), (answered, failed) in counters.items():
        if role in _ANSWERING:
            rows[model] += answered
            errors[model] += failed
    return {model: (rows[model], errors[model]) for model in rows}
