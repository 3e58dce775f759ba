"""The pages of datasets and labels with many of them: found by name, read page by page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import pytest

from mlbox.records import Column, LabelSet, LabelSource, ViewSpec
from mlbox.store.datasets.datasets import DatasetFrom
from mlbox.web.box import Box
from tests.web.site import START, Page, Site, open_box

WHO = Column(name="who", dtype="STRING")
SETS = 5


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Five datasets, one of three versions, and as many label sets."""
    box = open_box(tmp_path_factory.mktemp("data") / "data")
    for number in range(SETS):
        for version in range(3 if number == 1 else 1):
            rows = pa.table({"x": [float(version)] * (number + 1)})
            box.datasets.keep_rows(f"flights_{number}", rows, DatasetFrom(), actor="ada")
        labels = LabelSet(
            name=f"late_{number}",
            keys=(WHO,),
            value=Column(name="late", dtype="STRING"),
            classes=("yes", "no"),
            sources=(LabelSource(name="staff", kind="annotation"),),
            policy="majority",
        )
        box.labels.apply(labels, actor="ada")
    box.advance(START + timedelta(days=30), actor="admin")
    yield box
    box.close()


@pytest.fixture(scope="module")
def site(box: Box) -> Site:
    return Site(box)


def rows(site: Site, path: str, below: str) -> list[str]:
    """Where the rows of a list lead to, on all of its pages."""
    found: list[str] = []
    address: str | None = path
    while address:
        page = Page(site.get(address))
        found += [link for link in page.links if link.startswith(below)]
        address = next((a["href"] for a in page.all("a") if "data-more" in a), None)
    return found


def test_a_dataset_shows_once_by_its_latest_version_and_its_versions_by_themselves(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = [f"/datasets/flights_{number}@v{3 if number == 1 else 1}" for number in reversed(range(SETS))]
    assert rows(site, "/datasets", "/datasets/") == newest
    assert "/datasets?name=flights_1" in Page(site.get("/datasets")).links
    assert rows(site, "/datasets?name=flights_1", "/datasets/") == [f"/datasets/flights_1@v{n}" for n in (3, 2, 1)]
    assert rows(site, "/datasets?q=S_1", "/datasets/") == newest[3:4]
    assert "No such dataset" in site.get("/datasets?q=trains").text
    monkeypatch.setattr("mlbox.web.pages.datasets.PAGE_SIZE", 2)
    assert rows(site, "/datasets", "/datasets/") == newest
    assert len(rows(site, "/datasets?name=flights_1", "/datasets/")) == 3


def test_the_latest_version_is_the_latest_that_was_not_deleted(site: Site, box: Box) -> None:
    box.datasets.delete("flights_1@v3", actor="admin")
    try:
        assert rows(site, "/datasets?q=flights_1", "/datasets/") == ["/datasets/flights_1@v2"]
    finally:
        box.datasets.restore("flights_1@v3", within=timedelta(days=9), actor="admin")


def test_a_search_leads_to_all_that_it_found(site: Site, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlbox.web.pages.search.MOST_EACH", 2)
    for name in ('it\'s late "1"', "Late 2", "it's late 3", "other"):
        box.tracker.start_run(experiment="late", user="ada", name=name)

    def behind(words: str, at: str) -> str | None:
        links = Page(site.get(f"/search?{urlencode({'q': words})}")).links
        return next((link for link in links if link.startswith(at)), None)

    assert rows(site, behind("flights", "/datasets?q") or "", "/datasets/") == rows(site, "/datasets", "/datasets/")
    found = site.get(behind("late", "/runs?filter") or "").text
    assert all(name in found for name in ("Late 2", "it&#39;s late 3", "it&#39;s late &#34;1&#34;"))
    assert ">other<" not in found
    assert behind("flights_1", "/datasets?q") is None, "nothing was left out"


def test_label_sets_come_in_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [f"/labels/late_{number}" for number in range(SETS)]
    assert rows(site, "/labels", "/labels/late") == every
    monkeypatch.setattr("mlbox.web.pages.labels.PAGE_SIZE", 2)
    assert rows(site, "/labels", "/labels/late") == every


def test_a_review_shows_first_what_was_known_and_not_at_all_what_fails(site: Site, box: Box) -> None:
    columns = (WHO, Column(name="moment", dtype="TIMESTAMP"), Column(name="amount", dtype="FP64"))
    box.features.add_source("sales", columns, "moment", None, actor="ada")
    moment = pa.array([START], pa.timestamp("us", "UTC"))
    box.features.append("sales", pa.table({"who": ["a"], "moment": moment, "amount": [12.5]}), actor="ada")

    def view(name: str, value: str, who: str = "who") -> None:
        spec = ViewSpec(
            name=name,
            join_keys=(WHO,),
            features=(Column(name="amount", dtype="FP64"),),
            sql=f"SELECT {who} AS who, {value} AS amount, moment AS event_time FROM sales",
            sources=("sales",),
        )
        box.features.save_view(spec, actor="ada")

    view("a_unknown", "amount", "who || 'x'")
    view("b_known", "amount")
    said: list[dict[str, Any]] = [
        {"who": "a", "event_time": (START + timedelta(days=1)).isoformat(), "late": late, "annotator": who}
        for late, who in (("yes", "eve"), ("no", "bob"))
    ]
    box.labels.append_rows("late_0", said, source="staff", actor="ada")
    text = site.get("/labels/late_0/review").text
    assert text.index("b_known@v1:amount") < text.index("a_unknown@v1:amount")
    assert "12.5" in text
    view("c_fails", "CAST('none' || amount AS DOUBLE)")
    text = site.get("/labels/late_0/review").text
    assert "12.5" in text
    assert "c_fails" not in text
