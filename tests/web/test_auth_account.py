"""Signing in and one's own account, through the whole app: pages, cookies, and the API behind them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mlbox.web.auth import COOKIE
from mlbox.web.box import Box
from mlbox.web.pages.account import browser_of
from tests.web.site import Page, Site, open_box

GOOD, BETTER = "correct horse battery", "correct horse battery staple"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("account") / "data", signin_rate=1000, signin_tries=100)
    yield opened
    opened.close()


@pytest.fixture
def name(box: Box, request: pytest.FixtureRequest) -> str:
    """A new account for each test."""
    name = f"u{len(box.access.users())}"
    box.access.create_user(name, "member", actor="admin")
    return name


class Person:
    """Someone with a token, and the API."""

    def __init__(self, box: Box, name: str, **ceiling: Any) -> None:
        self.site = Site(box, user="")
        _, self.token = box.access.create_token(name, "test", actor="admin", **ceiling)

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}", "accept": "*/*"}
        return self.site.request(method, f"/api/v1{path}", headers=headers, json=body)


def browse(box: Box, **form: str) -> httpx.Response:
    """What the sign-in page's form gets."""
    return Site(box, user="").request("POST", "/login", data=form, headers={"user-agent": "Firefox"})


def cookie_of(answer: httpx.Response) -> str:
    found = re.search(rf"{COOKIE}=([^;]+)", answer.headers["set-cookie"])
    assert found
    return found[1]


def csrf_of(site: Site) -> dict[str, str]:
    metas = Page(site.get("/account")).all("meta")
    return {"x-csrf-token": next(a["content"] for a in metas if a.get("name") == "csrf")}


# -- signing in ---------------------------------------------------------------------------------------------------------


def test_a_password_signs_in_and_a_wrong_one_says_no_more_than_that(box: Box, name: str) -> None:
    person = Person(box, name)
    assert person.ask("PUT", f"/users/{name}/password", {"password": GOOD}).status_code == 204
    answer = browse(box, user=name, token=GOOD, next="/models?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/models?x=1")
    for user, secret in ((name, "wr0ng pass"), ("nobody", GOOD), ("admin", GOOD)):
        wrong = browse(box, user=user, token=secret)
        assert wrong.status_code == 401
        assert "The user name or the password is wrong." in wrong.text
        assert "set-cookie" not in wrong.headers
        assert secret not in wrong.text
    assert f'value="{name}"' in browse(box, user=name, token="wrong").text


def test_a_token_signs_in_with_its_users_name_or_none(box: Box, name: str) -> None:
    token = Person(box, name).token
    assert browse(box, token=f" {token}\n").status_code == 303
    assert browse(box, user=name, token=token).status_code == 303
    assert browse(box, user="admin", token=token).status_code == 401


def test_the_cookie_is_for_this_server_only(box: Box, name: str) -> None:
    token = Person(box, name).token
    plain = browse(box, token=token).headers["set-cookie"].lower()
    assert "httponly" in plain
    assert "samesite=lax" in plain
    assert "path=/" in plain
    assert "secure" not in plain

    async def over_tls() -> httpx.Response:
        transport = httpx.ASGITransport(app=Site(box, user="").app)
        async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as client:
            return await client.post("/login", data={"token": token})

    assert "secure" in asyncio.run(over_tls()).headers["set-cookie"].lower()


def test_each_sign_in_has_a_secret_of_its_own_and_ends_the_one_before(box: Box, name: str) -> None:
    token = Person(box, name).token
    site = Site(box, user="")
    site.cookies = {COOKIE: cookie_of(browse(box, token=token))}
    former = site.cookies[COOKIE]
    again = site.request("POST", "/login", data={"token": token})
    assert cookie_of(again) != former
    assert box.access.session(former) is None
    fixed = Site(box, user="")
    fixed.cookies = {COOKIE: "chosen-by-someone-else"}
    assert cookie_of(fixed.request("POST", "/login", data={"token": token})) != "chosen-by-someone-else"


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", ""]
)
def test_signing_in_leads_to_no_other_site(box: Box, name: str, target: str) -> None:
    assert browse(box, token=Person(box, name).token, next=target).headers["location"] == "/"


