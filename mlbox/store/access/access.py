"""How accounts get in: by their tokens, one-time login links and browser sessions."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import NotAuthenticated, NotAuthorised, NotFound
from mlbox.events import EventBus
from mlbox.records import BrowserSession, Principal
from mlbox.store.access.accounts import only_people
from mlbox.store.access.passwords import Passwords
from mlbox.store.access.tokens import KEPT, KEPT_US, MOST_KEPT, Tokens, digest_of, principal_of
from mlbox.store.datadir import write_atomic
from mlbox.store.db import Database, Row, Tx

LOGIN_LINK_LIFE = timedelta(minutes=30)


class Visit(NamedTuple):
    """Where a browser signs in from."""

    address: str = ""
    agent: str = ""


class Session(NamedTuple):
    """A signed-in browser: whose it is, the token that its forms must carry, and what a list calls it."""

    principal: Principal
    csrf: str
    id: str


class Access(Tokens):
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
        super().__init__(db, clock, passwords=passwords, bus=bus)
        self._session_life_us = session_life // timedelta(microseconds=1)
        self._session_most_us = session_most // timedelta(microseconds=1)
        self._sessions: dict[bytes, tuple[Session, datetime]] = {}

    def changed(self) -> None:
        """Forget every verified credential and session: called after each change of tokens, accounts or teams."""
        super().changed()
        self._sessions = {}

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

    # -- browsers ---------------------------------------------------------------------------------------------------

    def create_login(self, user_name: str, *, actor: str = "mlbox") -> str:
        """The secret of a one-time login link."""
        user = self.user(user_name)
        only_people(user)
        secret = secrets.token_urlsafe(32)
        life = LOGIN_LINK_LIFE // timedelta(microseconds=1)

        def write(tx: Tx) -> None:
            tx.run("DELETE FROM login WHERE expires_us <= ?", (tx.now_us,))
            tx.run("INSERT INTO login VALUES (?,?,?)", (digest_of(secret), user.id, tx.now_us + life))
            tx.emit("user.link", f"user:{user.name}", actor)

        self._write(write)
        return secret

    def redeem_login(self, secret: str, visit: Visit = Visit()) -> str:  # noqa: B008 - immutable
        """Turn a login link into a browser session's secret, once; raises NotAuthenticated."""

        def write(tx: Tx) -> str:
            row = tx.one("DELETE FROM login WHERE digest = ? RETURNING user_id, expires_us", (digest_of(secret),))
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
            (
                digest_of(secret),
                user_id,
                secrets.token_urlsafe(24),
                now,
                now,
                token_id,
                visit.address,
                visit.agent[:200],
            ),
        )
        return secret

    def session(self, secret: str) -> Session | None:
        """The session that a cookie names, or None when there is none, or it was idle or lasted too long."""
        digest, kept = digest_of(secret), self._sessions
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
        if now_us - row["seen_us"] >= KEPT_US:
            self._db.submit(
                lambda tx: tx.run("UPDATE session SET seen_us = ? WHERE digest = ?", (now_us, digest)).rowcount
            )
        found = Session(principal_of(row), row["csrf"], _session_id(digest))
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
        self._write(lambda tx: tx.run("DELETE FROM session WHERE digest = ?", (digest_of(secret),)).rowcount)

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
