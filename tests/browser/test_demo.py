"""The dashboard over the demo's data: whatever its links lead to, one page of each kind, in both themes, with axe on each."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from examples.nyc_flights import road as roads
from examples.nyc_flights.demo import Steps, to_an_approval
from examples.nyc_flights.flights import Flights
from mlbox.web import pages
from tests.browser.test_axe import in_both_themes
from tests.browser.visitor import Visitor
from tests.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1200)]
SHARE = 0.3
APART = {
    "/login",
    "/static/*/**",
    "/crons/*",
    "/crons/*/edit",
    "/datasets/*/diff/*",
    "/labels/*/review",
    "/runs/*/files/**",
}
"""Not a page for who is signed in, or of what the demo may have none."""


def kinds() -> dict[str, re.Pattern[str]]:
    """Every page that there is: what kinds of addresses lead to it, the plain ones first."""
    found: dict[str, re.Pattern[str]] = {}
    for path in (path for one in pages.handlers if "GET" in one.http_methods for path in one.paths):
        kind = re.sub(r"\{\w+:\w+\}", "*", re.sub(r"\{\w+:path\}", "**", path))
        found[kind] = re.compile(re.sub(r"\{\w+:\w+\}", "[^/]+", re.sub(r"\{\w+:path\}", ".+", path)))
    return dict(sorted(found.items(), key=lambda one: one[0].count("*")))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo, until a version waits for an approval."""
    folder: Path = tmp_path_factory.mktemp("demo") / "data"
    server = Server(folder, "--replay-clock", roads.START.isoformat())
    try:
        with contextlib.closing(roads.Road(server.url, server.token, Flights.load(SHARE))) as road:
            to_an_approval(road, Steps())
        yield server
    finally:
        server.stop()


def test_one_page_of_each_kind_that_links_lead_to(demo: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(demo)
    visitor.sign_in()
    page = visitor.page
    known = kinds()
    waiting, seen, found = ["/", "/search?q=delay"], set[str](), list[str]()  # a search has no link
    while waiting:
        path = waiting.pop(0)
        kind = next((kind for kind, pattern in known.items() if pattern.fullmatch(path.partition("?")[0])), None)
        if kind is None or kind in seen:
            continue
        seen.add(kind)
        found += in_both_themes(visitor, path)
        visitor.keep(f"demo{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        waiting += page.locator("a[href^='/']:not([download])").evaluate_all(
            "links => links.map((a) => a.getAttribute('href'))"
        )
    assert found == []
    assert known.keys() - seen <= APART, known.keys() - seen
