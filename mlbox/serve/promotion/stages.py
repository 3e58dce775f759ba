"""Stages as people move versions between them: each move is a step of a promotion, or refused with what is missing.

to Staging      proposes the version and waits for its gates
to Production   is what an approval does; who asks before it hears what is missing, and changes nothing
to None         withdraws the promotion, or takes an archived version back
to Archived     withdraws the promotion and takes the version out of use
"""

from __future__ import annotations

from mlbox.errors import Conflict, Refused
from mlbox.records import ModelVersion, Promotion, Stage
from mlbox.serve.promotion.promotion import Promoter
from mlbox.store.registry.promotion_moves import OPEN
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import Registry

GATES_SECONDS = 100
"""How long a caller is kept waiting for the gates: less than the two minutes of MLflow's client."""
_MANY = 1000


class Stages:
    """Moves versions between stages, by the rules of their promotions."""

    def __init__(self, registry: Registry, promotions: Promotions, promoter: Promoter) -> None:
        self._registry = registry
        self._promotions = promotions
        self._promoter = promoter

    def move(self, model: str, number: int, target: Stage, *, actor: str, archive_others: bool = False) -> ModelVersion:
        """A version in another stage; raises Refused, saying what is missing, where a rule stands before it."""
        version = self._registry.version(model, number)
        if archive_others and target == "Staging":
            self._archive_others(version, actor)
        if version.stage == target:
            return version
        if target == "Staging":
            return self._to_staging(version, actor)
        if target == "Production":
            raise Refused(self.missing(version))
        return self._leave(version, target, actor)

    # -- to Production ----------------------------------------------------------------------------------------------

    def missing(self, version: ModelVersion) -> str:
        """What stands between a version and Production, in words."""
        found = self._promotions.of(version.model, version.version)
        if version.stage == "Archived" or not found or found[0].state not in OPEN:
            return self._unproposed(version, found[0] if found else None)
        return _standing(version, found[0])

    def _unproposed(self, version: ModelVersion, last: Promotion | None) -> str:
        ended = f" Its last promotion was {last.state.replace('_', ' ')}: {_why(last)}" if last and last.reason else ""
        return (
            f"{version.ref} is in stage {version.stage}, and Production takes passed gates and an approval.{ended}"
            f" Move it to Staging first, or run `mlbox model promote {_at(version)}`;"
            f" then {_approver(version, None)} approves it: {_how(version)}."
        )

    # -- to Staging -------------------------------------------------------------------------------------------------

    def _to_staging(self, version: ModelVersion, actor: str) -> ModelVersion:
        if version.stage == "Production":
            raise Refused(
                f"{version.ref} is in Production and does not go back to Staging.",
                hint="Promote another version: this one is archived with it.",
            )
        if version.stage == "Archived":
            version = self._registry.take_back(version.model, version.version, actor=actor)
        before = ("testing", "waiting_traffic")
        waiting = [p for p in self._promotions.of(version.model, version.version) if p.state in before]
        promotion = waiting[0] if waiting else self._promoter.promote(version.model, version.version, actor=actor)
        promotion = self._promoter.tested(promotion.id, GATES_SECONDS)
        if promotion.state == "waiting_traffic":
            raise Conflict(
                _standing(version, promotion), hint="It is measured, and comes into Staging, by itself then."
            )
        if promotion.state == "rejected":
            raise Refused(
                f"{version.ref} did not pass its gates: {_why(promotion)}",
                hint=f"Register a version that does; `mlbox model status {version.ref}` shows every gate.",
            )
        return self._registry.version(version.model, version.version)

    # -- out of use -------------------------------------------------------------------------------------------------

    def _leave(self, version: ModelVersion, target: Stage, actor: str) -> ModelVersion:
        if version.stage == "Production" and (version.servable or target == "None"):
            raise Conflict(
                f"{version.ref} is in Production.", hint="Promote another version: this one is archived with it."
            )
        for promotion in self._promotions.of(version.model, version.version):
            if promotion.state in OPEN:
                self._promotions.withdraw(promotion.id, actor=actor, reason=f"moved to {target}")
        if target == "Archived":
            return self._registry.archive(version.model, version.version, actor=actor)
        return self._registry.take_back(version.model, version.version, actor=actor)

    def _archive_others(self, version: ModelVersion, actor: str) -> None:
        for other in self._registry.versions(version.model, limit=_MANY):
            if other.stage == "Staging" and other.version != version.version:
                self._leave(other, "Archived", actor)


def _standing(version: ModelVersion, promotion: Promotion) -> str:
    if promotion.state == "testing":
        return f"The gates of {version.ref} are being measured. Then {_approver(version, promotion)} approves it."
    if promotion.state == "waiting_traffic":
        return f"{version.ref} waits for traffic to replay: {promotion.reason}."
    if promotion.state == "integration":
        return f"{version.ref} is in Staging, and {promotion.reason}. Then {_approver(version, promotion)} approves it."
    if promotion.state == "waiting_approval":
        return (
            f"{version.ref} is in Staging and lacks an approval: {_approver(version, promotion)} approves it with"
            f" {_how(version)}. A tag such as approved_by is a note and no approval."
        )
    if promotion.state == "shadow":
        return (
            f"{version.ref} is in shadow beside version {promotion.champion}, which serves. When it has seen enough,"
            f" {_approver(version, promotion)} approves it: {_how(version)}."
        )
    return (
        f"{version.ref} is approved and takes {promotion.percent:g} % of the traffic as a canary."
        " It comes into Production by itself when the last step has held."
    )


def _approver(version: ModelVersion, promotion: Promotion | None) -> str:
    makers = {version.trained_by: "trained", version.submitted_by: "registered"}
    if promotion is not None:
        makers.setdefault(promotion.requested_by, "proposed")
    others = " and ".join(f"{name}, who {deed} it" for name, deed in makers.items())
    return f"a second user with the role approver (not {others})"


def _how(version: ModelVersion) -> str:
    return (
        f"`mlbox model approve {_at(version)}`, on the page /approvals, or by"
        f" POST /api/v1/models/{version.model}/versions/{version.version}/approve"
    )


def _at(version: ModelVersion) -> str:
    return f"{version.model}@{version.version}"


def _why(promotion: Promotion) -> str:
    failed = [f"{g.gate} wants {g.required} and has {g.measured}" for g in promotion.gates if not g.passed]
    return "; ".join(failed) or promotion.reason
