"""Teams: who belongs to them, what they own, and what of it only they see.

A team owns what its name begins: `vision.flights` is the team vision's, and what begins with no team's name belongs to
`everyone`, the team of every account, in which an account has its own role. So ownership needs no second record that could
disagree with the first, names are unique per team in every protocol, and nobody can find out by choosing a name whether a
private object has it: in another team's namespace every name is refused alike.

Who asks is known by a context variable, which the web sets for each request and carries to the threads that work for it.
Every SQLite reader has the function `visible(kind, name)`, and the stores' queries use it, so what is private is as good as
absent for others, whichever adapter asks. Where nobody asks (the scheduler, the gates, the monitor) everything is seen.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple, get_args

from mlbox.clock import from_us
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, NotAuthorised, NotFound, suggest
from mlbox.records import Kind, Member, Principal, Role, Team, check_name
from mlbox.store import asking
from mlbox.store.access.accounts import no_user
from mlbox.store.access.roles import ACTIONS, ROLES, at_least, lower_of
from mlbox.store.db import Database, Row, Tx

EVERYONE = "everyone"
KINDS: tuple[Kind, ...] = get_args(Kind)


class _State(NamedTuple):
    """All that is asked on every request, in memory; replaced as a whole by each change."""

    teams: frozenset[str] = frozenset()
    roles: dict[str, dict[str, Role]] = {}
    """By user, then by team."""
    private: frozenset[tuple[Kind, str]] = frozenset()
    """Kind and name."""


class Teams:
    """The teams of one box."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._state = _State()
        self._reload()

    # -- who is in a team -------------------------------------------------------------------------------------------

    def create(self, name: str, *, actor: str) -> Team:
        """Add a team. From then on it owns whatever has a name that begins with its own and a dot."""
        check_name(name, field="team")
        if "." in name or "@" in name:
            raise InvalidInput(f"The team's name {name!r} has a dot.", hint="A dot ends a team's name.", field="team")

        def write(tx: Tx) -> None:
            if name == EVERYONE or tx.one("SELECT 1 FROM team WHERE name = ?", (name,)):
                raise AlreadyExists(f"A team named {name!r} exists already.", hint="Choose another.", field="team")
            tx.run("INSERT INTO team (name, created_us) VALUES (?,?)", (name, tx.now_us))
            tx.emit("team.created", f"team:{name}", actor)

        self._write(write)
        return self.team(name)

    def teams(self) -> list[Team]:
        """All teams by name, the one of every account first."""
        rows = self._db.all("SELECT * FROM team ORDER BY name")
        return [Team(name=EVERYONE, members=self._everyone()), *(self._team(row) for row in rows)]

    def team(self, name: str) -> Team:
        """One team; raises NotFound."""
        if name == EVERYONE:
            return self.teams()[0]
        row = self._db.one("SELECT * FROM team WHERE name = ?", (name,))
        if row is None:
            raise _no_team(self._db, name)
        return self._team(row)

    def require_known(self, name: str) -> None:
        """Raise NotFound where there is no such team."""
        if name != EVERYONE and name not in self._state.teams:
            raise _no_team(self._db, name)

    def remove(self, name: str, *, actor: str) -> None:
        """Take a team away; raises Conflict while something of it is private, which everyone would then see."""

        def write(tx: Tx) -> None:
            _check_known(tx, name)
            hidden = tx.one("SELECT name FROM private WHERE name LIKE ? ESCAPE '!' LIMIT 1", (_like(name),))
            if hidden is not None:
                raise Conflict(
                    f"The team {name} has private objects, such as {hidden['name']}.", hint="Share them first."
                )
            tx.run("DELETE FROM membership WHERE team = ?", (name,))
            tx.run("DELETE FROM team WHERE name = ?", (name,))
            tx.emit("team.removed", f"team:{name}", actor)

        self._write(write)

    def add_member(self, team: str, user: str, role: Role, *, actor: str) -> Team:
        """Take a user into a team, or give a member another role; in `everyone` it is the account's own."""
        _check_role(role)

        def write(tx: Tx) -> None:
            _check_user(tx, user)
            if team == EVERYONE:
                former = tx.one("SELECT role FROM user WHERE name = ?", (user,))
                _check_admins(tx, user, role)
                tx.run("UPDATE user SET role = ? WHERE name = ?", (role, user))
            else:
                _check_known(tx, team)
                former = tx.one("SELECT role FROM membership WHERE team = ? AND user = ?", (team, user))
                tx.run("INSERT OR REPLACE INTO membership (team, user, role) VALUES (?,?,?)", (team, user, role))
            if former is None or former["role"] != role:
                tx.emit("team.member", f"team:{team}", actor, user=user, role=role, former=former and former["role"])

        self._write(write)
        return self.team(team)

    def remove_member(self, team: str, user: str, *, actor: str) -> Team:
        """Take a user out of a team; doing it again changes nothing. Nobody leaves `everyone`."""
        if team == EVERYONE:
            raise InvalidInput(
                "Every account is in the team everyone.", hint="Disable the account instead.", field="team"
            )

        def write(tx: Tx) -> None:
            _check_known(tx, team)
            done = tx.run("DELETE FROM membership WHERE team = ? AND user = ?", (team, user))
            if done.rowcount:
                tx.emit("team.left", f"team:{team}", actor, user=user)

        self._write(write)
        return self.team(team)

    def memberships(self, user: str) -> dict[str, Role]:
        """The teams of a user, apart from `everyone`, and the role in each."""
        return dict(self._state.roles.get(user, {}))

    def roles_of(self, principal: Principal) -> dict[str, Role]:
        """The role that a principal has in each team, apart from `everyone`."""
        held = ((team, self.role_in(principal, team)) for team in sorted(self._state.teams))
        return {team: role for team, role in held if role is not None}

    # -- who may do what --------------------------------------------------------------------------------------------

    def team_of(self, name: str) -> str:
        """The team that owns what has this name."""
        first, dot, _ = name.partition(".")
        return first if dot and first in self._state.teams else EVERYONE

    def role_in(self, principal: Principal, team: str) -> Role | None:
        """The role that a principal holds in a team, no higher than the token's; None for who is not in it."""
        if principal.role == "admin":
            return "admin"
        if team == EVERYONE:
            return principal.role
        held = self._state.roles.get(principal.name, {}).get(team)
        return lower_of(held, principal.ceiling) if held is not None else None

    def highest(self, principal: Principal) -> Role:
        """The highest role that a principal holds in any team."""
        if principal.name not in self._state.roles:
            return principal.role
        teams = (EVERYONE, *self._state.roles.get(principal.name, {}))
        return max((role for team in teams if (role := self.role_in(principal, team))), key=ROLES.index)

    def require(self, principal: Principal, action: str, *, name: str = "", team: str | None = None) -> None:
        """Raise NotAuthorised unless a principal may do this to what has this name, or belongs to this team."""
        wanted = ACTIONS[action]
        if principal.job_id is not None and not wanted.job:
            raise NotAuthorised("A job's token may act for its own job only.", hint="Use a user's token.")
        owner = team or self.team_of(name) if wanted.where in ("owner", "named") else EVERYONE
        held = self.highest(principal) if wanted.where == "any" else self.role_in(principal, owner)
        if at_least(held, wanted.role):
            return
        place = "" if owner == EVERYONE else f" in the team {owner}"
        raise NotAuthorised(
            f"To {wanted.what} takes the role {wanted.role}{place}; {principal.name} is {held or 'not in it'}.",
            hint=f"Ask an admin{place or ' of the box'} for the role.",
        )

    def require_anywhere(self, principal: Principal, action: str) -> None:
        """Raise NotAuthorised for who may do this in no team at all; in which, the body says, and the handler asks."""
        if not at_least(self.highest(principal), ACTIONS[action].role):
            self.require(principal, action)

    # -- what is private --------------------------------------------------------------------------------------------

    def visible(self, kind: str, name: str | None) -> bool:
        """True when whoever asks in this context may know of an object; with the kind `team`, of what a team keeps to itself."""
        state = self._state
        if name is not None and name.startswith("~"):
            name = name.split("~", 2)[-1]  # of a model that was deleted: as private as it was
        if name is None or ((kind, name) not in state.private and kind != "team"):
            return True
        principal = asking.who()
        team = name if kind == "team" else self.team_of(name)
        return principal is None or self.role_in(principal, team) is not None

    def shelter(self, kind: str, name: str, parts: Sequence[tuple[str, str]]) -> None:
        """Raise InvalidInput when an object would tell others of private parts that it is made of."""
        private = self._state.private
        for part in parts:
            told = (kind, name) not in private or self.team_of(name) != self.team_of(part[1])
            if part in private and told:
                raise InvalidInput(
                    f"The {kind} {name!r} would tell everyone of the {part[0]} {part[1]!r}, which is private.",
                    hint=f"Give it a name in the team {self.team_of(part[1])} and hide it first: "
                    f"`mlbox team hide {kind} {self.team_of(part[1])}.NAME`.",
                    field="name",
                )

    def hides_something(self, principal: Principal) -> bool:
        """True when there is anything that a principal may not know of."""
        return any(self.role_in(principal, self.team_of(name)) is None for _, name in self._state.private)

    def is_private(self, kind: Kind, name: str) -> bool:
        """True for what only its team may know of."""
        return (kind, name) in self._state.private

    def private(self) -> list[tuple[Kind, str]]:
        """Kind and name of what is private and may be known by whoever asks."""
        return sorted((kind, name) for kind, name in self._state.private if self.visible(kind, name))

    def set_private(self, kind: Kind, name: str, private: bool, *, actor: str) -> None:
        """Let only the owning team know of an object, or everyone again; raises InvalidInput for what no team owns."""
        if kind not in KINDS:
            raise InvalidInput(f"{kind!r} cannot be private.", hint=f"One of {', '.join(KINDS)}.", field="kind")
        team = self.team_of(name)
        if private and team == EVERYONE:
            raise InvalidInput(
                f"{name!r} belongs to everyone.",
                hint="Only what a team owns can be private: its name begins with the team's, as in TEAM.NAME.",
                field="name",
            )

        def write(tx: Tx) -> None:
            if private:
                done = tx.run("INSERT OR IGNORE INTO private (kind, name) VALUES (?,?)", (kind, name))
            else:
                done = tx.run("DELETE FROM private WHERE kind = ? AND name = ?", (kind, name))
            if done.rowcount:
                _tell(tx, private, kind, name, actor)

        self._write(write)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _write(self, write: object) -> None:
        assert callable(write)
        self._db.write(write)
        self._reload()

    def _reload(self) -> None:
        """Read everything again; a change waits for it, so that its effect is seen by the next request."""
        with self._lock:
            roles: dict[str, dict[str, Role]] = {}
            for row in self._db.all("SELECT * FROM membership"):
                roles.setdefault(row["user"], {})[row["team"]] = row["role"]
            self._state = _State(
                frozenset(row["name"] for row in self._db.all("SELECT name FROM team")),
                roles,
                frozenset((row["kind"], row["name"]) for row in self._db.all("SELECT * FROM private")),
            )

    def _team(self, row: Row) -> Team:
        members = self._db.all("SELECT user, role FROM membership WHERE team = ? ORDER BY user", (row["name"],))
        return Team(
            name=row["name"],
            created_at=from_us(row["created_us"]),
            members=tuple(Member(user=member["user"], role=member["role"]) for member in members),
        )

    def _everyone(self) -> tuple[Member, ...]:
        rows = self._db.all("SELECT name, role FROM user ORDER BY name")
        return tuple(Member(user=row["name"], role=row["role"]) for row in rows)


