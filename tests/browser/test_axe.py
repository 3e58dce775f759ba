"""axe finds nothing on any page in either theme, with something of everything, with nothing, on a phone, in every state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.visitor import PHONE, Visitor
from tests.conftest import Server
from tests.web.site import EMPTY_PAGES, Filled

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]
PARTS = 5
TALL = {"width": 1280, "height": 1200}
"""All of the navigation is in sight, which axe looks at no further than that."""
axe = Axe()


def found(page: Page, **options: Any) -> list[str]:
    """What axe says about a page: the rule, and the elements that break it."""
    violations = axe.run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['html'][:200]} {node['failureSummary']}"
        for rule in violations
        for node in rule["nodes"]
    ]


def in_both_themes(visitor: Visitor, path: str) -> list[str]:
    """What axe says about a page: by all of its rules, and in the dark by those that look at colours."""
    visitor.page.emulate_media(color_scheme="light")
    visitor.page.goto(path)
    said = found(visitor.page)
    visitor.page.emulate_media(color_scheme="dark")
    said += found(visitor.page, runOnly=["color-contrast", "link-in-text-block"])
    return [f"{path} {one}" for one in said]


@pytest.mark.parametrize("part", range(PARTS))
def test_with_something_of_everything(filled: tuple[Server, Filled], visit: Callable[..., Visitor], part: int) -> None:
    server, made = filled
    visitor = visit(server)
    visitor.sign_in()
    assert [one for path in made.pages()[part::PARTS] for one in in_both_themes(visitor, path)] == []


def test_with_nothing(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server)
    visitor.page.set_viewport_size(TALL)  # type: ignore[arg-type]
    said = in_both_themes(visitor, "/login")
    visitor.sign_in()
    assert said + [one for path in EMPTY_PAGES for one in in_both_themes(visitor, path)] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_menu_keys_and_refusals(filled: tuple[Server, Filled], visit: Callable[..., Visitor], theme: str) -> None:
    visitor = visit(filled[0], color_scheme=theme)
    visitor.sign_in()
    page = visitor.page
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert found(page) == []
    visitor.visit("/models/none-of-this-name")
    assert found(page) == []
    visitor.complaints.clear()  # the browser itself complains about each 404
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    visitor.visit("/runs")
    page.get_by_role("button", name="Menu").click()
    expect(page.get_by_role("navigation", name="Main")).to_be_visible()
    assert found(page) == []
