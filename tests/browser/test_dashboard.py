"""The dashboard in a real browser: every page in both themes, by mouse, by keyboard, live, on a phone, without a complaint."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.visitor import DESKTOP, LABELLED, PHONE, Visitor
from tests.conftest import Server
from tests.web.site import EMPTY_PAGES, FEATURE, Filled, fill, open_box

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_in_both_themes_and_on_a_phone(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor], theme: str
) -> None:
    server, made = filled
    visitor = visit(server, color_scheme=theme)
    visitor.sign_in()
    for path in made.pages():
        visitor.visit(path)
        visitor.keep(f"{theme}{path}")
        expect(visitor.page.get_by_role("heading", level=1)).to_be_visible()
        assert visitor.page.evaluate(LABELLED) == [], path
        for size in (DESKTOP, PHONE):
            visitor.page.set_viewport_size(size)  # type: ignore[arg-type]
            width = visitor.page.evaluate("document.documentElement.scrollWidth")
            assert width <= size["width"], (path, width)
        visitor.page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
        background = visitor.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (background == "rgb(16, 17, 20)") == (theme == "dark"), path


def test_gates_are_read_on_a_phone_without_moving_them_sideways(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    server, made = filled
    visitor = visit(server)
    visitor.sign_in()
    visitor.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    visitor.visit(f"/approvals/{made.waiting.id}")
    assert visitor.page.get_by_role("group", name="Gates").evaluate("e => e.scrollWidth <= e.clientWidth")


def test_the_navigation_leads_to_every_page_of_an_empty_box(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    link = next(word for word in server.log.split() if "/login?once=" in word)
    visitor.page.goto(link)
    visitor.page.get_by_role("button", name="Sign in").click()
    visitor.page.wait_for_url("**/")
    navigation = visitor.page.get_by_role("navigation", name="Main")
    navigation.get_by_role("searchbox", name="Search everything").press("Enter")
    visitor.page.wait_for_url(re.compile(r"/search\??$"))
    apart = ("/search", "/timeline", "/runs/columns", "/jobs/new", "/crons/new", "/admin/adoption", "/admin/settings")
    for path in [each for each in EMPTY_PAGES if each not in apart and not each.startswith("/new/")]:
        navigation.locator(f"a[href='{path}']").last.click()
        visitor.page.wait_for_url(f"**{path}")
        expect(navigation.locator("[aria-current=page]")).to_have_count(0 if path in ("/api", "/account") else 1)
    visitor.page.get_by_role("button", name="Sign out").click()
    visitor.page.wait_for_url("**/login")
    visitor.page.goto("/models")
    visitor.page.wait_for_url("**/login?next=/models")


def test_the_keyboard_alone_is_enough(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.visit("/models")
    page = visitor.page
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "() => [document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle,"
                " document.activeElement.matches(':focus-visible')]"
            )
        )
        if seen[-1][0] == "BODY":
            break
    assert len(seen) > 3
    assert all(style == "solid" for tag, style, visible in seen if tag != "BODY" and visible)


def test_everything_is_searched_by_a_key_and_the_keys_are_shown(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    server, _ = filled
    person = visit(server)
    person.sign_in()
    person.visit("/jobs")
    page = person.page
    page.keyboard.press("/")
    page.keyboard.type("churn")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=churn")
    page.get_by_role("region", name="Models").get_by_role("link", name="churn").click()
    page.wait_for_url("**/models/churn")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Search everything")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_have_count(0)


def test_a_list_is_gone_along_and_opened_by_keys(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    person = visit(filled[0])
    person.sign_in()
    person.visit("/crons")
    page = person.page
    links = [page.get_by_role("link", name=name, exact=True) for name in ("every-night", "every-morning")]
    for key, link in (("j", 0), ("j", 1), ("j", 1), ("k", 0)):
        page.keyboard.press(key)
        expect(links[link]).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Go to the next row")
    page.keyboard.press("Escape")
    links[0].focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="every-night")).to_be_visible()


def test_the_theme_is_chosen_and_kept(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    visitor = visit(filled[0], color_scheme="light")
    visitor.sign_in()
    button = visitor.page.get_by_role("button", name="Theme")
    for name in ("light", "dark"):
        button.click()
        expect(button).to_contain_text(name)
    visitor.visit(f"/monitoring/churn/{FEATURE}")
    assert visitor.page.locator("html").get_attribute("data-theme") == "dark"
    expect(visitor.page.locator("mlbox-chart canvas")).to_have_count(2)
    button.click()
    expect(visitor.page.locator("mlbox-chart canvas")).to_have_count(2)
    assert visitor.page.locator("html").get_attribute("data-theme") is None


def test_charts_draw_and_runs_are_compared(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.visit("/runs?experiment=churn")
    boxes = visitor.page.get_by_role("checkbox")
    boxes.nth(-1).check()  # the oldest two: those that logged curves
    boxes.nth(-2).check()
    visitor.page.get_by_role("button", name="Compare").click()
    visitor.page.wait_for_url("**/runs/compare?**")
    expect(visitor.page.locator("mlbox-curves canvas")).to_have_count(2)
    drawn = visitor.page.evaluate(
        "() => { const c = document.querySelector('mlbox-curves canvas');"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0); }"
    )
    assert drawn


def test_a_log_is_read_to_its_end_as_text(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    server, made = filled
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit(f"/jobs/{made.job}")
    expect(visitor.page.get_by_role("log")).to_contain_text("hello <b>there</b>")
    expect(visitor.page.locator("mlbox-log")).to_contain_text("The end of the log.")


def test_a_page_follows_what_happens(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    visitor.follow("/runs")
    expect(visitor.page.get_by_text("No run yet")).to_be_visible()
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token}"}) as client:
        client.post("/api/v1/runs", json={"experiment": "new", "name": "hello"}).raise_for_status()
    expect(visitor.page.get_by_role("link", name="hello")).to_be_visible()


def test_domain_time_is_followed_on_every_page(
    tmp_path: Path, make_server: Callable[..., Server], visit: Callable[..., Visitor]
) -> None:
    server = make_server("--replay-clock", "2013-01-01T00:00Z")
    visitor = visit(server)
    visitor.sign_in()
    visitor.follow("/runs")
    banner = visitor.page.get_by_text("domain time stands at")
    expect(banner).to_contain_text("2013-01-01 00:00:00 UTC")
    server.http.post("/api/v1/clock", json={"to": "2013-07-01T00:00:00Z"}).raise_for_status()
    expect(banner).to_contain_text("2013-07-01 00:00:00 UTC")


def test_a_long_list_grows_in_place(server: Server, visit: Callable[..., Visitor]) -> None:
    for number in range(60):
        server.http.post("/api/v1/users", json={"name": f"u{number}", "role": "viewer"}).raise_for_status()
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit("/audit")
    rows = visitor.page.locator("#rows > tr")
    expect(rows).to_have_count(50)
    visitor.page.get_by_role("link", name="Show more").click()
    expect(rows).to_have_count(63)
    expect(visitor.page.get_by_role("link", name="Show more")).to_have_count(0)
    assert visitor.page.url.endswith("/audit")


def test_a_token_is_made_shown_once_and_revoked(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit("/admin")
    page = visitor.page
    page.get_by_placeholder("laptop").fill("mine")
    page.get_by_role("button", name="Make a token").click()
    secret = page.locator("mlbox-form mlbox-copy code").inner_text()
    answer = httpx.get(f"{server.url}/api/v1/whoami", headers={"Authorization": f"Bearer {secret}"})
    assert answer.json()["name"] == "admin"
    visitor.visit("/admin")
    assert secret not in page.content()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke mine").click()
    expect(page.get_by_role("button", name="Revoke mine")).to_have_count(0)
    answer = httpx.get(f"{server.url}/api/v1/whoami", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 401


def test_the_trainer_is_refused_and_another_approves(
    tmp_path: Path, make_server: Callable[..., Server], visit: Callable[..., Visitor]
) -> None:
    box = open_box(tmp_path / "data")
    fill(box)
    box.close()
    server = make_server("--gpus", "none", data_dir=tmp_path / "data")
    trainer, other = visit(server), visit(server)
    asked: list[str] = []
    for visitor in (trainer, other):
        visitor.page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    trainer.sign_in("ada")
    trainer.visit("/approvals")
    expect(trainer.page.get_by_text("You trained and submitted and proposed this version")).to_be_visible()
    trainer.page.get_by_role("button", name="Approve churn/2").click()
    expect(trainer.page.locator("main").get_by_role("alert")).to_contain_text("may not decide about it")
    trainer.complaints = [c for c in trainer.complaints if "403" not in c]
    other.sign_in("grace")
    other.visit("/approvals")
    other.page.get_by_label("Comment").fill("looked at the shadow")
    other.page.get_by_role("button", name="Approve churn/2").click()
    expect(other.page.get_by_text("Nothing waits for a decision")).to_be_visible()
    assert all("churn/2" in said and "of the traffic of churn beside version 1" in said for said in asked), asked
    expect(other.page.get_by_text("approved by grace").first).to_be_visible()
    other.visit("/models/churn")
    expect(other.page.locator("[aria-current=step]")).to_contain_text("5 %")


def test_a_session_that_has_ended_leads_to_the_sign_in(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit("/runs")
    visitor.context.clear_cookies()
    server.http.post("/api/v1/runs", json={"experiment": "new"}).raise_for_status()
    visitor.page.wait_for_url("**/login?next=/runs")
    visitor.complaints = [complaint for complaint in visitor.complaints if "401" not in complaint]


def test_the_menu_opens_on_a_phone(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.sign_in()
    visitor.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    navigation = visitor.page.get_by_role("navigation", name="Main")
    expect(navigation).to_be_hidden()
    visitor.page.get_by_role("button", name="Menu").click()
    expect(navigation).to_be_visible()
    visitor.page.keyboard.press("Escape")
    expect(navigation).to_be_hidden()
    visitor.page.get_by_role("button", name="Menu").click()
    navigation.get_by_role("link", name="Models").click()
    visitor.page.wait_for_url("**/models")
