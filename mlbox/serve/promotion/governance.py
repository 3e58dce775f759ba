"""Who answers for a version, and all that a person looks at before a decision: gathered from the stores."""

from __future__ import annotations

from collections.abc import Iterable

from mlbox.errors import NotFound
from mlbox.records import (
    CardParts,
    Change,
    Dossier,
    Governance,
    ModelVersion,
    Promotion,
    RolloutDecision,
    Run,
)
from mlbox.serve.promotion.card import render
from mlbox.serve.rollout.rollout import Rollouts
from mlbox.store.registry.assessments import Assessments
from mlbox.store.registry.cards import Cards
from mlbox.store.registry.history import History
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.rollout_log import RolloutLog
from mlbox.store.tracking.tracking import Tracker

MOST_CHANGES = 200


class Governor:
    """Answers for versions."""

    def __init__(
        self,
        registry: Registry,
        promotions: Promotions,
        history: History,
        cards: Cards,
        assessments: Assessments,
        decisions: RolloutLog,
        rollouts: Rollouts,
        tracker: Tracker,
    ) -> None:
        self._registry = registry
        self._promotions = promotions
        self._history = history
        self._cards = cards
        self._assessments = assessments
        self._decisions = decisions
        self._rollouts = rollouts
        self._tracker = tracker

    def facts(self, model: str, number: int) -> Governance:
        """Who made, proposed and approved a version, of what, for what, and when it served; raises NotFound."""
        version, of_model = self._registry.version(model, number), self._registry.model(model)
        last = next(iter(self._promotions.of(model, number)), None)
        stays = tuple(
            stay
            for stay in self._history.of(model)
            if stay.kind == "stage" and stay.name == "Production" and stay.version == number
        )
        return Governance(
            ref=version.ref,
            stage=version.stage,
            owner=of_model.owner,
            purpose=of_model.purpose or version.description,
            trained_by=version.trained_by,
            submitted_by=version.submitted_by,
            registered_at=version.created_at,
            lineage=version.lineage,
            run_id=version.run_id,
            job_id=version.job_id,
            git_commit=version.git_commit,
            dataset=version.dataset,
            dataset_hash=version.dataset_hash,
            proposed_by=last.requested_by if last else "",
            policy_revision=last.policy.revision if last else None,
            approvals=last.approvals if last else (),
            in_production=stays,
            percent=self._rollouts.percent(model, number),
            expires_at=of_model.expires_at,
        )

    def card(self, model: str, number: int) -> str:
        """A version's card in Markdown with Hugging Face's YAML."""
        version = self._registry.version(model, number)
        last = next(iter(self._promotions.of(model, number)), None)
        fairness = self._assessments.of(last.id).fairness if last else None
        return render(version, self.facts(model, number), self._cards.of(model).parts, fairness)

    def dossier(self, promotion_id: str) -> Dossier:
        """All about a promotion on one page; raises NotFound."""
        promotion = self._promotions.get(promotion_id)
        version = self._registry.version(promotion.model, promotion.version)
        found = self._assessments.of(promotion_id)
        facts = self.facts(promotion.model, promotion.version)
        return Dossier(
            promotion=promotion,
            version=version,
            governance=facts,
            changes=self._changes(promotion, version),
            comparison=found.comparison,
            fairness=found.fairness,
            test=found.test,
            integration=found.integration,
            replay=found.replay,
            shadow=self._shadow(promotion),
            card=self.card(promotion.model, promotion.version),
            missing=tuple(_missing(promotion, facts, self._cards.of(promotion.model).parts)),
        )

    def _shadow(self, promotion: Promotion) -> RolloutDecision | None:
        made = [one for one in self._decisions.of(promotion.id) if one.samples.state == "shadow"]
        return made[-1] if made else None

    def _changes(self, promotion: Promotion, candidate: ModelVersion) -> tuple[Change, ...]:
        if promotion.champion is None:
            return ()
        try:
            champion = self._registry.version(promotion.model, promotion.champion)
        except NotFound:
            return ()
        return changes(champion, candidate, self._run(champion), self._run(candidate))

    def _run(self, version: ModelVersion) -> Run | None:
        try:
            return self._tracker.run(version.run_id) if version.run_id else None
        except NotFound:
            return None


def changes(
    champion: ModelVersion,
    candidate: ModelVersion,
    before: Run | None = None,
    now: Run | None = None,
    *,
    whole: bool = False,
) -> tuple[Change, ...]:
    """In what a candidate is not as its champion, by their facts and their runs' parameters: the first, or the whole of it."""
    found = [
        *_differ("data", [("dataset", champion.dataset, candidate.dataset)]),
        *_differ("data", [("hash", _head(champion.dataset_hash), _head(candidate.dataset_hash))]),
        *_differ("code", [("commit", _head(champion.git_commit), _head(candidate.git_commit))]),
    ]
    ours, theirs = set(candidate.features), set(champion.features)
    found += [Change(part="features", name=name, candidate="new") for name in candidate.features if name not in theirs]
    found += [Change(part="features", name=name, champion="gone") for name in champion.features if name not in ours]
    found += _by_name("parameters", before.params if before else {}, now.params if now else {})
    metrics = [{name: f"{value:.6g}" for name, value in one.metrics.items()} for one in (champion, candidate)]
    found += _by_name("metrics", *metrics)
    found += _differ("file", [("bytes", f"{champion.size:,}", f"{candidate.size:,}")])
    return tuple(found if whole else found[:MOST_CHANGES])


def _by_name(part: str, before: dict[str, str], now: dict[str, str]) -> list[Change]:
    return _differ(part, [(name, before.get(name), now.get(name)) for name in sorted({*before, *now})])


def _differ(part: str, pairs: Iterable[tuple[str, str | None, str | None]]) -> list[Change]:
    return [
        Change(part=part, name=name, champion=before or "", candidate=now or "")  # type: ignore[arg-type]
        for name, before, now in pairs
        if before != now
    ]


def _head(digest: str | None) -> str | None:
    return digest and digest[:12]


def _missing(promotion: Promotion, facts: Governance, parts: CardParts) -> list[str]:
    """What an approver should know is not there."""
    policy, words = promotion.policy, []
    if promotion.champion is not None and policy.compare is None:
        words.append("no rows are named on which it is compared with the champion")
    if policy.fairness is None and not policy.not_sensitive:
        words.append("no sensitive columns are named, and no reason why there are none")
    if not facts.purpose:
        words.append("the model has no purpose")
    empty = [name.replace("_", " ") for name in ("intended_use", "limitations") if not getattr(parts, name).strip()]
    if empty:  # the gate asks for what the policy names; the approver reads of these whatever it names
        words.append(f"the card says nothing of {' and '.join(empty)}")
    return words
