"""What single sign-on reads from a provider's claims, and what a browser may come back with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import NotAuthenticated, NotAuthorised, Unavailable
from mlbox.outgoing import Outgoing
from mlbox.settings import Settings
from mlbox.store.access.access import Access
from mlbox.store.access.identities import Identities
from mlbox.store.access.teams import Teams
from mlbox.store.db import Database
from mlbox.web.oidc_provider import Client, Provider
from mlbox.web.sign_on import SignOn, claim_at, open_sign_on
from tests.certificates import certificate
from tests.web.idp import HostileProvider


@pytest.fixture(scope="module")
def idp() -> Iterator[HostileProvider]:
    made = HostileProvider()
    yield made
    made.close()


@pytest.fixture
def open_it(idp: HostileProvider, access_db: Database, clock: ManualClock) -> Callable[..., SignOn]:
    access, teams = Access(access_db, clock), Teams(access_db)

    def build(**settings: Any) -> SignOn:
        given = {"oidc_issuer": idp.issuer, "oidc_client_id": "box", "outgoing_allow": ("127.0.0.1",)}
        chosen = Settings(**{**given, "oidc_groups": ("ml=everyone:member",), **settings})
        made = open_sign_on(chosen, Identities(access_db, access, teams), clock)
        assert made is not None
        return made

    return build


def begun(sign_on: SignOn) -> tuple[str, str]:
    """The cookie and the state of a sign-in."""
    url, cookie = sign_on.begin("https://box.example/login/oidc/callback", "/runs")
    return cookie, parse_qs(urlsplit(url).query)["state"][0]


def test_claims_by_name_and_by_path() -> None:
    claims = {"realm_access": {"roles": ["a"]}, "https://x.example/groups": ["b"], "a": {"b": 1}, "a.b": 2}
    assert claim_at(claims, "realm_access.roles") == ["a"]
    assert claim_at(claims, "https://x.example/groups") == ["b"]
    assert claim_at(claims, "a.b") == 2
    assert claim_at(claims, "realm_access.roles.a") is None
    assert claim_at(claims, "none") is None


@pytest.mark.parametrize("groups", [["ml"], "ml", ["x", 7, None, "ml"]])
def test_groups_in_a_list_or_alone(open_it: Callable[..., SignOn], groups: Any) -> None:
    claims = {"sub": "s", "preferred_username": "ann", "groups": groups}
    assert open_it().person(claims).roles == {"everyone": "member"}


@pytest.mark.parametrize("groups", [None, [], {"ml": 1}, 7, ["ML"], [["ml"]]])
def test_what_is_no_group(open_it: Callable[..., SignOn], groups: Any) -> None:
    assert open_it().person({"sub": "s", "preferred_username": "ann", "groups": groups}).roles is None


def test_required_claims_must_all_be_there(open_it: Callable[..., SignOn]) -> None:
    strict = open_it(oidc_require=("hd=example.org", "email_verified=true", "amr=mfa"), oidc_default_role="viewer")
    good = {"sub": "s", "preferred_username": "a", "hd": "example.org", "email_verified": True, "amr": ["pwd", "mfa"]}
    assert strict.person(good).roles == {"everyone": "viewer"}
    for wrong in (
        {"hd": "evil.example"},
        {"hd": None},
        {"email_verified": False},
        {"amr": ["pwd"]},
        {"amr": "pwd mfa"},
    ):
        with pytest.raises(NotAuthorised, match=next(iter(wrong))):
            strict.person({**good, **wrong})


def test_a_sign_in_has_ten_minutes_and_ends_once(open_it: Callable[..., SignOn], clock: ManualClock) -> None:
    one = open_it()
    cookie, state = begun(one)
    clock.advance(clock.now() + timedelta(minutes=10))
    with pytest.raises(NotAuthenticated, match="ten minutes"):
        one.resume(cookie, state)
    cookie, state = begun(one)
    clock.advance(clock.now() + timedelta(minutes=9))
    assert one.resume(cookie, state).target == "/runs"
    with pytest.raises(NotAuthenticated, match="ended already"):
        one.resume(cookie, state)


def test_another_servers_cookie_is_none_of_ours(open_it: Callable[..., SignOn]) -> None:
    cookie, state = begun(open_it())
    with pytest.raises(NotAuthenticated):
        open_it().resume(cookie, state)


def test_what_a_provider_says_of_itself_is_kept_for_an_hour(
    open_it: Callable[..., SignOn], idp: HostileProvider, clock: ManualClock
) -> None:
    one = open_it()
    idp.asked.clear()
    begun(one)
    begun(one)
    assert idp.asked == ["/.well-known/openid-configuration"]
    clock.advance(clock.now() + timedelta(minutes=61))
    begun(one)
    assert len(idp.asked) == 2


def test_a_provider_with_tls_leads_nowhere_without(clock: ManualClock, tmp_path: Path) -> None:
    authority, context = certificate(tmp_path, "idp.lab")
    idp = HostileProvider(context)
    outgoing = Outgoing(["idp.lab"], ca_file=str(authority), resolve=lambda host, port: ["127.0.0.1"])
    try:
        idp.issuer = f"https://idp.lab:{idp.port}"
        provider = Provider(Client(idp.issuer, "box", None, ()), outgoing, clock)
        assert provider.metadata()["token_endpoint"] == f"{idp.issuer}/token"
        for endpoint in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            idp.metadata = {endpoint: f"http://idp.lab:{idp.port}/x"}
            with pytest.raises(Unavailable, match=f"{endpoint} without TLS"):
                Provider(Client(idp.issuer, "box", None, ()), outgoing, clock).metadata()
    finally:
        outgoing.close()
        idp.close()


def test_how_the_client_shows_who_it_is(idp: HostileProvider, clock: ManualClock) -> None:
    """Its secret in a header or in the form, as the provider takes it; none for a public client."""
    outgoing = Outgoing(["127.0.0.1"])
    ways = (
        ("s", None, "Basic Ym94OnM=", None),
        ("s", ["client_secret_post"], "", "s"),
        ("s", ["client_secret_post", "client_secret_basic"], "Basic Ym94OnM=", None),
        (None, None, "", None),
    )
    for secret, methods, header, in_form in ways:
        idp.metadata = {} if methods is None else {"token_endpoint_auth_methods_supported": methods}
        provider = Provider(Client(idp.issuer, "box", secret, ("email",)), outgoing, clock)
        verifier = "v" * 64
        url = provider.authorization_url("https://box.example/cb", "state", "nonce", verifier)
        assert parse_qs(urlsplit(url).query)["scope"] == ["openid email"]
        idp.claims = {"iat": int(clock.real().timestamp()), "exp": int(clock.real().timestamp()) + 60}
        code = idp.agree(url)["code"]
        assert provider.redeem(code, "https://box.example/cb", "nonce", verifier, [])["sub"] == "s1"
        form, authorization = idp.posted[-1]
        assert (authorization, form.get("client_secret")) == (header, in_form)
        assert ("client_id" in form) == (header == "")
    idp.reset()
    outgoing.close()


def test_a_provider_that_is_slow_holds_up_only_so_many(idp: HostileProvider, clock: ManualClock) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(host: str, port: int) -> list[str]:
        asked.set()
        assert go_on.wait(60)
        return ["127.0.0.1"]

    outgoing = Outgoing(["127.0.0.1"], resolve=slow)
    provider = Provider(Client(idp.issuer, "box", None, ()), outgoing, clock, most=1)
    found: list[Any] = []
    first = threading.Thread(target=lambda: found.append(provider.metadata()))
    first.start()
    assert asked.wait(60)
    with pytest.raises(Unavailable, match="Too many"):
        provider.metadata()
    go_on.set()
    first.join()
    assert found[0]["issuer"] == idp.issuer
    outgoing.close()
