"""A version's way to Production, as a state machine on disk.

`moves.MOVES` is the whole machine: every method below makes one of these moves in one transaction with its audit event, and the
registry's triggers hold the rule once more beneath it. What a gate measures or a rollout decides is not known here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from mlbox.clock import from_us
from mlbox.errors import Conflict, InvalidInput, NotFound, Refused
from mlbox.ids import new_id
from mlbox.records import (
    CanaryHold,
    CommandRun,
    GateResult,
    ModelVersion,
    Promotion,
    PromotionPolicy,
    PromotionState,
    Record,
    RolloutDecision,
)
from mlbox.store.db import Database, Tx
from mlbox.store.registry import approvals, deadlines, decisions, promotion_notices
from mlbox.store.registry import promotion_moves as moves
from mlbox.store.registry.gate_runs import note_gates
from mlbox.store.registry.policy_book import is_void
from mlbox.store.registry.promotion_rows import PROMOTION_SQL, promotion_of
from mlbox.store.registry.registry import Registry

HOW_TO_SERVE = "To serve it, convert it with `mlbox.export_onnx` and register the ONNX file with `run.register`."
_NOBODY = "nobody decided about it in time: propose it again"
_OPEN_SQL = f"promotion.state IN ({', '.join(repr(s) for s in moves.OPEN)})"


class Promotions:
    """The ways of all versions to Production."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry
        registry.policies.changed = self._void
        self.may_approve: Callable[[str, str], bool] = lambda user, model: True
        """Whether a user has the role to approve versions of a model; the box says so."""

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, promotion_id: str) -> Promotion:
        """One promotion; raises NotFound."""
        row = self._db.one(f"{PROMOTION_SQL} WHERE promotion.id = ? AND visible('model', model.name)", (promotion_id,))
        if row is None:
            raise NotFound(
                f"There is no promotion {promotion_id!r}.", hint="`mlbox model status` lists them.", field="id"
            )
        return promotion_of(row)

    def of(self, model: str, version: int) -> list[Promotion]:
        """A version's promotions, newest first."""
        rows = self._db.all(
            f"{PROMOTION_SQL} WHERE model.name = ? AND version = ? AND visible('model', model.name)"
            " ORDER BY promotion.id DESC",
            (model, version),
        )
        return [promotion_of(row) for row in rows]

    def open(self, model: str | None = None) -> list[Promotion]:
        """What is under way, oldest first; of one model there is at most one."""
        rows = self._db.all(
            f"{PROMOTION_SQL} WHERE {_OPEN_SQL} AND (:model IS NULL OR model.name = :model)"
            " AND visible('model', model.name) ORDER BY promotion.id",
            {"model": model},
        )
        return [promotion_of(row) for row in rows]

    def page(self, *, model: str | None = None, limit: int = 100, before: str | None = None) -> list[Promotion]:
        """All promotions, or a model's, newest first, from below an id."""
        rows = self._db.all(
            f"{PROMOTION_SQL} WHERE promotion.id < :before AND (:model IS NULL OR model.name = :model)"
            " AND visible('model', model.name) ORDER BY promotion.id DESC LIMIT :limit",
            {"before": before or "~", "model": model, "limit": limit},
        )
        return [promotion_of(row) for row in rows]

    # -- moving -----------------------------------------------------------------------------------------------------

    def propose(self, version: ModelVersion, *, actor: str) -> Promotion:
        """Begin a version's way; raises Conflict while another of the model is under way, Refused from a wrong stage."""
        if version.stage not in ("None", "Staging"):
            raise Refused(
                f"{version.ref} is in stage {version.stage}.", hint="Only a version in None or Staging is promoted."
            )
        champion = self._champion(version)
        rules = self._registry.policies.of(version.model).to_json().decode()

        def write(tx: Tx) -> str:
            busy = tx.one(
                f"{PROMOTION_SQL} WHERE model.name = :model AND {_OPEN_SQL}"
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

    def wait_for_traffic(self, promotion_id: str, reason: str) -> Promotion:
        """Too few requests are logged to be asked again, and the policy waits for more."""
        return self._leave(promotion_id, ("testing",), "waiting_traffic", "mlbox", reason)

    def traffic_came(self, promotion_id: str) -> Promotion:
        """There are enough: the gates are measured now."""
        return self._leave(promotion_id, ("waiting_traffic",), "testing", "mlbox", "enough requests are logged")

    def record_gates(
        self, promotion_id: str, results: Sequence[GateResult], evidence: Mapping[str, Record | None] | None = None
    ) -> Promotion:
        """Write down what the gates measured: all passed puts the version into Staging, else the promotion is rejected.

        With it the evidence by kind that people look at (see `assessments`).
        """
        if not results:
            raise InvalidInput("No gate was measured.", field="gates")

        def write(tx: Tx) -> None:
            promotion = moves.load(tx, promotion_id, "testing")
            failed = [r.gate for r in results if not r.passed]
            note_gates(tx, promotion_id, results, evidence)
            if failed:
                moves.move(tx, promotion, "rejected", "mlbox", f"failed: {', '.join(failed)}")
                return
            integrates = promotion.policy.integration is not None and moves.is_servable(tx, promotion)
            moves.move(
                tx,
                promotion,
                "integration" if integrates else moves.after_gates(promotion),
                "mlbox",
                "all gates passed",
            )
            moves.set_stage(
                tx, promotion, "Staging", "mlbox", f"proposed by {promotion.requested_by}, all gates passed"
            )

        self._db.write(write)
        return self.get(promotion_id)

    def record_integration(self, promotion_id: str, result: GateResult, run: CommandRun) -> Promotion:
        """Write down what became of the policy's integration command: passed, the version goes on from Staging."""

        def write(tx: Tx) -> None:
            promotion = moves.load(tx, promotion_id, "integration")
            note_gates(tx, promotion_id, [result], {"integration": run})
            if result.passed:
                moves.move(tx, promotion, moves.after_gates(promotion), "mlbox", "its integration command passed")
                return
            moves.move(tx, promotion, "rejected", "mlbox", "failed: integration")
            moves.set_stage(tx, promotion, "None", "mlbox", "its integration command failed")

        self._db.write(write)
        return self.get(promotion_id)

    def shadow_done(self, promotion_id: str, reason: str, *, decision: RolloutDecision | None = None) -> Promotion:
        """The shadow has seen enough: a human is next."""
        return self._leave(promotion_id, ("shadow",), "waiting_approval", "mlbox", reason, decision=decision)

    def decide(
        self, promotion_id: str, *, approver: str, decision: Literal["approve", "reject"], comment: str = ""
    ) -> Promotion:
        """A person's word. Who trained, submitted or proposed the version is refused, and who is no reviewer of the policy's.

        Approved by as many as the policy asks for, a first version goes to Production, marked as such by having no champion;
        any later one begins its canary. Raises Conflict for a request that expired.
        """
        found = self.get(promotion_id)
        unfit = {a.approver for a in found.approvals if not self.may_approve(a.approver, found.model)}

        def write(tx: Tx) -> None:
            promotion = moves.load(tx, promotion_id, "waiting_approval")
            if _is_over(promotion, from_us(tx.domain_us)):
                raise Conflict(
                    f"The request for {promotion.model}/{promotion.version} expired.", hint="Propose it again."
                )
            approvals.give(tx, promotion, approver, decision, comment)
            if decision == "reject":
                moves.move(tx, promotion, "rejected", approver, comment)
                moves.set_stage(tx, promotion, "None", approver, comment)
                return
            subject = f"model:{promotion.model}/{promotion.version}"
            if waits := approvals.missing(tx, promotion_id, promotion.policy.approvals, unfit):
                tx.run("UPDATE promotion SET reason = ? WHERE id = ?", (waits, promotion_id))
                tx.emit("promotion.approval", subject, approver, promotion=promotion_id, reason=waits)
                return
            digest = decisions.record(tx, promotion_id)
            tx.emit("promotion.approved", subject, approver, promotion=promotion_id, decision=digest)
            if promotion.champion is None:
                moves.complete(tx, promotion, approver, comment)
            else:
                moves.move(tx, promotion, "canary", approver, comment, step=0)

        self._db.write(write)
        return self.get(promotion_id)

    def next_step(
        self, promotion_id: str, reason: str, *, actor: str = "mlbox", decision: RolloutDecision | None = None
    ) -> Promotion:
        """Give a canary its next share of traffic; the last share is Production. A person may not have made the version."""

        def write(tx: Tx) -> None:
            promotion = moves.load(tx, promotion_id, "canary")
            if promotion.hold == "frozen" or (promotion.hold and actor == "mlbox"):
                raise Conflict(f"{promotion.model}/{promotion.version} is {promotion.hold}.", hint="Resume it first.")
            if actor != "mlbox":
                approvals.check_approver(tx, promotion, actor)
                approvals.check_second(promotion, actor)
            if not decisions.stands(tx, promotion_id):
                moves.end(tx, promotion, "its approval is void: what was approved is not what is there now")
                return
            decisions.note_rollout(tx, promotion_id, decision)
            step = promotion.step + 1
            if (
                promotion.percent >= 100 or promotion.policy.steps[step].percent >= 100
            ):  # a ramp of 100 % alone is one step
                moves.complete(tx, promotion, actor, reason)
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
            promotion = moves.load(tx, promotion_id, "canary")
            if hold not in moves.HOLD_MOVES[promotion.hold]:
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
            promotion_notices.tell(tx, promotion, hold, reason)

        self._db.write(write)
        return self.get(promotion_id)

    def roll_back(
        self, promotion_id: str, reason: str, *, actor: str = "mlbox", decision: RolloutDecision | None = None
    ) -> Promotion:
        """Take a candidate's traffic away; the version leaves Staging."""
        return self._leave(
            promotion_id, ("shadow", "canary"), "rolled_back", actor, reason, stage="None", decision=decision
        )

    def remind(self, now: datetime) -> int:
        """Tell people once of models whose time to be looked at again comes or has come, in real time; of how many."""
        return deadlines.remind(self._db, now)

    def expire(self, now: datetime) -> list[Promotion]:
        """End the requests that nobody decided in their time, and remind of others, `now` being domain time; those that ended."""
        for waiting in self.open():
            if not _is_over(waiting, now) and promotion_notices.reminders_due(waiting, now):
                self._db.write(functools.partial(promotion_notices.remind, promotion=waiting))
        return [
            self._leave(waiting.id, ("waiting_approval",), "expired", "mlbox", _NOBODY, stage="None")
            for waiting in self.open()
            if _is_over(waiting, now)
        ]

    def _void(self, tx: Tx, policy: PromotionPolicy, model: str) -> list[str]:
        """End what was approved, in part or in full, under another policy; what that was."""
        rows = tx.all(f"{PROMOTION_SQL} WHERE {_OPEN_SQL} AND model.name = ?", (model,))
        void = [promotion for promotion in map(promotion_of, rows) if is_void(promotion, policy)]
        for promotion in void:
            moves.end(tx, promotion, f"its approval is void: the policy changed to revision {policy.revision}")
        return [promotion.id for promotion in void]

    def end_for_another_champion(self, promotion_id: str, *, actor: str) -> Promotion:
        """End a promotion whose champion is replaced: what it was compared with is gone."""
        reason = "its champion was rolled back: propose it again"
        return self._leave(promotion_id, moves.OPEN, "withdrawn", actor, reason, stage="None")

    def withdraw(self, promotion_id: str, *, actor: str, reason: str = "") -> Promotion:
        """End a promotion that nobody wants any more."""
        return self._leave(promotion_id, moves.OPEN, "withdrawn", actor, reason, stage="None")

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
            promotion = moves.load(tx, promotion_id, *sources)
            decisions.note_rollout(tx, promotion_id, decision)
            moves.move(tx, promotion, target, actor, reason)
            if stage:
                moves.set_stage(tx, promotion, stage, actor, reason)

        self._db.write(write)
        return self.get(promotion_id)


def _is_over(promotion: Promotion, now: datetime) -> bool:
    """Whether a request waited longer than its policy lets it."""
    ends = promotion.decide_by
    return ends is not None and ends <= now
