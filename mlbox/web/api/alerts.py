"""Silences and channels of alerts over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from litestar import delete, get, post, put
from litestar.params import Parameter

from mlbox.records import Delivery, Principal, Record, Silence, WrittenRules
from mlbox.serve.alerts.notifier import PREFIX
from mlbox.store.monitoring.alert_rules import NAMES, Inhibition, Rule
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]


class NewSilence(Record, frozen=True, kw_only=True):
    """What is to be silent, for how long, and why."""

    labels: dict[str, str]
    """Those that an alert must have; `alertname` is its name."""
    for_seconds: float
    reason: str


class RulesInForce(Record, frozen=True, kw_only=True):
    """The rules of alerts as they are; of a channel only its type, because its address is often a secret."""

    rules: dict[str, Rule]
    channels: dict[str, str]
    inhibitions: tuple[Inhibition, ...]
    error: str = ""
    """What is wrong with what is written, while the rules before it stay in force; empty where all is right."""


class NewRules(Record, frozen=True, kw_only=True):
    """What the page says of rules and channels, over the file."""

    text: str = ""
    """TOML; empty for nothing."""
    revision: int | None = None
    """The one that was read; another one meanwhile is a conflict."""


@get("/api/v1/silences", action="monitor.read")
async def silences(box: Box, limit: Limit = 100, after: str | None = None) -> list[Silence]:
    """Silences, newest first, those that are over too."""
    return await box.call(box.silences.page, limit=limit, after=after)


@post("/api/v1/silences", action="alert.silence")
async def silence(box: Box, principal: Principal, data: NewSilence) -> Silence:
    """Tell nobody of the alerts that have all these labels, for a while."""
    hold = timedelta(seconds=min(data.for_seconds, 1e9))
    return await box.call(box.silences.add, data.labels, hold=hold, reason=data.reason, actor=principal.name)


@delete("/api/v1/silences/{silence_id:str}", action="alert.silence")
async def end_silence(box: Box, principal: Principal, silence_id: str) -> None:
    """End a silence now."""
    await box.call(box.silences.end, silence_id, actor=principal.name)


@get("/api/v1/alerts/rules", action="monitor.read")
async def rules(box: Box) -> RulesInForce:
    """Every alert's rule, the channels, and which alert says why another is not told of."""
    found = box.rules
    return RulesInForce(
        rules={name: found.of(name) for name in NAMES},
        channels={name: channel.type for name, channel in found.channel.items()},
        inhibitions=tuple(found.inhibit),
        error=box.rules.error.message if box.rules.error else "",
    )


@get("/api/v1/alerts/rules/text", action="alert.configure")
async def written_rules(box: Box) -> WrittenRules:
    """The rules as they are written, addresses too, and what is wrong with them."""
    return await box.call(box.rules.written)


@put("/api/v1/alerts/rules/text", action="alert.configure")
async def write_rules(box: Box, principal: Principal, data: NewRules) -> WrittenRules:
    """Put rules and channels in force, over those of the file, once they are right as a whole."""
    return await box.call(box.rules.write, data.text, revision=data.revision, actor=principal.name)


@post("/api/v1/alerts/channels/{channel:str}/test", status_code=202, action="alert.test")
async def test_channel(box: Box, principal: Principal, channel: str) -> Delivery:
    """Send a made-up message over a channel; `deliveries` says what became of it."""
    await box.call(box.notifier.test, channel, actor=principal.name)
    return (await box.call(box.alert_outbox.of, f"{PREFIX}{channel}", limit=1))[0]


@get("/api/v1/alerts/channels/{channel:str}/deliveries", action="alert.test")
async def deliveries(box: Box, channel: str, limit: Limit = 100) -> list[Delivery]:
    """What was sent over a channel, newest first, with what was answered."""
    return await box.call(box.alert_outbox.of, f"{PREFIX}{channel}", limit=limit)


handlers: list[Any] = [silences, silence, end_silence, rules, written_rules, write_rules, test_channel, deliveries]
