"""Credentials that were not seen within the last minute: what they are, whether they are good, and how often one may be wrong.

Limits
- A wrong password costs its account an attempt, and past a few of them a wait that doubles. It bars passwords only: tokens, open
  sessions and credentials that were verified before work on, so nobody can lock someone else out of work in hand.
- Every wrong password, token and login link costs the address that sent it one of its allowance for the minute. Past it, wrong
  ones are answered with 429 and passwords are not looked at; a valid token passes all the same, because no guess hits 256 bits.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

from mlbox.clock import Clock
from mlbox.errors import NotAuthenticated
from mlbox.records import Principal
from mlbox.settings import Settings
from mlbox.store.access.access import Access, Visit
from mlbox.store.access.throttle import Allowance, Backoff, network_of
from mlbox.store.access.tokens import KEPT

T = TypeVar("T")
TOKEN = "mlb_"  # noqa: S105 - what every token begins with, and no password
ANY_USER = frozenset({"", "token"})
"""User names with which Basic carries a token of whoever."""


class Call(Protocol):
    """Runs a blocking function off the loop."""

    def __call__(self, fn: Callable[..., T], /, *args: object) -> Awaitable[T]: ...


class Given(NamedTuple):
    """What an Authorization header says; the user is None for Bearer."""

    user: str | None
    secret: str


def read_authorization(header: bytes) -> Given:
    """The parts of an Authorization header (RFC 6750, RFC 7617); raises NotAuthenticated for any that is not understood."""
    scheme, _, value = header.decode("latin-1").strip().partition(" ")
    if scheme.lower() == "bearer":
        return Given(None, value.strip())
    if scheme.lower() == "basic":
        try:
            plain = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeError, ValueError) as err:
            raise NotAuthenticated("The Authorization header is not valid Basic.", hint="Encode USER:SECRET.") from err
        user, colon, secret = plain.partition(":")
        if not colon:
            raise NotAuthenticated(
                "The Authorization header is not valid Basic: it has no colon.", hint="Encode USER:SECRET."
            )
        return Given(user, secret)
    raise NotAuthenticated(f"The scheme {scheme[:20]!r} is not known.", hint="Send Authorization: Bearer TOKEN.")


class Door:
    """Lets in who has a good credential."""

    def __init__(self, access: Access, clock: Clock, settings: Settings, call: Call) -> None:
        self.access = access
        self._clock = clock
        self._call = call
        self._accounts = Backoff(clock, tries=settings.signin_tries, longest_seconds=settings.signin_wait)
        self._peers = Allowance(clock, per_minute=settings.signin_rate)
        self._pending: dict[bytes, asyncio.Task[Principal]] = {}
        """Basic credentials that are being verified: a client that opens ten connections at once has them verified once."""

    async def admit(self, credential: bytes, peer: str) -> Principal:
        """Who sends an Authorization header; raises NotAuthenticated or TooMany. What is good is remembered."""
        user, secret = read_authorization(credential)
        if user is None or secret.startswith(TOKEN):
            named = "" if user is None or user in ANY_USER else user
            return self._by_token(secret, credential, named, peer)
        task = self._pending.get(credential)
        if task is None:
            task = asyncio.ensure_future(self._by_password(user, secret, credential, peer))
            self._pending[credential] = task
            task.add_done_callback(lambda done: self._forget(credential, done))
        return await asyncio.shield(task)

    def _by_token(self, secret: str, credential: bytes, user: str, peer: str) -> Principal:
        try:
            return self.access.authenticate(secret, credential=credential, user=user)
        except NotAuthenticated:
            self._peers.begin(network_of(peer))
            raise

    async def _by_password(self, user: str, secret: str, credential: bytes, peer: str) -> Principal:
        ticket = self.access.ticket
        await self.check_password(user, secret, peer)
        principal = self.access.holder(user)
        self.access.remember(ticket, credential, principal, self._clock.real() + KEPT)
        return principal

    def _forget(self, credential: bytes, done: asyncio.Task[Principal]) -> None:
        self._pending.pop(credential, None)
        if not done.cancelled():
            done.exception()  # everyone who waited may have gone

    async def check_password(self, user: str, password: str, peer: str) -> str:
        """The stored hash that a password fits; raises NotAuthenticated, or TooMany for who was wrong too often.

        An account that is unknown, disabled or without a password takes the same work as a wrong password.
        """
        passwords, place, account = self.access.passwords, network_of(peer), user[:256]
        passwords.check_room()
        self._peers.begin(place)
        self._accounts.begin(account)
        stored = self.access.password_hash(user)
        if not await asyncio.wrap_future(passwords.verify(stored, password)) or stored is None:
            raise NotAuthenticated(
                "The user name or the password is wrong.", hint="A token or a login link works as well: ask an admin."
            )
        self._accounts.succeeded(account)
        self._peers.succeeded(place)
        return stored

    async def sign_in(self, user: str, secret: str, visit: Visit) -> str:
        """A browser session's secret for a password or a token; raises NotAuthenticated, NotAuthorised or TooMany."""
        if not secret.startswith(TOKEN) and user:
            stored = await self.check_password(user, secret, visit.address)
            return await self._call(self.access.sign_in_verified, user, stored, visit)
        return await self._guarded(
            lambda: self.access.sign_in(secret, visit, user="" if user in ANY_USER else user), visit
        )

    async def redeem(self, once: str, visit: Visit) -> str:
        """A browser session's secret for a login link; raises NotAuthenticated or TooMany."""
        return await self._guarded(lambda: self.access.redeem_login(once, visit), visit)

    async def _guarded(self, begin: Callable[[], str], visit: Visit) -> str:
        try:
            return await self._call(begin)
        except NotAuthenticated:
            self._peers.begin(network_of(visit.address))
            raise
