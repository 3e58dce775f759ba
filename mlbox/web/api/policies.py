"""Promotion policies over HTTP: what is in force and was, what another one would change, and setting it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, get, post, put
from litestar.params import Parameter
from msgspec.structs import replace

from mlbox import policy_file
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.records import (
    PolicyEffect,
    PolicyPreview,
    PolicyRevision,
    Principal,
    Promotion,
    PromotionPolicy,
    Record,
)
from mlbox.serve.promotion.gate_changes import asked_anew
from mlbox.store.registry.policy_book import effect
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]
Number = Annotated[int | None, Parameter(ge=0, le=2**62)]


class PolicyText(Record, frozen=True, kw_only=True):
    """A policy in TOML."""

    toml: str


class AgreedPolicy(PolicyText, frozen=True, kw_only=True):
    """A policy in TOML, and what whoever sets it was told that it changes."""

    follows: int
    """The revision in force then."""
    ends: tuple[str, ...] = ()
    """Promotions whose approval becomes void."""


@get("/api/v1/models/{model:str}/policy", action="model.read")
async def get_policy(box: Box, model: str) -> PromotionPolicy:
    """What the model's versions must pass."""
    return await box.call(box.registry.policies.of, model)


@get("/api/v1/models/{model:str}/policy/revisions", action="model.read")
async def list_revisions(box: Box, model: str, limit: Limit = 100, after: Number = None) -> list[PolicyRevision]:
    """Every policy that was set, newest first: by whom, when, and what it changed."""
    return await box.call(box.registry.policies.revisions, model, limit=limit, before=after)


@get("/api/v1/models/{model:str}/policy/revisions/{revision:int}", action="model.read")
async def get_revision(box: Box, model: str, revision: int) -> PolicyRevision:
    """One of them; 0 is the house's default."""
    return await box.call(box.registry.policies.revision, model, revision)


@put("/api/v1/models/{model:str}/policy", action="model.policy", any_names=True)
async def set_policy(
    box: Box, principal: Principal, request: Request[Any, Any, Any], model: str, data: PromotionPolicy
) -> PromotionPolicy:
    """A new revision of the policy; for admins, because whoever trains must not lower the bar."""
    policy_file.check_known(
        msgspec.json.decode(await request.body()), data
    )  # a misspelt gate would otherwise ask for nothing
    policy = await box.call(_ready, box, principal, model, data)
    return await box.call(box.registry.policies.set, model, policy, actor=principal.name)


@post("/api/v1/models/{model:str}/policy/preview", status_code=200, action="model.policy")
async def preview(box: Box, principal: Principal, model: str, data: PolicyText) -> PolicyPreview:
    """How a policy in TOML differs from the one in force, and what it does to versions that are on their way; sets nothing."""

    def look() -> PolicyPreview:
        before = box.registry.policies.in_force(model)
        policy = _read(box, principal, model, data.toml)
        under_way = box.promotions.open(model)
        return PolicyPreview(
            policy=policy,
            follows=before.revision,
            diff=policy_file.diff(before.policy, policy),
            effects=tuple(_effect(box, promotion, policy) for promotion in under_way),
        )

    return await box.call(look)


def _effect(box: Box, promotion: Promotion, policy: PromotionPolicy) -> PolicyEffect:
    version, champion = (
        None if number is None else box.registry.version(promotion.model, number)
        for number in (promotion.version, promotion.champion)
    )
    assert version is not None
    return replace(effect(promotion, policy), anew=asked_anew(version, champion, promotion.policy, policy))


@put("/api/v1/models/{model:str}/policy/toml", action="model.policy")
async def set_text(box: Box, principal: Principal, model: str, data: AgreedPolicy) -> PolicyRevision:
    """A new revision of the policy, in TOML; a conflict where it changes more than whoever sets it was told."""

    def write() -> PolicyRevision:
        book = box.registry.policies
        book.of(model)
        policy = _read(box, principal, model, data.toml)
        kept = book.set(model, policy, actor=principal.name, follows=data.follows, ends=data.ends)
        return book.revision(model, kept.revision)

    return await box.call(write)


def _read(box: Box, principal: Principal, model: str, text: str) -> PromotionPolicy:
    """A policy out of TOML as `_ready` has it; what is wrong is said of its line."""
    policy = policy_file.read(text)
    try:
        return _ready(box, principal, model, policy)
    except (InvalidInput, NotFound, Conflict) as err:
        raise policy_file.at_line(text, err) from err


def _ready(box: Box, principal: Principal, model: str, policy: PromotionPolicy) -> PromotionPolicy:
    """A policy that can be set: its rows are named by their hash, and its commands can run."""
    for part, freeze in (("compare", box.comparer.freeze), ("fairness", box.fairness.freeze)):
        try:
            policy = freeze(policy)
        except (NotFound, Conflict) as err:
            err.field = f"{part}.dataset"
            raise
    box.gate_jobs.check(policy, model, principal)
    return policy


handlers: list[Any] = [get_policy, list_revisions, get_revision, set_policy, preview, set_text]
