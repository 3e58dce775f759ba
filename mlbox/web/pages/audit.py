"""The audit log: every change, by whom, newest first."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get
from litestar.params import QueryParameter

from mlbox.ids import first_of
from mlbox.store import audit as audit_log
from mlbox.web.api.registry import span_of
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page

NEWEST = "~"
"""Above every id."""


def _fetch(
    view: View, filters: dict[str, str | None], until: str | None, after: str | None, verify: bool
) -> dict[str, Any]:
    may_verify = view.may("admin")
    ends = [first_of(span_of(until, field="until")[1])] if until else []
    found = view.box.events(**filters, limit=PAGE_SIZE + 1, before=min([*ends, after or NEWEST]))
    shown, last = keyset(found, PAGE_SIZE, lambda event: event.id)
    return {
        "events": shown,
        "may_verify": may_verify,
        "reports": audit_log.verify(view.box.data_dir.root, {}) if verify and may_verify else None,
        "next": next_page(view, last),
        "filters": {name: text or "" for name, text in {**filters, "until": until}.items()},
    }


@get("/audit", include_in_schema=False, action="audit.read")
async def audit(
    view: View,
    subject: str | None = None,
    actor: str | None = None,
    type_: Annotated[str | None, QueryParameter(name="type")] = None,
    until: str | None = None,
    after: str | None = None,
    verify: bool = False,
) -> Response[bytes]:
    """The log up to a day in UTC, or what of it fits the filters exactly; an admin may have its chain of hashes walked."""
    filters = {"subject": _given(subject), "actor": _given(actor), "type": _given(type_)}
    return await view.page("audit.html", lambda: _fetch(view, filters, _given(until), after, verify))


def _given(text: str | None) -> str | None:
    return text.strip() or None if text else None


handlers: list[Any] = [audit]
