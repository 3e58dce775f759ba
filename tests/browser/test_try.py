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


def test_a_version_is_measured_and_a_model_is_served_otherwise(site: Site, visit: Callable[..., Visitor]) -> None:
    person = visit(site.server)
    person.sign_in()
    page = person.page
    page.on("dialog", lambda dialog: dialog.accept())
    person.visit("/models/score/1")
    panel = page.get_by_role("region", name="How quick it is")
    panel.get_by_label("Rows of a request").fill("1, 4")
    panel.get_by_label("Requests at a time").fill("2")
    panel.get_by_role("button", name="Measure").click()
    expect(panel.get_by_role("row")).to_have_count(3)
    person.visit("/models/score")
    page.get_by_label("Most rows of a batch").fill("16")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.get_by_text("of all its versions; revision 1")).to_be_visible()
    assert site.http.get("/api/v1/models/score/serving").json()["max_batch"] == 16
    person.visit("/monitoring/score")
    form = page.get_by_role("region", name="Say what came of it")
    form.get_by_label("What").fill("revenue")
    form.get_by_label("Number").fill("12.5")
    form.get_by_role("button", name="Post").click()
    expect(form.get_by_text("1 kept, 0 of predictions")).to_be_visible()
    person.visit("/models/score/1")
    person.keep("version-measured")
