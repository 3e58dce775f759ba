"""Two versions compared, a model's history and an endpoint's traffic as pictures, the overview, what the box runs with."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.records import ServingConfig, TeamQuota
from mlbox.settings import Origin
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from mlbox.web.pages import inside, tenures, traffic
from mlbox.web.pages.models import moves
from mlbox.web.pages.serving_fields import serving_fields
from tests.web.site import Filled, Page, Site, fill, open_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("models") / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def filled(box: Box) -> Filled:
    return fill(box)


@pytest.fixture(scope="module")
def site(box: Box, filled: Filled) -> Site:
    return Site(box)


def test_any_two_versions_are_compared(site: Site) -> None:
    page = site.get("/models/churn/compare")
    assert "<h1>Versions 1 and 2</h1>" in page.text, "the newest, with the one in Production"
    assert "None: the two are alike" in page.text
    assert "<h1>Versions 2 and 1</h1>" in site.get("/models/churn/compare?first=2&second=1").text
    assert "/models/churn/compare" in Page(site.get("/models/churn")).links
    for query, status in (("first=1&second=9", 404), ("first=0", 400), (f"first={2**70}", 400), ("first=x", 400)):
        assert site.get(f"/models/churn/compare?{query}").status_code == status, query
    assert site.get("/models/nothing/compare").status_code == 404


def test_what_was_in_production_is_drawn(box: Box, site: Site) -> None:
    page = Page(site.get("/models/churn"))
    drawn = [
        link["aria-label"] for link in page.all("a") if link.get("aria-label", "").startswith("version 1, Production")
    ]
    assert len(drawn) == 1
    assert drawn[0].endswith("to now")
    picture = tenures.drawn("churn", box.history.of("churn"), box.clock.real())
    assert picture is not None
    for stay in picture.stays:
        assert picture.left <= stay.x <= stay.x + stay.width <= picture.width + 2.1
    assert tenures.drawn("churn", [], box.clock.real()) is None


def test_traffic_over_time_counts_every_prediction(box: Box, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    found = traffic.traffic_of(box, "churn", 24)
    assert (found.rows, found.whole) == (300, True)
    (_, counts), (_, latency) = found.charts
    assert [(line["label"], sum(value for _, value in line["points"])) for line in counts["series"]] == [
        ("version 1", 300)
    ]
    assert {line["label"]: {value for _, value in line["points"]} for line in latency["series"]} == {
        quantile: {1.5} for quantile in ("p50", "p95", "p99")
    }
    assert "Latency, ms" in site.get("/endpoints/churn?hours=168").text
    assert site.get("/endpoints/churn?hours=5").status_code == 400
    monkeypatch.setattr(traffic, "MOST_ROWS", 10)
    assert not traffic.traffic_of(box, "churn", 24).whole
    assert "Of the newest 300 predictions" in site.get("/endpoints/churn").text


def test_the_overview_tells_health_runs_and_the_queue(site: Site, filled: Filled) -> None:
    page = site.get("/")
    links = Page(page).links
    assert f"/runs/{filled.run}" in links
    assert "/monitoring/churn" in links
    assert "No GPU: jobs hold CPUs and memory." in page.text


def test_settings_storage_and_quotas_are_shown_to_admins(box: Box, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "origins", (Origin("port", 9000, "flag"), Origin("host", "::1", "default")))
    box.sharing.set_quota(TeamQuota(team="everyone", gpus=2), actor="admin")
    page = site.get("/admin/settings")
    rows = re.findall(r"<tr><td><b class=\"mono\">(\w+)</b>.*?</tr>", page.text)
    assert rows == ["port", "host"]
    assert "<b>flag</b>" in page.text
    assert "MLBOX_PORT" in page.text
    assert "2 GPUs" in page.text
    for store in ("access", "registry", "predictions", "artifacts"):
        assert f"<b>{store}</b>" in page.text, store
    assert Site(box, "ada").get("/admin/settings").status_code == 403


def test_an_admin_has_the_audit_log_verified(box: Box, site: Site) -> None:
    page = site.get("/audit?verify=true")
    assert page.text.count(">whole<") >= 5
    assert ">broken<" not in page.text
    assert "Chain of hashes" not in site.get("/audit").text
    assert "Chain of hashes" not in Site(box, "ada").get("/audit?verify=true").text


def test_files_are_counted_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "artifacts" / "deep").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "artifacts" / "deep" / str(number)).write_bytes(b"x" * 10)
    (tmp_path / "jobs.sqlite").write_bytes(b"x" * 100)
    (tmp_path / "jobs.sqlite-wal").write_bytes(b"x" * 11)
    assert [(p.name, p.size, p.files, p.whole) for p in inside.places(tmp_path)] == [
        ("jobs", 111, 2, True),
        ("artifacts", 50, 5, True),
    ]
    monkeypatch.setattr(inside, "MOST_FILES", 3)
    assert [(p.size, p.whole) for p in inside.places(tmp_path) if p.name == "artifacts"] == [(30, False)]


def test_a_version_is_moved_only_where_it_may_go(box: Box, site: Site, filled: Filled) -> None:
    def offered(ref: str) -> list[str]:
        page = Page(site.get(f"/models/{ref}"))
        return [one["value"] for one in page.all("button") if one.get("name") == "stage"]

    assert offered("churn/2") == ["Archived"], "its promotion is withdrawn by a button of its own"
    ref = box.registry.register(NewVersion(model="mover", trained_by="ada", submitted_by="ada")).ref
    for before, target in ((["Archived"], "Archived"), (["None", "Staging"], "None"), (["Archived"], "Archived")):
        assert offered(ref) == before
        (move,) = (one for one in moves(box.registry.version("mover", 1), False) if one.stage == target)
        assert move.question in html.unescape(site.get(f"/models/{ref}").text)
        assert box.stages.move("mover", 1, move.stage, actor="ada").stage == target


def test_how_a_model_is_served_is_set_within_its_bounds(box: Box, site: Site) -> None:
    fields = {one.name: one for one in serving_fields(box.serving.of("churn"))}
    assert set(fields) == set(ServingConfig.__struct_fields__) - {"revision"}
    for one in fields.values():
        assert one.least <= one.value <= one.most
    shown = {field["name"]: field for field in Page(site.get("/models/churn")).all("input") if "data-json" in field}
    assert (shown["max_batch"]["min"], shown["max_batch"]["max"], shown["max_batch"]["step"]) == ("1", "10000", "1")
    box.access.create_user("reader", "viewer", actor="admin")
    text = Site(box, user="reader").get("/models/churn").text
    assert "Most rows of a batch" in text
    assert "/serving" not in text


def test_an_experiment_and_a_run_are_deleted_from_their_pages(box: Box, site: Site) -> None:
    run = box.tracker.start_run(experiment="short-lived", user="ada", name="one")
    button = re.search(r'action="(/api/v1/experiments/\d+)"', site.get("/runs?experiment=short-lived").text)
    assert button
    assert "Delete the experiment" not in site.get("/runs").text
    assert "Delete the experiment" not in site.get("/runs?experiment=short-lived&experiment=churn").text
    assert f'action="/api/v1/runs/{run.id}"' in site.get(f"/runs/{run.id}").text
    bearer = {"authorization": f"Bearer {box.access.create_token('ada', 'x', actor='ada')[1]}"}
    assert site.request("DELETE", f"/api/v1/runs/{run.id}", headers=bearer).status_code == 204
    assert f'action="/api/v1/runs/{run.id}"' not in site.get(f"/runs/{run.id}").text
    assert site.request("DELETE", button[1], headers=bearer).status_code == 204
    deleted = site.get("/deleted").text
    assert "short-lived" in deleted
    assert f"/api/v1/deleted/run%3A{run.id}/restore" in deleted.replace("run:", "run%3A")
