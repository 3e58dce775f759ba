"""A person at a browser, who notices whatever it complains about."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page

from tests.conftest import Server

KEPT = Path(__file__).parents[2] / "build" / "browser"
"""Screenshots, to be kept with what else a run of CI leaves."""
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
LABELLED = """() => [...document.querySelectorAll('a, button, input, select, textarea')]
  .filter((e) => e.type !== 'hidden' && e.offsetParent !== null)
  .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))
  .map((e) => e.outerHTML)"""
"""What a screen reader would call nothing."""


class Visitor:
    """A person at a browser who notices every error it reports."""

    def __init__(self, browser: Browser, server: Server, **options: Any) -> None:
        self.server = server
        self.context: BrowserContext = browser.new_context(base_url=server.url, viewport=DESKTOP, **options)
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{self.page.url}: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", lambda request: self._own(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{self.page.url}: {message.text}")

    def _failed(self, request: Any) -> None:
        if not request.failure or "ERR_ABORTED" not in request.failure:  # a page that is left ends its streams
            self.complaints.append(f"{request.url}: {request.failure}")

    def _own(self, url: str) -> None:
        if not url.startswith((self.server.url, "data:")):
            self.complaints.append(f"a request to elsewhere: {url}")

    def sign_in(self, user: str = "admin") -> None:
        """By token, as anyone would."""
        token = self.server.token
        if user != "admin":
            body = {"user": user, "name": "browser"}
            token = self.server.http.post("/api/v1/tokens", json=body).json()["secret"]
        self.page.goto("/login")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/")

    def visit(self, path: str) -> None:
        """One page, with its scripts run."""
        self.page.goto(path)
        self.page.wait_for_load_state("load")
        self.page.wait_for_function("() => customElements.get('mlbox-theme')")

    def keep(self, name: str) -> None:
        """A picture of the whole page as it is now, to be looked at after the tests; one that cannot be had fails none."""
        file = re.sub(r"[^\w.=-]+", "-", name).strip("-")[:150]
        with contextlib.suppress(Error):
            self.page.screenshot(path=KEPT / f"{file}.png", full_page=True)

    def follow(self, path: str) -> None:
        """One page, from where it hears of what happens."""
        with self.page.expect_response("**/api/v1/events*"):
            self.visit(path)
