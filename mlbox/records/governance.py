"""Records for who answers for a version: its card, its facts, and what an approver looks at."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mlbox.records.base import Record
from mlbox.records.fairness import Fairness
from mlbox.records.gates import CommandRun
from mlbox.records.registry import Approval, Comparison, ModelVersion, Promotion, Tenure
from mlbox.records.replay import Replay
from mlbox.records.rollout import RolloutDecision


class CardParts(Record, frozen=True, kw_only=True):
    """What only people can say of a model, in Markdown; the rest of its card is filled from facts."""

    license: str = ""
    """As Hugging Face writes it, such as apache-2.0."""
    intended_use: str = ""
    out_of_scope: str = ""
    limitations: str = ""
    ethics: str = ""
    """Risks for people, and what was done about them."""
    contact: str = ""


class Card(Record, frozen=True, kw_only=True):
    """A model's card as people wrote it."""

    model: str
    parts: CardParts
    revision: int = 0
    """0 where nobody wrote anything yet."""
    edited_by: str = ""
    edited_at: datetime | None = None


class Governance(Record, frozen=True, kw_only=True):
    """Who answers for a version, and since when it does what."""

    ref: str
    stage: str
    owner: str
    purpose: str
    trained_by: str
    submitted_by: str
    registered_at: datetime
    lineage: str
    run_id: str | None = None
    job_id: str | None = None
    git_commit: str | None = None
    dataset: str | None = None
    dataset_hash: str | None = None
    proposed_by: str = ""
    policy_revision: int | None = None
    approvals: tuple[Approval, ...] = ()
    in_production: tuple[Tenure, ...] = ()
    """Its stays there, newest first."""
    percent: float = 0.0
    """Of the traffic under the model's name that it answers now."""
    expires_at: datetime | None = None
    """When someone must look at the model again."""


class Change(Record, frozen=True, kw_only=True):
    """One thing in which a candidate is not as its champion."""

    part: Literal["data", "code", "features", "parameters", "metrics", "file"]
    name: str
    champion: str = ""
    candidate: str = ""


class Dossier(Record, frozen=True, kw_only=True):
    """All that a person should see before a decision about a promotion."""

    promotion: Promotion
    version: ModelVersion
    governance: Governance
    changes: tuple[Change, ...] = ()
    """Against the champion; a model's first version has none."""
    comparison: Comparison | None = None
    fairness: Fairness | None = None
    test: CommandRun | None = None
    integration: CommandRun | None = None
    replay: Replay | None = None
    """What it answered to logged requests."""
    shadow: RolloutDecision | None = None
    """How the shadow ended, with all that was seen."""
    card: str = ""
    """The model card, in Markdown with Hugging Face's YAML."""
    missing: tuple[str, ...] = ()
    """What is not there and perhaps should be, in words."""
