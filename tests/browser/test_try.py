"""Asking a model from its page, in a real browser: by entity, by features, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.visitor import Visitor
from tests.web.served import Site, open_site

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = open_site(tmp_path_factory.mktemp("try") / "data")
    yield made
    made.server.stop()


def test_a_model_is_asked_from_its_page(site: Site, visit: Callable[..., Visitor]) -> None:
    person = visit(site.server)
    person.sign_in()
    person.visit("/endpoints/score")
    page = person.page
    by_entity = page.locator("mlbox-try").nth(0)
    by_entity.get_by_label("who").fill("u0")
    by_entity.get_by_role("button").click()
    expect(by_entity.locator("[data-is=score]")).to_have_text("0.5")
    expect(by_entity.locator("[data-is=role]")).to_have_text("champion")
    page.get_by_text("By features: all").click()
    by_features = page.locator("mlbox-try").nth(1)
    by_features.get_by_label("spend@v1:amount").fill("0.5")
    by_features.get_by_role("button").click()
    expect(by_features.locator("[data-is=score]")).to_have_text("0.622459")
    by_features.get_by_label("spend@v1:amount").fill("")
    by_features.get_by_role("button").click()
    expect(by_features.locator("[data-is=score]")).to_have_text("no finite number")


def test_an_unknown_entity_is_answered_in_words(site: Site, visit: Callable[..., Visitor]) -> None:
    person = visit(site.server)
    person.sign_in()
    person.visit("/endpoints/score")
    form = person.page.locator("mlbox-try").nth(0)
    form.get_by_label("who").fill("nobody")
    form.get_by_role("button").click()
    expect(form.locator(".notice.bad")).to_contain_text("No view knows the entity")
    assert [text for text in person.complaints if "404" not in text] == []
    person.complaints.clear()  # the browser itself complains about each 404