def test_who_is_turned_away_comes_back_to_the_same_page_and_filters(box: Box) -> None:
    answer = Site(box, user="").get("/runs?experiment=a%26b&state=x")
    assert answer.headers["location"] == "/login?next=/runs%3Fexperiment%3Da%2526b%26state%3Dx"
    page = Page(Site(box, user="").get(answer.headers["location"]))
    assert [a["value"] for a in page.all("input") if a["name"] == "next"] == ["/runs?experiment=a%26b&state=x"]


def test_too_many_wrong_tries_say_when_to_come_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    box = open_box(tmp_path_factory.mktemp("limited") / "data", signin_rate=2)
    try:
        assert [browse(box, token="wrong").status_code for _ in range(2)] == [401, 401]
        refused = browse(box, once="wrong")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert re.search(r"It may try again in \d+ seconds\.", refused.text)
        api = Site(box, user="").request("POST", "/api/v1/login", json={"once": "x"}, headers={"accept": "*/*"})
        assert (api.status_code, api.json()["error"]["code"]) == (429, "too_many")
        assert int(api.headers["retry-after"]) > 0
        assert browse(box, token=(box.data_dir.root / "admin-token").read_text()).status_code == 303
    finally:
        box.close()


def test_a_password_becomes_a_token_for_the_command_line(box: Box, name: str) -> None:
    Person(box, name).ask("PUT", f"/users/{name}/password", {"password": GOOD})

    def login(**body: str) -> httpx.Response:
        return Site(box, user="").request("POST", "/api/v1/login", json=body, headers={"accept": "*/*"})

    made = login(user=name, password=GOOD, name="laptop").json()
    assert (made["user"], made["name"]) == (name, "laptop")
    assert box.access.authenticate(made["secret"]).name == name
    assert box.access.sessions(name) == [], "no session stays behind"
    assert login(user=name, password="wrong").status_code == 401
    assert login(user=name).status_code == 400
    _, low = box.access.create_token(name, "low", actor=name, role="viewer")
    weak = login(user=name, password=low).json()
    assert box.access.authenticate(weak["secret"]).ceiling == "viewer", "a token becomes no stronger one"


# -- the account over the API -------------------------------------------------------------------------------------------


def test_a_change_takes_the_present_password_and_ends_the_other_sessions(box: Box, name: str) -> None:
    person, site, other = Person(box, name), Site(box, user=name), Site(box, user=name)
    csrf = csrf_of(site)
    path = f"/api/v1/users/{name}/password"
    assert person.ask("GET", "/account").json()["has_password"] is False
    assert site.request("PUT", path, json={"password": GOOD}).status_code == 403, "no form token"
    assert site.request("PUT", path, json={"password": GOOD}, headers=csrf).status_code == 204
    assert site.get("/account").status_code == 200
    assert other.get("/account").status_code == 303
    assert person.ask("GET", "/account").json()["has_password"] is True
    for body, field in (({"password": BETTER}, "old"), ({"password": BETTER, "old": "wrong"}, "old")):
        refused = site.request("PUT", path, json=body, headers=csrf)
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)
    short = site.request("PUT", path, json={"password": "short", "old": GOOD}, headers=csrf)
    assert (short.status_code, short.json()["error"]["field"]) == (400, "password")
    assert site.request("PUT", path, json={"password": BETTER, "old": GOOD}, headers=csrf).status_code == 204
    assert browse(box, user=name, token=GOOD).status_code == 401
    assert browse(box, user=name, token=BETTER).status_code == 303


