"""A version's way to Production, as a state machine on disk.

`MOVES` is the whole machine: every method below makes one of these moves in one transaction with its audit event, and the
registry's triggers hold the rule once more beneath it. What a gate measures or a rollout decides is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from mlbox.clock import from_us
from mlbox.errors import Conflict, InvalidInput, NotFound, Refused
from mlbox.ids import new_id
from mlbox.records import (
    Approval,
    CanaryHold,
    GateResult,
    ModelVersion,
    Promotion,
    PromotionPolicy,
    PromotionState,
    RolloutDecision,
)
from mlbox.store import decisions
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry import Registry, note_stage

MOVES: dict[PromotionState, tuple[PromotionState, ...]] = {
    "testing": ("rejected", "shadow", "waiting_approval", "withdrawn"),
    "shadow": ("waiting_approval", "rolled_back", "withdrawn"),
    "waiting_approval": ("canary", "completed", "rejected", "withdrawn"),
    "canary": ("completed", "rolled_back", "withdrawn"),
    "completed": (),
    "rejected": (),
    "rolled_back": (),
    "withdrawn": (),
}
"""From each state, where a promotion may go."""
HOLD_MOVES: dict[CanaryHold, tuple[CanaryHold, ...]] = {
    "": ("paused", "undecided", "frozen"),
    "paused": ("", "frozen"),
    "undecided": ("", "frozen"),
    "frozen": (),
}
"""Within a canary: what holds it, and what may come next; "" goes on by itself."""
HOW_TO_SERVE = "To serve it, convert it with `mlbox.export_onnx` and register the ONNX file with `run.register`."
OPEN: tuple[PromotionState, ...] = tuple(state for state, targets in MOVES.items() if targets)
_OPEN_SQL = f"promotion.state IN ({', '.join(repr(s) for s in OPEN)})"

_PROMOTION_SQL = """
SELECT promotion.*, model_version.version, model.name AS model,
  (SELECT json_group_array(json_object('gate', gate, 'passed', passed, 'required', required, 'measured', measured,
     'at_us', at_us)) FROM (SELECT * FROM gate_result WHERE promotion_id = promotion.id ORDER BY rowid)) AS gates,
  (SELECT json_group_array(json_object('approver', approver, 'decision', decision, 'comment', comment, 'at_us', at_us))
     FROM (SELECT * FROM approval WHERE promotion_id = promotion.id ORDER BY rowid)) AS approvals
FROM promotion JOIN model_version ON model_version.id = version_id
  JOIN model ON model.id = model_id AND model.deleted_us IS NULL
