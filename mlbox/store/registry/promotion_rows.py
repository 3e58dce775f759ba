"""Promotions as rows: how they are read, with their gates and approvals."""

from __future__ import annotations

import msgspec

from mlbox.clock import from_us
from mlbox.records import Approval, GateResult, Promotion, PromotionPolicy
from mlbox.store.db import Row

PROMOTION_SQL = """
SELECT promotion.*, model_version.version, model.name AS model,
  (SELECT json_group_array(json_object('gate', gate, 'passed', passed, 'required', required, 'measured', measured,
     'at_us', at_us, 'job', job_id)) FROM (SELECT g.*, r.job_id FROM gate_result g LEFT JOIN gate_run r USING (promotion_id, gate)
     WHERE promotion_id = promotion.id ORDER BY g.rowid)) AS gates,
  (SELECT json_group_array(json_object('approver', approver, 'decision', decision, 'comment', comment, 'at_us', at_us))
     FROM (SELECT * FROM approval WHERE promotion_id = promotion.id ORDER BY rowid)) AS approvals
FROM promotion JOIN model_version ON model_version.id = version_id
  JOIN model ON model.id = model_id AND model.deleted_us IS NULL
"""


def promotion_of(row: Row) -> Promotion:
    """The record of a row that `PROMOTION_SQL` selects."""
    gates = msgspec.json.decode(row["gates"])
    approvals = msgspec.json.decode(row["approvals"])
    return Promotion(
        id=row["id"],
        model=row["model"],
        version=row["version"],
        champion=row["champion"],
        state=row["state"],
        requested_by=row["requested_by"],
        created_at=from_us(row["created_us"]),
        state_since=from_us(row["since_us"]),
        policy=msgspec.json.decode(row["policy"], type=PromotionPolicy),
        step=row["step"],
        hold=row["hold"],
        gates=tuple(
            GateResult(
                gate=g["gate"],
                passed=bool(g["passed"]),
                required=g["required"],
                measured=g["measured"],
                at=from_us(g["at_us"]),
                job=g["job"],
            )
            for g in gates
        ),
        approvals=tuple(
            Approval(approver=a["approver"], decision=a["decision"], comment=a["comment"], at=from_us(a["at_us"]))
            for a in approvals
        ),
        reason=row["reason"],
    )
