"""A job's log in a real browser: its end, what was before, what is searched for, colours, and a log of very many lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.visitor import Visitor
from tests.conftest import Server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]
LINES = 300_000
PRINTED = f"""
import sys
sys.stdout.write("".join(f"line {{n:07}} of a log that is long\\n" for n in range({LINES})))
print("\\x1b[1;31mred\\x1b[0m <b>plain</b> \\x1b[38;5;99mother\\x1b[2K\\x07")
print("10 %\\r50 %\\r100 %")
print("a Needle in it")
"""
"""Ten megabytes."""


@pytest.fixture(scope="module")
def job(make_shared_server: Callable[..., Server]) -> tuple[Server, str]:
    server = make_shared_server("--gpus", "none")
    made = server.http.post("/api/v1/jobs", json={"command": ["python3", "-c", PRINTED], "name": "talks"}).json()["id"]
    wait_for(lambda: server.http.get(f"/api/v1/jobs/{made}").json()["ended_at"], what="the job to end")
    return server, made


def test_the_end_of_a_long_log_and_what_was_before(job: tuple[Server, str], visit: Callable[..., Visitor]) -> None:
    server, made = job
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit(f"/jobs/{made}")
    page, log = visitor.page, visitor.page.get_by_role("log")
    expect(page.get_by_text("The end of the log.")).to_be_visible()
    expect(log).to_contain_text("red <b>plain</b> other")
    expect(log.locator(".ansi-bold.ansi-bad")).to_have_text("red")
    expect(log).to_contain_text("100 %")
    expect(log).not_to_contain_text("50 %")
    assert log.evaluate("e => /[\\x00-\\x08\\x1b]/.test(e.textContent)") is False
    at_first = log.evaluate("e => e.textContent.length")
    assert at_first < 200_000, "only the end was read"
    page.get_by_role("button", name="Earlier").click()
    page.wait_for_function("n => document.querySelector('[role=log]').textContent.length > n", arg=at_first)
    shown = log.evaluate("e => e.textContent.match(/line \\d{7}/g).map((line) => Number(line.slice(5)))")
    assert shown == list(range(shown[0], LINES)), "no line is missing or there twice"


def test_the_end_is_drawn_where_nobody_has_scrolled_to_it_yet(
    job: tuple[Server, str], visit: Callable[..., Visitor]
) -> None:
    """A picture of the whole page, and its print, would show an empty log."""
    server, made = job
    visitor = visit(server)
    visitor.sign_in()
    page, log = visitor.page, visitor.page.get_by_role("log")
    page.set_viewport_size({"width": 1280, "height": 200})
    for path in (f"/jobs/{made}", f"/runs/{server.http.get(f'/api/v1/jobs/{made}').json()['run_id']}"):
        visitor.visit(path)
        page.get_by_role("heading", name="Log").scroll_into_view_if_needed()  # on a run's page it is fetched then
        expect(page.get_by_text("The end of the log.")).to_be_attached()
        page.evaluate("scrollTo(0, 0)")
        expect(log).not_to_be_in_viewport()
        drawn = log.locator(".block").last
        assert drawn.evaluate("e => e.checkVisibility({ contentVisibilityAuto: true })")
        assert log.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 2
        page.emulate_media(media="print")
        assert log.evaluate("e => e.scrollHeight - e.clientHeight") < 2, "on paper all that was read is there"
        page.emulate_media(media="screen")


def test_what_is_searched_for_is_gone_to(job: tuple[Server, str], visit: Callable[..., Visitor]) -> None:
    server, made = job
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit(f"/jobs/{made}")
    page, log = visitor.page, visitor.page.get_by_role("log")
    expect(page.get_by_text("The end of the log.")).to_be_visible()
    field = page.get_by_role("searchbox", name="Search the log")
    field.fill("needle")
    field.press("Enter")
    expect(page.get_by_role("button", name="a Needle in it")).to_be_visible()
    field.fill("LINE 0000000")
    field.press("Enter")
    expect(page.get_by_text("0 lines have it.")).to_be_visible()
    field.fill("line 01234")
    field.press("Enter")
    expect(page.locator(".hits > li")).to_have_count(100)
    page.get_by_role("button", name="line 0123456 of").click()
    expect(log.locator("mark")).to_have_text("line 0123456 of a log that is long\n")
    expect(log.locator("mark")).to_be_in_viewport()
    shown = log.evaluate("e => e.textContent.match(/line \\d{7}/g).map((line) => Number(line.slice(5)))")
    assert shown == list(range(shown[0], shown[-1] + 1))
    assert shown[0] < 123456 < shown[-1] < LINES - 1
    page.get_by_role("button", name="Later").click()
    page.wait_for_function(
        "n => !document.querySelector('[role=log]').textContent.trimEnd().endsWith(n)", arg=f"{shown[-1]:07}"
    )
    later = log.evaluate("e => e.textContent.match(/line \\d{7}/g).map((line) => Number(line.slice(5)))")
    assert later == list(range(shown[0], later[-1] + 1))
    assert later[-1] > shown[-1]
    page.get_by_role("button", name="To the end").click()
    expect(log).to_contain_text("a Needle in it")
