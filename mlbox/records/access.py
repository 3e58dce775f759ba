"""Who may sign in, and by what."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mlbox.records.base import Record

Role = Literal["viewer", "member", "approver", "admin"]


AccountKind = Literal["person", "service"]
"""A service has tokens only: no password, no browser session."""


class User(Record, frozen=True, kw_only=True):
    """A person or a service that may hold tokens."""

    id: str
    name: str
    role: Role
    created_at: datetime
    kind: AccountKind = "person"
    disabled_at: datetime | None = None
    """Since when none of its credentials work."""


class Identity(Record, frozen=True, kw_only=True):
    """A person of a sign-in provider, and whose account they use."""

    user: str
    issuer: str
    subject: str
    created_at: datetime


class Account(User, frozen=True, kw_only=True):
    """One's own account: what `GET /api/v1/account` answers."""

    has_password: bool
    password_min: int
    """Fewest characters of a new one."""


class BrowserSession(Record, frozen=True, kw_only=True):
    """A signed-in browser of one's own, without its secret."""

    id: str
    created_at: datetime
    seen_at: datetime
    """To the minute."""
    expires_at: datetime
    """When it ends if it is not used."""
    address: str = ""
    agent: str = ""
    """What the browser called itself when it signed in."""
    token: str | None = None
    """The name of the token that it was signed in with, and ends with."""
    current: bool = False
    """True for the session that asks."""


class Token(Record, frozen=True, kw_only=True):
    """A bearer token, without its secret."""

    id: str
    user: str
    name: str
    role: Role
    """The most that it may do in any team; its user may do less, and then it may not either."""
    created_at: datetime
    expires_at: datetime | None = None
    used_at: datetime | None = None
    """To the minute."""
    job_id: str | None = None
    """Set on the short-lived token of a job, which may act for that job only."""


class NewToken(Token, frozen=True, kw_only=True):
    """What `POST /api/v1/tokens` answers: the token and, this once, its secret."""

    secret: str


class Principal(Record, frozen=True, kw_only=True):
    """Who is asking, as authentication found it."""

    name: str
    role: Role
    """In the team `everyone`, and no higher than the token's."""
    token_id: str | None = None
    job_id: str | None = None
    ceiling: Role = "admin"
    """The most that the token may do in any team."""


class WhoAmI(Principal, frozen=True, kw_only=True):
    """What `GET /api/v1/whoami` answers."""

    teams: dict[str, Role] = {}
    """The asker's role in each team, apart from `everyone`."""


class Member(Record, frozen=True, kw_only=True):
    """A user in a team."""

    user: str
    role: Role


class Team(Record, frozen=True, kw_only=True):
    """A team and its members; it owns what has a name that begins with its own and a dot."""

    name: str
    created_at: datetime | None = None
    """None for `everyone`, which is there from the start."""
    members: tuple[Member, ...] = ()


Kind = Literal["experiment", "source", "view", "service", "label", "dataset", "model"]
"""What a team can own and make private. A run goes with its experiment; versions, promotions, predictions with their model."""
