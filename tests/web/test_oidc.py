"""Single sign-on against a real provider program, and against one that lies."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from tests.conftest import MLBOX, Server, unclaimed_port
from tests.web.idp import Browser, HostileProvider, RealProvider, message

GROUPS = ("ml-engineers=vision:member", "ml-leads=vision:approver", "leads=everyone:admin", "staff=everyone:viewer")
SECRET = "client-secret-of-these-tests"


def flags(issuer: str, client_id: str, secret_file: Path, *groups: str) -> list[str]:
    return [
        *("--oidc-issuer", issuer, "--oidc-client-id", client_id, "--oidc-client-secret-file", str(secret_file)),
        *("--outgoing-allow", "127.0.0.1"),
        *(part for group in groups for part in ("--oidc-groups", group)),
    ]


def secret_file(folder: Path, secret: str = SECRET) -> Path:
    path = folder / "client-secret"
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return path


# -- the real provider ----------------------------------------------------------------------------------------------------


class House:
    """A server and the real provider that it signs in with."""

    def __init__(self, folder: Path) -> None:
        port = unclaimed_port()
        self.provider = RealProvider(folder / "provider.log", "--require-registration", "--require-nonce")
        try:
            client_id, secret = self.provider.register(f"http://127.0.0.1:{port}/login/oidc/callback")
            more = flags(self.provider.issuer, client_id, secret_file(folder, secret), *GROUPS)
            self.server = Server(
                folder / "data", "--port", str(port), "--oidc-name", "Example & Co", *more, command=[str(MLBOX)]
            )
        except BaseException:
            self.provider.stop()
            raise
        self.url, self.http = self.server.url, self.server.http

    def person(self, subject: str, *groups: str, name: str = "") -> Browser:
        self.provider.set_user(subject, preferred_username=name or subject, groups=list(groups))
        return Browser(self.url)

    def user(self, name: str) -> dict[str, Any] | None:
        return next((user for user in self.http.get("/api/v1/users").json() if user["name"] == name), None)

    def members(self, team: str) -> dict[str, str]:
        teams = self.http.get("/api/v1/teams").json()
        found = next((one for one in teams if one["name"] == team), {"members": []})
        return {member["user"]: member["role"] for member in found["members"]}

    def stop(self) -> None:
        self.server.stop()
        self.provider.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("oidc"))
    yield made
    made.stop()


def test_the_first_sign_in_makes_an_account_in_its_teams(house: House) -> None:
    browser = house.person("ann", "ml-engineers", "staff", "other")
    page = browser.http.get("/login?next=/runs").text
    assert "Sign in with Example &amp; Co" in page
    assert "/login/oidc?next=/runs" in page
    answer = browser.sign_in("ann", "/runs?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?x=1"), answer.text
    cookie = next(line for line in answer.headers.get_list("set-cookie") if line.startswith("mlbox_session="))
    assert "httponly" in cookie.lower()
    assert "samesite=lax" in cookie.lower()
    who = browser.who()
    assert who is not None
    assert (who["name"], who["role"]) == ("ann", "viewer")
    assert house.members("vision")["ann"] == "member"
    assert "Overview" in browser.http.get("/").text


def test_what_the_browser_carries_meanwhile_names_no_secret(house: House) -> None:
    browser = house.person("ben", "staff")
    asked = parse_qs(urlsplit(browser.leave()).query)
    assert asked["response_type"] == ["code"]
    assert asked["code_challenge_method"] == ["S256"]
    assert set(asked["scope"][0].split()) == {"openid", "profile", "email"}
    secret = (house.server.data_dir.parent / "client-secret").read_text().strip()
    assert secret not in str(asked) + str(browser.http.cookies)
    assert secret not in (Path("/proc") / str(house.server.process.pid) / "cmdline").read_text()
    assert "samesite" in browser.http.get("/login/oidc").headers["set-cookie"].lower()


def test_groups_are_mapped_anew_at_each_sign_in(house: House) -> None:
    browser = house.person("cai", "ml-engineers", "leads")
    browser.sign_in("cai")
    who = browser.who()
    assert who is not None
    assert who["role"] == "admin"
    house.http.post("/api/v1/teams", json={"name": "byhand"}).raise_for_status()
    house.http.put("/api/v1/teams/byhand/members/cai", json={"role": "member"}).raise_for_status()
    again = house.person("cai", "ml-leads", "ml-engineers", "staff")
    again.sign_in("cai")
    user = house.user("cai")
    assert user is not None
    assert user["role"] == "viewer"
    assert house.members("vision")["cai"] == "approver"
    assert house.members("byhand")["cai"] == "member", "a team that the mapping does not name"
    house.person("cai", "staff").sign_in("cai")
    assert "cai" not in house.members("vision")


def test_who_is_in_no_group_stays_out_and_who_left_them_is_signed_out(house: House) -> None:
    stranger = house.person("dan", "other")
    answer = stranger.sign_in("dan")
    assert answer.status_code == 403
    assert "oidc_groups" in message(answer)
    assert house.user("dan") is None
    browser = house.person("eve", "ml-engineers", "leads")
    browser.sign_in("eve")
    assert browser.who() is not None
    assert house.person("eve").sign_in("eve").status_code == 403
    assert browser.who() is None, "the session of before has ended"
    user = house.user("eve")
    assert user is not None
    assert user["role"] == "viewer"
    assert "eve" not in house.members("vision")


def test_a_name_that_is_taken_is_never_taken_over(house: House) -> None:
    house.http.post("/api/v1/users", json={"name": "Fay", "role": "admin"}).raise_for_status()
    for subject, name in (("fay-1", "fay"), ("boss", "Admin"), ("tok", "token"), ("mail", "admin@evil.example")):
        browser = house.person(subject, "staff", name=name)
        answer = browser.sign_in(subject)
        assert answer.status_code == 409, name
        assert f"mlbox identity link {name.partition('@')[0].lower()} {subject}" in message(answer)
        assert browser.who() is None


def test_an_admin_links_a_person_to_an_account(house: House) -> None:
    house.http.post("/api/v1/users", json={"name": "gus", "role": "member"}).raise_for_status()
    browser = house.person("gus-7", "ml-engineers", "staff", name="gus")
    assert browser.sign_in("gus-7").status_code == 409
    made = house.http.post("/api/v1/identities", json={"user": "gus", "subject": "gus-7"})
    assert made.json()["issuer"] == house.provider.issuer, made.text
    assert browser.sign_in("gus-7").status_code == 303
    who = browser.who()
    assert who is not None
    assert who["name"] == "gus"
    other = house.http.post("/api/v1/identities", json={"user": "admin", "subject": "gus-7"})
    assert other.status_code == 409
    assert {"gus-7"} <= {one["subject"] for one in house.http.get("/api/v1/identities").json()}
    gone = house.http.delete("/api/v1/identities", params={"subject": "gus-7"})
    assert gone.status_code == 204
    assert browser.who() is None
    assert house.http.delete("/api/v1/identities", params={"subject": "gus-7"}).status_code == 404


def test_only_an_admin_links(house: House) -> None:
    browser = house.person("hal", "staff")
    browser.sign_in("hal")
    csrf = browser.http.get("/").text.split('name="csrf" content="')[1].split('"')[0]
    answer = browser.http.post(
        "/api/v1/identities", json={"user": "admin", "subject": "hal"}, headers={"x-csrf-token": csrf}
    )
    assert answer.status_code == 403


def test_a_disabled_account_stays_out(house: House) -> None:
    browser = house.person("ida", "ml-engineers", "staff")
    browser.sign_in("ida")
    house.http.put("/api/v1/users/ida/state", json={"state": "disabled"}).raise_for_status()
    assert browser.who() is None
    answer = house.person("ida", "leads").sign_in("ida")
    assert answer.status_code == 403
    assert "disabled" in message(answer)
    user = house.user("ida")
    assert user is not None
    assert user["role"] == "viewer", "and its groups change nothing"


def test_a_code_or_an_answer_is_good_once_and_in_one_browser(house: House) -> None:
    browser = house.person("joe", "staff")
    back = browser.agree(browser.leave(), "joe")
    pending = browser.http.cookies["mlbox_oidc"]
    thief = Browser(house.url)
    assert thief.http.get(back).status_code == 401, "without the cookie"
    other = Browser(house.url)
    other.leave()
    assert other.http.get(back).status_code == 401, "with the cookie of another sign-in"
    assert browser.http.get(back).status_code == 303
    assert "mlbox_oidc" not in browser.http.cookies
    replay = Browser(house.url)
    replay.http.cookies.set("mlbox_oidc", pending)
    answer = replay.http.get(back)
    assert answer.status_code == 401
    assert "ended already" in message(answer)
    code = parse_qs(urlsplit(back).query)["code"][0]
    fresh = Browser(house.url)
    state = parse_qs(urlsplit(fresh.leave()).query)["state"][0]
    answer = fresh.http.get("/login/oidc/callback", params={"code": code, "state": state})
    assert answer.status_code == 401
    assert "invalid_grant" in message(answer), "the provider's word on a code that was used"
    assert fresh.who() is None


def test_a_wrong_state_ends_nothing(house: House) -> None:
    browser = house.person("kim", "staff")
    back = browser.agree(browser.leave(), "kim")
    code = parse_qs(urlsplit(back).query)["code"][0]
    for state in ("", "x", "x" * 43, parse_qs(urlsplit(back).query)["state"][0][:-1]):
        pending = browser.http.cookies.get("mlbox_oidc", "")
        assert browser.http.get("/login/oidc/callback", params={"code": code, "state": state}).status_code == 401
        browser.http.cookies.set("mlbox_oidc", pending, domain="127.0.0.1", path="/login/oidc")
        assert browser.who() is None
    for cookie in ("", ".", "x.y", "é", pending[:-2], "A" + pending):
        headers = {"cookie": f"mlbox_oidc={cookie}".encode()}
        assert httpx.get(back, headers=headers).status_code == 401, cookie


def test_a_refusal_at_the_provider_is_said_and_nothing_of_it_repeated(house: House) -> None:
    browser = house.person("lea", "staff")
    address = browser.leave()
    back = httpx.post(address, data={"action": "deny"}).headers["location"]
    state = parse_qs(urlsplit(address).query)["state"][0]
    answer = browser.http.get(back if "state=" in back else f"{back}&state={state}")
    assert answer.status_code == 401
    assert "access_denied" in message(answer)
    state = parse_qs(urlsplit(browser.leave()).query)["state"][0]
    hostile = {"state": state, "error": "call 555-0100 now", "error_description": "call 555-0100 now"}
    assert "555" not in browser.http.get("/login/oidc/callback", params=hostile).text


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil",
        "javascript:alert(1)",
        "/\t/evil.example",
        "x",
    ],
)
def test_after_signing_in_one_stays_on_this_server(house: House, target: str) -> None:
    browser = house.person("max", "staff")
    answer = browser.sign_in("max", target)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_the_audit_log_says_who_came_how(house: House) -> None:
    house.person("nia", "ml-engineers").sign_in("nia")
    events = house.http.get("/api/v1/audit", params={"limit": 1000}).json()
    found = {(event["type"], event["actor"]) for event in events if event["subject"] == "user:nia"}
    assert {("user.created", "oidc"), ("user.linked", "oidc")} <= found
    assert any(event["type"] == "team.member" and event["data"]["user"] == "nia" for event in events)


def test_a_provider_that_changed_its_keys_is_asked_for_the_new_ones(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    log = tmp_path / "provider.log"
    provider = RealProvider(log)
    try:
        server = make_server(*flags(provider.issuer, "box", secret_file(tmp_path), "staff=everyone:member"))
        provider.set_user("ann", preferred_username="ann", groups=["staff"])
        assert Browser(server.url).sign_in("ann").status_code == 303
        before = httpx.get(f"{provider.issuer}/jwks").json()
    finally:
        provider.stop()
    provider = RealProvider(log, port=provider.port)
    try:
        assert httpx.get(f"{provider.issuer}/jwks").json() != before
        provider.set_user("ann", preferred_username="ann", groups=["staff"])
        browser = Browser(server.url)
        assert browser.sign_in("ann").status_code == 303
        assert browser.who() is not None
    finally:
        provider.stop()
    browser = Browser(server.url)
    back = browser.leave()  # what the provider said of itself is kept for an hour
    state = parse_qs(urlsplit(back).query)["state"][0]
    answer = browser.http.get("/login/oidc/callback", params={"code": "c", "state": state})
    assert answer.status_code == 503
    assert "could not be asked" in message(answer)


# -- the provider that lies -----------------------------------------------------------------------------------------------


class Den:
    """A server and a provider that does not do as it should."""

    def __init__(self, folder: Path) -> None:
        self.provider = HostileProvider()
        more = flags(self.provider.issuer, "box", secret_file(folder), "team=everyone:member")
        try:
            self.server = Server(folder / "data", *more)
        except BaseException:
            self.provider.close()
            raise

    def try_it(self) -> tuple[httpx.Response, Browser]:
        browser = Browser(self.server.url)
        back = self.provider.agree(browser.leave())
        return browser.http.get("/login/oidc/callback", params=back), browser

    def users(self) -> list[str]:
        return [user["name"] for user in self.server.http.get("/api/v1/users").json()]

    def stop(self) -> None:
        self.server.stop()
        self.provider.close()


@pytest.fixture(scope="module")
def opened_den(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Den]:
    made = Den(tmp_path_factory.mktemp("den"))
    yield made
    made.stop()


@pytest.fixture
def den(opened_den: Den) -> Den:
    opened_den.provider.reset()
    return opened_den


def unsigned(claims: dict[str, Any]) -> str:
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts), ""])


NOW = int(time.time())
LIES: dict[str, dict[str, Any]] = {
    "another nonce": {"nonce": "n"},
    "no nonce": {"nonce": None},
    "another audience": {"aud": "other-app"},
    "no audience": {"aud": None},
    "two audiences, not said for whom": {"aud": ["box", "other-app"]},
    "authorised for another": {"aud": ["box", "other-app"], "azp": "other-app"},
    "another issuer": {"iss": "https://other.example"},
    "expired": {"exp": NOW - 3600},
    "never expires": {"exp": None},
    "expiry is a text": {"exp": "never"},
    "not yet": {"nbf": NOW + 86400},
    "from the future": {"iat": NOW + 86400, "exp": NOW + 90000},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a subject that is too long": {"sub": "s" * 256},
    "a subject with a line break": {"sub": "a\nb"},
    "the hash of another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


@pytest.mark.parametrize("lie", LIES)
def test_claims_that_are_not_as_they_must_be(den: Den, lie: str) -> None:
    den.provider.claims = LIES[lie]
    answer, browser = den.try_it()
    assert answer.status_code in (400, 401), answer.text
    assert "valid" in message(answer) or "subject" in message(answer)
    assert browser.who() is None
    assert not {"mallory"} & set(den.users())


def test_signatures_that_are_not_the_providers(den: Den) -> None:
    key, other = den.provider.key, RSAKey.generate_key(2048, {"kid": "one"})
    pem = key.as_pem(private=False)
    ways: dict[str, Callable[[dict[str, Any]], str]] = {
        "none": unsigned,
        "another key under the same id": lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, other),
        "the client's secret": lambda claims: jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET)),
        "changed afterwards": lambda claims: den.provider.honestly(claims)[:-8] + "AAAAAAAA",
        "the key in its own header": lambda claims: jwt.encode(
            {"alg": "RS256", "kid": "two", "jwk": other.as_dict(private=False)}, claims, other
        ),
        "no token": lambda claims: "x",
        "five parts": lambda claims: "a.b.c.d.e",
    }
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()

    def public_key_as_secret(claims: dict[str, Any]) -> str:
        import hashlib
        import hmac

        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        digest = hmac.digest(pem, f"{header}.{body}".encode(), hashlib.sha256)
        return f"{header}.{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"

    ways["the public key as a secret"] = public_key_as_secret
    for way, sign in ways.items():
        den.provider.sign = sign
        answer, browser = den.try_it()
        assert answer.status_code == 401, way
        assert "not valid" in message(answer)
        assert browser.who() is None, way
    assert "mallory" not in den.users()


def test_an_honest_token_of_the_same_provider_is_good(den: Den) -> None:
    den.provider.claims = {"preferred_username": "honest", "sub": "honest", "exp": NOW + 86400}
    answer, browser = den.try_it()
    assert answer.status_code == 303, answer.text
    who = browser.who()
    assert who is not None
    assert (who["name"], who["role"]) == ("honest", "member")
    form, authorization = den.provider.posted[-1]
    assert authorization == "Basic " + base64.b64encode(f"box:{SECRET}".encode()).decode()
    assert "client_secret" not in form
    assert form["redirect_uri"] == f"{den.server.url}/login/oidc/callback"


def test_a_code_that_another_sign_in_got_is_no_good_here(den: Den) -> None:
    """PKCE: whoever catches a code has not the verifier that its sign-in began with."""
    victim, thief = Browser(den.server.url), Browser(den.server.url)
    caught = den.provider.agree(victim.leave())["code"]
    own = den.provider.agree(thief.leave())["state"]
    answer = thief.http.get("/login/oidc/callback", params={"code": caught, "state": own})
    assert answer.status_code == 401
    assert "invalid_grant" in message(answer)
    assert "script" not in message(answer)
    assert thief.who() is None


def test_two_audiences_are_good_when_said_for_whom(den: Den) -> None:
    den.provider.claims = {"preferred_username": "two", "sub": "two", "aud": ["box", "other"], "azp": "box"}
    assert den.try_it()[0].status_code == 303


def test_what_the_id_token_lacks_is_asked_for_and_must_be_about_the_same_person(den: Den) -> None:
    den.provider.claims = {"sub": "thin", "preferred_username": None, "groups": None}
    den.provider.userinfo = {"sub": "someone", "preferred_username": "thin", "groups": ["team"]}
    answer, _ = den.try_it()
    assert answer.status_code == 401
    assert "someone else" in message(answer)
    den.provider.userinfo["sub"] = "thin"
    answer, browser = den.try_it()
    assert answer.status_code == 303, answer.text
    who = browser.who()
    assert who is not None
    assert who["name"] == "thin"


def test_groups_that_did_not_fit_into_the_token_are_said(den: Den) -> None:
    den.provider.claims = {"groups": None, "_claim_names": {"groups": "src1"}}
    den.provider.userinfo = {"sub": "s1"}
    answer, _ = den.try_it()
    assert answer.status_code == 403
    assert "more groups" in message(answer)


def test_another_provider_does_not_answer_for_this_one(den: Den) -> None:
    browser = Browser(den.server.url)
    back = den.provider.agree(browser.leave())
    answer = browser.http.get("/login/oidc/callback", params={**back, "iss": "https://other.example"})
    assert answer.status_code == 401
    assert "Another provider" in message(answer)


def test_keys_that_changed_are_fetched_once_more_and_not_for_ever(den: Den) -> None:
    den.provider.claims = {"preferred_username": "rot", "sub": "rot"}
    assert den.try_it()[0].status_code == 303
    new = RSAKey.generate_key(2048, {"use": "sig", "kid": "two"})
    den.provider.published = [new]
    den.provider.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": "two"}, claims, new)
    den.provider.asked.clear()
    assert den.try_it()[0].status_code == 303
    assert den.try_it()[0].status_code == 303
    assert den.provider.asked.count("/jwks") == 1
    den.provider.sign = den.provider.honestly
    assert den.try_it()[0].status_code == 401, "the old key is no longer the provider's"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"issuer": "https://other.example"}, "says that it is"),
        ({"token_endpoint": None}, "token_endpoint"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
        ({"authorization_endpoint": 7}, "authorization_endpoint"),
    ],
)
def test_a_discovery_document_that_cannot_be(
    make_server: Callable[..., Server], tmp_path: Path, metadata: dict[str, Any], words: str
) -> None:
    provider = HostileProvider()
    try:
        provider.metadata = metadata
        server = make_server(*flags(provider.issuer, "box", secret_file(tmp_path), "team=everyone:member"))
        answer = httpx.get(f"{server.url}/login/oidc")
        assert answer.status_code == 503
        assert words in message(answer)
        provider.metadata = {}
        assert httpx.get(f"{server.url}/login/oidc").status_code == 303, "mended, and not remembered as broken"
    finally:
        provider.close()


def test_behind_a_proxy_with_tls_the_way_back_and_the_cookies_are_for_tls(
    make_server: Callable[..., Server], den: Den, tmp_path: Path
) -> None:
    more = flags(den.provider.issuer, "box", secret_file(tmp_path), "team=everyone:member")
    server = make_server("--trusted-proxy", "127.0.0.1", "--allowed-host", "box.example", *more)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7", "Host": "box.example"}
    answer = httpx.get(f"{server.url}/login/oidc", headers=headers)
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["redirect_uri"] == ["https://box.example/login/oidc/callback"]
    assert "secure" in answer.headers["set-cookie"].lower()
    back = den.provider.agree(answer.headers["location"])
    cookie = answer.headers["set-cookie"].partition(";")[0]
    answer = httpx.get(f"{server.url}/login/oidc/callback", params=back, headers={**headers, "Cookie": cookie})
    assert answer.status_code == 303, answer.text
    assert "secure" in answer.headers["set-cookie"].lower()
    text = server.log
    assert back["code"] not in text
    assert back["state"] not in text


# -- settings -------------------------------------------------------------------------------------------------------------


def test_without_an_issuer_there_is_no_single_sign_on(server: Server) -> None:
    assert httpx.get(f"{server.url}/login/oidc").status_code == 404
    assert httpx.get(f"{server.url}/login/oidc/callback").status_code == 404
    assert "/login/oidc" not in httpx.get(f"{server.url}/login").text


def test_a_provider_on_loopback_takes_the_setting_that_allows_it(
    make_server: Callable[..., Server], den: Den, tmp_path: Path
) -> None:
    server = make_server("--oidc-issuer", den.provider.issuer, "--oidc-client-id", "box")
    den.provider.asked.clear()
    answer = httpx.get(f"{server.url}/login/oidc")
    assert answer.status_code == 403
    assert "--outgoing-allow 127.0.0.1" in message(answer)
    assert den.provider.asked == []


def test_settings_that_cannot_work_are_said_at_the_start(tmp_path: Path) -> None:
    from mlbox.errors import MlboxError
    from mlbox.settings import Settings
    from mlbox.web.sign_on import open_sign_on

    loose = secret_file(tmp_path)
    loose.chmod(0o644)
    good = {"oidc_issuer": "https://idp.example", "oidc_client_id": "box"}
    cases: dict[str, dict[str, Any]] = {
        "oidc_issuer": {"oidc_issuer": "http://idp.example"},
        "oidc_client_id": {"oidc_client_id": ""},
        "oidc_client_secret_file": {"oidc_client_secret_file": str(loose)},
        "oidc_groups": {"oidc_groups": ("ml=vision",)},
        "oidc_default_role": {"oidc_default_role": "owner"},
        "oidc_require": {"oidc_require": ("hd",)},
        "outgoing_allow": {"outgoing_allow": ("http://x",)},
    }
    for field, wrong in cases.items():
        with pytest.raises(MlboxError) as caught:
            open_sign_on(Settings(**{**good, **wrong}), None, None)  # type: ignore[arg-type]
        assert caught.value.field == field
        assert caught.value.hint
    assert open_sign_on(Settings(), None, None) is None  # type: ignore[arg-type]
    assert open_sign_on(Settings(**good), None, None) is not None  # type: ignore[arg-type]


def test_without_the_extra_the_start_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "authlib").mkdir()
    (tmp_path / "authlib" / "__init__.py").write_text("raise ModuleNotFoundError('no authlib', name='authlib')")
    command = [MLBOX, "serve", "--port", "0", "--data-dir", tmp_path / "d", "--oidc-issuer", "https://idp.example"]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert run.returncode == 1
    assert "pip install 'mlbox[oidc]'" in run.stderr
