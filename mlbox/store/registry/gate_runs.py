"""Which jobs run the commands of which promotions, and the results of gates as they are written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlbox.records import CommandGate, GateResult, Promotion, Record
from mlbox.store.db import Database, Row, Tx


class GateRun(NamedTuple):
    """A gate's command that was begun."""

    promotion_id: str
    gate: CommandGate
    job_id: str
    requests: int
    requests_from: str


class GateRuns:
    """The commands that were begun: each once for a promotion, whatever is restarted in between."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def begin(self, promotion: Promotion, gate: CommandGate, job_id: str) -> None:
        """Note, before it is queued, which job runs a gate's command."""

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO gate_run (job_id, promotion_id, gate, at_us) VALUES (?,?,?,?)",
                (job_id, promotion.id, gate, tx.now_us),
            )
            words = f"the {gate} command runs as the job {job_id}"
            tx.run("UPDATE promotion SET reason = ? WHERE id = ?", (words, promotion.id))
            subject = f"model:{promotion.model}/{promotion.version}"
            tx.emit("promotion.command", subject, "mlbox", promotion=promotion.id, gate=gate, job=job_id)

        self._db.write(write)

    def find(self, promotion_id: str, gate: CommandGate) -> GateRun | None:
        """The run of a promotion's command, if it was begun."""
        return _run(self._db.one("SELECT * FROM gate_run WHERE promotion_id = ? AND gate = ?", (promotion_id, gate)))

    def of_job(self, job_id: str) -> GateRun | None:
        """What a job runs for a gate; None for other jobs."""
        return _run(self._db.one("SELECT * FROM gate_run WHERE job_id = ?", (job_id,)))

    def note_requests(self, job_id: str, count: int, source: str) -> None:
        """Say what a job was given to replay."""
        self._db.write(
            lambda tx: tx.run(
                "UPDATE gate_run SET requests = ?, requests_from = ? WHERE job_id = ?", (count, source, job_id)
            )
        )


def note_gates(
    tx: Tx, promotion_id: str, results: Sequence[GateResult], evidence: Mapping[str, Record | None] | None = None
) -> None:
    """Write down what gates measured, and the evidence by kind that people look at."""
    tx.many(
        "INSERT INTO gate_result VALUES (?,?,?,?,?,?)",
        [(promotion_id, r.gate, int(r.passed), r.required, r.measured, tx.now_us) for r in results],
    )
    tx.many(
        "INSERT INTO promotion_evidence VALUES (?,?,?,?)",
        [
            (promotion_id, kind, found.to_json().decode(), tx.now_us)
            for kind, found in (evidence or {}).items()
            if found
        ],
    )


def _run(row: Row | None) -> GateRun | None:
    if row is None:
        return None
    return GateRun(row["promotion_id"], row["gate"], row["job_id"], row["requests"], row["requests_from"])
