"""The rules and channels of alerts: what is in force, what was written here, and what became of what was sent."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.serve.notifier import PREFIX
from mlbox.store.alert_rules import ADVICE, NAMES
from mlbox.web.pages.view import View, part

DELIVERIES = 5
SILENCES = 20


def _rules(view: View) -> dict[str, Any]:
    box = view.box
    admin = view.may("admin")
    book = box.rules
    return {
        "rules": [(name, book.of(name), ADVICE.get(name, "")) for name in NAMES],
        "channels": [
            (name, channel, box.alert_outbox.of(f"{PREFIX}{name}", limit=DELIVERIES) if admin else [])
            for name, channel in book.channel.items()
        ],
        "inhibitions": book.inhibit,
        "silences": part(lambda: box.silences.page(limit=SILENCES)),
        "written": book.written(),
        "may_write": admin,
    }


@get("/alerts", include_in_schema=False, action="monitor.read")
async def alert_rules(view: View) -> Response[bytes]:
    """The rules in force."""
    return await view.page("alerts.html", lambda: _rules(view))


handlers: list[Any] = [alert_rules]
