"""The states of a promotion, and the moves between them, each within a transaction of whoever makes it."""

from __future__ import annotations

from mlbox.errors import Conflict, NotFound
from mlbox.records import CanaryHold, Promotion, PromotionState
from mlbox.store.db import Tx
from mlbox.store.registry import promotion_notices
from mlbox.store.registry.promotion_rows import PROMOTION_SQL, promotion_of
from mlbox.store.registry.registry import note_stage

MOVES: dict[PromotionState, tuple[PromotionState, ...]] = {
    "testing": ("waiting_traffic", "rejected", "integration", "shadow", "waiting_approval", "withdrawn"),
    "waiting_traffic": ("testing", "withdrawn"),
    "integration": ("rejected", "shadow", "waiting_approval", "withdrawn"),
    "shadow": ("waiting_approval", "rolled_back", "withdrawn"),
    "waiting_approval": ("canary", "completed", "rejected", "withdrawn", "expired"),
    "canary": ("completed", "rolled_back", "withdrawn"),
    "completed": (),
    "rejected": (),
    "rolled_back": (),
    "withdrawn": (),
    "expired": (),
}
"""From each state, where a promotion may go."""
HOLD_MOVES: dict[CanaryHold, tuple[CanaryHold, ...]] = {
    "": ("paused", "undecided", "frozen"),
    "paused": ("", "frozen"),
    "undecided": ("", "frozen"),
    "frozen": (),
}
"""Within a canary: what holds it, and what may come next; "" goes on by itself."""
OPEN: tuple[PromotionState, ...] = tuple(state for state, targets in MOVES.items() if targets)
WITHDRAWABLE: tuple[PromotionState, ...] = tuple(state for state, targets in MOVES.items() if "withdrawn" in targets)


def load(tx: Tx, promotion_id: str, *expected: PromotionState) -> Promotion:
    """A promotion as it stands in this transaction; raises Conflict unless it is in an expected state."""
    row = tx.one(f"{PROMOTION_SQL} WHERE promotion.id = ?", (promotion_id,))
    if row is None:
        raise NotFound(f"There is no promotion {promotion_id!r}.", field="id")
    promotion = promotion_of(row)
    if promotion.state not in expected:
        raise Conflict(
            f"{promotion.model}/{promotion.version} is {promotion.state}, and this takes {' or '.join(expected)}.",
            hint="`mlbox model status` shows where it stands.",
        )
    return promotion


def move(
    tx: Tx, promotion: Promotion, target: PromotionState, actor: str, reason: str, *, step: int | None = None
) -> None:
    """Bring a promotion into a state, with its audit event and the messages to its people."""
    assert target in MOVES[promotion.state], (promotion.state, target)
    tx.run(
        "UPDATE promotion SET state = ?, since_us = ?, step = ?, reason = ?, hold = '', hold_us = NULL WHERE id = ?",
        (target, tx.domain_us, promotion.step if step is None else step, reason, promotion.id),
    )
    subject = f"model:{promotion.model}/{promotion.version}"
    tx.emit(f"promotion.{target}", subject, actor, promotion=promotion.id, reason=reason)
    promotion_notices.tell(tx, promotion, target, reason)


def after_gates(promotion: Promotion) -> PromotionState:
    """What comes after the last of the automatic gates."""
    return "shadow" if promotion.champion is not None else "waiting_approval"


def is_servable(tx: Tx, promotion: Promotion) -> bool:
    """Whether mlbox can serve a promotion's version."""
    row = tx.one(
        "SELECT v.format FROM model_version v JOIN promotion p ON p.version_id = v.id WHERE p.id = ?", (promotion.id,)
    )
    return row is not None and row["format"] == "onnx"


def end(tx: Tx, promotion: Promotion, reason: str) -> None:
    """Take a promotion back whose ground is gone."""
    move(tx, promotion, "withdrawn", "mlbox", reason)
    set_stage(tx, promotion, "None", "mlbox", reason)


def set_stage(tx: Tx, promotion: Promotion, stage: str, actor: str, reason: str = "") -> None:
    """Bring a promotion's version into a stage; one that is there already stays."""
    moved = tx.run(
        "UPDATE model_version SET stage = :stage, updated_us = :now"
        " WHERE id = (SELECT version_id FROM promotion WHERE id = :id) AND stage <> :stage RETURNING id",
        {"stage": stage, "now": tx.now_us, "id": promotion.id},
    ).fetchone()
    if moved is not None:
        note_stage(tx, moved["id"], stage, actor, reason=reason, promotion_id=promotion.id)
    tx.emit("model.stage", f"model:{promotion.model}/{promotion.version}", actor, stage=stage)


def complete(tx: Tx, promotion: Promotion, actor: str, reason: str) -> None:
    """The candidate becomes Production and the former champion Archived, in this one transaction."""
    former = tx.one(
        "SELECT v.id, version FROM model_version v JOIN model m ON m.id = model_id"
        " WHERE stage = 'Production' AND m.name = ?",
        (promotion.model,),
    )
    comment = reason
    if promotion.champion is None:
        reason = "first version of the model" if former is None else "approved"
    move(tx, promotion, "completed", actor, reason)
    if former is not None:
        tx.run("UPDATE model_version SET stage = 'Archived', updated_us = ? WHERE id = ?", (tx.now_us, former["id"]))
        replaced = f"replaced by version {promotion.version}"
        note_stage(tx, former["id"], "Archived", actor, reason=replaced, promotion_id=promotion.id)
        tx.emit(
            "model.stage",
            f"model:{promotion.model}/{former['version']}",
            actor,
            stage="Archived",
            replaced_by=promotion.version,
        )
    set_stage(tx, promotion, "Production", actor, comment or reason)
    lifetime_us = round(promotion.policy.lifetime_days * 86_400_000_000)
    tx.run(
        "UPDATE model SET updated_us = :now, expires_us = coalesce(expires_us, :now + :lifetime) WHERE name = :model",
        {"now": tx.now_us, "lifetime": lifetime_us, "model": promotion.model},
    )
