"""Tokens, roles, one-time links, sessions."""

from datetime import timedelta

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import AlreadyExists, NotAuthenticated
from mlbox.events import EventBus
from mlbox.store.access.access import Access
from mlbox.store.access.tokens import make_secret
from mlbox.store.db import Database


@pytest.fixture
def access(access_db: Database, clock: ManualClock) -> Access:
    return Access(access_db, clock)


def test_a_token_acts_as_its_user_but_never_above_either_role(access: Access) -> None:
    access.create_user("ann", "member", actor="admin")
    _, low = access.create_token("ann", "ci", actor="admin", role="viewer")
    _, high = access.create_token("ann", "wish", actor="admin", role="admin")
    assert (access.authenticate(low).name, access.authenticate(low).role) == ("ann", "viewer")
    assert access.authenticate(high).role == "member"


def test_secrets_are_not_stored(access: Access, access_db: Database) -> None:
    access.create_user("ann", "member", actor="admin")
    _, secret = access.create_token("ann", "ci", actor="admin")
    dump = "".join(str(tuple(row)) for table in ("token", "event") for row in access_db.all(f"SELECT * FROM {table}"))
    assert secret not in dump
    assert secret[4:20] not in dump


def test_a_typing_error_is_told_from_an_unknown_token(access: Access) -> None:
    secret = make_secret()
    with pytest.raises(NotAuthenticated, match="not known"):
        access.authenticate(secret)
    with pytest.raises(NotAuthenticated, match="damaged"):
        access.authenticate(secret[:10] + ("a" if secret[10] != "a" else "b") + secret[11:])


def test_an_expired_token_is_refused(access: Access, clock: ManualClock) -> None:
    access.create_user("ann", "member", actor="admin")
    _, secret = access.create_token("ann", "ci", actor="admin", life=timedelta(hours=1))
    clock.advance(clock.now() + timedelta(minutes=59))
    access.authenticate(secret)
    clock.advance(clock.now() + timedelta(minutes=1))
    with pytest.raises(NotAuthenticated, match="expired"):
        access.authenticate(secret)


def test_a_jobs_token_ends_with_the_job(access: Access) -> None:
    access.create_user("ann", "member", actor="admin")
    _, secret = access.create_token("ann", "job", actor="mlbox", job_id="j1")
    assert access.authenticate(secret).job_id == "j1"
    access.revoke_job_tokens(["j1"])
    with pytest.raises(NotAuthenticated, match="revoked"):
        access.authenticate(secret)


def test_jobs_that_begin_and_end_have_nobody_else_looked_up_again(
    access_db: Database, clock: ManualClock, bus: EventBus
) -> None:
    access = Access(access_db, clock, bus=bus)
    access.create_user("ann", "member", actor="admin")
    _, own = access.create_token("ann", "ci", actor="ann")
    access.authenticate(own, credential=b"own")
    secrets = access.create_job_tokens({"j1": "ann", "j2": "ann"}, timedelta(days=1))
    for job, secret in secrets.items():
        access.authenticate(secret, credential=job.encode())
    access.revoke_job_tokens(["j1"])
    assert access.recall(b"j1") is None, "what has ended opens nothing more, from the next request on"
    assert access.recall(b"j2") is not None
    assert access.recall(b"own") is not None
    access.disable("ann", actor="admin")
    assert (access.recall(b"own"), access.recall(b"j2")) == (None, None)


def test_a_login_link_works_once_and_not_for_ever(access: Access, clock: ManualClock) -> None:
    access.create_user("ann", "member", actor="admin")
    link = access.create_login("ann")
    session = access.session(access.redeem_login(link))
    assert session is not None
    assert session.principal.name == "ann"
    with pytest.raises(NotAuthenticated):
        access.redeem_login(link)
    old = access.create_login("ann")
    clock.advance(clock.now() + timedelta(hours=1))
    with pytest.raises(NotAuthenticated):
        access.redeem_login(old)


def test_an_idle_session_ends_and_signing_out_ends_it_at_once(access: Access, clock: ManualClock) -> None:
    access.create_user("ann", "member", actor="admin")
    cookie = access.redeem_login(access.create_login("ann"))
    clock.advance(clock.now() + timedelta(hours=11))
    assert access.session(cookie) is not None
    access._db.check()  # the renewal of `seen` is a queued write
    clock.advance(clock.now() + timedelta(hours=11))
    assert access.session(cookie) is not None
    access.sign_out(cookie)
    assert access.session(cookie) is None


def test_names_are_unique(access: Access) -> None:
    access.create_user("ann", "member", actor="admin")
    with pytest.raises(AlreadyExists):
        access.create_user("ann", "viewer", actor="admin")