def _tell(tx: Tx, private: bool, kind: Kind, name: str, actor: str) -> None:
    if private:
        tx.emit("team.hid", f"{kind}:{name}", actor, kind=kind)
    else:
        tx.emit("team.shared", f"{kind}:{name}", actor, kind=kind)


def _like(team: str) -> str:
    """The pattern of the names that a team owns."""
    return team.replace("_", "!_") + ".%"


def _no_team(file: Database | Tx, name: str) -> NotFound:
    names = [row["name"] for row in file.all("SELECT name FROM team ORDER BY name LIMIT 1000")]
    hint = suggest(name, [EVERYONE, *names], otherwise="`mlbox team ls` lists them.")
    return NotFound(f"There is no team {name[:80]!r}.", hint=hint, field="team")


def _check_known(tx: Tx, team: str) -> None:
    if tx.one("SELECT 1 FROM team WHERE name = ?", (team,)) is None:
        raise _no_team(tx, team)


def _check_user(tx: Tx, user: str) -> None:
    if tx.one("SELECT 1 FROM user WHERE name = ?", (user,)) is None:
        raise no_user(tx, user)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role[:80]!r}.", hint=f"One of {', '.join(ROLES)}.", field="role")


def _check_admins(tx: Tx, user: str, role: Role) -> None:
    """A box keeps an admin: nobody could make the next one."""
    others = tx.one("SELECT 1 FROM user WHERE role = 'admin' AND disabled_us IS NULL AND name <> ?", (user,))
    if role != "admin" and others is None:
        raise Conflict(f"{user} is the only admin of the box.", hint="Make another admin first.")
