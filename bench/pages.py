"""The dashboard in a real browser: how soon its pages are usable, and how much of them travels.

Debian's Chromium, driven by Playwright, on a server with its defaults and a store that was filled over its own API. A time begins
with the navigation and ends after the frame that the browser drew once the page had loaded and its scripts had run, by the
browser's own clock; what is told is the median. Styles and scripts are in the browser's cache but for the first load.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

from bench import load
from bench.harness import Report, median, options
from bench.load import post
from bench.tracking import API, Peer, mlbox, populate

SHOWN = 100
MOMENT = 1_700_000_000_000
COMPARED, CHARTS, MOST_POINTS = 200, 40, 2000
SETTLED = """addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(() => {
  window.usable = performance.now();
})));
const charted = () => requestAnimationFrame(() => {
  if (document.querySelector("mlbox-curves canvas")) requestAnimationFrame(() => { window.charted = performance.now(); });
  else charted();
});
charted();"""
"""Run before a page's own scripts: notes when the frame after its load was drawn, and the one after its first curve was."""
LINKS = "[...document.querySelectorAll('a[href^=\"/\"]:not([download])')].map(a => a.getAttribute('href'))"
DRAWN = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"


class Sizes(NamedTuple):
    """How much of everything."""

    runs: int
    many_runs: int
    points: int
    repeats: int


class Visit(NamedTuple):
    """One page that was read."""

    usable_ms: float
    kilobytes: float


