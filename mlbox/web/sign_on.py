"""Single sign-on by OpenID Connect: what begins, what must come back, and whom it lets in.

What a sign-in began with is kept by the browser that began it, in a signed cookie that lives ten minutes: only that browser can
end it, nothing has to be remembered for those who never come back, and a server that restarts has only them sign in once more.
A state ends one sign-in at most, even while its cookie lives.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from mlbox.clock import Clock, to_us
from mlbox.errors import InvalidInput, NotAuthenticated, NotAuthorised, StartupError
from mlbox.settings import Settings, secret_in
from mlbox.store.access.access import Visit
from mlbox.store.access.identities import GroupMap, Identities, Person, check_subject

if TYPE_CHECKING:
    from mlbox.web.oidc_provider import Provider

LIFE = timedelta(minutes=10)
_MOST_USED = 10_000
_MOST_GROUPS = 10_000


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """A sign-in that has begun: what the provider's answer must fit."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    target: str
    """Where to go on from there, on this server."""
    until_us: int


class SignOn:
    """Single sign-on as the settings have it. `begin` and `finish` block."""

    def __init__(self, settings: Settings, provider: Provider, identities: Identities, clock: Clock) -> None:
        self.issuer = settings.oidc_issuer
        self.name = settings.oidc_name or urlsplit(settings.oidc_issuer).hostname or "the provider"
        self._provider = provider
        self._identities = identities
        self._clock = clock
        self._map = GroupMap(settings.oidc_groups, settings.oidc_default_role)
        self._name_claim = settings.oidc_name_claim
        self._groups_claim = settings.oidc_groups_claim
        self._required = dict(_requirement(text) for text in settings.oidc_require)
        self._key = secrets.token_bytes(32)
        self._used: dict[str, int] = {}
        """States that were answered, and until when their cookies live."""
        self._lock = threading.Lock()

    # -- the browser's half -----------------------------------------------------------------------------------------

    def begin(self, redirect_uri: str, target: str) -> tuple[str, str]:
        """Where to send a browser, and the cookie that lets it come back to `redirect_uri` and go on to `target`."""
        pending = Pending(
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            redirect_uri=redirect_uri,
            target=target,
            until_us=to_us(self._clock.real() + LIFE),
        )
        url = self._provider.authorization_url(pending.redirect_uri, pending.state, pending.nonce, pending.verifier)
        return url, self._seal(pending)

    def resume(self, cookie: str, state: str) -> Pending:
        """The sign-in that a browser began, once; raises NotAuthenticated unless it is the one that the provider answers."""
        pending = self._open(cookie)
        now = to_us(self._clock.real())
        if pending is None or pending.until_us <= now or not hmac.compare_digest(pending.state, state):
            raise NotAuthenticated(
                "This is not the sign-in that this browser began, or it took more than ten minutes.",
                hint="Begin again.",
            )
        with self._lock:
            if len(self._used) >= _MOST_USED:
                self._used = {used: until for used, until in self._used.items() if until > now}
            if state in self._used:
                raise NotAuthenticated("This sign-in was ended already.", hint="Begin again.")
            self._used[state] = pending.until_us
        return pending

    def _seal(self, pending: Pending) -> str:
        body = msgspec.json.encode(pending)
        return f"{_text(body)}.{_text(hmac.digest(self._key, body, 'sha256'))}"

    def _open(self, cookie: str) -> Pending | None:
        body, _, seal = cookie.partition(".")
        try:
            raw = base64.urlsafe_b64decode(body)
            if not hmac.compare_digest(base64.urlsafe_b64decode(seal), hmac.digest(self._key, raw, "sha256")):
                return None
            return msgspec.json.decode(raw, type=Pending)
        except (ValueError, msgspec.MsgspecError):
            return None

    # -- the person -------------------------------------------------------------------------------------------------

    def finish(self, pending: Pending, code: str, visit: Visit) -> str:
        """A browser session's secret for the person whom the provider names by a code."""
        wanted = [self._name_claim, self._groups_claim.partition(".")[0], *self._required]
        claims = self._provider.redeem(code, pending.redirect_uri, pending.nonce, pending.verifier, wanted)
        return self._identities.sign_in(self.person(claims), self._map.teams, visit)

    def person(self, claims: Mapping[str, Any]) -> Person:
        """Whom the claims are about, and what for; raises NotAuthorised where one that is required is not as it must be."""
        for name, value in self._required.items():
            if value not in _texts(claim_at(claims, name)):
                raise NotAuthorised(
                    f"Your claim {name} at the provider is not the one that this server asks for.",
                    hint="Sign in with another account, or ask an admin: the setting oidc_require.",
                )
        name = claim_at(claims, self._name_claim)
        return Person(
            issuer=self.issuer,
            subject=check_subject(str(claims["sub"])),
            name=name if isinstance(name, str) else "",
            roles=self._map.roles(self._groups(claims)),
        )

    def _groups(self, claims: Mapping[str, Any]) -> list[str]:
        found = claim_at(claims, self._groups_claim)
        elsewhere = claims.get("_claim_names")
        if found is None and isinstance(elsewhere, Mapping) and self._groups_claim in elsewhere:
            raise NotAuthorised(
                "You are in more groups than the provider puts into one token.",
                hint="Ask an admin to have it send only the groups that are assigned to this application.",
            )
        return _texts(found)[:_MOST_GROUPS]


