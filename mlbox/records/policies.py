"""Revisions of promotion policies, and what another one would change."""

from __future__ import annotations

from datetime import datetime

from mlbox.records.base import Record
from mlbox.records.registry import PromotionPolicy, PromotionState


class PolicyRevision(Record, frozen=True, kw_only=True):
    """A policy that a model has or had, who set it, and how it differs from the one before."""

    revision: int
    """0 for the house's default, which holds until somebody sets one."""
    set_by: str = ""
    at: datetime | None = None
    policy: PromotionPolicy
    diff: tuple[str, ...] = ()
    """Lines of its TOML, each beginning with `+`, `-` or a blank."""


class PolicyEffect(Record, frozen=True, kw_only=True):
    """What another policy does to a version that is on its way."""

    promotion: str
    version: int
    state: PromotionState
    ends: bool
    """Whether its approval is void, which ends its way."""
    words: str
    anew: tuple[str, ...] = ()
    """The gates that would ask something else of it, were it proposed under the new policy, each as `gate: what it requires`."""


class PolicyPreview(Record, frozen=True, kw_only=True):
    """What setting a policy would change."""

    policy: PromotionPolicy
    follows: int
    """The revision in force that it was compared with."""
    diff: tuple[str, ...] = ()
    """To that one; empty where nothing differs."""
    effects: tuple[PolicyEffect, ...] = ()
