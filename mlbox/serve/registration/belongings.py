"""What is kept of a model under its name goes with the model: predictions, drift, alerts, holds, numbers, what labels met.

The registry knows a model by its id; the prediction log, the joins and the monitoring store know it by name. When a name goes
from one model to another these move what lies under it, so that nobody is shown, or judged by, what another model did.

Invariants
- A move is made again where a crash broke it off: it ends where it would have.
- Joins are made anew from the log instead of moved.
- While predictions are removed nothing moves, as an erasure must find them all; whoever wants the name is told to try again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mlbox.errors import MlboxError
from mlbox.serve.monitoring.keeping import Keeping
from mlbox.serve.monitoring.outcomes import Outcomes
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.db import Database, Tx
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce
from mlbox.store.monitoring.alerts import Alerts

WAIT_SECONDS = 10.0
"""How long whoever wants a name waits for a removal of predictions."""
RESULTS = ("drift", "skew")
ROWS = ("business", "prediction_hold", "prediction_days", "prediction_sampling", "prediction_removal")
LABELLED = ("alert", "silence")
_log = logging.getLogger(__name__)


class ByName:
    """All that is kept under the names of models."""

    def __init__(
        self, db: Database, log: PredictionLog, outcomes: Outcomes, keeping: Keeping, *, rules: InForce = DEFAULT
    ) -> None:
        self._db = db
        self._alerts = Alerts(db, rules)
        self._predictions = log
        self._outcomes = outcomes
        self._keeping = keeping

    def moved(self, former: str, name: str) -> None:
        """Have what lies under a former name follow to another; raises Unavailable where it cannot now."""
        with self._keeping.standing_still(WAIT_SECONDS):
            if former in self._predictions.models():
                self._outcomes.drop(former)  # first, so that nothing is left in them where a crash comes in between
                self._predictions.move(former, name)
            if self._anything(former):
                self._db.write(lambda tx: self._move(tx, former, name))
        self._keeping.refresh()

    def settle(self, strays: Sequence[tuple[str, str]]) -> None:
        """Make the moves that a crash came before."""
        for former, name in strays:
            try:
                self.moved(former, name)
            except MlboxError as err:
                _log.warning("What is kept of %s under its former name %s stays there: %s", name, former, err)

    def _anything(self, name: str) -> bool:
        tables = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE model = :name" for table in (*RESULTS, *ROWS))
        labelled = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE labels ->> 'model' = :name" for table in LABELLED)
        return self._db.one(f"{tables} UNION ALL {labelled} LIMIT 1", {"name": name}) is not None

    def _move(self, tx: Tx, former: str, name: str) -> None:
        given = {"former": former, "name": name}
        if name.startswith("~"):  # it was deleted: nothing measures it any more
            for row in tx.all("SELECT DISTINCT name FROM alert WHERE state IN ('pending', 'firing')"):
                for alert in self._alerts.firing(tx, row["name"]):
                    if alert.labels.get("model") == former:
                        self._alerts.apply(tx, alert.name, alert.labels, "resolve", summary=f"{former} was deleted")
        for table in RESULTS:
            told = "result = json_set(result, '$.model', :name)"
            tx.run(f"UPDATE {table} SET model = :name, {told} WHERE model = :former", given)
        for table in ROWS:
            tx.run(f"UPDATE OR REPLACE {table} SET model = :name WHERE model = :former", given)
        for table in LABELLED:
            told = "labels = json_set(labels, '$.model', :name)"
            tx.run(f"UPDATE {table} SET {told} WHERE labels ->> 'model' = :former", given)
