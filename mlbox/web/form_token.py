"""A session's form token as a page carries it: under a mask of its own each time.

Pages are compressed, and the size of what is compressed says something of it to whoever may also put text on the page (BREACH,
CVE-2013-3587). A secret that looks different in each answer is not to be had that way.
"""

from __future__ import annotations

import hmac
import secrets


def masked(token: str) -> str:
    """The token for one page."""
    plain = token.encode()
    pad = secrets.token_bytes(len(plain))
    return (pad + _xor(pad, plain)).hex()


def fits(given: bytes, token: str) -> bool:
    """Whether what was sent is the token under some mask."""
    try:
        sent = bytes.fromhex(given.decode())
    except ValueError:
        return False
    half = len(sent) // 2
    return hmac.compare_digest(_xor(sent[:half], sent[half:]), token.encode())


def _xor(pad: bytes, text: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(pad, text, strict=False))