"""


class Promotions:
    """The ways of all versions to Production."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, promotion_id: str) -> Promotion:
        """One promotion; raises NotFound."""
        row = self._db.one(f"{_PROMOTION_SQL} WHERE promotion.id = ? AND visible('model', model.name)", (promotion_id,))
        if row is None:
            raise NotFound(
                f"There is no promotion {promotion_id!r}.", hint="`mlbox model status` lists them.", field="id"
            )
        return _promotion(row)

    def of(self, model: str, version: int) -> list[Promotion]:
        """A version's promotions, newest first."""
        rows = self._db.all(
            f"{_PROMOTION_SQL} WHERE model.name = ? AND version = ? AND visible('model', model.name)"
            " ORDER BY promotion.id DESC",
            (model, version),
        )
        return [_promotion(row) for row in rows]

    def open(self, model: str | None = None) -> list[Promotion]:
        """What is under way, oldest first; of one model there is at most one."""
        rows = self._db.all(
            f"{_PROMOTION_SQL} WHERE {_OPEN_SQL} AND (:model IS NULL OR model.name = :model)"
            " AND visible('model', model.name) ORDER BY promotion.id",
            {"model": model},
        )
        return [_promotion(row) for row in rows]

    def page(self, *, model: str | None = None, limit: int = 100, before: str | None = None) -> list[Promotion]:
        """All promotions, or a model's, newest first, from below an id."""
        rows = self._db.all(
            f"{_PROMOTION_SQL} WHERE promotion.id < :before AND (:model IS NULL OR model.name = :model)"
            " AND visible('model', model.name) ORDER BY promotion.id DESC LIMIT :limit",
            {"before": before or "~", "model": model, "limit": limit},
        )
        return [_promotion(row) for row in rows]

    # -- moving -----------------------------------------------------------------------------------------------------

    def propose(self, version: ModelVersion, *, actor: str) -> Promotion:
        """Begin a version's way; raises Conflict while another of the model is under way, Refused from a wrong stage."""
        if version.stage not in ("None", "Staging"):
            raise Refused(
                f"{version.ref} is in stage {version.stage}.", hint="Only a version in None or Staging is promoted."
            )
        champion = self._champion(version)
        rules = self._registry.policy(version.model).to_json().decode()

        def write(tx: Tx) -> str:
            busy = tx.one(
                f"{_PROMOTION_SQL} WHERE model.name = :model AND {_OPEN_SQL}"
                " AND (model_version.id = :version OR :servable AND model_version.format = 'onnx')",
                {"model": version.model, "version": version.id, "servable": version.servable},
            )
            if busy is not None:
                raise Conflict(
                    f"{version.model}/{busy['version']} is on its way already ({busy['state']}).",
                    hint="Wait for it, or `mlbox model withdraw` it.",
                    field="version",
                )
            promotion_id = new_id()
            tx.run(
                "INSERT INTO promotion (id, version_id, champion, state, requested_by, created_us, since_us, policy)"
                " VALUES (?,?,?,?,?,?,?,?)",
                (
                    promotion_id,
                    version.id,
                    champion and champion.version,
                    "testing",
                    actor,
                    tx.now_us,
                    tx.domain_us,
                    rules,
                ),
            )
            tx.emit("promotion.proposed", f"model:{version.ref}", actor, promotion=promotion_id)
            return promotion_id

        return self.get(self._db.write(write))

    def _champion(self, version: ModelVersion) -> ModelVersion | None:
        """What a version must be compared with under traffic; raises Refused where it would take an endpoint away."""
        found = self._registry.by_stage(version.model, "Production")
        if found is None or not found.servable:
            return None
        if not version.servable:
            raise Refused(
                f"{found.ref} serves predictions, and {version.ref} cannot be served: {version.unservable}",
                hint=f"{HOW_TO_SERVE} Or register it under a name of its own.",
                field="version",
            )
        return found

    def record_gates(self, promotion_id: str, results: Sequence[GateResult]) -> Promotion:
        """Write down what the gates measured: all passed puts the version into Staging, else the promotion is rejected."""
        if not results:
            raise InvalidInput("No gate was measured.", field="gates")

        def write(tx: Tx) -> None:
            promotion = _load(tx, promotion_id, "testing")
            failed = [r.gate for r in results if not r.passed]
            target: PromotionState = "shadow" if promotion.champion is not None else "waiting_approval"
            tx.many(
                "INSERT INTO gate_result VALUES (?,?,?,?,?,?)",
                [(promotion_id, r.gate, int(r.passed), r.required, r.measured, tx.now_us) for r in results],
            )
            if failed:
                _move(tx, promotion, "rejected", "mlbox", f"failed: {', '.join(failed)}")
                return
            _move(tx, promotion, target, "mlbox", "all gates passed")
            _set_stage(tx, promotion, "Staging", "mlbox", f"proposed by {promotion.requested_by}, all gates passed")

        self._db.write(write)
        return self.get(promotion_id)

    def shadow_done(self, promotion_id: str, reason: str, *, decision: RolloutDecision | None = None) -> Promotion:
        """The shadow has seen enough: a human is next."""
        return self._leave(promotion_id, ("shadow",), "waiting_approval", "mlbox", reason, decision=decision)

    def decide(
        self, promotion_id: str, *, approver: str, decision: Literal["approve", "reject"], comment: str = ""
    ) -> Promotion:
        """A person's word. Who trained, submitted or proposed the version is refused.

        An approved first version goes to Production, marked as such by having no champion; any later one begins its canary.
        """

        def write(tx: Tx) -> None:
            promotion = _load(tx, promotion_id, "waiting_approval")
            _check_approver(tx, promotion, approver)
            tx.run("INSERT INTO approval VALUES (?,?,?,?,?)", (promotion_id, approver, decision, comment, tx.now_us))
            if decision == "reject":
                _move(tx, promotion, "rejected", approver, comment)
                _set_stage(tx, promotion, "None", approver, comment)
                return
            digest = decisions.record(tx, promotion_id)
            subject = f"model:{promotion.model}/{promotion.version}"
            tx.emit("promotion.approved", subject, approver, promotion=promotion_id, decision=digest)
            if promotion.champion is None:
                _complete(tx, promotion, approver, comment)
            else:
                _move(tx, promotion, "canary", approver, comment, step=0)

        self._db.write(write)
        return self.get(promotion_id)

    def next_step(
        self, promotion_id: str, reason: str, *, actor: str = "mlbox", decision: RolloutDecision | None = None
    ) -> Promotion:
        """Give a canary its next share of traffic; the last share is Production. A person may not have made the version."""

        def write(tx: Tx) -> None:
            promotion = _load(tx, promotion_id, "canary")
            if promotion.hold == "frozen" or (promotion.hold and actor == "mlbox"):
                raise Conflict(f"{promotion.model}/{promotion.version} is {promotion.hold}.", hint="Resume it first.")
            if actor != "mlbox":
                _check_approver(tx, promotion, actor)
                _check_second(promotion, actor)
            decisions.note_rollout(tx, promotion_id, decision)
            step = promotion.step + 1
            if (
                promotion.percent >= 100 or promotion.policy.steps[step].percent >= 100
            ):  # a ramp of 100 % alone is one step
                _complete(tx, promotion, actor, reason)
                return
            tx.run(
                "UPDATE promotion SET step = ?, since_us = ?, reason = ?, hold = '', hold_us = NULL WHERE id = ?",
                (step, tx.domain_us, reason, promotion_id),
            )
            percent = promotion.policy.steps[step].percent
            subject = f"model:{promotion.model}/{promotion.version}"
            tx.emit("promotion.step", subject, actor, percent=percent, reason=reason)

        self._db.write(write)
        return self.get(promotion_id)

    def set_hold(
        self,
        promotion_id: str,
        hold: CanaryHold,
        reason: str,
        *,
        actor: str = "mlbox",
        decision: RolloutDecision | None = None,
    ) -> Promotion:
        """Pause, freeze or resume a canary. The time of a pause is none of the step's; one that was undecided gets its
        patience anew."""

        def write(tx: Tx) -> None:
            promotion = _load(tx, promotion_id, "canary")
            if hold not in HOLD_MOVES[promotion.hold]:
                raise Conflict(
                    f"{promotion.model}/{promotion.version} is {promotion.hold or 'not held'}.",
                    hint="`mlbox model status` shows where it stands.",
                )
            decisions.note_rollout(tx, promotion_id, decision)
            tx.run(
                "UPDATE promotion SET hold = :hold, hold_us = :now, reason = :reason, since_us = CASE"
                " WHEN :hold = '' AND hold = 'paused' THEN since_us + :now - hold_us"
                " WHEN :hold = '' THEN :now - :held ELSE since_us END WHERE id = :id",
                {
                    "hold": hold,
                    "now": tx.domain_us,
                    "reason": reason,
                    "held": round(promotion.policy.steps[promotion.step].hold_seconds * 1_000_000),
                    "id": promotion_id,
                },
            )
            subject = f"model:{promotion.model}/{promotion.version}"
            tx.emit(f"promotion.{hold or 'resumed'}", subject, actor, promotion=promotion_id, reason=reason)

        self._db.write(write)
        return self.get(promotion_id)

    def roll_back(
        self, promotion_id: str, reason: str, *, actor: str = "mlbox", decision: RolloutDecision | None = None
    ) -> Promotion:
        """Take a candidate's traffic away; the version leaves Staging."""
        return self._leave(
            promotion_id, ("shadow", "canary"), "rolled_back", actor, reason, stage="None", decision=decision
        )

    def end_for_another_champion(self, promotion_id: str, *, actor: str) -> Promotion:
        """End a promotion whose champion is replaced: what it was compared with is gone."""
        reason = "its champion was rolled back: propose it again"
        return self._leave(promotion_id, OPEN, "withdrawn", actor, reason, stage="None")

    def withdraw(self, promotion_id: str, *, actor: str, reason: str = "") -> Promotion:
        """End a promotion that nobody wants any more."""
        return self._leave(promotion_id, OPEN, "withdrawn", actor, reason, stage="None")

    def _leave(
        self,
        promotion_id: str,
        sources: tuple[PromotionState, ...],
        target: PromotionState,
        actor: str,
        reason: str,
        *,
        stage: Literal["None"] | None = None,
        decision: RolloutDecision | None = None,
    ) -> Promotion:
        def write(tx: Tx) -> None:
            promotion = _load(tx, promotion_id, *sources)
            decisions.note_rollout(tx, promotion_id, decision)
            _move(tx, promotion, target, actor, reason)
            if stage:
                _set_stage(tx, promotion, stage, actor, reason)

        self._db.write(write)
        return self.get(promotion_id)


