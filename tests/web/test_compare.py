"""Runs beside each other: what differs, curves with every point, points of any two values, and what mattered."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import timedelta

import pytest

from mlbox.records import JobSpec, Metric
from mlbox.web.box import Box
from tests.web.site import NASTY, START, Page, Site, open_box

RUNS = 24
POINTS = 3000


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    box = open_box(tmp_path_factory.mktemp("compare") / "data")
    yield box
    box.close()


@pytest.fixture(scope="module")
def runs(box: Box) -> list[str]:
    """Two dozen runs whose accuracy is their rate, and one that has nothing of the like."""
    made = []
    for n in range(RUNS):
        params = {"lr": str(n / RUNS), "net": "wide" if n % 2 else "deep", "same": "1"}
        run = box.tracker.start_run(experiment="e", user="ada", name=f"run {n}", params=params)
        points = [
            Metric(key="auc", value=n / RUNS + s / 100, step=s, at=START + timedelta(seconds=s)) for s in range(3)
        ]
        box.tracker.log(run.id, metrics=[*points, Metric(key="same", value=1.0, step=n, at=START)])
        made.append(run.id)
    return made


@pytest.fixture(scope="module")
def long(box: Box) -> str:
    """A run of a great many points, some of which are no numbers, called like a formula."""
    run = box.tracker.start_run(experiment="e", user="ada", name="=1+1")
    points = [
        Metric(key="a/b", value=math.nan if s % 100 == 7 else math.sin(s / 9), step=s, at=START + timedelta(seconds=s))
        for s in range(POINTS)
    ]
    for first in range(0, POINTS, 1000):
        box.tracker.log(run.id, metrics=points[first : first + 1000])
    return run.id


@pytest.fixture(scope="module")
def site(box: Box) -> Site:
    return Site(box)


def test_only_what_differs_is_shown_unless_all_is_asked_for(site: Site, runs: list[str]) -> None:
    some = site.get(f"/runs/compare?run={runs[0]}&run={runs[1]}").text
    assert "2 of 3 differ" in some
    assert "1 of 2 differ" in some
    assert ">same<" not in some.partition('id="scatter"')[0]
    everything = site.get(f"/runs/compare?run={runs[0]},{runs[1]}&show=all").text
    assert ">same<" in everything
    assert everything.count('class="differs"') == 3


@pytest.mark.parametrize(
    "query", ["run=one", "", "run=a,b", "run={0}&run={0}", "run={0},{1}&x=odd", "run={0},{1}&x=status"]
)
def test_what_cannot_be_compared_is_refused(site: Site, runs: list[str], query: str) -> None:
    for page in ("/runs/compare", "/runs/compare/importance"):
        assert site.get(f"{page}?{query.format(*runs)}").status_code in (400, 404) or ("x=" in query and "imp" in page)


def test_two_hundred_runs_fit_into_one_address(site: Site, box: Box) -> None:
    many = [box.tracker.start_run(experiment="many", user="ada", params={"n": str(n)}).id for n in range(201)]
    assert site.get(f"/runs/compare?run={','.join(many[:200])}").status_code == 200
    assert site.get(f"/api/v1/curves/state?run={','.join(many[:200])}").json() == {"points": {}, "live": 200}
    assert site.get(f"/runs/compare?run={','.join(many)}").status_code == 400


# -- curves -------------------------------------------------------------------------------------------------------------


def test_curves_have_steps_values_and_times(site: Site, runs: list[str]) -> None:
    found = site.get(f"/api/v1/curves?key=auc&run={runs[1]},{runs[0]}").json()["lines"]
    assert [line["run"] for line in found] == [runs[1], runs[0]]
    first = int(START.timestamp() * 1000)
    assert found[1] == {
        "run": runs[0],
        "steps": [0, 1, 2],
        "values": [0.0, 0.01, 0.02],
        "at": [first, first + 1000, first + 2000],
        "whole": True,
    }


def test_a_long_curve_keeps_its_extremes_and_is_whole_close_up(site: Site, long: str) -> None:
    drawn = site.get(f"/api/v1/curves?key=a/b&run={long}&most=100").json()["lines"][0]
    assert len(drawn["steps"]) <= 120
    assert not drawn["whole"]
    assert max(drawn["values"]) > 0.999
    assert drawn["at"] == [int(START.timestamp() * 1000) + 1000 * step for step in drawn["steps"]]
    close = site.get(f"/api/v1/curves?key=a/b&run={long}&most=100&first=100&last=150").json()["lines"][0]
    assert close["steps"] == [step for step in range(100, 151) if step % 100 != 7]
    assert close["whole"]


def test_every_point_is_taken_along(site: Site, long: str, runs: list[str]) -> None:
    answer = site.get(f"/api/v1/curves/points?key=a/b&run={long},{runs[0]}")
    assert answer.headers["content-disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == POINTS
    assert [int(row["step"]) for row in rows] == list(range(POINTS))
    assert {row["name"] for row in rows} == {"'=1+1"}
    assert rows[7]["value"] == "nan"
    assert rows[9]["time"] == "2026-01-01T00:00:09+00:00"


def test_what_grew_is_told(site: Site, box: Box) -> None:
    run = box.tracker.start_run(experiment="grows", user="ada").id
    box.tracker.log(run, metrics=[Metric(key="auc", value=1.0, step=0, at=START)])
    assert site.get(f"/api/v1/curves/state?run={run}").json() == {"points": {}, "live": 1}
    box.tracker.log(run, metrics=[Metric(key="auc", value=1.0, step=1, at=START)])
    box.tracker.end_run(run, "FINISHED")
    assert site.get(f"/api/v1/curves/state?run={run}").json() == {"points": {"auc": 2}, "live": 0}


@pytest.mark.parametrize(
    "query", ["key=auc", "key=auc&run=", "run={0}", "key=auc&run={0}&first=" + "9" * 30, "key=auc&run={0}&most=1"]
)
def test_bad_questions_about_curves_are_refused(site: Site, runs: list[str], query: str) -> None:
    assert site.get(f"/api/v1/curves?{query.format(*runs)}").status_code == 400
    assert site.get("/api/v1/curves?key=auc&run=none").status_code == 404


def test_a_page_of_runs_carries_no_points(site: Site, long: str) -> None:
    answer = site.get(f"/runs/{long}")
    page = Page(answer)
    assert [one["data-key"] for one in page.all("figure")] == ["a/b"]
    assert len(answer.content) < 30_000
    assert json.loads(page.all("mlbox-curveset")[0]["data-runs"])[0]["label"] == "=1+1"


# -- points -------------------------------------------------------------------------------------------------------------


def dots(site: Site, runs: list[str], **chosen: str) -> list[list[object]]:
    asked = "&".join(f"{name}={value}" for name, value in chosen.items())
    answer = site.get(f"/runs/compare?run={','.join(runs)}&{asked}")
    assert answer.status_code == 200
    begin = answer.text.index('<svg class="scatter"')
    picture = answer.text[begin : answer.text.index("</svg>", begin) + 6]
    found = ET.fromstring(picture)
    return [json.loads(one.attrib["data-cells"]) for one in found.iter() if "data-cells" in one.attrib]


def test_any_two_values_are_drawn_as_points(site: Site, runs: list[str]) -> None:
    found = dots(site, runs, x="params.lr", y="max:metrics.auc", colour="params.net")
    assert len(found) == RUNS
    assert found[3] == ["run 3", 3 / RUNS, pytest.approx(3 / RUNS + 0.02), "wide"]
    assert len(dots(site, runs, x="params.net", y="metrics.auc")) == RUNS
    assert dots(site, runs, x="params.none", y="metrics.auc") == []


def test_colours_are_ranges_of_numbers_and_each_has_a_shape(site: Site, runs: list[str]) -> None:
    text = site.get(f"/runs/compare?run={','.join(runs)}&x=params.lr&y=metrics.auc&colour=metrics.auc").text
    legend = text[text.index('class="legend') :].partition("</ul>")[0]
    assert legend.count("<path") == 5
    assert len({part.partition('"')[0] for part in legend.split(' d="')[1:]}) == 5


def test_odd_names_and_values_are_text(site: Site, box: Box, runs: list[str]) -> None:
    odd = box.tracker.start_run(
        experiment="e", user="ada", name=NASTY[:200], params={"lr": NASTY, NASTY[:200]: "1e309"}
    )
    text = site.get(f"/runs/compare?run={odd.id},{runs[0]}&colour=params.net").text
    assert "<script>alert" not in text


# -- importance ---------------------------------------------------------------------------------------------------------


def test_what_mattered_is_told_with_its_method(site: Site, runs: list[str]) -> None:
    text = site.get(f"/runs/compare/importance?run={','.join(runs)}&metric=auc").text
    assert text.index(">lr<") < text.index(">net<")
    assert "Permutation importance of a random forest" in text
    assert "only large differences count" in text
    few = site.get(f"/runs/compare/importance?run={','.join(runs[:5])}&metric=auc").text
    assert "fewer than 20" in few
    assert "Compare 20 runs or more" in few
    assert site.get(f"/runs/compare/importance?run={','.join(runs)}&metric=none").status_code == 200


# -- code ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coded(box: Box) -> list[str]:
    """Runs of three jobs, the last two of the same code, and of one whose code is no archive."""
    contents = (b"rate = 1\n", b"rate = '<script>alert(1)</script>'\n", b"rate = '<script>alert(1)</script>'\n", None)
    jobs = []
    for content in contents:
        sha256, _ = box.artifacts.put([code_of(content) if content else b"no archive"])
        spec = JobSpec(command=("true",), snapshot=sha256, git_commit="c" * 40)
        jobs.append(box.scheduler.submit(spec, user="ada"))
    return [str(job.run_id) for job in jobs]


def code_of(content: bytes) -> bytes:
    """A code as `mlbox submit` sends it: without a time, so the same files give the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("train.py")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def test_two_runs_show_in_what_their_code_differs(site: Site, coded: list[str], runs: list[str]) -> None:
    def code(*ids: str, more: str = "") -> str:
        answer = site.get(f"/runs/compare/code?run={','.join(ids)}{more}")
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        return answer.text

    assert (
        f'hx-get="/runs/compare/code?run={coded[0]}%2C{coded[1]}"'
        in site.get(f"/runs/compare?run={coded[0]},{coded[1]}").text
    )
    newest_first = code(coded[1], coded[0])
    assert '<span class="minus">-rate = 1\n</span>' in newest_first, "from the older to the newer"
    assert '<span class="plus">+rate = &#39;&lt;script&gt;' in newest_first
    assert "1 file changed" in newest_first
    assert "to the byte" in code(coded[1], coded[2])
    assert "cannot be read as a tar.gz" in code(coded[0], coded[3])
    assert "There is no code of run 0 to compare" in code(runs[0], coded[0])
    three = code(*coded[:3], more=f"&first={coded[1]}&second={coded[0]}")
    assert '<span class="plus">+rate = 1\n</span>' in three
    assert three.count("<select") == 2
    assert site.get(f"/runs/compare/code?run={coded[0]},{coded[1]}&first=odd").status_code == 400


def test_the_best_of_each_metric_is_told(site: Site, box: Box) -> None:
    made = []
    for n, (auc, loss) in enumerate(((0.5, 0.25), (0.75, 0.5), (0.75, math.nan))):
        run = box.tracker.start_run(experiment="best", user="ada", name=f"best {n}")
        values = {"auc": auc, "loss": loss, "same": 1.0, "system/memory": float(n)}
        box.tracker.log(run.id, metrics=[Metric(key=k, value=v, step=0, at=START) for k, v in values.items()])
        made.append(run.id)
    text = site.get(f"/runs/compare?run={','.join(made)}&show=all").text
    assert re.findall(r'class="num best" data-value="([\d.]+)"', text) == ["0.75", "0.75", "0.25"]
    assert text.count('hidden"> (best)') == 3
