"""Identities: which account a person of a sign-in provider is, and what their groups there give them here.

A person is known by issuer and subject, which a provider never gives to another. An account is never found by an e-mail address
or a name: both change hands, and at some providers anyone may choose them. So the first sign-in makes an account; where its name
is taken already, an admin must say that the two are one (`link`).

The teams that the mapping names are the provider's to fill: at each sign-in its groups decide who is in them, and in which role.
All other teams stay as they were made by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, get_args

from mlbox.clock import from_us
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, NotAuthorised, NotFound
from mlbox.records import NAME, Identity, Role, User, check_name
from mlbox.store.access.access import Access, Visit
from mlbox.store.access.accounts import only_people
from mlbox.store.access.roles import ROLES
from mlbox.store.access.teams import EVERYONE, Teams
from mlbox.store.db import Database, Row, Tx

ACTOR = "oidc"
"""Who the audit log says changed a membership after the provider's groups."""
RESERVED = frozenset({ACTOR, EVERYONE, "mlbox", "token"})
"""Names that mean something else in the audit log or in credentials."""
_ROLES: tuple[Role, ...] = get_args(Role)
_MOST_SUBJECT = 255
"""OpenID Connect Core 1.0, section 2: no longer than 255 ASCII characters."""


class Grant(NamedTuple):
    """One entry of the setting `oidc_groups`: what members of a group at the provider are here."""

    group: str
    team: str
    role: Role


class GroupMap:
    """The whole of `oidc_groups`, and the role of those whom it leaves out (`oidc_default_role`; empty: they stay out)."""

    def __init__(self, entries: Iterable[str], default_role: str = "") -> None:
        self._grants = [_grant(entry) for entry in entries]
        if default_role and default_role not in ROLES:
            raise InvalidInput(
                f"The setting oidc_default_role is {default_role[:80]!r}.",
                hint=f"Leave it empty, or use one of {', '.join(ROLES)}.",
                field="oidc_default_role",
            )
        self._default: Role | None = default_role or None
        self.teams = frozenset(grant.team for grant in self._grants)
        """The teams that the provider fills."""

    def roles(self, groups: Iterable[str]) -> dict[str, Role] | None:
        """The role in each team for someone in these groups, `everyone` always among them; None for who must stay out."""
        held = set(groups)
        found: dict[str, Role] = {EVERYONE: self._default} if self._default else {}
        for grant in self._grants:
            if grant.group in held:
                found[grant.team] = max(found.get(grant.team, grant.role), grant.role, key=ROLES.index)
        return {EVERYONE: "viewer", **found} if found else None


def _grant(entry: str) -> Grant:
    group, _, place = entry.rpartition("=")
    team, _, role = place.rpartition(":")
    if not group.strip() or role not in _ROLES or not NAME.fullmatch(team) or "." in team:
        raise InvalidInput(
            f"The entry {entry[:200]!r} of the setting oidc_groups says no group, team and role.",
            hint=f"Write it like ml-engineers=vision:member; the role is one of {', '.join(ROLES)}.",
            field="oidc_groups",
        )
    return Grant(group.strip(), team, role)


class Person(NamedTuple):
    """Who a provider says has signed in, and what for."""

    issuer: str
    subject: str
    name: str
    """What to call an account that has to be made."""
    roles: Mapping[str, Role] | None
    """By team, `everyone` among them; None for who must stay out."""


