"""Accounts: people and services, their state and their passwords.

Whatever changes an account ends here: `_write` runs a change and then calls `changed`, upon which nothing that was verified
before counts any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mlbox.clock import Clock, from_us
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, NotAuthorised, NotFound, suggest
from mlbox.ids import new_id
from mlbox.records import AccountKind, Role, User, check_name
from mlbox.store.access.passwords import Passwords
from mlbox.store.db import Database, Row, Tx

T = TypeVar("T")


class Accounts:
    """Who there is. `Access` adds how they get in."""

    def __init__(self, db: Database, clock: Clock, passwords: Passwords | None) -> None:
        self._db = db
        self._clock = clock
        self.passwords = passwords or Passwords()

    def changed(self) -> None:
        """Forget what was verified: called after every change of who may do what, before whoever made it has an answer."""

    def _write(self, change: Callable[[Tx], T]) -> T:
        try:
            return self._db.write(change)
        finally:
            self.changed()

    def close(self) -> None:
        """End the threads that hash passwords."""
        self.passwords.close()

    # -- accounts ---------------------------------------------------------------------------------------------------

    def create_user(self, name: str, role: Role, *, actor: str, kind: AccountKind = "person") -> User:
        """Add an account; raises AlreadyExists."""
        check_name(name)

        def write(tx: Tx) -> User:
            if tx.one("SELECT 1 FROM user WHERE name = ?", (name,)):
                raise AlreadyExists(f"A user named {name!r} exists already.", hint="Choose another name.", field="name")
            user = User(id=new_id(), name=name, role=role, created_at=tx.now, kind=kind)
            tx.run(
                "INSERT INTO user (id, name, role, created_us, kind) VALUES (?,?,?,?,?)",
                (user.id, name, role, tx.now_us, kind),
            )
            tx.emit("user.created", f"user:{name}", actor, role=role, kind=kind)
            return user

        return self._write(write)

    def users(self) -> list[User]:
        """All accounts, by name."""
        return [_user(row) for row in self._db.all("SELECT * FROM user ORDER BY name")]

    def user(self, name: str) -> User:
        """One account; raises NotFound."""
        return _user(_known(self._db, name))

    def disable(self, name: str, *, actor: str) -> User:
        """Let none of an account's credentials work; raises Conflict for the last admin. Its tokens come back with `enable`."""

        def write(tx: Tx) -> None:
            user = _known(tx, name)
            if user["disabled_us"] is not None:
                return
            others = tx.one("SELECT 1 FROM user WHERE role = 'admin' AND disabled_us IS NULL AND name <> ?", (name,))
            if user["role"] == "admin" and others is None:
                raise Conflict(f"{name} is the only admin of the box.", hint="Make another admin first.")
            tx.run("UPDATE user SET disabled_us = ? WHERE id = ?", (tx.now_us, user["id"]))
            end_sessions(tx, user["id"])
            tx.emit("user.disabled", f"user:{name}", actor)

        self._write(write)
        return self.user(name)

    def enable(self, name: str, *, actor: str) -> User:
        """Let an account's tokens and password work again; its sessions have ended."""

        def write(tx: Tx) -> None:
            user = _known(tx, name)
            if user["disabled_us"] is not None:
                tx.run("UPDATE user SET disabled_us = NULL WHERE id = ?", (user["id"],))
                tx.emit("user.enabled", f"user:{name}", actor)

        self._write(write)
        return self.user(name)

    def note(self, type: str, subject: str, actor: str, **data: Any) -> None:
        """Write an event that is about the whole box into the audit log."""
        self._db.write(lambda tx: tx.emit(type, subject, actor, **data))

    # -- passwords --------------------------------------------------------------------------------------------------

    def password_hash(self, name: str) -> str | None:
        """The stored hash of an account that may sign in; None for one that is unknown, disabled or has none."""
        row = self._db.one("SELECT password FROM user WHERE name = ? AND disabled_us IS NULL", (name,))
        return row["password"] if row is not None else None

    def set_password(
        self, name: str, new: str, *, former: str | None, actor: str, keep_session: str | None = None
    ) -> None:
        """Store a hash in place of the one that `former` says, and end the account's other sessions and login links.

        Raises Conflict when the password was changed meanwhile, and InvalidInput for a service.
        """

        def write(tx: Tx) -> None:
            user = _known(tx, name)
            if user["kind"] == "service":
                raise InvalidInput(
                    f"{name} is a service, which has tokens only.", hint="`mlbox token create` makes one."
                )
            if user["password"] != former:
                raise Conflict(f"The password of {name} was changed meanwhile.", hint="Sign in with it.")
            tx.run("UPDATE user SET password = ? WHERE id = ?", (new, user["id"]))
            end_sessions(tx, user["id"], keep=keep_session)
            tx.emit("user.password", f"user:{name}", actor, first=former is None)

        self._write(write)

    def remove_password(self, name: str, *, actor: str) -> None:
        """Take a forgotten password away, with the sessions; doing it again changes nothing."""

        def write(tx: Tx) -> None:
            user = _known(tx, name)
            if user["password"] is not None:
                tx.run("UPDATE user SET password = NULL WHERE id = ?", (user["id"],))
                end_sessions(tx, user["id"])
                tx.emit("user.password_removed", f"user:{name}", actor)

        self._write(write)

    def sign_out_everywhere(self, name: str, *, actor: str, keep_session: str | None = None) -> int:
        """End an account's sessions and login links, but for one; returns how many sessions ended."""

        def write(tx: Tx) -> int:
            user = _known(tx, name)
            ended = end_sessions(tx, user["id"], keep=keep_session)
            if ended:
                tx.emit("user.signed_out", f"user:{name}", actor, sessions=ended)
            return ended

        return self._write(write)


def end_sessions(tx: Tx, user_id: str, *, keep: str | None = None) -> int:
    """Delete an account's login links and its sessions, but for the one with the id `keep`; how many sessions those were."""
    tx.run("DELETE FROM login WHERE user_id = ?", (user_id,))
    return tx.run(
        "DELETE FROM session WHERE user_id = ? AND lower(hex(digest)) NOT LIKE ?", (user_id, f"{keep or '-'}%")
    ).rowcount


def only_people(user: User) -> None:
    """Raise NotAuthorised for an account that does not use browsers."""
    if user.kind == "service":
        raise NotAuthorised(
            f"{user.name} is a service, which has no browser session.", hint="Sign in as yourself, or send its token."
        )
    if user.disabled_at is not None:
        raise NotAuthorised(f"The account {user.name} is disabled.", hint="Ask an admin to enable it.")


def _known(file: Database | Tx, name: str) -> Row:
    row = file.one("SELECT * FROM user WHERE name = ?", (name,))
    if row is None:
        raise no_user(file, name)
    return row


def no_user(file: Database | Tx, name: str) -> NotFound:
    """What is raised for a user that there is not."""
    names = [row["name"] for row in file.all("SELECT name FROM user ORDER BY name LIMIT 1000")]
    hint = suggest(name, names, otherwise="`mlbox user ls` lists them.")
    return NotFound(f"There is no user {name[:80]!r}.", hint=hint, field="user")


def _user(row: Row) -> User:
    return User(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        created_at=from_us(row["created_us"]),
        kind=row["kind"],
        disabled_at=from_us(row["disabled_us"]) if row["disabled_us"] is not None else None,
    )
