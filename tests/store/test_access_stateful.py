"""Tokens, sessions and accounts against a model of them: whatever is done in whatever order, the same credentials work."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from argon2.profiles import CHEAPEST
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import NotAuthenticated
from mlbox.events import EventBus
from mlbox.records import Role
from mlbox.store import migrations
from mlbox.store.access.access import Access
from mlbox.store.access.passwords import Passwords
from mlbox.store.access.roles import ROLES, lower_of
from mlbox.store.access.teams import Teams
from mlbox.store.db import Database

IDLE, MOST = timedelta(hours=12), timedelta(days=7)
people = st.sampled_from(["ann", "bea"])


@dataclass
class Known:
    """A token of the model."""

    user: str
    id: str
    ceiling: Role
    ends: datetime | None
    revoked: bool = False


@dataclass
class Browser:
    """A session of the model."""

    user: str
    token: Known | None
    begun: datetime
    used: datetime
    ended: bool = False


@dataclass
class Account:
    """An account of the model."""

    role: Role = "member"
    disabled: bool = False
    sessions: list[Browser] = field(default_factory=list)


class AccessMachine(RuleBasedStateMachine):
    """The store beside the model."""

    secrets = Bundle("secrets")
    cookies = Bundle("cookies")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock(parse_time("2026-01-01T00:00Z"))
        bus = EventBus()
        self.db = Database(Path(self.folder.name) / "access.sqlite", migrations.access, self.clock, bus)
        self.teams = Teams(self.db)
        self.access = Access(self.db, self.clock, passwords=Passwords(parameters=CHEAPEST), bus=bus)
        self.access.create_user("root", "admin", actor="test")
        self.accounts = {name: Account() for name in ("ann", "bea")}
        for name in self.accounts:
            self.access.create_user(name, "member", actor="test")
        self.tokens: dict[str, Known] = {}
        self.browsers: dict[str, Browser] = {}

    def teardown(self) -> None:
        self.access.close()
        self.db.close()
        self.folder.cleanup()

    # -- what is done -----------------------------------------------------------------------------------------------

    @rule(target=secrets, user=people, role=st.sampled_from([None, *ROLES]), hours=st.sampled_from([None, 1, 20]))
    def make_token(self, user: str, role: Role | None, hours: int | None) -> str:
        life = timedelta(hours=hours) if hours else None
        token, secret = self.access.create_token(user, "t", actor="test", role=role, life=life)
        self.tokens[secret] = Known(user, token.id, role or "admin", token.expires_at)
        return secret

    @rule(secret=secrets)
    def revoke(self, secret: str) -> None:
        self.access.revoke(self.tokens[secret].id, actor="test")
        self.tokens[secret].revoked = True

    @rule(user=people)
    def disable(self, user: str) -> None:
        self.access.disable(user, actor="test")
        self.accounts[user].disabled = True
        self.end_all(user)

    @rule(user=people)
    def enable(self, user: str) -> None:
        self.access.enable(user, actor="test")
        self.accounts[user].disabled = False

    @rule(user=people, role=st.sampled_from(ROLES))
    def change_role(self, user: str, role: Role) -> None:
        self.teams.add_member("everyone", user, role, actor="test")
        self.accounts[user].role = role

    @rule(target=cookies, secret=secrets)
    def sign_in(self, secret: str) -> object:
        token = self.tokens[secret]
        if not self.works(token):
            return multiple()
        return self.begin(self.access.sign_in(secret), token.user, token)

    @rule(target=cookies, user=people)
    def follow_a_link(self, user: str) -> object:
        if self.accounts[user].disabled:
            return multiple()
        return self.begin(self.access.redeem_login(self.access.create_login(user)), user, None)

    @rule(cookie=consumes(cookies))
    def sign_out(self, cookie: str) -> None:
        self.access.sign_out(cookie)
        self.browsers[cookie].ended = True

    @rule(user=people)
    def sign_out_everywhere(self, user: str) -> None:
        self.access.sign_out_everywhere(user, actor="test")
        self.end_all(user)

    @rule(user=people, number=st.integers(0, 9))
    def set_password(self, user: str, number: int) -> None:
        former = self.access.password_hash(user)
        if self.accounts[user].disabled:
            return
        new = self.access.passwords.hash(f"a long password {number}").result()
        self.access.set_password(user, new, former=former, actor=user)
        self.end_all(user)

    @rule(seconds=st.sampled_from([20, 61, 3600, 11 * 3600, 12 * 3600, 3 * 86400]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(self.clock.now() + timedelta(seconds=seconds))

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def tokens_work_as_in_the_model(self) -> None:
        for secret, token in self.tokens.items():
            credential = b"Bearer " + secret.encode()
            try:
                found = self.access.recall(credential) or self.access.authenticate(secret, credential=credential)
            except NotAuthenticated:
                found = None
            assert (found is not None) == self.works(token), token
            if found is not None:
                role = lower_of(token.ceiling, self.accounts[token.user].role)
                assert (found.name, found.role, found.token_id) == (token.user, role, token.id)

    @invariant()
    def sessions_work_as_in_the_model(self) -> None:
        for cookie, browser in self.browsers.items():
            found = self.access.session(cookie)
            assert (found is not None) == self.is_open(browser), browser
            if found is not None:
                ceiling = browser.token.ceiling if browser.token else "admin"
                assert found.principal.role == lower_of(ceiling, self.accounts[browser.user].role)
                browser.used = self.clock.now()
        self.db.check()  # renewals are queued writes
        for user in self.accounts:
            open_ones = [b for b in self.browsers.values() if b.user == user and self.is_open(b)]
            assert len(self.access.sessions(user)) == len(open_ones)

    # -- the model --------------------------------------------------------------------------------------------------

    def works(self, token: Known) -> bool:
        alive = token.ends is None or self.clock.now() < token.ends
        return alive and not token.revoked and not self.accounts[token.user].disabled

    def is_open(self, browser: Browser) -> bool:
        """Uses come at every step, so that the exactness of a minute matters at none of the waits."""
        now = self.clock.now()
        if browser.ended or now >= browser.used + IDLE or now >= browser.begun + MOST:
            browser.ended = True
        return not browser.ended and (browser.token is None or self.works(browser.token))

    def begin(self, cookie: str, user: str, token: Known | None) -> str:
        self.browsers[cookie] = Browser(user, token, self.clock.now(), self.clock.now())
        return cookie

    def end_all(self, user: str) -> None:
        for browser in self.browsers.values():
            browser.ended = browser.ended or browser.user == user


TestAccess = AccessMachine.TestCase
TestAccess.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
