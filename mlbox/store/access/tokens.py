"""Bearer tokens: what they look like, whose each is, and how long a look at one counts.

A token is `mlb_`, 43 random characters and a 6-digit checksum (CRC-32), so that a scanner can tell one without asking and a
typing error is told from a revoked token. Of it, as of every secret, only the SHA-256 is stored; it is shown once.

A credential is looked up in SQLite once a minute at most: what was verified is kept in memory under a keyed hash, never as it
was sent. Every change of tokens, accounts or teams drops all of it (`changed`), so that what was revoked is refused by the very
next request; only jobs, which begin and end all the time, drop no more than what their own tokens opened. The look-up that
follows puts its result into the table that it found when it began: one that read the state before the change writes into a
table that nobody reads any more.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import zlib
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import InvalidInput, NotAuthenticated, NotFound
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import Event, Principal, Role, Token
from mlbox.store.access.accounts import Accounts
from mlbox.store.access.passwords import Passwords
from mlbox.store.access.roles import lower_of
from mlbox.store.db import Database, Row, Tx

KEPT = timedelta(minutes=1)
"""How long a verified credential is taken without another look, and how exact last uses are."""
MOST_KEPT = 20_000
KEPT_US = KEPT // timedelta(microseconds=1)
_LIFE = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_sha256 = hashlib.sha256
Verified = dict[bytes, tuple[Principal, datetime]]


def digest_of(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def _with_checksum(body: str) -> str:
    return f"{body}{zlib.crc32(body.encode()) & 0xFFFFFF:06x}"


def make_secret() -> str:
    """A new bearer token."""
    return _with_checksum("mlb_" + secrets.token_urlsafe(32))


def parse_life(text: str) -> timedelta:
    """How long a token lives, such as 90m, 12h, 30d or 52w; raises InvalidInput."""
    found = _LIFE.fullmatch(text.strip())
    life = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta()
    if not timedelta() < life <= timedelta(days=3660):
        raise InvalidInput(
            f"{text[:40]!r} is no length of time.", hint="Write it like 12h, 30d or 52w.", field="expires"
        )
    return life


class Tokens(Accounts):
    """The bearer tokens of accounts and of jobs."""

    def __init__(
        self, db: Database, clock: Clock, *, passwords: Passwords | None = None, bus: EventBus | None = None
    ) -> None:
        super().__init__(db, clock, passwords)
        self._key = secrets.token_bytes(32)
        self._verified: Verified = {}
        self._dropping = threading.Lock()
        if bus is not None:
            bus.subscribe(self._on_event, ["team.", "user.", "token."])

    # -- what was verified ------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Forget every verified credential: called after each change of tokens, accounts or teams."""
        with self._dropping:
            self._verified = {}

    def _drop_jobs(self, job_ids: Collection[str]) -> None:
        with self._dropping:  # what is dropped meanwhile is not to come back
            kept = list(self._verified.items())
            self._verified = {key: one for key, one in kept if one[0].job_id not in job_ids}

    def _on_event(self, event: Event) -> None:
        """Events come after the commit and before whoever made the change has an answer. A new token closes nothing."""
        if event.type.startswith(("team.", "user.", "token.")) and event.type != "token.created":
            self.changed()

    @property
    def ticket(self) -> Verified:
        """What `remember` takes: to be had before the state is read that a credential is verified against."""
        return self._verified

    def recall(self, credential: bytes) -> Principal | None:
        """Whose credential this is, if it was verified within the last minute and nothing has changed since."""
        return self.recall_key(self.key_of(credential))

    def key_of(self, credential: bytes) -> bytes:
        """What `recall_key` knows a credential by, as long as this process runs."""
        # Its own key, made at start: the digests of guessed passwords say nothing of what is in here.
        return _sha256(self._key + credential).digest()

    def recall_key(self, key: bytes) -> Principal | None:
        """As `recall`, for who keeps the key of a credential."""
        known = self._verified.get(key)
        return known[0] if known is not None and self._clock.real() < known[1] else None

    def remember(self, ticket: Verified, credential: bytes, principal: Principal, until: datetime) -> None:
        """Keep a verified credential for a minute, or until it ends."""
        if len(ticket) >= MOST_KEPT:
            ticket.clear()
        ticket[self.key_of(credential)] = (principal, min(until, self._clock.real() + KEPT))

    # -- tokens -----------------------------------------------------------------------------------------------------

    def create_token(
        self,
        user_name: str,
        name: str,
        *,
        actor: str,
        role: Role | None = None,
        life: timedelta | None = None,
        job_id: str | None = None,
    ) -> tuple[Token, str]:
        """A new token and its secret, which is never shown again. `role` caps what it may do."""
        user = self.user(user_name)
        secret = make_secret()
        ceiling: Role = role or "admin"

        def write(tx: Tx) -> Token:
            expires_us = tx.now_us + life // timedelta(microseconds=1) if life else None
            token = Token(
                id=new_id(),
                user=user.name,
                name=name,
                role=ceiling,
                created_at=tx.now,
                expires_at=from_us(expires_us) if expires_us is not None else None,
                job_id=job_id,
            )
            tx.run(
                "INSERT INTO token (id, user_id, name, role, digest, created_us, expires_us, job_id) VALUES (?,?,?,?,?,?,?,?)",
                (token.id, user.id, name, ceiling, digest_of(secret), tx.now_us, expires_us, job_id),
            )
            tx.emit("token.created", f"user:{user.name}", actor, token=token.id, name=name, role=ceiling, job=job_id)
            return token

        return self._write(write), secret

    def tokens(self, user_name: str | None = None, *, limit: int = 100, after: str | None = None) -> list[Token]:
        """Tokens of people that are not revoked, or of one of them, newest first, from below the id `after`."""
        rows = self._db.all(
            "SELECT token.*, user.name AS user_name FROM token JOIN user ON user.id = token.user_id"
            " WHERE revoked_us IS NULL AND job_id IS NULL AND token.id < :after AND (:user IS NULL OR user.name = :user)"
            " ORDER BY token.id DESC LIMIT :limit",
            {"user": user_name, "after": after or "~", "limit": limit},
        )
        return [_token(row) for row in rows]

    def token(self, token_id: str) -> Token:
        """One token, without its secret; raises NotFound."""
        row = self._db.one(
            "SELECT token.*, user.name AS user_name FROM token JOIN user ON user.id = token.user_id WHERE token.id = ?",
            (token_id,),
        )
        if row is None:
            raise NotFound(f"There is no token {token_id[:80]!r}.", hint="`mlbox token ls` lists them.", field="token")
        return _token(row)

    def revoke(self, token_id: str, *, actor: str) -> None:
        """End a token, and the sessions that were begun with it; doing it again changes nothing."""
        token = self.token(token_id)

        def write(tx: Tx) -> None:
            done = tx.run("UPDATE token SET revoked_us = ? WHERE id = ? AND revoked_us IS NULL", (tx.now_us, token_id))
            if done.rowcount:
                tx.run("DELETE FROM session WHERE token_id = ?", (token_id,))
                tx.emit("token.revoked", f"user:{token.user}", actor, token=token_id, name=token.name)

        self._write(write)

    def create_job_tokens(self, users: Mapping[str, str], life: timedelta) -> dict[str, str]:
        """A token for each job's user, with one fsync; the secrets by job. A job whose user is gone gets none."""
        made: dict[str, str] = {}

        def write(tx: Tx) -> None:
            known = {row["name"]: row["id"] for row in tx.all("SELECT id, name FROM user")}
            expires_us = tx.now_us + life // timedelta(microseconds=1)
            for job_id in (job_id for job_id, user in users.items() if user in known):
                user, secret = users[job_id], make_secret()
                about = {"token": new_id(), "name": f"job {job_id}", "role": "admin", "job": job_id}
                tx.run(
                    "INSERT INTO token (id, user_id, name, role, digest, created_us, expires_us, job_id)"
                    " VALUES (:token,:user,:name,:role,:digest,:now,:expires,:job)",
                    {
                        **about,
                        "user": known[user],
                        "digest": digest_of(secret),
                        "now": tx.now_us,
                        "expires": expires_us,
                    },
                )
                tx.emit("token.created", f"user:{user}", "mlbox", **about)
                made[job_id] = secret

        self._db.write(write)
        return made

    def revoke_job_tokens(self, job_ids: Collection[str]) -> None:
        """End the tokens of jobs that have ended."""
        try:
            self._db.write(
                lambda tx: tx.many(
                    "UPDATE token SET revoked_us = ? WHERE job_id = ? AND revoked_us IS NULL",
                    [(tx.now_us, job_id) for job_id in job_ids],
                )
            )
        finally:
            self._drop_jobs(job_ids)

    def authenticate(self, secret: str, *, credential: bytes | None = None, user: str = "") -> Principal:
        """The holder of a bearer token; raises NotAuthenticated with the reason.

        A `credential`, the bytes that it came in, is remembered; a `user` must be the holder's name.
        """
        ticket = self._verified
        row = self._find_token(secret)
        principal = principal_of(row)
        if user and user != principal.name:
            raise NotAuthenticated(
                "The token is another user's.", hint="Send it with its own user's name, or with none."
            )
        now = self._clock.real()
        now_us = to_us(now)
        if row["used_us"] is None or now_us - row["used_us"] >= KEPT_US:
            self._db.submit(
                lambda tx: tx.run("UPDATE token SET used_us = ? WHERE id = ?", (now_us, row["id"])).rowcount
            )
        if credential is not None:
            until = from_us(row["expires_us"]) if row["expires_us"] is not None else now + KEPT
            self.remember(ticket, credential, principal, until)
        return principal

    def _find_token(self, secret: str) -> Row:
        # Looked up by its digest, in no constant time: how far an index compares tells of the digest of a guess and of stored
        # digests, and to choose guesses by their SHA-256 up to 256 bits is as hard as to guess the token.
        if secret.startswith("mlb_") and _with_checksum(secret[:-6]) != secret:
            raise NotAuthenticated("The token is damaged: its checksum does not fit.", hint="Copy it again.")
        row = self._db.one(
            "SELECT token.*, token.id AS token_id, user.name AS user_name, user.role AS user_role, user.disabled_us FROM token"
            " JOIN user ON user.id = token.user_id WHERE digest = ?",
            (digest_of(secret),),
        )
        if row is None:
            raise NotAuthenticated("The token is not known here.", hint="`mlbox login URL` stores a valid one.")
        if row["revoked_us"] is not None:
            raise NotAuthenticated("The token was revoked.", hint="Ask an admin for a new one.")
        if row["expires_us"] is not None and row["expires_us"] <= to_us(self._clock.real()):
            raise NotAuthenticated("The token has expired.", hint="Ask an admin for a new one.")
        if row["disabled_us"] is not None:
            raise NotAuthenticated("The account is disabled.", hint="Ask an admin to enable it.")
        return row

    def holder(self, user_name: str) -> Principal:
        """An account as it asks with its password; raises NotAuthenticated for one that is gone or disabled."""
        row = self._db.one("SELECT name, role FROM user WHERE name = ? AND disabled_us IS NULL", (user_name,))
        if row is None:
            raise NotAuthenticated("The account is disabled.", hint="Ask an admin to enable it.")
        return Principal(name=row["name"], role=row["role"])


def principal_of(row: Row) -> Principal:
    """Who asks, from a row of an account and, where there is one, the token that it asks with."""
    ceiling: Role = row["role"] or "admin"
    return Principal(
        name=row["user_name"],
        role=lower_of(ceiling, row["user_role"]),
        token_id=row["token_id"],
        job_id=row["job_id"],
        ceiling=ceiling,
    )


def _token(row: Row) -> Token:
    return Token(
        id=row["id"],
        user=row["user_name"],
        name=row["name"],
        role=row["role"],
        created_at=from_us(row["created_us"]),
        expires_at=from_us(row["expires_us"]) if row["expires_us"] is not None else None,
        used_at=from_us(row["used_us"]) if row["used_us"] is not None else None,
        job_id=row["job_id"],
    )
