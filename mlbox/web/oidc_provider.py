"""An OpenID Connect provider as seen by its client: discovery, the code for tokens, and what an ID token must be.

The parts of the standards that are easy to get wrong are Authlib's (the client, PKCE, the claims) and joserfc's (signatures).
Every request goes through `Outgoing`. Only asymmetric signatures are taken, from a list of ours and not of the token's: neither
`none` nor the client's secret as a key. All of it blocks, and belongs on the box's thread pool.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from mlbox.clock import Clock
from mlbox.errors import MlboxError, NotAuthenticated, Unavailable
from mlbox.outgoing import Outgoing

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
KEY_TYPES = frozenset({"RSA", "EC", "OKP"})
KEPT = timedelta(hours=1)
"""How long discovery and keys are taken without another look; a key that is not known is looked for at once."""
LEEWAY = 60
"""Seconds by which the provider's clock may be off."""
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class Client(NamedTuple):
    """What the provider knows this server as."""

    issuer: str
    id: str
    secret: str | None
    scopes: Sequence[str]


class Provider:
    """One provider. `most` bounds how many requests wait for it at a time, so that a slow one holds up nothing else."""

    def __init__(self, client: Client, outgoing: Outgoing, clock: Clock, *, most: int = 8) -> None:
        self._client = client
        self._outgoing = outgoing
        self._clock = clock
        self._turns = threading.BoundedSemaphore(most)
        self._kept: dict[str, tuple[dict[str, Any], datetime]] = {}

    def authorization_url(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser; raises Unavailable when the provider cannot be found out about."""
        metadata = self.metadata()
        client = self._oauth(metadata, redirect_uri)
        url, _ = client.create_authorization_url(
            metadata["authorization_endpoint"], state=state, code_verifier=verifier, nonce=nonce
        )
        return str(url)

    def redeem(self, code: str, redirect_uri: str, nonce: str, verifier: str, wanted: Sequence[str]) -> dict[str, Any]:
        """The claims about the person for whom a code was given; raises NotAuthenticated when anything is not as it must be.

        Where the ID token has not all of the `wanted` claims, the provider's userinfo is asked for them.
        """
        metadata = self.metadata()
        with self._turn():
            token = self._token(metadata, code, redirect_uri, verifier)
        claims = self._verified(metadata, token, nonce)
        more, access = metadata.get("userinfo_endpoint"), token.get("access_token")
        if more and access and not all(name in claims for name in wanted):
            claims = {**self._userinfo(more, access, claims["sub"]), **claims}
        return claims

    def metadata(self) -> dict[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0, section 4)."""
        issuer = self._client.issuer
        found = self._fetch(issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != issuer:
            raise self._broken(
                f"says that it is {str(found.get('issuer'))[:200]!r}", "Set oidc_issuer to exactly that."
            )
        for name in (*ENDPOINTS, *(["userinfo_endpoint"] if found.get("userinfo_endpoint") else [])):
            address = found.get(name)
            parts = urlsplit(address if isinstance(address, str) else "")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise self._broken(f"names no usable {name}")
            if parts.scheme != "https" and urlsplit(issuer).scheme == "https":
                raise self._broken(f"names a {name} without TLS")
        return found

    # -- the ID token -----------------------------------------------------------------------------------------------

    def _token(self, metadata: Mapping[str, Any], code: str, redirect_uri: str, verifier: str) -> dict[str, Any]:
        client = self._oauth(metadata, redirect_uri)
        try:
            token: dict[str, Any] = client.fetch_token(
                metadata["token_endpoint"], grant_type="authorization_code", code=code, code_verifier=verifier
            )
        except AuthlibBaseError as err:
            raise NotAuthenticated(
                f"The provider did not take the code of this sign-in: {_word(err.error)}.", hint="Sign in again."
            ) from err
        except (httpx.HTTPStatusError, ValueError) as err:
            raise self._broken("gave no token") from err
        if not isinstance(token.get("id_token"), str):
            raise self._broken("gave no ID token", "Is openid among its scopes?")
        return token

    def _verified(self, metadata: Mapping[str, Any], token: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """The claims of an ID token (OpenID Connect Core 1.0, section 3.1.3.7)."""
        uri = metadata["jwks_uri"]
        try:
            try:
                decoded = jwt.decode(token["id_token"], self._keys(uri), algorithms=ALGORITHMS)
            except (JoseError, ValueError):
                # Providers change their keys; once more with fresh ones, unless these were fresh.
                decoded = jwt.decode(token["id_token"], self._keys(uri, anew=True), algorithms=ALGORITHMS)
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                options={
                    "iss": {"essential": True, "value": self._client.issuer},
                    "aud": {"essential": True, "value": self._client.id},
                    "sub": {"essential": True},
                },
                params={"nonce": nonce, "client_id": self._client.id, "access_token": token.get("access_token")},
            )
            claims.validate(now=int(self._clock.real().timestamp()), leeway=LEEWAY)
        except (JoseError, ValueError, TypeError, KeyError) as err:
            raise NotAuthenticated(
                f"The provider's ID token is not valid: {_reason(err)}.",
                hint="Sign in again; if it stays so, compare the clocks and the settings oidc_issuer and oidc_client_id.",
            ) from err
        return dict(claims)

    def _keys(self, uri: str, *, anew: bool = False) -> KeySet:
        keys = self._fetch(uri, anew=anew).get("keys")
        usable = [
            key
            for key in (keys if isinstance(keys, list) else [])
            if isinstance(key, dict) and key.get("kty") in KEY_TYPES and key.get("use", "sig") == "sig"
        ]
        return KeySet.import_key_set({"keys": usable})

    def _userinfo(self, url: str, access_token: str, subject: str) -> dict[str, Any]:
        found = self._fetch(url, headers={"authorization": f"Bearer {access_token}"}, keep=False)
        if found.get("sub") != subject:
            raise NotAuthenticated("The provider's userinfo is about someone else.", hint="Sign in again.")
        return found

    # -- asking -----------------------------------------------------------------------------------------------------

    def _oauth(self, metadata: Mapping[str, Any], redirect_uri: str) -> Any:
        client = self._client
        known = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        secret_in = "client_secret_basic" if "client_secret_basic" in known else "client_secret_post"
        return OAuth2Client(
            _Session(self._outgoing),
            client_id=client.id,
            client_secret=client.secret,
            token_endpoint_auth_method=secret_in if client.secret else "none",
            scope=" ".join(dict.fromkeys(("openid", *client.scopes))),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )

    def _fetch(
        self, url: str, *, headers: Mapping[str, str] | None = None, anew: bool = False, keep: bool = True
    ) -> dict[str, Any]:
        """A JSON object of the provider's, kept for a while."""
        kept = self._kept.get(url)
        if kept is not None and keep and not anew and self._clock.real() < kept[1]:
            return kept[0]
        with self._turn():
            answer = self._outgoing.get(url, headers)
        try:
            found = answer.json() if answer.status_code == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._broken(f"answered {url} with {answer.status_code} and no JSON object", "Check oidc_issuer.")
        if keep:
            self._kept[url] = (found, self._clock.real() + KEPT)
        return found

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            raise Unavailable("Too many sign-ins wait for the provider.", hint="Try again in a moment.")
        try:
            yield
        finally:
            self._turns.release()

    def _broken(self, what: str, hint: str = "Look at the provider's settings.") -> MlboxError:
        self._kept.clear()  # it may be mended by the next try
        return Unavailable(f"The provider {self._client.issuer} {what}.", hint=hint)


class _Session:
    """What Authlib's client posts with. It is handed no headers of its own to keep: it would write the secret into them."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def post(self, url: str, data: Mapping[str, str], headers: Mapping[str, str], auth: Any) -> httpx.Response:
        url, prepared, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        return self._outgoing.post(url, body.encode(), prepared)


def _word(text: object) -> str:
    """An error code of the provider's, as far as it is one: its words are not ours to show."""
    code = str(text)[:60]
    return code if code.replace("_", "").isalnum() and code.isascii() else "an unknown error"


def _reason(err: Exception) -> str:
    said = str(getattr(err, "description", "") or getattr(err, "error", ""))
    return said[:200].rstrip(".") or "it cannot be read"
