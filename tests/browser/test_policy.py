"""A policy is edited by keyboard in a real browser: refused at its line, looked at, agreed to, restored; a viewer reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from mlbox.records import GateResult, PromotionPolicy, RampStep
from mlbox.store.registry.registry import NewVersion
from tests.browser.visitor import PHONE, Visitor
from tests.conftest import Server
from tests.web.site import open_box

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
PAGE = "/models/delay/policy"
SELECTED = "() => { const t = document.activeElement; return t.value.slice(t.selectionStart, t.selectionEnd); }"
NARROW = "() => document.documentElement.scrollWidth <= innerWidth"
axe = Axe()


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which version 2 of a model has one of the two approvals that it takes."""
    folder = tmp_path_factory.mktemp("policy") / "data"
    box = open_box(folder)
    for name, role in (("bea", "approver"), ("vic", "viewer")):
        box.access.create_user(name, role, actor="admin")
    steps = (RampStep(percent=10, hold_seconds=60), RampStep(percent=100, hold_seconds=0))
    for approvals in (1, 2):
        box.registry.policies.set("delay", PromotionPolicy(steps=steps, approvals=approvals), actor="admin")
        version = box.registry.register(NewVersion(model="delay", trained_by="ann", submitted_by="ann"))
        gate = GateResult(gate="size", passed=True, required="", measured="", at=box.clock.real())
        promotion = box.promotions.record_gates(box.promotions.propose(version, actor="ann").id, [gate])
        if promotion.state == "shadow":
            promotion = box.promotions.shadow_done(promotion.id, "seen")
        box.promotions.decide(promotion.id, approver="bea", decision="approve")
    box.close()
    server = Server(folder, "--gpus", "none")
    yield server
    server.stop()


def is_well(page: Page) -> None:
    """axe finds nothing in either theme, and nothing is wider than the window."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert axe.run(page, options={"resultTypes": ["violations"]}).response["violations"] == []
    assert page.evaluate(NARROW)


def put(page: Page, accept: bool) -> str:
    """Press the button, and answer what is asked; what that was."""
    asked: list[str] = []

    def answer(dialog) -> None:  # type: ignore[no-untyped-def]
        asked.append(dialog.message)
        dialog.accept() if accept else dialog.dismiss()

    page.once("dialog", answer)
    button = page.get_by_role("button", name="Put it in force")
    if accept:
        with page.expect_navigation():
            button.press("Enter")
    else:
        button.press("Enter")
    return asked[0]


def test_it_is_refused_looked_at_agreed_to_and_restored(approved: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(approved)
    visitor.sign_in()
    visitor.visit("/models/delay")
    page = visitor.page
    page.get_by_role("link", name="revision 2").click()
    page.wait_for_url(f"**{PAGE}")
    field = page.get_by_label("Policy in TOML")
    before = field.input_value()
    look = page.get_by_role("button", name="See what it changes")
    setting = page.get_by_role("button", name="Put it in force")
    expect(setting).to_be_hidden()

    field.fill(before.replace("margin = 0\n", "margin = -1\n", 1))
    look.press("Enter")
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("Line 5: margin is negative")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    assert page.evaluate(SELECTED) == "margin = -1"
    expect(setting).to_be_hidden()
    is_well(page)

    field.fill(before)
    look.press("Enter")
    expect(page.get_by_text("Nothing differs.")).to_be_visible()
    expect(setting).to_be_hidden()

    field.fill(before.replace("margin = 0\n", "margin = 0.01\n", 1))
    expect(page.get_by_text("Nothing differs.")).to_be_hidden()
    look.press("Enter")
    changes = page.get_by_role("group", name="What it changes")
    expect(changes).to_be_focused()
    expect(changes).to_contain_text("+margin = 0.01")
    expect(changes).to_contain_text("Version 2 (waiting approval): the approval by bea becomes void")
    is_well(page)
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    is_well(page)
    assert "Version 2 (waiting approval): the approval by bea becomes void" in put(page, accept=False)
    path = "/api/v1/models/delay/policy"
    assert approved.http.get(path).json()["revision"] == 2
    put(page, accept=True)
    assert approved.http.get(path).json()["margin"] == 0.01
    expect(page.get_by_text("Revision 3, set by admin")).to_be_visible()
    (ended,) = (one for one in approved.http.get("/api/v1/promotions?model=delay").json() if one["version"] == 2)
    assert ended["state"] == "withdrawn"

    page.get_by_role("link", name="Restore revision 2").click()
    expect(field).to_have_value(before)
    look.press("Enter")
    assert "ends nothing" in put(page, accept=True)
    expect(page.get_by_text("Revision 4, set by admin")).to_be_visible()
    is_well(page)
    visitor.complaints = [one for one in visitor.complaints if "400" not in one]


def test_a_viewer_reads_it_and_sees_no_button(approved: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(approved)
    visitor.sign_in("vic")
    visitor.visit(PAGE)
    page = visitor.page
    expect(page.get_by_role("region", name="Policy in TOML")).to_contain_text("max_latency_ms_p95 = 50")
    for name in ("See what it changes", "Put it in force"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("link", name="Restore")).to_have_count(0)
    is_well(page)