def _load(tx: Tx, promotion_id: str, *expected: PromotionState) -> Promotion:
    """A promotion as it stands in this transaction; raises Conflict unless it is in an expected state."""
    row = tx.one(f"{_PROMOTION_SQL} WHERE promotion.id = ?", (promotion_id,))
    if row is None:
        raise NotFound(f"There is no promotion {promotion_id!r}.", field="id")
    promotion = _promotion(row)
    if promotion.state not in expected:
        raise Conflict(
            f"{promotion.model}/{promotion.version} is {promotion.state}, and this takes {' or '.join(expected)}.",
            hint="`mlbox model status` shows where it stands.",
        )
    return promotion


def _move(tx: Tx, promotion: Promotion, target: PromotionState, actor: str, reason: str, *, step: int = -1) -> None:
    assert target in MOVES[promotion.state], (promotion.state, target)
    tx.run(
        "UPDATE promotion SET state = ?, since_us = ?, step = ?, reason = ?, hold = '', hold_us = NULL WHERE id = ?",
        (target, tx.domain_us, step, reason, promotion.id),
    )
    subject = f"model:{promotion.model}/{promotion.version}"
    tx.emit(f"promotion.{target}", subject, actor, promotion=promotion.id, reason=reason)


def _set_stage(tx: Tx, promotion: Promotion, stage: str, actor: str, reason: str = "") -> None:
    moved = tx.run(
        "UPDATE model_version SET stage = :stage, updated_us = :now"
        " WHERE id = (SELECT version_id FROM promotion WHERE id = :id) AND stage <> :stage RETURNING id",
        {"stage": stage, "now": tx.now_us, "id": promotion.id},
    ).fetchone()
    if moved is not None:
        note_stage(tx, moved["id"], stage, actor, reason=reason, promotion_id=promotion.id)
    tx.emit("model.stage", f"model:{promotion.model}/{promotion.version}", actor, stage=stage)


