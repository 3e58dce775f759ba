"""The middleware and the door behind it: which credentials count, what is remembered of them, and how often one may be wrong."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from argon2.profiles import CHEAPEST
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import InvalidInput, NotAuthenticated, NotFound
from mlbox.events import EventBus
from mlbox.settings import Settings
from mlbox.store.access.access import Access
from mlbox.store.access.passwords import Passwords
from mlbox.store.access.teams import Teams
from mlbox.store.db import Database
from mlbox.web.auth import COOKIE, AuthMiddleware, session_cookie
from mlbox.web.door import Door, Given, read_authorization
from mlbox.web.problems import body_at, body_of, open_inference

GOOD = "correct horse battery"
TRIES, RATE = 3, 10
OK = 200


def basic(user: str, secret: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def who(scope: Any, receive: Any, send: Any) -> None:
    """An app that says who asks."""
    principal = scope.get("state", {}).get("principal")
    body = msgspec.json.encode(principal)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


class House:
    """Accounts, and an app behind the middleware."""

    def __init__(self, db: Database, clock: ManualClock, bus: EventBus) -> None:
        self.clock = clock
        self.hashed = 0
        passwords = Passwords(parameters=CHEAPEST)
        verify = passwords.verify

        def counted(stored: str | None, password: str) -> Any:
            self.hashed += 1
            return verify(stored, password)

        passwords.verify = counted  # type: ignore[method-assign]
        self.access = Access(db, clock, passwords=passwords, bus=bus)
        self.teams = Teams(db)
        self.access.create_user("root", "admin", actor="test")
        for name in ("ann", "bea"):
            self.access.create_user(name, "member", actor="test")
        self.password_hash = passwords.hash(GOOD).result()
        self.access.set_password("ann", self.password_hash, former=None, actor="test")
        _, self.token = self.access.create_token("ann", "ci", actor="test")
        settings = Settings(signin_tries=TRIES, signin_wait=60, signin_rate=RATE)
        self.door = Door(self.access, clock, settings, call)
        self.app: Any = AuthMiddleware(who, self.door)

    async def asking(self, headers: dict[str, str], *, peer: str = "10.0.0.1", path: str = "/x") -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers=headers)

    def ask(self, headers: dict[str, str], **options: Any) -> httpx.Response:
        return asyncio.run(self.asking(headers, **options))

    def all(self, *requests: dict[str, str], peer: str = "10.0.0.1") -> list[int]:
        """The statuses of requests that come at once."""

        async def gather() -> list[int]:
            answers = await asyncio.gather(*(self.asking(headers, peer=peer) for headers in requests))
            return [answer.status_code for answer in answers]

        return asyncio.run(gather())

    def later(self, **span: float) -> None:
        self.clock.advance(self.clock.now() + timedelta(**span))


async def call(fn: Callable[..., Any], /, *args: object) -> Any:
    return await asyncio.to_thread(fn, *args)


@pytest.fixture
def house(access_db: Database, clock: ManualClock, bus: EventBus) -> Iterator[House]:
    made = House(access_db, clock, bus)
    yield made
    made.access.close()


# -- what counts --------------------------------------------------------------------------------------------------------


def test_a_token_counts_as_bearer_and_as_the_password_of_its_user_or_of_nobody(house: House) -> None:
    for headers in (bearer(house.token), *(basic(user, house.token) for user in ("ann", "", "token"))):
        answer = house.ask(headers)
        assert (answer.status_code, answer.json()["name"]) == (OK, "ann")
    wrong = house.ask(basic("bea", house.token))
    assert (wrong.status_code, "another user" in wrong.text) == (401, True)
    assert house.hashed == 0


def test_a_password_counts_for_its_own_user_only(house: House) -> None:
    answer = house.ask(basic("ann", GOOD)).json()
    assert (answer["name"], answer["role"], answer["ceiling"], answer.get("token_id")) == (
        "ann",
        "member",
        "admin",
        None,
    )
    for user, password in (("bea", GOOD), ("nobody", GOOD), ("", GOOD), ("ann", GOOD + "x"), ("ann", "")):
        wrong = house.ask(basic(user, password), peer=f"10.0.1.{len(user)}")
        assert (wrong.status_code, "user name or the password" in wrong.text) == (401, True)
    assert house.hashed == 6, "who is unknown is worked on as well"


def test_nothing_else_counts(house: House) -> None:
    for headers in ({}, {"cookie": f"{COOKIE}=x"}, {"authorization": ""}, {"authorization": "Digest x"}):
        answer = house.ask(headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="mlbox"'


def test_a_credential_wins_over_a_cookie(house: House) -> None:
    cookie = house.access.redeem_login(house.access.create_login("root"))
    assert house.ask({"cookie": f"a=b; {COOKIE}={cookie}"}).json()["name"] == "root"
    assert house.ask({"cookie": f"{COOKIE}={cookie}", **bearer(house.token)}).json()["name"] == "ann"
    assert house.ask({"cookie": f"{COOKIE}={cookie}", **bearer("x")}).status_code == 401


@given(st.binary(max_size=60) | st.builds(lambda b: b"Basic " + base64.b64encode(b), st.binary(max_size=60)))
def test_any_header_is_read_or_refused_in_words(header: bytes) -> None:
    refused: NotAuthenticated | None = None
    try:
        read_authorization(header)
    except NotAuthenticated as err:
        refused = err
    assert refused is None or refused.hint


@given(st.text().filter(lambda user: ":" not in user), st.text(), st.sampled_from(["Basic ", "basic ", "BASIC  "]))
def test_basic_carries_any_name_without_a_colon_and_any_password(user: str, password: str, scheme: str) -> None:
    try:
        encoded = base64.b64encode(f"{user}:{password}".encode())
    except UnicodeEncodeError:  # half a surrogate pair is no text that can be sent
        return
    assert read_authorization(scheme.encode() + encoded) == Given(user, password)


@given(st.binary(max_size=80))
def test_any_cookie_header_is_read(header: bytes) -> None:
    session_cookie(header)
    assert (
        session_cookie(header.replace(b";", b",").replace(COOKIE.encode(), b"") + f"; {COOKIE}=s3cret".encode())
        == "s3cret"
    )


# -- what is remembered -------------------------------------------------------------------------------------------------


def test_a_verified_password_is_remembered_for_a_minute(house: House) -> None:
    for _ in range(5):
        assert house.ask(basic("ann", GOOD)).status_code == OK
    assert house.hashed == 1
    house.later(seconds=60)
    assert house.ask(basic("ann", GOOD)).status_code == OK
    assert house.hashed == 2


@pytest.mark.parametrize("change", ["password", "removed", "disabled", "role"])
def test_a_change_of_the_account_counts_at_once(house: House, change: str) -> None:
    assert house.ask(basic("ann", GOOD)).json()["role"] == "member"
    if change == "password":
        new = house.access.passwords.hash(GOOD + "!").result()
        house.access.set_password("ann", new, former=house.password_hash, actor="ann")
    elif change == "removed":
        house.access.remove_password("ann", actor="root")
    elif change == "disabled":
        house.access.disable("ann", actor="root")
    else:
        house.teams.add_member("everyone", "ann", "viewer", actor="root")
        assert house.ask(basic("ann", GOOD)).json()["role"] == "viewer"
        return
    assert house.ask(basic("ann", GOOD)).status_code == 401


def test_a_revoked_token_is_refused_by_the_next_request(house: House) -> None:
    assert house.ask(bearer(house.token)).status_code == OK
    assert house.ask(basic("ann", house.token)).status_code == OK
    [token] = house.access.tokens("ann")
    house.access.revoke(token.id, actor="ann")
    assert house.ask(bearer(house.token)).status_code == 401
    assert house.ask(basic("ann", house.token)).status_code == 401


def test_a_client_that_opens_many_connections_at_once_is_verified_once(house: House) -> None:
    assert set(house.all(*[basic("ann", GOOD)] * 20)) == {OK}
    assert house.hashed == 1
    assert not house.door._pending


# -- limits -------------------------------------------------------------------------------------------------------------


def test_wrong_passwords_make_an_account_wait_and_nothing_else_of_it(house: House) -> None:
    cookie = house.access.sign_in(house.token)
    assert house.ask(basic("ann", GOOD), peer="10.0.0.9").status_code == OK
    assert house.hashed == 1
    for number in range(TRIES):
        assert house.ask(basic("ann", f"wrong {number}"), peer=f"10.0.0.{number}").status_code == 401
    refused = house.ask(basic("ann", "wrong"), peer="10.0.0.7")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "in 1 seconds" in refused.json()["error"]["message"]
    assert house.hashed == 1 + TRIES
    # Whoever works already, works on.
    assert house.ask(basic("ann", GOOD)).status_code == OK
    assert house.ask(bearer(house.token)).status_code == OK
    assert house.ask({"cookie": f"{COOKIE}={cookie}"}).status_code == OK
    # A right password waits as a wrong one would, or waiting would tell them apart.
    house.access.changed()
    assert house.ask(basic("ann", GOOD), peer="10.0.0.8").status_code == 429
    house.later(seconds=1)
    assert house.ask(basic("ann", GOOD), peer="10.0.0.8").status_code == OK
    house.access.changed()
    for _ in range(TRIES):
        assert house.ask(basic("ann", GOOD + "x")).status_code == 401, "a success had reset the account's"


def test_an_unknown_account_waits_like_a_known_one(house: House) -> None:
    statuses = [house.ask(basic("nobody", "x"), peer=f"10.0.0.{n}").status_code for n in range(TRIES + 1)]
    assert statuses == [401] * TRIES + [429]


def test_many_guesses_at_once_are_no_more_than_one_after_the_other(house: House) -> None:
    statuses = house.all(*(basic("ann", f"guess {n}") for n in range(30)))
    assert sorted(statuses) == [401] * TRIES + [429] * (30 - TRIES)
    assert house.hashed == TRIES


def test_one_address_is_wrong_so_often_a_minute_and_valid_tokens_pass(house: House) -> None:
    for number in range(RATE):
        assert house.ask(bearer(f"bad {number}")).status_code == 401
    refused = house.ask(bearer("bad"))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "6"
    assert house.ask(basic("bea", "x")).status_code == 429
    assert house.hashed == 0
    assert house.ask(bearer(house.token)).status_code == OK
    assert house.ask(bearer("bad"), peer="10.0.0.2").status_code == 401
    house.later(seconds=6)
    assert house.ask(bearer("bad")).status_code == 401


def test_an_address_is_not_forgiven_for_one_success(house: House) -> None:
    for number in range(RATE - 1):
        house.ask(bearer(f"bad {number}"))
    assert house.ask(basic("ann", GOOD)).status_code == OK
    assert [house.ask(bearer("bad")).status_code for _ in range(2)] == [401, 429]


# -- the shape of errors ------------------------------------------------------------------------------------------------


def test_an_error_has_the_shape_of_the_paths_protocol(house: House) -> None:
    assert house.ask({}, path="/v2/models/m/infer").json() == {
        "error": "A token is needed. Send the header Authorization: Bearer TOKEN, or sign in, at /login or by `mlbox login URL`."
    }
    for path in ("/api/v1/runs", "/v20", "/"):
        assert house.ask({}, path=path).json()["error"]["code"] == "not_authenticated"


def test_the_longest_known_beginning_of_a_path_is_a_whole_part_of_it() -> None:
    err = NotFound("There is none.", hint="Look.")
    assert body_at("/v2", err) == body_at("/v2/x", err) == open_inference(err)
    assert body_at("/v2x", err) == body_at("/", err) == body_at("", err) == body_of(err)
    assert body_at("/v2/models", InvalidInput("No.", field="x")) == {"error": "No."}