def open_sign_on(settings: Settings, identities: Identities, clock: Clock) -> SignOn | None:
    """Single sign-on, or None where no issuer is set. Raises InvalidInput or StartupError for settings that cannot work."""
    if not settings.oidc_issuer:
        return None
    try:
        from mlbox.web.oidc_provider import Client, Provider
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in ("authlib", "joserfc"):
            raise
        raise StartupError(
            f"Single sign-on is set up, but the package {err.name} is not installed.",
            hint="pip install 'mlbox[oidc]'",
            field="oidc_issuer",
        ) from err
    from mlbox.outgoing import Outgoing

    _check_issuer(settings.oidc_issuer)
    if not settings.oidc_client_id:
        raise InvalidInput(
            "There is an oidc_issuer, but no oidc_client_id.",
            hint="The provider gives one to each application.",
            field="oidc_client_id",
        )
    client = Client(
        settings.oidc_issuer,
        settings.oidc_client_id,
        secret_in(settings.oidc_client_secret_file, "oidc_client_secret_file"),
        settings.oidc_scopes,
    )
    outgoing = Outgoing(settings.outgoing_allow, ca_file=settings.outgoing_ca)
    provider = Provider(client, outgoing, clock, most=max(1, settings.threads // 2))
    return SignOn(settings, provider, identities, clock)


def _check_issuer(issuer: str) -> None:
    parts = urlsplit(issuer)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    plain = parts.hostname and not parts.query and not parts.fragment and "@" not in parts.netloc
    if not plain or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise InvalidInput(
            f"The setting oidc_issuer is {issuer[:200]!r}, which is no address of a provider.",
            hint="Write it as its discovery document does, beginning with https:// and with nothing after the path.",
            field="oidc_issuer",
        )


def _requirement(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.strip() or not equals or not value.strip():
        raise InvalidInput(
            f"The entry {text[:200]!r} of the setting oidc_require is no CLAIM=VALUE.",
            hint="Write it like hd=example.org.",
            field="oidc_require",
        )
    return name.strip(), value.strip()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path of names with dots where no claim has that whole name; None where there is none."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _texts(value: Any) -> list[str]:
    """The texts in a claim that has one or a list of them; `true` and `false` for a truth value."""
    listed = value if isinstance(value, list) else [value]
    return [str(one).lower() if isinstance(one, bool) else one for one in listed if isinstance(one, str | bool)]
