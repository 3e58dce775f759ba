"""On paper: nothing that is pressed, nothing that is cut off, dark on white whatever the theme is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.visitor import Visitor
from tests.conftest import Server
from tests.web.site import Filled

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]
PAPER = {"width": 700, "height": 1000}
"""A4 between its margins."""
PRESSED = """() => [...document.querySelectorAll('nav, form, button, .button, input, select, textarea, .export, .skip')]
  .filter((e) => e.checkVisibility()).map((e) => e.outerHTML.slice(0, 200))"""
CUT = """() => [...document.querySelectorAll('main *')]
  .filter((e) => e.checkVisibility() && !e.closest('svg, .visually-hidden'))
  .filter((e) => {
    const { overflowX, overflowY } = getComputedStyle(e);
    return (overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1)
      || (overflowY !== 'visible' && e.scrollHeight > e.clientHeight + 1);
  }).map((e) => e.outerHTML.slice(0, 200))"""
BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter((e) => e.checkVisibility() && !e.closest('svg, .visually-hidden') && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 200))"""
AGO = "() => [...document.querySelectorAll('mlbox-time time')].filter((e) => getComputedStyle(e).fontSize !== '0px').length"


def pages(made: Filled) -> list[str]:
    """Every page, without those that are forms."""
    more = ["/models/churn/1/card", f"/approvals/{made.waiting.id}"]
    return [path for path in [*made.pages(), *more] if "/new" not in path]


@pytest.mark.parametrize("part", range(3))
def test_a_page_is_whole_and_has_nothing_to_press(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor], part: int
) -> None:
    server, made = filled
    visitor = visit(server)
    visitor.sign_in()
    page = visitor.page
    page.set_viewport_size(PAPER)  # type: ignore[arg-type]
    page.emulate_media(media="print")
    said = []
    for path in pages(made)[part::3]:
        visitor.visit(path)
        for what in (PRESSED, CUT, BEYOND):
            said += [f"{path}: {one}" for one in page.evaluate(what)]
        assert page.evaluate(AGO) == 0, path
    assert said == []


def test_paper_is_white_in_the_dark(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.context.add_cookies([{"name": "mlbox_theme", "value": "dark", "url": filled[0].url}])
    visitor.visit("/models/churn/1/card")
    colour = "() => getComputedStyle(document.querySelector('h1')).color"
    assert visitor.page.evaluate(colour) == "rgb(233, 233, 230)"
    visitor.page.emulate_media(media="print")
    assert visitor.page.evaluate(colour) == "rgb(27, 28, 31)"
