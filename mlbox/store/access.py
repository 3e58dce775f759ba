"""How accounts get in: bearer tokens, one-time login links and browser sessions.

A secret is stored only as its SHA-256; it is shown once. A token is `mlb_`, 43 random characters and a 6-digit checksum
(CRC-32), so that a scanner can tell one without asking and a typing error is told from a revoked token.

A credential is looked up in SQLite once a minute at most: what was verified is kept in memory under a keyed hash, never as it was
sent. Every change of tokens, accounts or teams drops all of it (`changed`), so that what was revoked is refused by the very next
request. The look-up that follows puts its result into the table that it found when it began: one that read the state before the
change writes into a table that nobody reads any more.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import InvalidInput, NotAuthenticated, NotAuthorised, NotFound
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import BrowserSession, Event, Principal, Role, Token
from mlbox.store.accounts import Accounts, only_people
from mlbox.store.datadir import write_atomic
from mlbox.store.db import Database, Row, Tx
from mlbox.store.passwords import Passwords
from mlbox.store.roles import lower_of

LOGIN_LINK_LIFE = timedelta(minutes=30)
KEPT = timedelta(minutes=1)
"""How long a verified credential is taken without another look, and how exact last uses are."""
MOST_KEPT = 20_000
_KEPT_US = KEPT // timedelta(microseconds=1)
_LIFE = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_sha256 = hashlib.sha256
Verified = dict[bytes, tuple[Principal, datetime]]


def _digest(secret: str) -> bytes:
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


class Visit(NamedTuple):
    """Where a browser signs in from."""

    address: str = ""
    agent: str = ""


class Session(NamedTuple):
    """A signed-in browser: whose it is, the token that its forms must carry, and what a list calls it."""

    principal: Principal
    csrf: str
    id: str


class Access(Accounts):
    """Who may ask: the core behind every protocol's authentication."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        session_life: timedelta = timedelta(hours=12),
        session_most: timedelta = timedelta(days=7),
        passwords: Passwords | None = None,
        bus: EventBus | None = None,
    ) -> None:
        super().__init__(db, clock, passwords)
        self._session_life_us = session_life // timedelta(microseconds=1)
        self._session_most_us = session_most // timedelta(microseconds=1)
        self._key = secrets.token_bytes(32)
        self._verified: Verified = {}
        self._sessions: dict[bytes, tuple[Session, datetime]] = {}
        if bus is not None:
            bus.subscribe(self._on_event)

    # -- what was verified ------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Forget every verified credential and session: called after each change of tokens, accounts or teams."""
        self._verified, self._sessions = {}, {}

    def _on_event(self, event: Event) -> None:
        """Events come after the commit and before whoever made the change has an answer."""
        if event.type.startswith(("team.", "user.", "token.")):
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

    def bootstrap(self, root: Path) -> str:
        """Make sure of an admin and its token file; returns the admin's token."""
        path = root / "admin-token"
        if path.exists():
            return path.read_text().strip()
        if not self._db.one("SELECT 1 FROM user WHERE name = 'admin'"):
            self.create_user("admin", "admin", actor="mlbox")
        _, secret = self.create_token("admin", "admin-token", actor="mlbox")
        write_atomic(path, secret.encode() + b"\n")
        return secret

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
                created_at=from_us(tx.now_us),
                expires_at=from_us(expires_us) if expires_us is not None else None,
                job_id=job_id,
            )
            tx.run(
                "INSERT INTO token (id, user_id, name, role, digest, created_us, expires_us, job_id) VALUES (?,?,?,?,?,?,?,?)",
                (token.id, user.id, name, ceiling, _digest(secret), tx.now_us, expires_us, job_id),
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
                    {**about, "user": known[user], "digest": _digest(secret), "now": tx.now_us, "expires": expires_us},
                )
                tx.emit("token.created", f"user:{user}", "mlbox", **about)
                made[job_id] = secret

        self._write(write)
        return made

    def revoke_job_tokens(self, job_ids: Iterable[str]) -> None:
        """End the tokens of jobs that have ended."""
        self._write(
            lambda tx: tx.many(
                "UPDATE token SET revoked_us = ? WHERE job_id = ? AND revoked_us IS NULL",
                [(tx.now_us, job_id) for job_id in job_ids],
            )
        )

    def authenticate(self, secret: str, *, credential: bytes | None = None, user: str = "") -> Principal:
        """The holder of a bearer token; raises NotAuthenticated with the reason.

        A `credential`, the bytes that it came in, is remembered; a `user` must be the holder's name.
        """
        ticket = self._verified
        row = self._find_token(secret)
        principal = _principal(row)
        if user and user != principal.name:
            raise NotAuthenticated(
                "The token is another user's.", hint="Send it with its own user's name, or with none."
            )
        now = self._clock.real()
        now_us = to_us(now)
        if row["used_us"] is None or now_us - row["used_us"] >= _KEPT_US:
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
            (_digest(secret),),
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

    # -- browsers ---------------------------------------------------------------------------------------------------

    def create_login(self, user_name: str, *, actor: str = "mlbox") -> str:
        """The secret of a one-time login link."""
        user = self.user(user_name)
        only_people(user)
        secret = secrets.token_urlsafe(32)
        life = LOGIN_LINK_LIFE // timedelta(microseconds=1)

        def write(tx: Tx) -> None:
            tx.run("DELETE FROM login WHERE expires_us <= ?", (tx.now_us,))
            tx.run("INSERT INTO login VALUES (?,?,?)", (_digest(secret), user.id, tx.now_us + life))
            tx.emit("user.link", f"user:{user.name}", actor)

        self._write(write)
        return secret

    def redeem_login(self, secret: str, visit: Visit = Visit()) -> str:  # noqa: B008 - immutable
        """Turn a login link into a browser session's secret, once; raises NotAuthenticated."""

        def write(tx: Tx) -> str:
            row = tx.one("DELETE FROM login WHERE digest = ? RETURNING user_id, expires_us", (_digest(secret),))
            if row is None or row["expires_us"] <= tx.now_us:
                raise NotAuthenticated(
                    "The login link was used already or has expired.", hint="Sign in with a token instead."
                )
            return self._new_session(tx, row["user_id"], visit)

        return self._write(write)

    def sign_in(self, token_secret: str, visit: Visit = Visit(), *, user: str = "") -> str:  # noqa: B008
        """A browser session's secret for the holder of a token, which ends with it; raises NotAuthenticated."""
        principal = self.authenticate(token_secret, user=user)
        if principal.job_id is not None:
            raise NotAuthorised("A job's token opens no browser session.", hint="Use a token of your own.")
        account = self.user(principal.name)
        only_people(account)
        return self._write(lambda tx: self._new_session(tx, account.id, visit, principal.token_id))

    def sign_in_verified(self, user_name: str, password_hash: str, visit: Visit = Visit()) -> str:  # noqa: B008
        """A browser session's secret for who gave the password of this hash; raises NotAuthenticated when it changed since."""

        def write(tx: Tx) -> str:
            row = tx.one(
                "SELECT id FROM user WHERE name = ? AND password = ? AND disabled_us IS NULL",
                (user_name, password_hash),
            )
            if row is None:
                raise NotAuthenticated("The password was changed a moment ago.", hint="Sign in again.")
            return self._new_session(tx, row["id"], visit)

        return self._write(write)

    def _new_session(self, tx: Tx, user_id: str, visit: Visit, token_id: str | None = None) -> str:
        secret = secrets.token_urlsafe(32)
        now = tx.now_us
        tx.run("DELETE FROM session WHERE seen_us <= ?", (now - self._session_life_us,))
        tx.run("DELETE FROM session WHERE created_us <= ?", (now - self._session_most_us,))
        tx.run(
            "INSERT INTO session (digest, user_id, csrf, created_us, seen_us, token_id, address, agent) VALUES (?,?,?,?,?,?,?,?)",
            (_digest(secret), user_id, secrets.token_urlsafe(24), now, now, token_id, visit.address, visit.agent[:200]),
        )
        return secret

    def session(self, secret: str) -> Session | None:
        """The session that a cookie names, or None when there is none, or it was idle or lasted too long."""
        digest, kept = _digest(secret), self._sessions
        known, now = kept.get(digest), self._clock.real()
        if known is not None and now < known[1]:
            return known[0]
        row = self._db.one(
            "SELECT session.*, user.name AS user_name, user.role AS user_role, user.disabled_us, token.role, token.revoked_us,"
            " token.expires_us, NULL AS job_id FROM session JOIN user ON user.id = session.user_id"
            " LEFT JOIN token ON token.id = session.token_id WHERE session.digest = ?",
            (digest,),
        )
        now_us = to_us(now)
        if row is None or row["disabled_us"] is not None or row["revoked_us"] is not None:
            return None
        end_us = self._end_of(row)
        if end_us <= now_us:
            return None
        if now_us - row["seen_us"] >= _KEPT_US:
            self._db.submit(
                lambda tx: tx.run("UPDATE session SET seen_us = ? WHERE digest = ?", (now_us, digest)).rowcount
            )
        found = Session(_principal(row), row["csrf"], _session_id(digest))
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[digest] = (found, min(from_us(end_us), now + KEPT))
        return found

    def _end_of(self, row: Row) -> int:
        """When a session ends if it is not used, in microseconds."""
        end: int = min(row["seen_us"] + self._session_life_us, row["created_us"] + self._session_most_us)
        return end if row["expires_us"] is None else min(end, row["expires_us"])

    def sessions(self, user_name: str) -> list[BrowserSession]:
        """An account's open sessions, the last used first."""
        rows = self._db.all(
            "SELECT session.*, token.name AS token_name, token.revoked_us, token.expires_us FROM session"
            " JOIN user ON user.id = session.user_id LEFT JOIN token ON token.id = session.token_id"
            " WHERE user.name = ? ORDER BY seen_us DESC, digest",
            (user_name,),
        )
        now_us = to_us(self._clock.real())
        return [
            BrowserSession(
                id=_session_id(row["digest"]),
                created_at=from_us(row["created_us"]),
                seen_at=from_us(row["seen_us"]),
                expires_at=from_us(self._end_of(row)),
                address=row["address"],
                agent=row["agent"],
                token=row["token_name"],
            )
            for row in rows
            if self._end_of(row) > now_us
        ]

    def end_session(self, user_name: str, session_id: str) -> None:
        """End one session of an account; raises NotFound."""
        done = self._write(
            lambda tx: (
                tx.run(
                    "DELETE FROM session WHERE lower(substr(hex(digest), 1, 32)) = ?"
                    " AND user_id = (SELECT id FROM user WHERE name = ?)",
                    (session_id, user_name),
                ).rowcount
            )
        )
        if not done:
            raise NotFound(f"There is no session {session_id[:80]!r} of yours.", hint="It has ended.", field="session")

    def sign_out(self, secret: str) -> None:
        """End one browser session."""
        self._write(lambda tx: tx.run("DELETE FROM session WHERE digest = ?", (_digest(secret),)).rowcount)

    def begin_session(self, user_name: str, visit: Visit = Visit()) -> str:  # noqa: B008
        """A browser session's secret for whom a sign-in provider vouches; raises NotAuthorised for a disabled account."""

        def write(tx: Tx) -> str:
            row = tx.one("SELECT id FROM user WHERE name = ? AND kind = 'person' AND disabled_us IS NULL", (user_name,))
            if row is None:
                raise NotAuthorised(f"The account {user_name} may not sign in.", hint="Ask an admin to enable it.")
            return self._new_session(tx, row["id"], visit)

        return self._write(write)


def _session_id(digest: bytes) -> str:
    """Half of the secret's digest: it names a session and opens none."""
    return digest.hex()[:32]


def _principal(row: Row) -> Principal:
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
