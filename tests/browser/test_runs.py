"""Runs in a real browser: found by a filter that is completed, laid out, unfolded, compared, and followed while they log."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, expect

from mlbox.records import Metric
from tests.browser.test_axe import found, in_both_themes
from tests.browser.visitor import PHONE, Visitor
from tests.conftest import Server
from tests.web.site import START, open_box

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]
SWEEP = 60
CHARTS = 40
POINTS = 5000


class Made(NamedTuple):
    """A server, the runs of a sweep, a run with very many metrics, and one that goes on."""

    server: Server
    sweep: list[str]
    broad: str
    live: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("runs") / "data"
    box = open_box(folder)
    tracker = box.tracker
    sweep = []
    for n in range(SWEEP):
        params = {"lr": str(n / SWEEP), "net": "wide" if n % 2 else "deep", "same": "1"}
        params |= {f"other_{k}": str(n * k) for k in range(8)}
        began = START + timedelta(hours=n)
        run = tracker.start_run(experiment="sweep", user="ada", name=f"run {n}", params=params, started=began)
        tracker.log(
            run.id,
            metrics=[
                Metric(
                    key=key,
                    value=value * n / SWEEP + math.sin(step) / 50,
                    step=step,
                    at=began + timedelta(seconds=step),
                )
                for key, value in (("auc", 1), ("loss", -1))
                for step in range(100)
            ],
        )
        tracker.end_run(run.id, "FINISHED")
        sweep.append(run.id)
    parent = tracker.start_run(experiment="nested", user="ada", name="parent")
    for n in range(3):
        tracker.start_run(experiment="nested", user="ada", name=f"child {n}", tags={"mlflow.parentRunId": parent.id})
    broad = tracker.start_run(experiment="broad", user="ada", name="broad").id
    for key in range(CHARTS):
        tracker.log(broad, metrics=[Metric(key=f"m{key:02}", value=s / 7, step=s, at=START) for s in range(20)])
    for first in range(0, POINTS, 1000):
        points = [Metric(key="m00", value=1 / (s + 1), step=s, at=START) for s in range(first, first + 1000)]
        tracker.log(broad, metrics=points)
    for path, content in FILES.items():
        sha256, size = box.artifacts.put([content])
        tracker.add_artifact(broad, path, sha256, size)
    tracker.end_run(broad, "FINISHED")
    live = tracker.start_run(experiment="live", user="ada", name="live").id
    tracker.log(live, metrics=[Metric(key="auc", value=s / 100, step=s, at=START) for s in range(100)])
    box.close()
    server = Server(folder, "--gpus", "none")
    yield Made(server, sweep, broad, live)
    server.stop()


FILES = {
    "a.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40"><rect width="80" height="40"/></svg>',
    "a.md": b"# Title\n\nSome [words](b.csv).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n",
    "b.csv": b"a,b\n" + b"1,2\n" * 300,
    "c.json": b'{"a": {"b": [1, 2, 3]}}',
    "d.txt": b"words\n" * 200,
}


@pytest.fixture
def visitor(made: Made, visit: Callable[..., Visitor]) -> Visitor:
    one = visit(made.server)
    one.page.set_default_timeout(60_000)
    one.sign_in()
    return one


def first(page: Page) -> str:
    return page.locator("#rows > tr").first.locator("td.main a").inner_text()


def test_a_filter_is_typed_with_the_servers_words_and_the_keyboard_alone(visitor: Visitor) -> None:
    visitor.visit("/runs?experiment=sweep")
    page = visitor.page
    field = page.get_by_role("combobox", name="Filter")
    field.focus()
    options = page.get_by_role("listbox", name="What may be typed").get_by_role("option")
    for typed, offered in (
        ("params.n", "params.net"),
        ("=", "="),
        ("'w", "'wide'"),
        ("a", "AND"),
        ("lo", "metrics.loss"),
    ):
        field.press_sequentially(typed)
        expect(options.first).to_contain_text(offered)
        expect(options.first).to_be_visible()
        field.press("ArrowDown")
        expect(options.first).to_have_attribute("aria-selected", "true")
        field.press("Enter")
        expect(field).to_have_value(re.compile(f"{re.escape(offered)} $"))
    expect(field).to_have_value("params.net = 'wide' AND metrics.loss ")
    field.press_sequentially("< -0.9")
    field.press("Escape")
    expect(page.locator("#filter-words")).to_be_hidden()
    assert found(page) == []
    field.press("Enter")
    page.wait_for_url("**filter=**")
    assert first(page) == "run 59"


def test_a_wrong_filter_is_marked_while_it_is_typed_and_when_it_is_sent(visitor: Visitor) -> None:
    visitor.visit("/runs?experiment=sweep")
    page = visitor.page
    field = page.get_by_role("combobox", name="Filter")
    field.fill("metrics.auc LIKE 'x'")
    expect(page.locator(".filter-said mark")).to_have_text("LIKE")
    field.press("Escape")
    field.press("Enter")
    expect(page.get_by_role("alert").locator("mark")).to_have_text("LIKE")
    expect(field).to_have_value("metrics.auc LIKE 'x'")
    assert found(page) == []
    visitor.complaints.clear()  # the browser itself complains about each 400


def test_columns_are_chosen_and_pinned_ones_stay_in_sight(visitor: Visitor) -> None:
    visitor.visit("/runs?experiment=sweep")
    page = visitor.page
    page.get_by_role("link", name="Columns").click()
    page.wait_for_url("**/runs/columns**")
    page.get_by_label("Find").fill("OTHER")
    expect(page.get_by_role("checkbox", name="other_3", exact=True)).to_be_visible()
    expect(page.get_by_role("checkbox", name="loss, best")).to_be_hidden()
    for n in range(8):
        page.get_by_role("checkbox", name=f"other_{n}", exact=True).check()
    page.get_by_label("Find").fill("")
    page.get_by_role("checkbox", name="loss, best").check()
    page.get_by_role("checkbox", name="Pin loss").check()
    page.get_by_role("button", name="Show these").first.click()
    page.wait_for_url("**/runs?**column=**")
    head = page.get_by_role("columnheader", name="loss (best)")
    before = head.bounding_box()
    table = page.get_by_role("group", name="Runs")
    table.evaluate("(one) => one.scrollTo(400, 0)")
    after = head.bounding_box()
    assert before is not None
    assert after is not None
    assert table.evaluate("(one) => one.scrollLeft") > 100
    assert after["x"] == pytest.approx(before["x"], abs=2)
    assert found(page) == []
    page.get_by_role("link", name="other_7").click()
    page.wait_for_url("**order=**")
    expect(page.get_by_role("columnheader", name="other_7")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="Keep it as mine for sweep").click()
    expect(page.get_by_text("This is your view of sweep.")).to_be_visible()
    page.goto("/runs?experiment=sweep")
    page.wait_for_url("**/runs?**other_7**")
    page.get_by_role("link", name="Back to the plain table").click()
    page.wait_for_url("**own=0")
    expect(page.get_by_role("columnheader", name="other_7")).to_have_count(0)


def test_groups_and_parents_unfold_and_what_is_within_is_compared(visitor: Visitor) -> None:
    visitor.visit("/runs?experiment=sweep&group=params.net&own=0")
    page = visitor.page
    rows = page.locator("#rows > tr")
    expect(rows).to_have_count(2)
    button = page.get_by_role("button", name="30 runs within deep")
    button.focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(32)
    assert found(page) == []
    page.get_by_role("checkbox", name="Choose run 58", exact=True).check()
    expect(page.get_by_role("button", name="Compare")).to_be_disabled()
    page.get_by_role("checkbox", name="Choose run 56", exact=True).check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/runs/compare?**")
    expect(page.get_by_role("heading", level=1)).to_have_text("2 runs beside each other")
    visitor.visit("/runs?experiment=nested")
    expect(rows).to_have_count(1)
    button = page.get_by_role("button", name="3 runs within parent")
    button.click()
    expect(rows).to_have_count(4)
    button.click()
    expect(rows).to_have_count(1)


def test_rows_are_chosen_by_keys_alone(visitor: Visitor) -> None:
    visitor.visit("/runs?experiment=sweep")
    page = visitor.page
    compare = page.get_by_role("button", name="Compare")
    for key in ("x", "j", "x", "j", "x"):
        page.keyboard.press(key)
    expect(page.get_by_text("2 of 60 runs")).to_be_visible()
    expect(compare).to_be_enabled()
    page.keyboard.press("x")
    expect(compare).to_be_disabled()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Choose the row")


def test_charts_are_made_when_they_are_seen(made: Made, visitor: Visitor) -> None:
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url) if "/api/v1/curves?" in request.url else None)
    visitor.visit(f"/runs/{made.broad}")
    page = visitor.page
    expect(page.locator("mlbox-curves canvas").first).to_be_visible()
    assert len(asked) < CHARTS / 2
    last = page.locator("figure[data-key=m39] mlbox-curves")
    expect(page.locator("figure:visible")).to_have_count(12)
    expect(last).to_be_hidden()
    assert found(page) == []
    page.get_by_role("button", name=f"All {CHARTS} charts").click()
    page.wait_for_url("**charts=all")
    expect(page.locator("figure:visible")).to_have_count(CHARTS)
    last.scroll_into_view_if_needed()
    expect(last.locator("canvas")).to_be_visible()
    assert len(asked) < CHARTS
    page.get_by_role("searchbox", name="of", exact=True).fill("m07")
    expect(page.locator("figure:visible")).to_have_count(1)
    page.wait_for_url("**only=m07")


def test_the_csv_of_a_chart_has_every_point(made: Made, visitor: Visitor) -> None:
    visitor.visit(f"/runs/{made.broad}")
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="m00 as CSV").click()
    with Path(download.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == POINTS + 20
    assert rows[-1]["value"] == repr(1 / POINTS)


CHART = "figure[data-key=auc] mlbox-curves"


def test_what_is_looked_at_stays_while_points_come(made: Made, visitor: Visitor) -> None:
    visitor.visit(f"/runs/{made.live}")
    page = visitor.page
    chart = page.locator(CHART)
    expect(chart.locator("canvas")).to_be_visible()
    over = chart.locator(".u-over").bounding_box()
    assert over is not None
    page.mouse.move(over["x"] + over["width"] * 0.25, over["y"] + 50)
    page.mouse.down()
    page.mouse.move(over["x"] + over["width"] * 0.5, over["y"] + 50, steps=4)
    page.mouse.up()
    page.wait_for_function("(css) => document.querySelector(css).zoom", arg=CHART)
    shown = "(css) => { const { min, max } = document.querySelector(css).plot.scales.x; return [min, max]; }"
    zoomed = page.evaluate(shown, CHART)
    assert 15 < zoomed[0] < zoomed[1] < 60
    body = {"metrics": [{"key": "auc", "value": 2.0, "step": step} for step in (30, 200)]}
    made.server.http.post(f"/api/v1/runs/{made.live}/log", json=body).raise_for_status()
    page.wait_for_function(
        "(css) => document.querySelector(css).lines.some((line) => line.values.includes(2))", arg=CHART
    )
    with page.expect_response(lambda answer: answer.url.endswith(made.live)):  # the page around the chart is read anew
        pass
    page.wait_for_function("() => !document.querySelector('.htmx-request, .htmx-swapping, .htmx-settling')")
    assert page.evaluate(shown, CHART) == zoomed
    page.locator(f"{CHART} .u-over").dblclick()
    page.wait_for_function("(css) => document.querySelector(css).plot.scales.x.max === 200", arg=CHART)
    made.server.http.post(
        f"/api/v1/runs/{made.live}/log", json={"metrics": [{"key": "new", "value": s, "step": s} for s in range(3)]}
    ).raise_for_status()
    expect(page.locator("figure[data-key=new] canvas")).to_be_visible()


def test_smoothing_and_axes_are_in_the_address_and_the_raw_line_stays(made: Made, visitor: Visitor) -> None:
    visitor.visit(f"/runs/compare?run={','.join(made.sweep[:3])}")
    page = visitor.page
    chart = page.locator(CHART)
    chart.scroll_into_view_if_needed()
    expect(chart.locator("canvas")).to_be_visible()
    ways = page.get_by_role("form", name="How the curves")
    ways.get_by_label("smoothing").fill("0.8")
    ways.get_by_label("along").select_option("time")
    ways.get_by_label("log y").check()
    said = {"along": "time", "smooth": "0.8", "logy": "1"}
    held = "(said) => Object.entries(said).every(([n, t]) => new URLSearchParams(location.search).get(n) === t)"
    page.wait_for_function(held, arg=said)
    names = "(css) => document.querySelector(css).plot.series.map((one) => one.label)"
    raw = [f"run {n}, raw" for n in range(3)]
    assert page.evaluate(names, CHART) == ["time since the run began", *raw, "run 0", "run 1", "run 2"]
    page.reload()
    chart.scroll_into_view_if_needed()
    expect(chart.locator("canvas")).to_be_visible()
    assert page.evaluate(names, CHART)[1:4] == raw
    assert page.evaluate("(css) => document.querySelector(css).plot.scales.y.distr", CHART) == 3


def test_many_runs_are_compared_as_points_and_by_what_mattered(made: Made, visitor: Visitor) -> None:
    visitor.visit(f"/runs/compare?run={','.join(made.sweep)}")
    page = visitor.page
    dots = page.locator("#scatter svg.scatter a")
    expect(dots).to_have_count(SWEEP)
    page.locator("#scatter").get_by_label("Along").select_option("params.lr")
    page.wait_for_url("**x=params.lr**")
    page.get_by_label("Colour and shape").select_option("params.net")
    expect(page.get_by_role("list", name="net").get_by_role("listitem")).to_have_count(3)
    page.locator("#importance").scroll_into_view_if_needed()
    table = page.get_by_role("group", name="Importance of parameters")
    expect(table.get_by_role("rowheader").first).to_be_visible()
    page.locator("#importance").get_by_label("Metric").select_option("loss")
    expect(page.locator("#importance header")).to_contain_text("least loss")
    assert in_both_themes(visitor, page.url) == []


@pytest.mark.parametrize("size", ["wide", "phone"])
def test_files_and_the_page_of_a_run_please_axe(made: Made, visitor: Visitor, size: str) -> None:
    page = visitor.page
    if size == "phone":
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for path in (f"/runs/{made.broad}", *(f"/runs/{made.broad}/files/{name}" for name in FILES)):
        assert in_both_themes(visitor, path) == []
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
    page.goto(f"/runs/{made.broad}/files/a.svg")
    assert page.locator("img.shown").evaluate("(one) => one.naturalWidth") == 80
