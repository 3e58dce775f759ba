"""Disabling, passwords, services, sessions, and what is remembered of credentials."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from argon2 import extract_parameters
from argon2.profiles import CHEAPEST, RFC_9106_LOW_MEMORY
from sqlite_utils import Database as Migratable

from mlbox.clock import ManualClock, to_us
from mlbox.errors import Conflict, InvalidInput, NotAuthenticated, NotAuthorised, NotFound, TooMany
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.access.access import Access, Visit
from mlbox.store.access.passwords import AT_A_TIME, MOST_WAITING, Passwords
from mlbox.store.access.teams import Teams
from mlbox.store.access.tokens import KEPT, make_secret, parse_life
from mlbox.store.db import Database

GOOD = "correct horse battery"


@pytest.fixture
def access(access_db: Database, clock: ManualClock, bus: EventBus) -> Iterator[Access]:
    made = Access(access_db, clock, passwords=Passwords(parameters=CHEAPEST), bus=bus)
    made.create_user("root", "admin", actor="test")
    made.create_user("ann", "member", actor="test")
    yield made
    made.close()


def set_password(access: Access, name: str, password: str, former: str | None = None, keep: str | None = None) -> str:
    new = access.passwords.hash(password).result()
    access.set_password(name, new, former=former, actor=name, keep_session=keep)
    return new


def later(clock: ManualClock, **span: float) -> None:
    clock.advance(clock.now() + timedelta(**span))


# -- what was there before -------------------------------------------------------------------------------------------


def test_accounts_of_an_earlier_release_go_on(tmp_path: Path, clock: ManualClock, bus: EventBus) -> None:
    path, secret, cookie = tmp_path / "old.sqlite", make_secret(), "a session's secret"
    old = Migratable(path)
    migrations.access.apply(old, stop_before="m003_credentials")
    now = to_us(clock.real())
    old.execute("INSERT INTO user VALUES ('u1', 'ann', 'member', ?)", [now])
    old.execute(
        "INSERT INTO token (id, user_id, name, role, digest, created_us) VALUES ('t1', 'u1', 'ci', 'member', ?, ?)",
        [hashlib.sha256(secret.encode()).digest(), now],
    )
    digest = hashlib.sha256(cookie.encode()).digest()
    old.execute("INSERT INTO session VALUES (?, 'u1', 'csrf', ?, ?)", [digest, now, now])
    old.conn.commit()
    old.close()
    db = Database(path, migrations.access, clock, bus)
    access = Access(db, clock, passwords=Passwords(parameters=CHEAPEST))
    assert (access.user("ann").kind, access.user("ann").disabled_at) == ("person", None)
    assert access.authenticate(secret).ceiling == "member"
    assert access.session(cookie) is not None
    assert access.sessions("ann")[0].token is None
    set_password(access, "ann", GOOD)
    assert access.session(cookie) is None
    access.close()
    db.close()


# -- disabling ----------------------------------------------------------------------------------------------------------


def test_disabling_ends_tokens_sessions_and_links_at_once_and_enabling_brings_tokens_back(access: Access) -> None:
    _, token = access.create_token("ann", "ci", actor="ann")
    cookie, link = access.sign_in(token), access.create_login("ann")
    access.authenticate(token, credential=b"x")
    assert access.recall(b"x") is not None
    assert access.disable("ann", actor="root").disabled_at is not None
    assert access.recall(b"x") is None
    assert access.session(cookie) is None
    with pytest.raises(NotAuthenticated, match="disabled"):
        access.authenticate(token)
    with pytest.raises(NotAuthorised, match="disabled"):
        access.create_login("ann")
    assert access.enable("ann", actor="root").disabled_at is None
    assert access.authenticate(token).name == "ann"
    assert access.session(cookie) is None
    with pytest.raises(NotAuthenticated):
        access.redeem_login(link)


def test_the_last_admin_is_not_disabled(access: Access) -> None:
    with pytest.raises(Conflict, match="only admin"):
        access.disable("root", actor="root")
    access.create_user("second", "admin", actor="root")
    access.disable("root", actor="second")
    with pytest.raises(Conflict, match="only admin"):
        access.disable("second", actor="second")
    with pytest.raises(NotFound):
        access.disable("nobody", actor="second")


def test_a_service_has_tokens_only(access: Access) -> None:
    assert access.create_user("bot", "member", actor="root", kind="service").kind == "service"
    _, token = access.create_token("bot", "ci", actor="root")
    assert access.authenticate(token).name == "bot"
    with pytest.raises(NotAuthorised, match="service"):
        access.create_login("bot")
    with pytest.raises(NotAuthorised, match="service"):
        access.sign_in(token)
    with pytest.raises(InvalidInput, match="service"):
        set_password(access, "bot", GOOD)


# -- passwords ----------------------------------------------------------------------------------------------------------


def test_a_password_is_kept_as_argon2id_of_the_rfcs_second_profile() -> None:
    passwords = Passwords()
    stored = passwords.hash(GOOD).result()
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert extract_parameters(stored) == RFC_9106_LOW_MEMORY
    assert passwords.verify(stored, GOOD).result()
    assert not passwords.verify(stored, GOOD + "x").result()
    passwords.close()


def test_who_has_no_password_costs_the_same_work_as_a_wrong_one() -> None:
    passwords = Passwords(parameters=CHEAPEST)
    real, nobody = extract_parameters(passwords.hash(GOOD).result()), extract_parameters(passwords._nobody)
    assert nobody == real
    assert not passwords.verify(None, GOOD).result()
    assert not passwords.verify("no hash at all", GOOD).result()
    passwords.close()


@pytest.mark.parametrize(
    ("password", "words"), [("short", "12 to"), ("x" * 1025, "12 to"), ("mlb_" + "x" * 20, "begin with mlb_")]
)
def test_a_password_that_will_not_do_is_refused_in_words(access: Access, password: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        access.passwords.hash(password)


def test_the_same_characters_composed_otherwise_are_the_same_password(access: Access) -> None:
    stored = access.passwords.hash("pässword pässword").result()
    assert access.passwords.verify(stored, "pa\u0308ssword pa\u0308ssword").result()


def test_two_hashes_run_at_a_time_and_a_full_line_is_refused() -> None:
    passwords = Passwords(parameters=CHEAPEST)
    stored = passwords.hash(GOOD).result()
    running, most, gate = 0, 0, []

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        while not gate:
            time.sleep(0.001)  # holds the thread until the test lets go
        running -= 1

    held = []
    for _ in range(AT_A_TIME + MOST_WAITING):
        passwords._queue()
        held.append(passwords._watched(passwords._pool.submit(work)))
    with pytest.raises(TooMany) as refused:
        passwords.verify(stored, GOOD)
    assert refused.value.retry_seconds > 0
    gate.append(True)
    for future in held:
        future.result()
    assert most <= AT_A_TIME
    passwords.close()


def test_a_change_ends_the_other_sessions_and_keeps_tokens(access: Access) -> None:
    _, token = access.create_token("ann", "ci", actor="ann")
    mine, other = access.sign_in(token), access.sign_in(token)
    link = access.create_login("ann")
    session = access.session(mine)
    assert session is not None
    first = set_password(access, "ann", GOOD, keep=session.id)
    assert access.session(mine) is not None
    assert access.session(other) is None
    with pytest.raises(NotAuthenticated):
        access.redeem_login(link)
    assert access.authenticate(token).name == "ann"
    second = set_password(access, "ann", GOOD + "!", former=first)
    assert access.session(mine) is None
    with pytest.raises(Conflict, match="changed meanwhile"):
        set_password(access, "ann", GOOD, former=first)
    with pytest.raises(NotAuthenticated, match="changed"):
        access.sign_in_verified("ann", first)
    assert access.session(access.sign_in_verified("ann", second)) is not None


def test_a_password_taken_away_ends_the_sessions(access: Access) -> None:
    stored = set_password(access, "ann", GOOD)
    cookie = access.sign_in_verified("ann", stored)
    access.remove_password("ann", actor="root")
    assert access.password_hash("ann") is None
    assert access.session(cookie) is None


def test_no_password_is_in_any_table_or_event(access: Access, access_db: Database) -> None:
    set_password(access, "ann", GOOD)
    for table in ("user", "event"):
        assert GOOD not in str([tuple(row) for row in access_db.all(f"SELECT * FROM {table}")])
    assert "argon2" not in str([tuple(row) for row in access_db.all("SELECT * FROM event")])


# -- tokens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "days"), [("12h", 0.5), ("30d", 30), ("52w", 364), (" 1440m ", 1)])
def test_a_life_is_read(text: str, days: float) -> None:
    assert parse_life(text) == timedelta(days=days)


@pytest.mark.parametrize("text", ["", "0d", "30", "d", "-1d", "1y", "9999999d", "99999w", "1.5h", "٣d٣"])
def test_what_is_no_life_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no length of time"):
        parse_life(text)


def test_a_token_may_all_that_its_user_may_unless_it_has_a_ceiling(access: Access) -> None:
    _, plain = access.create_token("ann", "plain", actor="ann")
    _, low = access.create_token("ann", "low", actor="ann", role="viewer")
    assert (access.authenticate(plain).role, access.authenticate(plain).ceiling) == ("member", "admin")
    assert (access.authenticate(low).role, access.authenticate(low).ceiling) == ("viewer", "viewer")


def test_the_last_use_is_written_once_a_minute_and_behind_the_request(
    access: Access, access_db: Database, clock: ManualClock
) -> None:
    token, secret = access.create_token("ann", "ci", actor="ann")

    def used_at() -> object:
        access_db.check()  # the writes that wait
        return access.token(token.id).used_at

    assert used_at() is None
    first = clock.real()
    access.authenticate(secret)
    assert used_at() == first
    later(clock, seconds=59)
    access.authenticate(secret)
    assert used_at() == first
    later(clock, seconds=1)
    access.authenticate(secret)
    assert used_at() == clock.real()


# -- what is remembered -------------------------------------------------------------------------------------------------


def test_a_credential_is_remembered_for_a_minute_and_no_longer_than_it_lives(
    access: Access, clock: ManualClock
) -> None:
    _, long = access.create_token("ann", "long", actor="ann")
    _, short = access.create_token("ann", "short", actor="ann", life=timedelta(seconds=30))
    access.authenticate(long, credential=b"long")
    access.authenticate(short, credential=b"short")
    later(clock, seconds=29)
    assert access.recall(b"short") is not None
    later(clock, seconds=1)
    assert access.recall(b"short") is None
    later(clock, seconds=29)
    assert access.recall(b"long") is not None
    later(clock, seconds=1)
    assert access.recall(b"long") is None


def test_a_changed_role_is_asked_anew(access: Access, access_db: Database) -> None:
    _, token = access.create_token("ann", "ci", actor="ann")
    cookie = access.sign_in(token)
    access.authenticate(token, credential=b"x")
    assert access.session(cookie).principal.role == "member"  # type: ignore[union-attr]
    Teams(access_db).add_member("everyone", "ann", "viewer", actor="root")
    assert access.recall(b"x") is None
    assert access.authenticate(token).role == "viewer"
    assert access.session(cookie).principal.role == "viewer"  # type: ignore[union-attr]


def test_what_was_read_before_a_change_is_not_remembered_after_it(access: Access, clock: ManualClock) -> None:
    token, secret = access.create_token("ann", "ci", actor="ann")
    ticket, principal = access.ticket, access.authenticate(secret)
    access.revoke(token.id, actor="ann")
    access.remember(ticket, b"x", principal, clock.real() + KEPT)
    assert access.recall(b"x") is None


def test_nothing_that_opens_anything_is_kept_in_memory(access: Access, clock: ManualClock) -> None:
    _, secret = access.create_token("ann", "ci", actor="ann")
    header = f"Bearer {secret}".encode()
    principal = access.authenticate(secret, credential=header)
    access.remember(access.ticket, b"Basic " + GOOD.encode(), principal, clock.real() + KEPT)
    kept = repr(access._verified)
    assert len(access._verified) == 2
    assert secret not in kept
    assert GOOD not in kept


def test_memory_is_bounded(access: Access, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlbox.store.access.access.MOST_KEPT", 10)
    _, secret = access.create_token("ann", "ci", actor="ann")
    for number in range(50):
        access.authenticate(secret, credential=b"%d" % number)
        access.session(access.sign_in(secret))
        assert len(access._verified) <= 10
        assert len(access._sessions) <= 10


# -- sessions -----------------------------------------------------------------------------------------------------------


def test_a_session_may_no_more_than_its_token_and_ends_with_it(access: Access, clock: ManualClock) -> None:
    token, secret = access.create_token("ann", "low", actor="ann", role="viewer")
    cookie = access.sign_in(secret)
    session = access.session(cookie)
    assert session is not None
    assert (session.principal.role, session.principal.ceiling, session.principal.token_id) == (
        "viewer",
        "viewer",
        token.id,
    )
    access.revoke(token.id, actor="ann")
    assert access.session(cookie) is None
    _, brief = access.create_token("ann", "brief", actor="ann", life=timedelta(hours=1))
    cookie = access.sign_in(brief)
    later(clock, minutes=59)
    assert access.session(cookie) is not None
    later(clock, minutes=1)
    assert access.session(cookie) is None


def test_a_jobs_token_opens_no_session(access: Access) -> None:
    _, secret = access.create_token("ann", "job", actor="mlbox", job_id="j1")
    with pytest.raises(NotAuthorised, match="job"):
        access.sign_in(secret)


def test_a_session_ends_after_a_week_however_much_it_is_used(
    access: Access, access_db: Database, clock: ManualClock
) -> None:
    cookie = access.redeem_login(access.create_login("ann"))
    for _ in range(7 * 4 - 1):
        later(clock, hours=6)
        assert access.session(cookie) is not None
        access_db.check()  # the renewal is a queued write
    later(clock, hours=6)
    assert access.session(cookie) is None


def test_sessions_are_listed_and_ended_one_by_one_or_all(access: Access, clock: ManualClock) -> None:
    first = access.redeem_login(access.create_login("ann"), Visit("10.0.0.1", "Firefox"))
    later(clock, minutes=5)
    _, secret = access.create_token("ann", "laptop", actor="ann")
    second = access.sign_in(secret, Visit("10.0.0.2", "x" * 999))
    other = access.redeem_login(access.create_login("root"))
    listed = access.sessions("ann")
    assert [(s.address, len(s.agent), s.token) for s in listed] == [("10.0.0.2", 200, "laptop"), ("10.0.0.1", 7, None)]
    with pytest.raises(NotFound):
        access.end_session("root", listed[0].id)
    access.end_session("ann", listed[0].id)
    assert access.session(second) is None
    assert access.session(first) is not None
    assert access.sign_out_everywhere("ann", actor="root") == 1
    assert access.session(first) is None
    assert access.session(other) is not None
    assert access.sessions("ann") == []


def test_what_ended_long_ago_leaves_no_row(access: Access, access_db: Database, clock: ManualClock) -> None:
    access.redeem_login(access.create_login("ann"))
    access.create_login("ann")
    later(clock, days=1)
    access.redeem_login(access.create_login("ann"))
    assert len(access_db.all("SELECT 1 FROM session")) == 1
    assert len(access_db.all("SELECT 1 FROM login")) == 0
