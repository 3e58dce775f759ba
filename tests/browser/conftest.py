"""One browser for each file of tests, and who sits at it. What it shows is waited for as long as anything else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.visitor import Visitor
from tests.conftest import Server
from tests.web.site import Filled, fill, open_box

expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        assert chromium, "The package chromium is not installed."
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Filled]]:
    """A server with something of everything."""
    folder = tmp_path_factory.mktemp("browser") / "data"
    box = open_box(folder)
    made = fill(box)
    box.close()
    server = Server(folder, "--gpus", "none")
    yield server, made
    server.stop()


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def enter(server: Server, **options: Any) -> Visitor:
        visitors.append(Visitor(browser, server, **options))
        return visitors[-1]

    yield enter
    for number, visitor in enumerate(visitors):
        visitor.keep(f"end-of-{request.node.name}-{number}")
        visitor.context.close()
        assert visitor.complaints == []