def test_an_admin_sets_a_first_password_only_and_takes_a_forgotten_one_away(box: Box, name: str) -> None:
    admin, path = Person(box, "admin"), f"/users/{name}/password"
    assert admin.ask("PUT", path, {"password": GOOD}).status_code == 204
    refused = admin.ask("PUT", path, {"password": BETTER, "old": GOOD})
    assert (refused.status_code, "--remove" in refused.text) == (403, True)
    assert admin.ask("DELETE", path).status_code == 204
    assert browse(box, user=name, token=GOOD).status_code == 401
    assert admin.ask("PUT", path, {"password": BETTER}).status_code == 204
    assert admin.ask("PUT", "/users/nobody/password", {"password": GOOD}).status_code == 404


def test_nobody_touches_anothers_account(box: Box, name: str) -> None:
    box.access.create_user(f"{name}x", "approver", actor="admin")
    person, other = Person(box, f"{name}x"), f"/users/{name}"
    for method, path, body in (
        ("PUT", f"{other}/password", {"password": GOOD}),
        ("DELETE", f"{other}/password", None),
        ("PUT", f"{other}/state", {"state": "disabled"}),
        ("POST", f"{other}/link", None),
        ("POST", f"{other}/sign-out", None),
        ("POST", "/tokens", {"user": name, "name": "x"}),
    ):
        answer = person.ask(method, path, body)
        assert (answer.status_code, "takes the role admin" in answer.text) == (403, True), path
    Site(box, user=name)
    [session] = box.access.sessions(name)
    assert person.ask("DELETE", f"/account/sessions/{session.id}").status_code == 404


def test_a_token_with_a_ceiling_makes_nothing_that_outlives_it(box: Box, name: str) -> None:
    low = Person(box, name, role="viewer")
    [session] = [Site(box, user=name)] and box.access.sessions(name)
    [own] = [t for t in box.access.tokens(name) if t.role == "viewer"]
    strong, _ = box.access.create_token(name, "strong", actor=name)
    for method, path, body in (
        ("PUT", f"/users/{name}/password", {"password": GOOD}),
        ("POST", f"/users/{name}/sign-out", None),
        ("DELETE", f"/account/sessions/{session.id}", None),
        ("DELETE", f"/tokens/{strong.id}", None),
        ("POST", "/tokens", {"user": name, "name": "x", "role": "member"}),
    ):
        answer = low.ask(method, path, body)
        assert (answer.status_code, "no more than viewer" in answer.text) == (403, True), path
    assert low.ask("POST", "/tokens", {"user": name, "name": "x"}).json()["role"] == "viewer"
    assert low.ask("DELETE", f"/tokens/{own.id}").status_code == 204, "it may end itself"


def test_tokens_expire_when_they_were_told_to(box: Box, name: str) -> None:
    person = Person(box, name)
    made = person.ask("POST", "/tokens", {"user": name, "name": "ci", "expires": "30d"}).json()
    token = box.access.token(made["id"])
    assert token.expires_at is not None
    assert (token.expires_at - token.created_at).days == 30
    for wrong in ("soon", "0d", "1y"):
        refused = person.ask("POST", "/tokens", {"user": name, "name": "ci", "expires": wrong})
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, "expires")


def test_disabling_and_enabling(box: Box, name: str) -> None:
    admin, person, site = Person(box, "admin"), Person(box, name), Site(box, user=name)
    assert site.get("/account").status_code == 200
    disabled = admin.ask("PUT", f"/users/{name}/state", {"state": "disabled"})
    assert disabled.json()["disabled_at"]
    assert person.ask("GET", "/whoami").status_code == 401
    assert site.get("/account").status_code == 303
    assert admin.ask("PUT", f"/users/{name}/state", {"state": "active"}).json().get("disabled_at") is None
    assert person.ask("GET", "/whoami").status_code == 200
    only = admin.ask("PUT", "/users/admin/state", {"state": "disabled"})
    assert (only.status_code, "only admin" in only.text) == (409, True)


def test_a_link_for_a_new_colleague_works_once(box: Box, name: str) -> None:
    url = Person(box, "admin").ask("POST", f"/users/{name}/link").json()["url"]
    assert url.startswith("http://localhost/login?once=")
    once = url.partition("once=")[2]
    assert "Sign in" in Site(box, user="").get(url).text
    assert browse(box, once=once).status_code == 303
    assert browse(box, once=once).status_code == 401