def _complete(tx: Tx, promotion: Promotion, actor: str, reason: str) -> None:
    """The candidate becomes Production and the former champion Archived, in this one transaction."""
    former = tx.one(
        "SELECT v.id, version FROM model_version v JOIN model m ON m.id = model_id"
        " WHERE stage = 'Production' AND m.name = ?",
        (promotion.model,),
    )
    comment = reason
    if promotion.champion is None:
        reason = "first version of the model" if former is None else "approved"
    _move(tx, promotion, "completed", actor, reason)
    if former is not None:
        tx.run("UPDATE model_version SET stage = 'Archived', updated_us = ? WHERE id = ?", (tx.now_us, former["id"]))
        replaced = f"replaced by version {promotion.version}"
        note_stage(tx, former["id"], "Archived", actor, reason=replaced, promotion_id=promotion.id)
        tx.emit("model.stage", f"model:{promotion.model}/{former['version']}", actor, stage="Archived")
    _set_stage(tx, promotion, "Production", actor, comment or reason)
    lifetime_us = round(promotion.policy.lifetime_days * 86_400_000_000)
    tx.run(
        "UPDATE model SET updated_us = :now, expires_us = coalesce(expires_us, :now + :lifetime) WHERE name = :model",
        {"now": tx.now_us, "lifetime": lifetime_us, "model": promotion.model},
    )


def _check_approver(tx: Tx, promotion: Promotion, approver: str) -> None:
    row = tx.one(
        "SELECT trained_by, submitted_by FROM model_version v JOIN promotion p ON p.version_id = v.id WHERE p.id = ?",
        (promotion.id,),
    )
    assert row is not None
    parts = {"trained": row["trained_by"], "submitted": row["submitted_by"], "proposed": promotion.requested_by}
    done = [part for part, person in parts.items() if person == approver]
    if done:
        raise Refused(
            f"{approver} {_listed(done)} {promotion.model}/{promotion.version} and may not decide about it.",
            hint="Ask someone else with the role approver.",
        )


def _check_second(promotion: Promotion, approver: str) -> None:
    """A hold is shortened by someone who did not approve the canary; what is undecided, by any approver."""
    if not promotion.hold and approver in {approval.approver for approval in promotion.approvals}:
        raise Refused(
            f"{approver} approved {promotion.model}/{promotion.version}, and shortening its hold takes a second approver.",
            hint="Ask someone else with the role approver.",
        )


def _listed(words: Sequence[str]) -> str:
    """Words as one would say them: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _promotion(row: Row) -> Promotion:
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
            )
            for g in gates
        ),
        approvals=tuple(
            Approval(approver=a["approver"], decision=a["decision"], comment=a["comment"], at=from_us(a["at_us"]))
            for a in approvals
        ),
        reason=row["reason"],
    )
