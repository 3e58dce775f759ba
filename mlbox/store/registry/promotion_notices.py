"""Who is told what of a promotion: the addresses of its policy, when a person is awaited, reminded, or it has ended."""

from __future__ import annotations

from datetime import datetime, timedelta

from mlbox.clock import from_us
from mlbox.records import Promotion
from mlbox.store.db import Tx
from mlbox.store.outbox import post

WORDS: dict[str, str] = {
    "waiting_approval": "waits for an approval",
    "reminder": "still waits for an approval",
    "expired": "expired: nobody decided about it in time",
    "undecided": "asks for someone's word on its canary",
    "rejected": "was rejected",
    "rolled_back": "was rolled back",
    "withdrawn": "was withdrawn",
    "completed": "is in Production",
}
"""By what happened to a promotion, what its people are told."""
AWAITED = ("waiting_approval", "reminder", "undecided")
LAST_DAY = timedelta(days=1)


def subject_of(promotion_id: str) -> str:
    """Under which messages about a promotion are found among the deliveries."""
    return f"promotion:{promotion_id}"


def tell(tx: Tx, promotion: Promotion, what: str, reason: str, *, cause: str = "") -> None:
    """Have a promotion's people told what happened, if it is something that they are told of; once for each cause."""
    if what not in WORDS or not promotion.policy.notify:
        return
    name = f"{promotion.model}/{promotion.version}"
    place = f"/approvals/{promotion.id}"
    todo = f" Decide on the page {place}, or with `mlbox approvals {name}`." if what in AWAITED else ""
    body = {
        "text": f"{name}, proposed by {promotion.requested_by}, {WORDS[what]}"
        + (f": {reason}." if reason else ".")
        + todo,
        "event": f"promotion.{what}",
        "place": place,
        "reason": reason,
        "promotion": {
            "id": promotion.id,
            "model": promotion.model,
            "version": promotion.version,
            "champion": promotion.champion,
            "requested_by": promotion.requested_by,
            "reviewers": promotion.policy.reviewers,
        },
    }
    for address in promotion.policy.notify:
        post(tx, address, subject_of(promotion.id), body, cause=f"{what} {promotion.id} {cause or tx.domain_us}")


def reminders_due(promotion: Promotion, now: datetime) -> int:
    """How many reminders a request is to have had, `now` being domain time: one at half of its time, one on its last day."""
    ends = promotion.decide_by
    if ends is None:
        return 0
    half = promotion.state_since + (ends - promotion.state_since) / 2
    return (now >= half) + (now >= max(half, ends - LAST_DAY))


def remind(tx: Tx, promotion: Promotion) -> bool:
    """Say again that a request waits, if that is due and was not said; whether it was."""
    row = tx.one("SELECT reminded FROM promotion WHERE id = ?", (promotion.id,))
    due = reminders_due(promotion, from_us(tx.domain_us))
    if row is None or due <= row["reminded"]:
        return False
    tx.run("UPDATE promotion SET reminded = ? WHERE id = ?", (due, promotion.id))
    assert promotion.decide_by is not None
    reason = f"it expires on {promotion.decide_by:%Y-%m-%d %H:%M} UTC"
    tx.emit(
        "promotion.reminder",
        f"model:{promotion.model}/{promotion.version}",
        "mlbox",
        promotion=promotion.id,
        reason=reason,
    )
    tell(tx, promotion, "reminder", reason, cause=str(due))
    return True
