"""The rules, channels and silences of alerts: what is in force, what was written here, and what became of what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from litestar import Response, get

from mlbox.serve.alerts.alert_groups import grouped
from mlbox.serve.alerts.notifier import PREFIX
from mlbox.store.monitoring.alert_rules import ADVICE, NAMES
from mlbox.web.pages.view import View, keyset, next_page, part

DELIVERIES = 5
SILENCES = 20
HOURS = (1, 2, 8, 24, 7 * 24)
"""How long a silence may be made here."""


def _rules(view: View, after: str | None, ended: bool, model: str | None) -> dict[str, Any]:
    box = view.box
    held_at = None if ended else box.clock.now()
    found = part(lambda: box.silences.page(limit=SILENCES + 1, after=after, at=held_at))
    shown, last = keyset(found.value or [], SILENCES, lambda silence: silence.id)
    admin = view.may("admin")
    book = box.rules
    return {
        "rules": [(name, book.of(name), ADVICE.get(name, "")) for name in NAMES],
        "channels": [
            (name, channel, box.alert_outbox.of(f"{PREFIX}{name}", limit=DELIVERIES) if admin else [])
            for name, channel in book.channel.items()
        ],
        "inhibitions": book.inhibit,
        "silences": found,
        "shown": shown,
        "next": next_page(view, last),
        "ended": ended,
        "now": box.clock.now(),
        "silenceable": list(_silenceable(view, model)) if view.may_somewhere("member") else [],
        "hours": HOURS,
        "written": book.written(),
        "may_write": admin,
    }


def _silenceable(view: View, first: str | None) -> Iterator[tuple[str, str]]:
    """What can be silenced, as JSON and in words: what fires of each model, `first` before the others, then each alert of all."""
    box = view.box
    firing = part(lambda: grouped(box.monitor.alerts(state="firing", limit=1000), box.rules)).value or []
    for group in sorted(firing, key=lambda group: group.name != first):
        if group.kind == "model":
            yield _labels(model=group.name), f"everything of {group.name}"
            for name in group.counts:
                yield _labels(alertname=name, model=group.name), f"{name.replace('_', ' ')} of {group.name}"
    for name in NAMES:
        yield _labels(alertname=name), f"{name.replace('_', ' ')}, whatever it is about"


def _labels(**labels: str) -> str:
    return msgspec.json.encode(labels).decode()


@get("/alerts", include_in_schema=False, action="monitor.read")
async def alert_rules(
    view: View, after: str | None = None, ended: bool = False, model: str | None = None
) -> Response[bytes]:
    """The rules in force, and the silences: those that hold, or all. `model` is what somebody came to silence."""
    return await view.page("alerts.html", lambda: _rules(view, after, ended, model))


handlers: list[Any] = [alert_rules]
