"""The heatmap of drift and the parallel coordinates in a real browser: drawn, chosen by mouse and keyboard, taken along."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from mlbox.records import Metric
from tests.browser.visitor import Visitor
from tests.conftest import Server
from tests.web.site import FEATURE, fill, open_box

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
RUNS = 200


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[str]]]:
    """Two checks of drift, and two hundred runs whose accuracy rises with their rate."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    box = open_box(folder)
    fill(box)
    box.monitor.check("churn")
    runs = []
    for number in range(RUNS):
        params = {"lr": str(number / RUNS), "net": "wide" if number % 2 else "deep"}
        run = box.tracker.start_run(experiment="sweep", user="ada", name=f"run {number}", params=params)
        box.tracker.log(run.id, metrics=[Metric(key="auc", value=number / RUNS, step=0, at=box.clock.real())])
        runs.append(run.id)
    box.close()
    server = Server(folder, "--gpus", "none")
    yield server, runs
    server.stop()


def test_drift_is_seen_by_feature_and_time(pictured: tuple[Server, list[str]], visit: Callable[..., Visitor]) -> None:
    visitor = visit(pictured[0])
    visitor.sign_in()
    visitor.visit("/monitoring/churn")
    page = visitor.page
    cells = page.locator("svg.heatmap [data-cells]")
    expect(cells).to_have_count(2)
    expect(cells.first.locator("title")).to_contain_text(FEATURE)
    with page.expect_download() as download:
        page.get_by_role("button", name="Drift of churn by feature and time as CSV").click()
    with Path(download.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["feature"], row["version"], row["verdict"]) for row in rows] == [(FEATURE, "1", "alert")] * 2
    page.get_by_role("group", name="Drift of churn by feature and time").get_by_role("link", name=FEATURE).click()
    page.wait_for_url("**/monitoring/churn/spend*")
    expect(page.get_by_role("heading", level=1)).to_have_text(FEATURE)


def test_runs_are_chosen_along_an_axis(pictured: tuple[Server, list[str]], visit: Callable[..., Visitor]) -> None:
    server, runs = pictured
    visitor = visit(server)
    visitor.sign_in()
    visitor.visit("/runs/compare?" + "&".join(f"run={run}" for run in runs))
    page = visitor.page
    status = page.locator("mlbox-parcoords").get_by_role("status")
    expect(status).to_have_text("200 of 200 runs")
    axis = page.get_by_role("button", name="auc: arrow keys")
    axis.focus()
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    expect(status).to_have_text("100 of 200 runs")
    page.get_by_role("button", name="net: arrow keys").focus()
    page.keyboard.press("ArrowUp")
    expect(status).to_have_text("50 of 200 runs")
    page.reload()
    expect(status).to_have_text("50 of 200 runs")
    page.get_by_role("button", name="net: arrow keys").press("Escape")
    expect(status).to_have_text("100 of 200 runs")
    page.get_by_role("button", name="auc: arrow keys").press("Escape")
    expect(status).to_have_text("200 of 200 runs")
    catch = page.locator(".axis .catch").first
    catch.hover(position={"x": 5, "y": 1})  # once it stands still
    box = catch.bounding_box()
    assert box is not None
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4, steps=4)
    page.mouse.up()
    expect(page.locator("svg.parcoords a.out")).not_to_have_count(0)
    expect(status).not_to_have_text("200 of 200 runs")