class Identities:
    """The people of sign-in providers, and whose account each uses."""

    def __init__(self, db: Database, access: Access, teams: Teams) -> None:
        self._db = db
        self._access = access
        self._teams = teams

    # -- signing in -------------------------------------------------------------------------------------------------

    def sign_in(self, person: Person, managed: frozenset[str], visit: Visit = Visit()) -> str:  # noqa: B008
        """A browser session's secret for a person whom a provider vouches for; makes the account the first time.

        `managed` are the teams that the provider fills. Raises NotAuthorised for who must stay out, AlreadyExists where the
        name is another's.
        """
        name = self.user_of(person.issuer, person.subject)
        if name is not None:
            only_people(self._access.user(name))
        if person.roles is None:
            if name is not None:
                self._shut_out(name, managed)
            raise NotAuthorised(
                "None of your groups at the provider gives access to this server.",
                hint="Ask an admin: the setting oidc_groups says which do.",
            )
        if name is None:
            name = self._first(person, person.roles).name
        self._place(name, person.roles, managed)
        return self._access.begin_session(name, visit)

    def _first(self, person: Person, roles: Mapping[str, Role]) -> User:
        name = account_name(person.name)
        if name in RESERVED or self._is_taken(name):
            raise AlreadyExists(
                f"The name {name} is another account's here, and single sign-on never takes over an account by its name.",
                hint=f"If it is yours, an admin can link it: mlbox identity link {name} {person.subject}",
                field="name",
            )
        # Two steps: a server that ends in between leaves an account without an identity, which an admin can link.
        user = self._access.create_user(name, roles[EVERYONE], actor=ACTOR)
        self._bind(user, person.issuer, person.subject, ACTOR)
        return user

    def _is_taken(self, name: str) -> bool:
        return self._db.one("SELECT 1 FROM user WHERE lower(name) = ?", (name,)) is not None

    def _place(self, name: str, roles: Mapping[str, Role], managed: frozenset[str]) -> None:
        """Make the teams that the provider fills what it says; those that are missing are made."""
        held = self._teams.memberships(name)
        if EVERYONE in managed and self._access.user(name).role != roles[EVERYONE]:
            self._teams.add_member(EVERYONE, name, roles[EVERYONE], actor=ACTOR)
        known = {team.name for team in self._teams.teams()}
        for team in sorted(managed - {EVERYONE}):
            role = roles.get(team)
            if role is None:
                if team in held:
                    self._teams.remove_member(team, name, actor=ACTOR)
            elif held.get(team) != role:
                if team not in known:
                    self._teams.create(team, actor=ACTOR)
                self._teams.add_member(team, name, role, actor=ACTOR)

    def _shut_out(self, name: str, managed: frozenset[str]) -> None:
        """Take away what the provider gave, and end the browser sessions; tokens keep what the account still may."""
        self._access.sign_out_everywhere(name, actor=ACTOR)
        self._place(name, {EVERYONE: "viewer"}, managed)

    # -- by hand ----------------------------------------------------------------------------------------------------

    def user_of(self, issuer: str, subject: str) -> str | None:
        """The name of the account that a person uses; None before their first sign-in."""
        row = self._db.one(
            "SELECT user.name FROM identity JOIN user ON user.id = identity.user_id WHERE issuer = ? AND subject = ?",
            (issuer, subject),
        )
        return row["name"] if row is not None else None

    def identities(self) -> Sequence[Identity]:
        """All of them, by the account's name."""
        rows = self._db.all(
            "SELECT identity.*, user.name FROM identity JOIN user ON user.id = identity.user_id ORDER BY name, issuer, subject"
        )
        return [_identity(row) for row in rows]

    def link(self, user: str, issuer: str, subject: str, *, actor: str) -> Identity:
        """Let a person of a provider use an account that is there already; raises Conflict when they use another."""
        account = self._access.user(user)
        only_people(account)
        check_subject(subject)
        return self._bind(account, issuer, subject, actor)

    def unlink(self, issuer: str, subject: str, *, actor: str) -> None:
        """Take an identity off its account and end the account's sessions; raises NotFound."""

        def write(tx: Tx) -> str:
            row = tx.one(
                "SELECT user.name FROM identity JOIN user ON user.id = identity.user_id WHERE issuer = ? AND subject = ?",
                (issuer, subject),
            )
            if row is None:
                raise NotFound(
                    f"There is no identity {subject[:255]!r}.", hint="`mlbox identity ls` lists them.", field="subject"
                )
            tx.run("DELETE FROM identity WHERE issuer = ? AND subject = ?", (issuer, subject))
            tx.emit("user.unlinked", f"user:{row['name']}", actor, issuer=issuer, sub=subject)
            name: str = row["name"]
            return name

        self._access.sign_out_everywhere(self._db.write(write), actor=actor)

    def _bind(self, user: User, issuer: str, subject: str, actor: str) -> Identity:
        def write(tx: Tx) -> Identity:
            row = tx.one(
                "SELECT identity.*, user.name FROM identity JOIN user ON user.id = identity.user_id"
                " WHERE issuer = ? AND subject = ?",
                (issuer, subject),
            )
            if row is None:
                tx.run(
                    "INSERT INTO identity (issuer, subject, user_id, created_us) VALUES (?,?,?,?)",
                    (issuer, subject, user.id, tx.now_us),
                )
                tx.emit("user.linked", f"user:{user.name}", actor, issuer=issuer, sub=subject)
                return Identity(user=user.name, issuer=issuer, subject=subject, created_at=tx.now)
            if row["name"] != user.name:
                raise Conflict(
                    f"This person uses the account {row['name']} already.",
                    hint=f"Unlink it first: mlbox identity unlink {subject[:_MOST_SUBJECT]}",
                )
            return _identity(row)

        return self._db.write(write)


def account_name(claimed: str) -> str:
    """An account's name from what a provider calls a person: what stands before the @, in small letters; raises InvalidInput."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", claimed.partition("@")[0].strip().lower()).strip("-._")
    if not plain:
        raise InvalidInput(
            f"The provider's name for you, {claimed[:80]!r}, makes no account name here.",
            hint="Ask an admin to choose another claim with the setting oidc_name_claim.",
            field="name",
        )
    return check_name(plain)


def check_subject(subject: str) -> str:
    """A subject as the standard has it; raises InvalidInput."""
    if not 0 < len(subject) <= _MOST_SUBJECT or not subject.isascii() or not subject.isprintable():
        raise InvalidInput(
            f"The subject {subject[:80]!r} is not 1 to {_MOST_SUBJECT} printable ASCII characters.",
            hint="It is the claim `sub` of the provider, not a name.",
            field="subject",
        )
    return subject


def _identity(row: Row) -> Identity:
    return Identity(
        user=row["name"], issuer=row["issuer"], subject=row["subject"], created_at=from_us(row["created_us"])
    )
