"""Signing in and out as a browser does: by link, by token, from nowhere else, and only to pages of this server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.web.auth import COOKIE
from mlbox.web.pages.signin import local_path
from tests.web.site import Page, Site, open_box


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    opened = open_box(tmp_path_factory.mktemp("signin") / "data")
    yield Site(opened)
    opened.close()


def test_a_login_link_is_used_up_by_its_button_and_not_by_a_preview(empty: Site) -> None:
    stranger, once = Site(empty.box, user=""), empty.box.access.create_login("admin")
    for _ in range(2):
        page = Page(stranger.get(f"/login?once={once}"))
        assert {"type": "hidden", "name": "once", "value": once} in page.all("input")
    answer = stranger.request("POST", "/login", data={"once": once, "next": "/models"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/models")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    stranger.cookies = {COOKIE: re.findall(rf"{COOKIE}=([^;]+)", cookie)[0].strip('"')}
    assert stranger.get("/models").status_code == 200
    again = Site(empty.box, user="").request("POST", "/login", data={"once": once})
    assert again.status_code == 401
    assert "used already or has expired" in again.text


def test_a_token_signs_in_and_a_wrong_one_says_why(empty: Site) -> None:
    stranger = Site(empty.box, user="")
    token = (empty.box.data_dir.root / "admin-token").read_text()
    assert stranger.request("POST", "/login", data={"token": token}).status_code == 303
    for wrong, words in (("mlb_x", "damaged"), ("odd", "not known"), ("", "No token was given")):
        answer = stranger.request("POST", "/login", data={"token": wrong})
        assert answer.status_code == 401
        assert words in answer.text
        assert "set-cookie" not in answer.headers


def test_another_site_cannot_sign_anyone_in(empty: Site) -> None:
    token = (empty.box.data_dir.root / "admin-token").read_text()
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        answer = Site(empty.box, user="").request("POST", "/login", data={"token": token}, headers=headers)
        assert answer.status_code == 403, headers


def test_signing_out_takes_the_form_token_and_ends_the_session(empty: Site) -> None:
    site = Site(empty.box)
    csrf = next(a["content"] for a in Page(site.get("/")).all("meta") if a.get("name") == "csrf")
    assert site.request("POST", "/logout").status_code == 403
    assert site.get("/").status_code == 200
    assert site.request("POST", "/logout", headers={"x-csrf-token": csrf}).status_code == 303
    assert site.get("/").status_code == 303


@given(st.text() | st.sampled_from(["//evil.example", "/\\evil.example", "https://evil.example", "/a\nb", "/\t/evil"]))
def test_signing_in_leads_only_to_this_server(target: str) -> None:
    found = local_path(target)
    assert found.startswith("/")
    assert not found.startswith(("//", "/\\"))
    assert found.isprintable()


def test_the_theme_is_in_the_page_so_that_nothing_flashes(empty: Site) -> None:
    site = Site(empty.box)
    assert 'lang="en">' in site.get("/").text
    for theme in ("light", "dark"):
        site.cookies["mlbox_theme"] = theme
        assert f'data-theme="{theme}"' in site.get("/").text
    site.cookies["mlbox_theme"] = "odd"
    assert "data-theme" not in site.get("/").text
