"""What another policy would ask of a version that is on its way: told before the policy is set."""

from __future__ import annotations

from mlbox.records import ModelVersion, PromotionPolicy
from mlbox.serve.promotion.gates import Evidence, gates_for

NOTHING = "asks nothing any more"


def asked_anew(
    version: ModelVersion, champion: ModelVersion | None, before: PromotionPolicy, after: PromotionPolicy
) -> tuple[str, ...]:
    """The gates that ask something else under another policy, each as `gate: what it requires then`."""
    former, later = _asked(version, champion, before), _asked(version, champion, after)
    differ = [name for name in later if later[name] != former.get(name)]
    return (
        *(f"{name}: {later[name][0]}" for name in differ),
        *(f"{name}: {NOTHING}" for name in former if name not in later),
    )


def _asked(
    version: ModelVersion, champion: ModelVersion | None, policy: PromotionPolicy
) -> dict[str, tuple[str, object]]:
    """By gate what it requires, in words, and all that the policy says about it."""
    evidence = Evidence(version=version, champion=champion, policy=policy)
    parts: dict[str, object] = {
        "comparison": policy.compare,
        "replay": policy.replay,
        "fairness": (policy.fairness, policy.not_sensitive),
        "test": policy.test,
    }
    asked = {name: (gate(evidence).required, parts.get(name)) for name, gate in gates_for(evidence).items()}
    if policy.integration is not None and version.servable:
        asked["integration"] = (f"`{' '.join(policy.integration.command)}` exits with 0", policy.integration)
    return asked
