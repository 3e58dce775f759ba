"""What is taken along from a page: each table whole as CSV, each picture as PNG and CSV, and nothing that a spreadsheet runs."""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from mlbox.records import Metric
from tests.browser.visitor import Visitor
from tests.conftest import Server
from tests.web.site import FEATURE, Filled, fill, open_box

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
MANY = 120


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Filled]]:
    """More runs than a page shows, one named like a formula."""
    folder = tmp_path_factory.mktemp("export") / "data"
    box = open_box(folder)
    made = fill(box)
    for number in range(MANY):
        run = box.tracker.start_run(experiment="many", user="ada", name=f"=cmd|' /C calc'!A{number}")
        box.tracker.log(run.id, metrics=[Metric(key="auc", value=-number / 7, step=0, at=box.clock.real())])
    box.close()
    server = Server(folder, "--gpus", "none")
    yield server, made
    server.stop()


def taken(visitor: Visitor, label: str, kind: str) -> Path:
    """The file that a button gives away."""
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name=f"{label} as {kind}", exact=True).click()
    assert download.value.suggested_filename.endswith(f".{kind.lower()}")
    return Path(download.value.path())


def table(visitor: Visitor, label: str) -> list[dict[str, str]]:
    with taken(visitor, label, "CSV").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_is_whole_exact_and_no_formula(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.visit("/runs?experiment=many")
    expect(visitor.page.locator("#rows > tr")).to_have_count(100)
    rows = table(visitor, "Runs")
    assert [row["Run"] for row in rows] == [f"'=cmd|' /C calc'!A{number}" for number in reversed(range(MANY))]
    assert [float(row["auc"]) for row in rows] == [-number / 7 for number in reversed(range(MANY))]
    assert {row["Run: more"] for row in rows} == {"many · ada"}
    assert {row["State"] for row in rows} == {"running"}
    assert all(row["Began"].endswith("+00:00") and float(row["Took (s)"]) >= 0 for row in rows)


def test_each_table_of_every_page_can_be_taken_along(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    for path in ("/admin", "/models/churn", "/monitoring/churn", "/datasets/churn@v1", "/labels/left", "/audit"):
        visitor.visit(path)
        tables, buttons = visitor.page.locator("table"), visitor.page.locator("mlbox-table > .export > button")
        assert tables.count() == buttons.count() > 0, path
        for button in buttons.all():
            with visitor.page.expect_download() as download:
                button.press("Enter")
            assert Path(download.value.path()).read_bytes().count(b"\r\n") > 1, path


def test_a_chart_is_an_image_and_its_points(filled: tuple[Server, Filled], visit: Callable[..., Visitor]) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.visit(f"/monitoring/churn/{FEATURE}")
    label = f"{FEATURE} in training and served"
    width, height = size(taken(visitor, label, "PNG"))
    assert width > 200
    assert height > 190
    rows = table(visitor, label)
    assert list(rows[0]) == ["amount", "training", "served"]
    assert sum(float(row["training"]) for row in rows[:-1]) == pytest.approx(1)


def test_a_lone_point_of_a_chart_has_two_hours_around_it(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.visit("/endpoints/churn?hours=720")
    chart = visitor.page.locator('mlbox-chart[data-name="Latency, ms"]')
    expect(chart.locator("canvas")).to_be_visible()
    points, low, high = chart.evaluate("({ plot }) => [plot.data[0].length, plot.scales.x.min, plot.scales.x.max]")
    assert (points, high - low) == (1, 7200)


def test_a_chart_has_the_hours_of_who_looks_at_it_and_tells_utc(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    shown = []
    for zone in ("UTC", "Asia/Kolkata"):
        visitor = visit(filled[0], timezone_id=zone)
        visitor.sign_in()
        visitor.visit("/endpoints/churn?hours=720")
        chart = visitor.page.locator('mlbox-chart[data-name="Latency, ms"]')
        expect(chart.locator("canvas")).to_be_visible()
        replayed = chart.evaluate("({ plot }) => plot.axes[0]._values")
        at, told = chart.evaluate("({ plot }) => [plot.data[0][0], plot.series[0].value(plot, plot.data[0][0])]")
        assert told == f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M}Z"
        chart.evaluate("chart => { delete document.body.dataset.replay; chart.draw(); }")
        shown.append((replayed, chart.evaluate("({ plot }) => plot.axes[0]._values")))
    (at_home, as_well), (replayed, elsewhere) = shown
    assert at_home == as_well == replayed, "where time is replayed it is that of the banner"
    assert all(re.fullmatch(r"\d\d:(00|30)(\n2\d{3}-\d\d-\d\d)?", one) for one in elsewhere), elsewhere
    assert elsewhere != as_well


def test_the_timeline_is_an_image_and_its_attempts(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.visit("/timeline")
    width, _ = size(taken(visitor, "Timeline", "PNG"))
    assert width > 2000
    rows = table(visitor, "Timeline")
    assert filled[1].job in {row["job"] for row in rows}
    assert {row["outcome"] for row in rows} == {"succeeded"}


def test_the_timeline_has_the_hours_of_who_looks_at_it_and_utc_for_who_points_at_them(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    visitor = visit(filled[0], timezone_id="Asia/Kolkata")
    visitor.sign_in()
    visitor.visit("/timeline")
    expect(visitor.page.get_by_text("hours are those of Asia/")).to_be_visible()
    tick = visitor.page.locator("svg.gantt text[data-at]").first
    shown = tick.evaluate("tick => tick.firstChild.textContent")
    at = datetime.fromisoformat(tick.get_attribute("data-at") or "")
    assert shown == f"{at.astimezone(ZoneInfo('Asia/Kolkata')):%H:%M}"
    assert tick.locator("title").text_content() == f"{at:%Y-%m-%d %H:%M} UTC"


def size(image: Path) -> tuple[int, int]:
    content = image.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_a_row_of_a_long_table_is_found_and_the_table_stays_whole(
    filled: tuple[Server, Filled], visit: Callable[..., Visitor]
) -> None:
    visitor = visit(filled[0])
    visitor.sign_in()
    visitor.visit("/admin/settings")
    shown = visitor.page.locator("mlbox-table[aria-label=Settings] tbody > tr:visible")
    every = shown.count()
    find = visitor.page.get_by_label("Find a row of Settings")
    find.fill("DRIFT window")
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("drift_window")
    assert len(table(visitor, "Settings")) == every, "what is taken along is all of it"
    find.fill("")
    expect(shown).to_have_count(every)
    visitor.visit("/admin")
    assert visitor.page.get_by_label("Find a row of Users").count() == 0, "few are read"
