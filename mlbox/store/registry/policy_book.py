"""Which policy each model has and had. A revision is never changed: to go back is to set a former one anew."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from mlbox import policy_file
from mlbox.clock import from_us
from mlbox.errors import Conflict, NotFound
from mlbox.records import PolicyEffect, PolicyRevision, Promotion, PromotionPolicy
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry.policies import check_policy

DEFAULT = PolicyRevision(revision=0, policy=PromotionPolicy(revision=0))
"""The house's, until somebody sets one."""
_SQL = """
SELECT p.*, (SELECT policy FROM promotion_policy b WHERE b.model_id = p.model_id AND b.revision = p.revision - 1) AS before
FROM promotion_policy p JOIN model ON model.id = p.model_id AND model.deleted_us IS NULL
WHERE name = ? AND visible('model', name)
"""


class PolicyBook:
    """The policies of all models, revision by revision."""

    def __init__(self, db: Database, model_of: Callable[[Tx, str, str], str], check: Callable[[str], object]) -> None:
        """`model_of` is a model's id, of a new one where there is none; `check` raises NotFound for no model."""
        self._db = db
        self._model_of = model_of
        self._check = check
        self.changed: Callable[[Tx, PromotionPolicy, str], list[str]] = lambda tx, policy, model: []
        """Called in the transaction that gives a model another policy: ends what was approved under the former, and names it."""

    def of(self, model: str) -> PromotionPolicy:
        """What the model's versions must pass now: its latest policy, or the house's default; raises NotFound."""
        self._check(model)
        row = self._db.one(
            "SELECT policy FROM promotion_policy JOIN model ON model.id = model_id WHERE name = ? ORDER BY revision DESC LIMIT 1",
            (model,),
        )
        return msgspec.json.decode(row["policy"], type=PromotionPolicy) if row else PromotionPolicy()

    def in_force(self, model: str) -> PolicyRevision:
        """The same with who set it and when."""
        return next(iter(self.revisions(model, limit=1)), DEFAULT)

    def revisions(self, model: str, *, limit: int = 100, before: int | None = None) -> list[PolicyRevision]:
        """All that were set, newest first, from below `before`; raises NotFound for no model."""
        self._check(model)
        rows = self._db.all(
            f"{_SQL} AND revision < ? ORDER BY revision DESC LIMIT ?",
            (model, 2**62 if before is None else before, limit),
        )
        return [_revision(row) for row in rows]

    def revision(self, model: str, number: int) -> PolicyRevision:
        """One of them, 0 being the default; raises NotFound."""
        self._check(model)
        row = self._db.one(f"{_SQL} AND revision = ?", (model, number))
        if row is None and number != 0:
            raise NotFound(
                f"The policy of {model} has no revision {number!s:.40}.",
                hint=f"`mlbox model policy {model} --history` lists them.",
                field="revision",
            )
        return _revision(row) if row else DEFAULT

    def set(
        self,
        model: str,
        policy: PromotionPolicy,
        *,
        actor: str,
        follows: int | None = None,
        ends: Collection[str] | None = None,
    ) -> PromotionPolicy:
        """Give a model a new revision; promotions under way keep the one they began with, unless they were approved under it.

        Who looked at what it changes says so: `follows` is the revision that they compared it with, `ends` are the promotions
        that they know it ends. Raises Conflict, and sets nothing, where it is another by now, or ends more; InvalidInput.
        """
        check_policy(policy)

        def write(tx: Tx) -> PromotionPolicy:
            model_id = self._model_of(tx, model, actor)
            row = tx.one(
                "SELECT coalesce(max(revision), 0) AS last FROM promotion_policy WHERE model_id = ?", (model_id,)
            )
            assert row is not None
            if follows is not None and follows != row["last"]:
                raise Conflict(
                    f"The policy of {model} is at revision {row['last']} by now, and this one was compared with {follows}.",
                    hint="Look at what it changes again.",
                )
            revised = msgspec.structs.replace(policy, revision=row["last"] + 1)
            tx.run(
                "INSERT INTO promotion_policy VALUES (?,?,?,?,?)",
                (model_id, revised.revision, revised.to_json().decode(), actor, tx.now_us),
            )
            ended = self.changed(tx, revised, model)
            if ends is not None and not set(ended) <= set(ends):
                raise Conflict(
                    "It would end another promotion as well, which was approved in the meantime.",
                    hint="Look at what it changes again.",
                )
            tx.emit("policy.set", f"model:{model}", actor, policy=msgspec.to_builtins(revised))
            return revised

        return self._db.write(write)


def is_void(promotion: Promotion, policy: PromotionPolicy) -> bool:
    """Whether what was approved, in part or in full, was approved under another policy."""
    return bool(promotion.approvals) and msgspec.structs.replace(promotion.policy, revision=policy.revision) != policy


def effect(promotion: Promotion, policy: PromotionPolicy) -> PolicyEffect:
    """What setting a policy would do to a promotion under way."""
    ends = is_void(promotion, policy)
    approvers = ", ".join(one.approver for one in promotion.approvals)
    words = (
        f"the approval by {approvers} becomes void, which ends its way: it must be proposed again"
        if ends
        else f"it goes on under {named(promotion.policy)}, which it began with"
    )
    return PolicyEffect(
        promotion=promotion.id, version=promotion.version, state=promotion.state, ends=ends, words=words
    )


def named(policy: PromotionPolicy) -> str:
    """A policy as people call it."""
    return f"revision {policy.revision}" if policy.revision else "the house's default"


def _revision(row: Row) -> PolicyRevision:
    policy = msgspec.json.decode(row["policy"], type=PromotionPolicy)
    before = msgspec.json.decode(row["before"], type=PromotionPolicy) if row["before"] else DEFAULT.policy
    return PolicyRevision(
        revision=row["revision"],
        set_by=row["set_by"],
        at=from_us(row["set_us"]),
        policy=policy,
        diff=policy_file.diff(before, policy),
    )