class Visitor:
    """A signed-in browser that counts what travels, and whether anything goes elsewhere."""

    def __init__(self, browser: Browser, peer: Peer) -> None:
        self._peer = peer
        self.context = browser.new_context(base_url=peer.url, viewport={"width": 1440, "height": 900})
        self.page: Page = self.context.new_page()
        self.page.add_init_script(SETTLED)
        self.elsewhere: list[str] = []
        self.page.on("request", lambda request: self._notice(request.url))
        self._wire = self.context.new_cdp_session(self.page)
        self._wire.send("Network.enable")
        self._bytes = 0.0
        self._wire.on("Network.loadingFinished", self._finished)

    def _finished(self, event: dict[str, Any]) -> None:
        self._bytes += event["encodedDataLength"]

    def _notice(self, url: str) -> None:
        if not url.startswith((self._peer.url, "data:", "blob:")):
            self.elsewhere.append(url)

    def sign_in(self) -> None:
        """By the token, as anyone would."""
        self.page.goto("/login")
        self.page.get_by_label("Token").fill(self._peer.token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/")

    def visit(self, path: str) -> Visit:
        """One page, until it is usable."""
        self._bytes = 0.0
        answer = self.page.goto(path)
        assert answer
        assert answer.ok, (path, answer.status)
        self.page.wait_for_function("() => window.usable")
        return Visit(self.page.evaluate("window.usable"), self._bytes / 1000)

    def usable(self, path: str) -> float:
        """How many milliseconds one page takes until it is usable."""
        return self.visit(path).usable_ms

    def forget(self) -> None:
        """Empty the browser's cache."""
        self._wire.send("Network.clearBrowserCache")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    sizes = Sizes(2000, 10_000, 200_000, 3) if chosen.quick else Sizes(10_000, 100_000, 1_000_000, 7)
    report = Report("pages", conditions={k: str(v) for k, v in sizes._asdict().items()})
    with tempfile.TemporaryDirectory() as folder, mlbox(Path(folder)) as peer:
        store = fill(peer, sizes)  # before there is a browser, whose driver has the only event loop of this thread
        with browsers() as browser:
            visitor = Visitor(browser, peer)
            visitor.sign_in()
            table_of_runs(report, visitor, sizes, store)
            comparison(report, visitor, sizes, store)
            long_curve(report, visitor, sizes, store)
            many_charts(report, visitor, store)
            live_point(report, visitor, peer, sizes, store)
            weights(report, visitor)
            report.at_most("requests that left the host", len(visitor.elsewhere), 0, "requests")
    return report.finish()


@contextlib.contextmanager
def browsers() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("The package chromium is not installed.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


def repeated(visit: Callable[[], float], times: int) -> float:
    """The median, after one that warms up."""
    visit()
    return median([visit() for _ in range(times)])


# -- what the pages show ------------------------------------------------------------------------------------------------


class Store(NamedTuple):
    """What was filled in."""

    experiments: dict[str, int]
    """By name, with how many runs it has."""
    compared: list[str]
    long: str
    wide: str
    live: str


def fill(peer: Peer, sizes: Sizes) -> Store:
    """Runs by the thousand, some with curves, one with a very long one, one with very many."""
    few, many = populate(peer, sizes.runs), populate(peer, sizes.many_runs)
    asked = {"experiment_ids": [few], "max_results": COMPARED}
    compared = [run["info"]["run_id"] for run in peer.ask("runs/search", asked)["runs"]]
    rng = random.Random(1)
    long, wide, live = (new_run(peer, name) for name in ("long", "wide", "live"))
    logs = [
        logged(run, [("loss", step, rng.random() / (step + 1)) for step in range(100)], depth=rng.randrange(12))
        for run in compared
    ]
    logs += [
        logged(long, [("loss", step, rng.random()) for step in range(first, first + 1000)])
        for first in range(0, sizes.points, 1000)
    ]
    logs.append(
        logged(wide, [(f"metric {key:02}", step, key + step / 10) for key in range(CHARTS) for step in range(20)])
    )
    logs.append(logged(live, [("loss", step, 1 / (step + 1)) for step in range(100)]))
    load.each(peer.url, peer.token, logs, clients=4)
    return Store({name_of(peer, few): sizes.runs, name_of(peer, many): sizes.many_runs}, compared, long, wide, live)


def logged(run: str, points: list[tuple[str, int, float]], **params: object) -> load.Request:
    """One log-batch."""
    metrics = [{"key": key, "value": value, "timestamp": MOMENT, "step": step} for key, step, value in points]
    given = [{"key": key, "value": str(value)} for key, value in params.items()]
    return post(f"{API}/runs/log-batch", {"run_id": run, "metrics": metrics, "params": given})


def new_run(peer: Peer, name: str) -> str:
    """A run that goes on."""
    experiment = peer.ask("experiments/create", {"name": f"{name}-{random.getrandbits(40):x}"})["experiment_id"]
    made = peer.ask("runs/create", {"experiment_id": experiment, "start_time": MOMENT, "run_name": name})
    return str(made["run"]["info"]["run_id"])


def name_of(peer: Peer, experiment: str) -> str:
    """What a page calls an experiment."""
    found = json.loads(peer.get(f"{API}/experiments/get?experiment_id={experiment}"))
    return str(found["experiment"]["name"])


# -- tables -------------------------------------------------------------------------------------------------------------


LOOKS: dict[str, dict[str, str]] = {
    "": {},
    " ordered by a metric's greatest value": {"order": "max:metrics.auc DESC"},
    " that a filter finds few of": {"filter": "metrics.auc > 0.98"},
    " that a filter finds half of": {"filter": "metrics.auc > 0.5", "order": "metrics.auc"},
    " grouped by a parameter": {"group": "params.lr"},
}
"""How the table of runs is asked for."""


def table_of_runs(report: Report, visitor: Visitor, sizes: Sizes, store: Store) -> None:
    """A page of a hundred runs of each experiment, in whatever way they are asked for."""
    for (experiment, runs), limit in zip(store.experiments.items(), (300, 600), strict=True):
        for look, asked in LOOKS.items():
            path = f"/runs?{urlencode({'experiment': experiment, 'limit': SHOWN, **asked})}"
            took = repeated(partial(visitor.usable, path), sizes.repeats)
            rows = visitor.page.locator("#rows > tr").count()
            report.at_most(f"a page of {rows} out of {runs:,} runs{look}, usable", took, limit, "ms")
            if runs >= 10_000 or not look:  # a fiftieth of fewer fills no page
                report.at_least(f"rows on that page, out of {runs:,}{look}", rows, SHOWN, "rows")


def comparison(report: Report, visitor: Visitor, sizes: Sizes, store: Store) -> None:
    """200 runs, each with two parameters and a curve of 100 points."""
    path = f"/runs/compare?{urlencode([('run', run) for run in store.compared])}"
    took = repeated(partial(visitor.usable, path), sizes.repeats)
    report.at_most(f"comparison of {len(store.compared)} runs, usable", took, 1000, "ms")
    report.tell("what travels for it", visitor.visit(path).kilobytes, "kB")


# -- charts -------------------------------------------------------------------------------------------------------------


def long_curve(report: Report, visitor: Visitor, sizes: Sizes, store: Store) -> None:
    """A curve of very many points: on the screen, then a hundredth of it drawn out with the mouse."""
    travelled: list[int] = []
    took = repeated(lambda: curve_on_screen(visitor, store.long, travelled), sizes.repeats)
    report.at_most(f"a curve of {sizes.points:,} points, on the screen", took, 500, "ms")
    zooms = [zoomed(visitor, store.long, travelled) for _ in range(sizes.repeats)]
    found = [zoom for zoom in zooms if zoom is not None]
    if found:
        report.at_most("zoomed in, with the points in between", median(found), 200, "ms")
    else:
        report.skip("zoomed in, with the points in between", "the chart asks for no more points when it is zoomed")
    report.at_most("points of a series that travelled at once", max(travelled), MOST_POINTS, "points")


def curve_on_screen(visitor: Visitor, run: str, travelled: list[int]) -> float:
    """Until the canvas has been drawn on."""
    visitor.visit(f"/runs/{run}")
    visitor.page.wait_for_function("() => window.charted")
    assert visitor.page.locator("mlbox-curves canvas").first.evaluate(DRAWN), "nothing is drawn"
    travelled.append(points_of(visitor.page))
    return max(float(visitor.page.evaluate(time)) for time in ("window.charted", "window.usable"))


def points_of(page: Page) -> int:
    """The points of the first chart's line, as it has them."""
    return int(page.locator("mlbox-curves").first.evaluate("c => c.plot.data[0].length"))


ZOOMED = """chart => new Promise((done) => {
  const before = chart.plot.data[0];
  const began = performance.now();
  const look = () => {
    const [x] = chart.plot.data;
    if (x !== before && x.length > 100) return requestAnimationFrame(() => done(performance.now() - began));
    if (performance.now() - began > 5000) return done(null);
    requestAnimationFrame(look);
  };
  addEventListener("mouseup", () => look(), { once: true, capture: true });
})"""


def zoomed(visitor: Visitor, run: str, travelled: list[int]) -> float | None:
    """From letting go of the mouse until the chart has other points and has drawn them; None where it never does."""
    visitor.visit(f"/runs/{run}")
    page = visitor.page
    page.wait_for_selector("mlbox-curves canvas")
    chart = page.locator("mlbox-curves").first
    box = page.locator("mlbox-curves .u-over").first.bounding_box()
    assert box
    page.evaluate("window.zoomedIn = null")
    chart.evaluate(f"chart => {{ ({ZOOMED})(chart).then((took) => {{ window.zoomedIn = {{ took }}; }}); }}")
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.50 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.53 * box["width"], middle, steps=4)
    page.mouse.up()
    page.wait_for_function("() => window.zoomedIn")
    travelled.append(points_of(page))
    took = page.evaluate("window.zoomedIn.took")
    return None if took is None else float(took)


def many_charts(report: Report, visitor: Visitor, store: Store) -> None:
    """A run with forty curves: those that are seen are drawn, the others when they are scrolled to."""
    took = visitor.visit(f"/runs/{store.wide}").usable_ms
    page = visitor.page
    charts, drawn = page.locator("mlbox-curves").count(), page.locator("mlbox-curves canvas").count()
    unseen = page.evaluate(
        "[...document.querySelectorAll('mlbox-curves')].filter(c => c.getBoundingClientRect().top > 2 * innerHeight"
        " && c.querySelector('canvas')).length"
    )
    report.tell(f"a page of {charts} charts, usable", took, "ms")
    report.tell("of them drawn at once", drawn, "charts")
    report.at_most("of them drawn though nobody sees them, two screens down", unseen, 0, "charts")
    page.get_by_role("button", name=f"All {charts} charts").click()
    for chart in page.locator("mlbox-curves").all():
        chart.scroll_into_view_if_needed()
        chart.locator("canvas").wait_for()
    report.at_least("drawn once all were scrolled to", page.locator("mlbox-curves canvas").count(), CHARTS, "charts")


def live_point(report: Report, visitor: Visitor, peer: Peer, sizes: Sizes, store: Store) -> None:
    """From the call that logs a point until the run's page, which is open, has drawn it."""
    with visitor.page.expect_response("**/api/v1/events*"):
        visitor.visit(f"/runs/{store.live}")
    took = []
    for step in range(sizes.repeats):
        place = 10_000 + step
        point = logged(store.live, [("loss", place, 0.5)])
        shows = f"document.querySelector('mlbox-curves').plot?.data[0].at(-1) === {place}"
        request = urllib.request.Request(
            peer.url + point.path,
            point.body,
            {"Authorization": f"Bearer {peer.token}", "Content-Type": point.content_type},
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request):
            visitor.page.wait_for_function(f"() => {shows}")
        took.append(time.perf_counter() - began)
    report.tell("a point on the screen, after its log call began: median", median(took), "s")
    report.at_most("a point on the screen, after its log call began: slowest", max(took), 1, "s")


# -- weights ------------------------------------------------------------------------------------------------------------


def weights(report: Report, visitor: Visitor) -> None:
    """What travels for the first page, and for each page that links lead to, one of a kind."""
    visitor.forget()
    report.at_most("first load", visitor.visit("/").kilobytes, 300, "kB")
    waiting, seen, found = ["/"], set[str](), dict[str, float]()
    while waiting:
        path = waiting.pop(0)
        kind = re.sub(r"/[^/?]*[0-9@.][^/?]*", "/…", path.partition("?")[0])
        if kind in seen:
            continue
        seen.add(kind)
        found[path] = visitor.visit(path).kilobytes
        links = visitor.page.locator("a[href^='/']:not([download])").evaluate_all(
            "links => links.map(a => a.getAttribute('href'))"
        )
        waiting += [link for link in links if not link.startswith(("/api/", "/static/"))]
    heaviest = max(found, key=lambda path: found[path])
    report.at_most(
        f"the heaviest of {len(found)} further pages, {heaviest.partition('?')[0]}", found[heaviest], 100, "kB"
    )


if __name__ == "__main__":
    sys.exit(main())
