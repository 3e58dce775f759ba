"""What every answer carries so that a browser trusts nothing but this server's own files."""

from __future__ import annotations

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
DOWNLOAD_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # With no-referrer a browser would send `Origin: null` with a form, and the sign-in could not tell whose it is.
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


async def add_headers(message: Message, _: Scope) -> None:
    """A `before_send` hook: add what the handler did not set itself."""
    if message["type"] == "http.response.start":
        headers = MutableScopeHeaders.from_message(message)
        if "content-disposition" in headers:  # a file of a user's: whatever it says it is, it may do nothing here
            headers["content-security-policy"] = DOWNLOAD_POLICY
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
