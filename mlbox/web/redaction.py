"""What must not stand in a log, taken out of texts: the second line of defence, where the first is not to log it at all.

What looks like one is replaced, whatever it is: a bearer token of ours, a header that authenticates, a field with a telling name,
the password in an address. A password in a sentence looks like any other word, so nothing that is sent in a body is ever logged.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

HIDDEN = "***"
_TOKEN = re.compile(r"mlb_[A-Za-z0-9_\-]{8,}")
_TELLING = r"(?:passw|passphrase|pwd|secret|token|api[_\-]?key|credential|csrf|session|signature|jwt)"
# Each rule looks at a character a bounded number of times (a word from its first character only, and never again in part):
# what a stranger may send is redacted, however long it is.
_WORD = rf"(?<![\w\-])(?=[\w\-]*?{_TELLING})[\w\-]++"
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (_TOKEN, "mlb_***"),
    (re.compile(r"(?i)((?:proxy-)?authorization|(?:set-)?cookie)(['\"]?\s*[:=,]\s*)[^\r\n]+"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=\-]{6,}"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?i)({_WORD})(['\"]?\s*[=:]\s*b?)(\"[^\"]*\"|'[^']*'|[^\s\"'&,;)}}\]]+)"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?i)([?&](?:once|code|state|key|auth|sig)=)[^\s\"'&#]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(/login/)[^\s\"'?#]+"), rf"\1{HIDDEN}"),
)
_TELLING_NAME = re.compile(rf"(?i){_TELLING}|once|code|key|auth|assertion|sig")
_LOGIN = "/login"
_SIGN_IN = (_LOGIN, "/oidc", "/callback")


def is_telling(name: str) -> bool:
    """Whether what has this name is a password, a token or another secret."""
    return re.search(f"(?i){_TELLING}", name) is not None


def redact(text: str) -> str:
    """A text without what looks like a token, a password or another secret."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def redact_path(path: str) -> str:
    """A request's path without tokens, and without what follows /login/."""
    if path.startswith(_LOGIN + "/"):
        return f"{_LOGIN}/{HIDDEN}"
    return _TOKEN.sub("mlb_***", path) if "mlb_" in path else path


def redact_query(path: str, query: bytes) -> str:
    """A request's query without the values of telling names; of the sign-in's addresses no value at all."""
    everything = any(part in path for part in _SIGN_IN)
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    return "&".join(f"{redact(name)}={_value(name, value, everything)}" for name, value in pairs)


def _value(name: str, value: str, everything: bool) -> str:
    return HIDDEN if everything or _TELLING_NAME.search(name) else redact(value)
