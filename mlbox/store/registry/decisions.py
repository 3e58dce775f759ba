"""The record of a decision: that these people let this version, made of these bytes and data, pass under this policy.

It is written with the approval and holds a SHA-256 over everything that was decided about. The registry's trigger computes it
anew before a version enters Production, so a version, dataset, policy, gate result or approval that is not the one decided about
does not pass, whoever changed it and by which way.
"""

from __future__ import annotations

import msgspec

from mlbox.ids import new_id
from mlbox.records import RolloutDecision
from mlbox.store.db import Database, Tx


def record(tx: Tx, promotion_id: str) -> str:
    """Bind the decision about a promotion to all that it is about; the digest."""
    tx.run(
        "INSERT INTO decision (promotion_id, digest, at_us)"
        " SELECT promotion_id, sha256(subject), ? FROM decided WHERE promotion_id = ?",
        (tx.now_us, promotion_id),
    )
    row = tx.one("SELECT digest FROM decision WHERE promotion_id = ?", (promotion_id,))
    assert row is not None
    digest: str = row["digest"]
    return digest


def stands(db: Database | Tx, promotion_id: str) -> bool:
    """True when a promotion's decision is about what is there now."""
    row = db.one(
        "SELECT 1 FROM decision d JOIN decided s USING (promotion_id) WHERE promotion_id = ? AND d.digest = sha256(s.subject)",
        (promotion_id,),
    )
    return row is not None


def note_rollout(tx: Tx, promotion_id: str, decision: RolloutDecision | None) -> None:
    """Write what was decided about a candidate's traffic down, in the transaction that carries it out."""
    if decision is None:
        return
    named = msgspec.structs.replace(decision, id=new_id(), promotion=promotion_id)
    tx.run("INSERT INTO rollout_decision VALUES (?,?,?)", (named.id, promotion_id, named.to_json().decode()))
