"""Users, bearer tokens, one-time login links and browser sessions.

A secret is stored only as its SHA-256; it is shown once. A token is `mlb_`, 43 random characters and a 6-digit checksum
(CRC-32), so that a scanner can tell one without asking and a typing error is told from a revoked token.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import AlreadyExists, NotAuthenticated, NotFound
from mlbox.ids import new_id
from mlbox.records import Principal, Role, Token, User, check_name
from mlbox.store.datadir import write_atomic
from mlbox.store.db import Database, Row, Tx

ROLES: tuple[Role, ...] = ("viewer", "member", "approver", "admin")
"""From least to most: each may do what those before it may."""
LOGIN_LINK_LIFE = timedelta(minutes=30)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _with_checksum(body: str) -> str:
    return f"{body}{zlib.crc32(body.encode()) & 0xFFFFFF:06x}"


def make_secret() -> str:
    """A new bearer token."""
    return _with_checksum("mlb_" + secrets.token_urlsafe(32))


def lower_of(a: Role, b: Role) -> Role:
    """The role that may do less."""
    return min(a, b, key=ROLES.index)


class Session:
    """A signed-in browser: whose it is and the token that its forms must carry."""

    def __init__(self, principal: Principal, csrf: str) -> None:
        self.principal = principal
        self.csrf = csrf


class Access:
    """Who may ask: the core behind every protocol's authentication."""

    def __init__(self, db: Database, clock: Clock, *, session_life: timedelta = timedelta(hours=12)) -> None:
        self._db = db
        self._clock = clock
        self._session_life_us = session_life // timedelta(microseconds=1)

    # -- users ------------------------------------------------------------------------------------------------------

    def create_user(self, name: str, role: Role, *, actor: str) -> User:
        """Add a user; raises AlreadyExists."""
        check_name(name)

        def write(tx: Tx) -> User:
            if tx.one("SELECT 1 FROM user WHERE name = ?", (name,)):
                raise AlreadyExists(f"A user named {name!r} exists already.", hint="Choose another name.", field="name")
            user = User(id=new_id(), name=name, role=role, created_at=from_us(tx.now_us))
            tx.run("INSERT INTO user VALUES (?,?,?,?)", (user.id, name, role, tx.now_us))
            tx.emit("user.created", f"user:{name}", actor, role=role)
            return user

        return self._db.write(write)

    def users(self) -> list[User]:
        """All users, by name."""
        return [_user(row) for row in self._db.all("SELECT * FROM user ORDER BY name")]

    def user(self, name: str) -> User:
        """One user; raises NotFound."""
        row = self._db.one("SELECT * FROM user WHERE name = ?", (name,))
        if row is None:
            raise NotFound(f"There is no user {name!r}.", hint="`mlbox user ls` lists them.", field="user")
        return _user(row)

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

    def note(self, type: str, subject: str, actor: str, **data: Any) -> None:
        """Write an event that is about the whole box into the audit log."""
        self._db.write(lambda tx: tx.emit(type, subject, actor, **data))

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
        """A new token and its secret, which is never shown again. `role` caps what the token may do."""
        user = self.user(user_name)
        secret = make_secret()
        capped = lower_of(role or user.role, user.role)

        def write(tx: Tx) -> Token:
            expires_us = tx.now_us + life // timedelta(microseconds=1) if life else None
            token = Token(
                id=new_id(),
                user=user.name,
                name=name,
                role=capped,
                created_at=from_us(tx.now_us),
                expires_at=from_us(expires_us) if expires_us is not None else None,
                job_id=job_id,
            )
            tx.run(
                "INSERT INTO token (id, user_id, name, role, digest, created_us, expires_us, job_id) VALUES (?,?,?,?,?,?,?,?)",
                (token.id, user.id, name, capped, _digest(secret), tx.now_us, expires_us, job_id),
            )
            tx.emit("token.created", f"user:{user.name}", actor, token=token.id, name=name, role=capped)
            return token

        return self._db.write(write), secret

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
        """End a token; doing it again changes nothing."""
        token = self.token(token_id)

        def write(tx: Tx) -> None:
            done = tx.run("UPDATE token SET revoked_us = ? WHERE id = ? AND revoked_us IS NULL", (tx.now_us, token_id))
            if done.rowcount:
                tx.emit("token.revoked", f"user:{token.user}", actor, token=token_id, name=token.name)

        self._db.write(write)

    def revoke_job_tokens(self, job_id: str) -> None:
        """End the tokens of a job that has ended."""
        self._db.write(
            lambda tx: (
                tx.run(
                    "UPDATE token SET revoked_us = ? WHERE job_id = ? AND revoked_us IS NULL",
                    (tx.now_us, job_id),
                ).rowcount
            )
        )

    def authenticate(self, secret: str) -> Principal:
        """The holder of a bearer token; raises NotAuthenticated with the reason."""
        if secret.startswith("mlb_") and _with_checksum(secret[:-6]) != secret:
            raise NotAuthenticated("The token is damaged: its checksum does not fit.", hint="Copy it again.")
        row = self._db.one(
            "SELECT token.*, user.name AS user_name, user.role AS user_role FROM token JOIN user ON user.id = token.user_id"
            " WHERE digest = ?",
            (_digest(secret),),
        )
        if row is None:
            raise NotAuthenticated("The token is not known here.", hint="`mlbox login URL` stores a valid one.")
        if row["revoked_us"] is not None:
            raise NotAuthenticated("The token was revoked.", hint="Ask an admin for a new one.")
        if row["expires_us"] is not None and row["expires_us"] <= to_us(self._clock.real()):
            raise NotAuthenticated("The token has expired.", hint="Ask an admin for a new one.")
        return Principal(
            name=row["user_name"],
            role=lower_of(row["role"], row["user_role"]),
            token_id=row["id"],
            job_id=row["job_id"],
        )

    # -- browsers ---------------------------------------------------------------------------------------------------

    def create_login(self, user_name: str) -> str:
        """The secret of a one-time login link."""
        user = self.user(user_name)
        secret = secrets.token_urlsafe(32)
        life = LOGIN_LINK_LIFE // timedelta(microseconds=1)
        self._db.write(
            lambda tx: tx.run("INSERT INTO login VALUES (?,?,?)", (_digest(secret), user.id, tx.now_us + life)).rowcount
        )
        return secret

    def redeem_login(self, secret: str) -> str:
        """Turn a login link into a browser session's secret, once; raises NotAuthenticated."""

        def write(tx: Tx) -> str:
            row = tx.one("DELETE FROM login WHERE digest = ? RETURNING user_id, expires_us", (_digest(secret),))
            if row is None or row["expires_us"] <= tx.now_us:
                raise NotAuthenticated(
                    "The login link was used already or has expired.", hint="Sign in with a token instead."
                )
            return _new_session(tx, row["user_id"])

        return self._db.write(write)

    def sign_in(self, token_secret: str) -> str:
        """A browser session's secret for the holder of a token; raises NotAuthenticated."""
        principal = self.authenticate(token_secret)
        user = self.user(principal.name)
        return self._db.write(lambda tx: _new_session(tx, user.id))

    def session(self, secret: str) -> Session | None:
        """The session that a cookie names, or None when there is none or it was idle too long."""
        row = self._db.one(
            "SELECT session.*, user.name, user.role FROM session JOIN user ON user.id = session.user_id WHERE digest = ?",
            (_digest(secret),),
        )
        now_us = to_us(self._clock.real())
        if row is None or row["seen_us"] + self._session_life_us <= now_us:
            return None
        if now_us - row["seen_us"] > 60_000_000:
            self._db.submit(
                lambda tx: tx.run("UPDATE session SET seen_us = ? WHERE digest = ?", (now_us, _digest(secret)))
            )
        return Session(Principal(name=row["name"], role=row["role"]), row["csrf"])

    def sign_out(self, secret: str) -> None:
        """End one browser session."""
        self._db.write(lambda tx: tx.run("DELETE FROM session WHERE digest = ?", (_digest(secret),)).rowcount)


def _new_session(tx: Tx, user_id: str) -> str:
    secret = secrets.token_urlsafe(32)
    tx.run(
        "INSERT INTO session VALUES (?,?,?,?,?)",
        (_digest(secret), user_id, secrets.token_urlsafe(24), tx.now_us, tx.now_us),
    )
    return secret


def _user(row: Row) -> User:
    return User(id=row["id"], name=row["name"], role=row["role"], created_at=from_us(row["created_us"]))


def _token(row: Row) -> Token:
    return Token(
        id=row["id"],
        user=row["user_name"],
        name=row["name"],
        role=row["role"],
        created_at=from_us(row["created_us"]),
        expires_at=from_us(row["expires_us"]) if row["expires_us"] is not None else None,
        job_id=row["job_id"],
    )