def test_signing_out_everywhere(box: Box, name: str) -> None:
    site, other, person = Site(box, user=name), Site(box, user=name), Person(box, name)
    answer = site.request("POST", f"/api/v1/users/{name}/sign-out", headers=csrf_of(site))
    assert answer.json() == {"sessions": 2}
    assert (site.get("/account").status_code, other.get("/account").status_code) == (303, 303)
    assert person.ask("GET", "/whoami").status_code == 200, "tokens stay"


def test_what_happened_to_accounts_is_in_the_audit_log_without_secrets(box: Box, name: str) -> None:
    admin, person = Person(box, "admin"), Person(box, name)
    person.ask("PUT", f"/users/{name}/password", {"password": GOOD})
    admin.ask("POST", f"/users/{name}/link")
    Site(box, user=name)
    admin.ask("POST", f"/users/{name}/sign-out")
    admin.ask("DELETE", f"/users/{name}/password")
    admin.ask("PUT", f"/users/{name}/state", {"state": "disabled"})
    admin.ask("PUT", f"/users/{name}/state", {"state": "active"})
    answer = admin.ask("GET", f"/audit?subject=user:{name}")
    types = {event["type"] for event in answer.json()}
    assert types >= {
        *("user.created", "user.password", "user.link", "user.signed_out", "user.password_removed"),
        *("user.disabled", "user.enabled", "token.created"),
    }
    assert "argon2" not in answer.text
    assert person.token not in answer.text


# -- the page -----------------------------------------------------------------------------------------------------------


def test_the_page_shows_ones_own_and_no_others(box: Box, name: str) -> None:
    box.access.create_token(name, "my laptop", actor=name)
    box.access.create_token("admin", "not mine", actor="admin")
    site = Site(box, user=name)
    site.cookies = {COOKIE: cookie_of(browse(box, token=Person(box, name).token))}
    answer = site.get("/account")
    page = Page(answer)
    assert page.inline == []
    assert "my laptop" in answer.text
    assert "not mine" not in answer.text
    assert "Firefox" in answer.text
    assert "this one" in answer.text
    assert site.cookies[COOKIE] not in answer.text
    assert {a.get("autocomplete") for a in page.all("input") if a.get("type") == "password"} == {"new-password"}
    assert "/account" in page.links, "the frame leads here"


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/130.0 Safari/537.36 Edg/130.0", "Edge on Windows"),
        ("Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/130.0 Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1", "Safari on iOS"),
        ("curl/8", "curl/8"),
        ("", "unknown"),
    ],
)
def test_a_browser_is_named_as_people_call_it(agent: str, words: str) -> None:
    assert browser_of(agent) == words


def test_the_page_offers_nothing_that_a_ceiling_refuses(box: Box, name: str) -> None:
    site = Site(box, user="")
    site.cookies = {COOKIE: cookie_of(browse(box, token=Person(box, name, role="viewer").token))}
    page = Page(site.get("/account"))
    actions = [a["action"] for a in page.all("form")]
    assert not [action for action in actions if "password" in action or "sign-out" in action or "sessions" in action]
    assert [a["value"] for a in page.all("option") if a.get("value") in ("viewer", "member", "admin")] == ["viewer"]


def test_the_router_itself_answers_in_the_shape_of_the_protocol(box: Box) -> None:
    site = Site(box)
    csrf = csrf_of(site)
    for method, path, status in (
        ("GET", "/v2/nowhere", 404),
        ("DELETE", "/v2", 405),
        ("PUT", "/v2/models/m/infer", 405),
    ):
        answer = site.request(method, path, headers={"accept": "application/json", **csrf})
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert isinstance(answer.json()["error"], str)
    native = site.get("/api/v1/nowhere", headers={"accept": "application/json"}).json()["error"]
    assert native["code"] == "not_found"
