"""`make screenshots`: run the demo until a version waits for approval, and take the pictures of README and docs, in both themes.

They are WebP of a window of 1280 by 800, as Debian's Chromium draws it: a browser shows what fits the reader's own theme.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, sync_playwright

from examples.nyc_flights.demo import Steps, running_server, to_an_approval
from examples.nyc_flights.flights import Flights
from examples.nyc_flights.road import MODEL, Road
from mlbox.records import NewToken, Prediction, Promotion, Run

IMAGES = Path(__file__).parent / "images"
THEMES = ("light", "dark")
VIEWER = "grace"
WINDOW = {"width": 1280, "height": 800}
QUALITY = 80
DRAWN = """() => [...document.querySelectorAll("mlbox-chart, mlbox-curves")]
  .filter((chart) => chart.getBoundingClientRect().top < innerHeight)
  .every((chart) => chart.querySelector("canvas"))"""


class Shot(NamedTuple):
    """One picture: what it is called, and the page that it is of."""

    name: str
    path: str
    press: str = ""
    """A button that is pressed first."""


def shots(road: Road, waiting: Promotion) -> list[Shot]:
    """What is shown, once the demo has come so far."""
    runs = road.admin.get("/api/v1/runs", list[Run])
    boosted = next(run for run in runs if run.name == "train_gbm")
    asked = road.admin.get("/api/v1/predictions", list[Prediction], model=MODEL, limit=1)[0]
    return [
        Shot("overview", "/"),
        Shot("feature", "/features/weather@v1"),
        Shot("run", f"/runs/{boosted.id}"),
        Shot("model", f"/models/{MODEL}"),
        Shot("approval", f"/approvals/{waiting.id}"),
        Shot("endpoint", f"/endpoints/{MODEL}?hours=720", press="Ask by entity"),
        Shot("monitoring", f"/monitoring/{MODEL}"),
        Shot("drift", f"/monitoring/{MODEL}/weather@v1:temp"),
        Shot("lineage", f"/predictions/{asked.id}"),
    ]


def main() -> None:
    """Take them all."""
    folder = Path(tempfile.mkdtemp(prefix="mlbox-screenshots-"))
    steps = Steps()
    with running_server(folder / "data", 0) as (_, url):
        road = Road(url, (folder / "data" / "admin-token").read_text().strip(), Flights.load())
        with contextlib.closing(road):
            waiting = to_an_approval(road, steps)
            token = road.admin.post("/api/v1/tokens", NewToken, {"user": VIEWER, "name": "screenshots"}).secret
            found = shots(road, waiting)
            with browsers() as browser:
                for theme in THEMES:
                    take(browser, url, token, theme, found)
    shutil.rmtree(folder, ignore_errors=True)
    size = sum(path.stat().st_size for path in IMAGES.glob("*.webp"))
    steps.say(f"{len(found) * len(THEMES)} pictures in {IMAGES.name}, {size / 1e6:.2f} MB")


@contextlib.contextmanager
def browsers() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        sys.exit("The package chromium is not installed.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def take(browser: Browser, url: str, token: str, theme: str, found: list[Shot]) -> None:
    """Every picture in one theme."""
    context = browser.new_context(base_url=url, viewport=WINDOW, color_scheme=theme, timezone_id="UTC")  # type: ignore[arg-type]
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    for shot in found:
        page.goto(shot.path)
        if shot.press:
            page.get_by_role("button", name=shot.press).click()
            page.locator("[data-is=score]").first.wait_for()
        page.wait_for_function(DRAWN)
        picture = context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
        (IMAGES / f"{shot.name}-{theme}.webp").write_bytes(base64.b64decode(picture["data"]))
    context.close()


if __name__ == "__main__":
    main()
