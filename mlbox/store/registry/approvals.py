"""Whose word counts: who may decide about a promotion, and which of the approvals that were given still stand."""

from __future__ import annotations

from collections.abc import Container, Sequence

from mlbox.errors import Conflict, Refused
from mlbox.records import Promotion
from mlbox.store.db import Tx


def check_approver(tx: Tx, promotion: Promotion, approver: str) -> None:
    """Raise Refused for who made the version or is none of the policy's reviewers."""
    _check_not_own(tx, promotion, approver)
    reviewers = promotion.policy.reviewers
    if reviewers and approver not in reviewers:
        raise Refused(
            f"{approver} is no reviewer of {promotion.model}; its policy names {_listed(reviewers)}.",
            hint="Ask one of them.",
        )


def give(tx: Tx, promotion: Promotion, approver: str, decision: str, comment: str) -> None:
    """Write one person's word down, with a digest of what it is about; raises Conflict for a second one of theirs."""
    check_approver(tx, promotion, approver)
    if any(given.approver == approver for given in promotion.approvals):
        raise Conflict(
            f"{approver} approved {promotion.model}/{promotion.version} already, and another person must as well.",
            hint="Ask someone else with the role approver.",
        )
    tx.run(
        "INSERT INTO approval VALUES (?,?,?,?,?,?)",
        (promotion.id, approver, decision, comment, tx.now_us, _subject(tx, promotion.id)),
    )


def missing(tx: Tx, promotion_id: str, needed: int, unfit: Container[str]) -> str:
    """What is missing of the approvals, in words; empty where there are enough.

    One does not count whose giver lost the role, or that was about something else than what is there now.
    """
    subject = _subject(tx, promotion_id)
    rows = tx.all("SELECT approver, digest FROM approval WHERE promotion_id = ? ORDER BY rowid", (promotion_id,))
    void = [f"{row['approver']} has the role no more" for row in rows if row["approver"] in unfit]
    void += [
        f"what {row['approver']} approved was changed"
        for row in rows
        if row["digest"] != subject and row["approver"] not in unfit
    ]
    counted = len(rows) - len(void)
    return "" if counted >= needed else "; ".join([f"{counted} of {needed} approvals", *void])


def _subject(tx: Tx, promotion_id: str) -> str:
    """A digest over all that is decided about, without the approvals."""
    row = tx.one(
        "SELECT sha256(json_remove(subject, '$[#-1]')) AS digest FROM decided WHERE promotion_id = ?", (promotion_id,)
    )
    assert row is not None
    digest: str = row["digest"]
    return digest


def _check_not_own(tx: Tx, promotion: Promotion, approver: str) -> None:
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


def check_second(promotion: Promotion, approver: str) -> None:
    """A hold is shortened by someone who did not approve the canary; what is undecided, by any approver."""
    if not promotion.hold and approver in {approval.approver for approval in promotion.approvals}:
        raise Refused(
            f"{approver} approved {promotion.model}/{promotion.version}, and shortening its hold takes a second approver.",
            hint="Ask someone else with the role approver.",
        )


def _listed(words: Sequence[str]) -> str:
    """Words as one would say them: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
