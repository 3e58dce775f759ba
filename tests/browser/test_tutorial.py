"""The first tutorial, done from start to end in a browser, by the names that its text has for what is pressed and filled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.visitor import Visitor
from tests.conftest import Server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]
TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
NAME = re.compile(r"(?<![*\w])\*([^*\n]+)\*(?!\*)")


class Reader:
    """Does what a text says, from its beginning on: whatever it names in italics, in its order, leaving nothing out."""

    def __init__(self, text: str) -> None:
        self.left = text

    def on(self, page: Page) -> Reader:
        """Go on in somebody's browser."""
        self.page = page
        return self

    def named(self, name: str) -> str:
        """What the text names next."""
        found = NAME.search(self.left)
        assert found, f"The text ends before {name!r}."
        assert found[1] == name
        self.left = self.left[found.end() :]
        return name

    def said(self) -> str:
        """The value that follows a name."""
        found = re.search(r"`([^`]+)`|\"([^\"]+)\"", self.left)
        assert found
        return found[1] or found[2]

    def go(self, name: str) -> None:
        """To a page of the navigation."""
        self.page.locator(f"#to-{self.named(name).lower()}").click()
        expect(self.page.get_by_role("heading", level=1, name=name)).to_be_visible()

    def follow(self, name: str) -> None:
        """A link."""
        self.page.get_by_role("main").get_by_role("link", name=self.named(name), exact=True).first.click()

    def press(self, name: str) -> None:
        """A button."""
        self.page.get_by_role("button", name=self.named(name), exact=True).click()

    def field(self, name: str) -> Locator:
        """A field, and not one of those that are called alike."""
        fields = self.page.get_by_role("main").locator("input, select, textarea")
        return fields.and_(self.page.get_by_label(self.named(name))).first

    def fill(self, name: str, value: str = "") -> None:
        """A field: with this, or with what the text says."""
        self.field(name).fill(value or self.said())

    def sees(self, name: str) -> None:
        """A part of the page."""
        expect(self.page.get_by_role("heading", name=self.named(name))).to_be_visible()


def bring_rows(server: Server, folder: Path) -> None:
    """Steps 1 to 3 of the tutorial in a terminal."""
    text = (TUTORIALS / "first-model.md").read_text().partition("## 4.")[0]
    env = {**os.environ, "MLBOX_URL": server.url, "MLBOX_TOKEN": server.token}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    for language, block in re.findall(r"^```(python|console)\n(.*?)^```", text, flags=re.S | re.M):
        if language == "python":
            (folder / block.splitlines()[0].removeprefix("# ")).write_text(block)
        for command in re.findall(r"^\$ (.*)", block, flags=re.M):
            subprocess.run(["bash", "-c", command], cwd=folder, env=env, check=True, capture_output=True)


def test_a_newcomer_trains_a_model_and_it_is_in_production_and_asked(
    server: Server, visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    bring_rows(server, tmp_path)
    text = (TUTORIALS / "first-model-in-browser.md").read_text()
    (code,) = re.findall(r"^```python\n# train.py\n(.*?)^```", text, flags=re.S | re.M)
    reader = Reader(text)
    admin, ann, grace = visit(server), visit(server), visit(server)

    admin.sign_in()
    reader.on(admin.page).go("Admin")
    reader.fill("Name")
    reader.press("Add a user")
    reader.field("Login link for").select_option("ann")
    reader.press("Make a login link")
    link = admin.page.locator("mlbox-copy code", has_text="/login?once=").inner_text()

    page = ann.page
    page.goto(link)
    reader.on(page).press("Sign in")
    page.get_by_title("Your account").click()
    reader.fill("New password", "a long one of ann's")
    reader.press("Set it")
    expect(page.get_by_role("button", name="Change it")).to_be_visible()

    reader.go("Jobs")
    reader.follow("Submit a job")
    reader.fill("Name")
    reader.fill("Command")
    reader.field("or your files").set_input_files(
        {"name": reader.said(), "mimeType": "text/x-python", "buffer": code.encode()}
    )
    reader.fill("Datasets")
    reader.press("Submit")
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{32}$"))
    job = page.url.rpartition("/")[2]
    wait_for(lambda: server.http.get(f"/api/v1/jobs/{job}").json()["ended_at"], what="the job to end", seconds=240)
    expect(page.get_by_role("log")).to_contain_text("registered comes-back/1")

    reader.go("Models")
    reader.follow("comes-back")
    reader.follow("1")
    reader.follow("Model card")
    reader.fill("Intended use")
    reader.fill("Bias, risks and limitations")
    with page.expect_navigation():
        reader.press("Save")
    reader.follow("comes-back")
    reader.follow("1")
    reader.press("Promote")
    expect(page.get_by_text("waiting approval")).to_be_visible()
    reader.go("Approvals")
    expect(page.get_by_text("You trained and submitted and proposed this version")).to_be_visible()

    server.http.post("/api/v1/users", json={"name": "grace", "role": "approver"}).raise_for_status()
    grace.sign_in("grace")
    reader.on(grace.page).go("Approvals")
    reader.fill("Comment", "all gates passed, and the card says for what")
    asked: list[str] = []
    grace.page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    reader.press("Approve comes-back/1")
    expect(grace.page.get_by_text("Nothing waits for a decision")).to_be_visible()
    assert "all traffic" in asked[0]

    reader.on(page).go("Endpoints")
    reader.follow("comes-back")
    reader.sees("Try it")
    reader.fill("customer")
    reader.press("Ask by entity")
    score = page.locator("mlbox-try [data-is=score]").first
    expect(score).to_be_visible()
    assert 0 < float(score.inner_text()) < 1
    reader.sees("Call it")
    reader.sees("Last predictions")
    page.locator("#answered tbody a").first.click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for node in ("dataset visits@v1", "feature view habits@v1", "model version comes-back/1", f"job {job}"):
        expect(page.get_by_role("link", name=node).first).to_be_visible()
    assert NAME.search(reader.left) is None
