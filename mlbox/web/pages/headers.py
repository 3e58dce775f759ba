"""What every answer carries so that a browser trusts nothing but this server's own files."""

from __future__ import annotations

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
DOWNLOAD_POLICY = b"sandbox; default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    # With no-referrer a browser would send `Origin: null` with a form, and the sign-in could not tell whose it is.
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
_ALL = tuple(HEADERS.items())


async def add_headers(message: Message, _: Scope) -> None:
    """A `before_send` hook: add what the handler did not set itself."""
    if message["type"] != "http.response.start":
        return
    given = {name.lower() for name, _ in message["headers"]}
    if b"content-disposition" in given:  # a file of a user's: whatever it says it is, it may do nothing here
        kept = [(name, value) for name, value in message["headers"] if name.lower() != b"content-security-policy"]
        message["headers"] = [*kept, (b"content-security-policy", DOWNLOAD_POLICY)]
        given.add(b"content-security-policy")
    message["headers"] = [*message["headers"], *(field for field in _ALL if field[0] not in given)]
