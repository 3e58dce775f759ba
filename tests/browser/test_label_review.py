"""Settling ties by the keyboard, in a real browser: none, some and five thousand, with the item's features beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pyarrow as pa
import pytest
from playwright.sync_api import Page, expect

from mlbox.records import Column, LabelSet, LabelSource, ViewSpec
from mlbox.web.box import Box
from tests.browser.visitor import DESKTOP, LABELLED, PHONE, Visitor
from tests.conftest import Server
from tests.web.site import START, open_box

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
WHO = Column(name="who", dtype="STRING")
MANY = 5000


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with three label sets: nothing, three and five thousand items to review, and a view that knows of them."""
    folder = tmp_path_factory.mktemp("review") / "data"
    box = open_box(folder)
    box.advance(START + timedelta(days=60), actor="admin")
    _view(box)
    for name, count in (("none", 0), ("some", 3), ("many", MANY)):
        _tie(box, name, count)
    box.access.create_user("vic", "viewer", actor="admin")
    box.close()
    server = Server(folder, "--gpus", "none", "--replay-clock", (START + timedelta(days=60)).isoformat())
    yield server
    server.stop()


def _view(box: Box) -> None:
    columns = (WHO, Column(name="moment", dtype="TIMESTAMP"), Column(name="weight", dtype="FP64"))
    box.features.add_source("scale", columns, "moment", None, actor="ada")
    times = pa.array([START - timedelta(days=1)] * 20, pa.timestamp("us", "UTC"))
    rows = {"who": [f"p{n}" for n in range(20)], "moment": times, "weight": [float(n) for n in range(20)]}
    box.features.append("scale", pa.table(rows), actor="ada")
    spec = ViewSpec(
        name="body",
        join_keys=(WHO,),
        features=(Column(name="weight", dtype="FP64", unit="kg"),),
        sql="SELECT who, weight, moment AS event_time FROM scale",
        sources=("scale",),
    )
    box.features.apply_view(spec, actor="ada")


def _tie(box: Box, name: str, count: int) -> None:
    sources = (LabelSource(name="vet", kind="annotation"), LabelSource(name="owner", kind="feedback"))
    value = Column(name="species", dtype="STRING")
    classes = ("cat", "dog", "cow")
    box.labels.apply(
        LabelSet(name=name, keys=(WHO,), value=value, classes=classes, sources=sources, policy="majority"), actor="ada"
    )
    events = pa.array([START + timedelta(minutes=n) for n in range(count)], pa.timestamp("us", "UTC"))
    for source, said in (("vet", "cat"), ("owner", "dog")):
        rows = {"who": [f"p{n % 20}" for n in range(count)], "event_time": events, "species": [said] * count}
        if count:
            box.labels.append(name, pa.table(rows), source=source, actor="ada")


def _press(page: Page, key: str) -> None:
    """Press a key once the page listens to it."""
    page.wait_for_function("() => customElements.get('mlbox-keys')")
    page.keyboard.press(key)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_none_some_and_many_fit_every_screen(
    tied: Server,
    visit: Callable[..., Visitor],
    theme: str,
) -> None:
    visitor = visit(tied, color_scheme=theme)
    visitor.sign_in()
    for name, words in (("none", "Nothing to review"), ("some", "disagree on"), ("many", "items. What you say")):
        visitor.visit(f"/labels/{name}/review")
        expect(visitor.page.locator("main")).to_contain_text(words)
        assert visitor.page.evaluate(LABELLED) == []
        for size in (DESKTOP, PHONE):
            visitor.page.set_viewport_size(size)  # type: ignore[arg-type]
            assert visitor.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        visitor.page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]


def test_a_number_key_settles_an_item_and_the_next_one_comes(
    tied: Server,
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit(tied)
    visitor.sign_in()
    visitor.visit("/labels/many/review")
    page = visitor.page
    lead, beside = page.locator(".lead"), page.get_by_role("region", name="Known of it then")
    expect(lead).to_contain_text(f"{MANY:,} items")
    last = (MANY - 1) % 20
    expect(page.get_by_role("heading", name=f"who = p{last}")).to_be_visible()
    expect(beside).to_contain_text(f"{last} kg")
    _press(page, "2")
    expect(lead).to_contain_text(f"{MANY - 1:,} items")
    expect(page.get_by_role("heading", name=f"who = p{last - 1}")).to_be_visible()
    expect(beside).to_contain_text(f"{last - 1} kg")
    event = (START + timedelta(minutes=MANY - 1)).isoformat()
    found = tied.http.get(
        "/api/v1/labels/many/items", params={"keys": f'{{"who": "p{last}"}}', "event_time": event}
    ).json()
    assert (found["value"], found["claims"][0]["annotator"]) == ("dog", "admin")


def test_an_item_that_one_cannot_decide_is_skipped_by_a_key(
    tied: Server,
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit(tied)
    visitor.sign_in()
    visitor.visit("/labels/some/review")
    page = visitor.page
    for who in ("p2", "p1", "p0", "p2"):
        expect(page.get_by_role("heading", name=f"who = {who}")).to_be_visible()
        _press(page, "s")
    expect(page.get_by_role("heading", name="who = p1")).to_be_visible()
    _press(page, "1")
    expect(page.locator(".lead")).to_contain_text("2 items")
    expect(page.get_by_role("heading", name="who = p0")).to_be_visible()
    _press(page, "1")
    expect(page.locator(".lead")).to_contain_text("1 item.")
    expect(page.get_by_role("heading", name="who = p2")).to_be_visible()
    expect(page.locator("[data-key=s]")).to_have_count(0)
    _press(page, "3")
    expect(page.locator("main")).to_contain_text("Nothing to review")


def test_a_viewer_sees_it_and_is_offered_no_key(tied: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(tied)
    visitor.sign_in("vic")
    visitor.visit("/labels/many/review")
    expect(visitor.page.get_by_text("Settling takes the role member")).to_be_visible()
    assert visitor.page.locator("main [data-key]").count() == 0


def test_a_label_that_is_left_empty_is_not_sent(tied: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(tied)
    visitor.sign_in()
    visitor.visit("/labels/none")
    page = visitor.page
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    panel = page.get_by_role("region", name="Add one label")
    panel.get_by_role("button", name="Add").click()
    expect(panel.locator("#refused")).to_have_text("Fill this in.")
    expect(panel.get_by_label("who")).to_be_focused()
    assert sent == []
