"""Points that are logged while a run's page is on its way, or open, are on its curves without anyone reading it anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Route

from tests.browser.visitor import Visitor
from tests.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
LAST = "(step) => document.querySelector('mlbox-curves')?.plot?.data[0].at(-1) === step"


def test_no_point_is_left_out_whenever_it_comes(server: Server, visit: Callable[..., Visitor]) -> None:
    run = server.http.post("/api/v1/runs", json={"experiment": "e", "name": "goes on"}).json()["id"]

    def log(step: int) -> None:
        points = [{"key": "loss", "value": 1 / (step + 1), "step": step, "at": "2026-01-01T00:00:00Z"}]
        server.http.post(f"/api/v1/runs/{run}/log", json={"metrics": points}).raise_for_status()

    for step in range(3):
        log(step)
    visitor = visit(server)
    visitor.sign_in()
    page = visitor.page
    asked: list[Route] = []

    def first_look(route: Route) -> None:
        """Between the first reading of a curve and the first question whether there is more."""
        if not asked:
            page.wait_for_function(LAST, arg=2)
            log(3)
        asked.append(route)
        route.continue_()

    page.route("**/api/v1/curves/state*", first_look)
    visitor.visit(f"/runs/{run}")
    page.wait_for_function(LAST, arg=3)
    log(4)
    page.wait_for_function(LAST, arg=4)
