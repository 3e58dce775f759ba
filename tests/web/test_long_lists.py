"""Pages of a box that has much: what matters first stands first, and a list goes on where the page ends."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest

from mlbox.ids import first_of
from mlbox.records import Column
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from mlbox.web.pages.approvals import NAMED, OPENED
from mlbox.web.pages.monitoring import FLEET
from tests.web.monitored import in_production, register, served, with_history
from tests.web.site import Site, open_box

MODELS = [f"m{number:02d}" for number in range(52)]
WAITING = 55


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """52 models in Production, one with a candidate, and 55 versions that wait for someone."""
    made = open_box(tmp_path_factory.mktemp("many") / "data", rollout_seconds=3600)
    for model in MODELS:
        in_production(made, model)
    register(made, "m50")
    for name in ("carl", "bea"):
        made.access.create_user(name, "approver", actor="admin")
    made.access.create_user("vic", "viewer", actor="admin")
    for number in range(WAITING):
        made.advance(made.clock.now() + timedelta(minutes=1), actor="admin")
        register(made, f"w{number:02d}")
    yield made
    made.close()


def rows(text: str, name: str = "rows") -> list[str]:
    """The rows of a page's list."""
    found = re.search(rf'<tbody id="{name}">(.*?)</tbody>', text, re.DOTALL)
    return re.findall(r"<tr>.*?</tr>", found[1], re.DOTALL) if found else []


def more(text: str, name: str = "rows") -> str:
    """Where a page's list goes on; empty at its end."""
    found = re.search(rf'id="{name}-pager">(?:<a [^>]*href="([^"]*)")?', text)
    assert found, "the list has no end"
    return html.unescape(found[1] or "")


def test_endpoints_begin_with_what_somebody_decides_about_and_go_on(box: Box) -> None:
    site = Site(box)
    first = site.get("/endpoints").text
    assert "/endpoints/m50" in rows(first)[0]
    assert "shadow" in rows(first)[1], "its candidate is beside it"
    assert len(rows(first)) == 51, "50 models and a candidate"
    second = site.get(more(first)).text
    assert len(rows(second)) == 2
    assert not more(second)
    listed = {link for text in (first, second) for link in re.findall(r'href="/endpoints/(\w+)"', text)}
    assert listed == set(MODELS)


def test_the_fleet_goes_on_beside_the_alerts(box: Box) -> None:
    site = Site(box)
    text, found = site.get("/monitoring?state=firing").text, 0
    while address := more(text, "fleet-rows"):
        assert "state=firing" in address
        assert len(rows(text, "fleet-rows")) == FLEET
        found += FLEET
        text = site.get(address).text
    assert found + len(rows(text, "fleet-rows")) == len(MODELS)


def test_a_few_that_wait_are_decided_on_the_page_and_the_others_are_named(box: Box) -> None:
    text = Site(box, "bea").get("/approvals").text
    assert text.count("/approve") == OPENED
    assert re.findall(r'id="wait-\w+"><a href="/models/(\w+)/1"', text) == ["w00", "w01", "w02"], "what ends soonest"
    listed = rows(text, "others-rows")
    assert len(listed) == NAMED
    assert "w03/1" in listed[0]
    assert "Decide about w03/1" in listed[0]
    names = [re.findall(r'title="(\w+)/1"', row)[0] for row in listed]
    while address := more(text, "others-rows"):
        text = Site(box, "bea").get(address).text
        names += [re.findall(r'title="(\w+)/1"', row)[0] for row in rows(text, "others-rows")]
    assert names == [f"w{number:02d}" for number in range(OPENED, WAITING)]


def test_a_viewer_looks_and_does_not_decide(box: Box) -> None:
    viewer = Site(box, "vic").get("/approvals").text
    assert "Decide about" not in viewer
    assert "Look at w03/1" in viewer


def test_models_are_found_by_a_part_of_their_name_and_by_stage(box: Box) -> None:
    site = Site(box)
    found = rows(site.get("/models?name=M5").text)
    assert [re.findall(r'href="/models/(\w+)"', row)[0] for row in found] == ["m50", "m51"]
    staged = rows(site.get("/models?stage=Staging&name=m").text)
    assert [re.findall(r'href="/models/(\w+)"', row)[0] for row in staged] == ["m50"]
    first = site.get("/models?stage=Production").text
    assert "stage=Production" in more(first), "the filter is kept"
    assert len(rows(first)) + len(rows(site.get(more(first)).text)) == len(MODELS)
    assert "No such model" in site.get("/models?name=nothing").text
    assert len(rows(site.get("/models?name=%25").text)) == 0, "it is no pattern"


def test_silences_that_hold_are_shown_and_those_that_ended_on_demand(box: Box) -> None:
    for number in range(22):
        box.silences.add({"model": f"m{number:02d}"}, hold=timedelta(hours=2), reason=f"held {number}.", actor="ann")
    box.silences.add({"model": "m00"}, hold=timedelta(seconds=1), reason="ended long ago", actor="ann")
    box.advance(box.clock.now() + timedelta(minutes=1), actor="admin")
    site = Site(box)
    first = site.get("/alerts").text
    assert len(rows(first)) == 20
    assert len(rows(site.get(more(first)).text)) == 2
    assert "ended long ago" not in first
    all_of_them = site.get("/alerts?ended=true").text
    assert "ended long ago" in rows(all_of_them)[0]
    assert "ended=true" in more(all_of_them)


def test_what_fires_of_a_model_is_one_press_from_its_silence(box: Box) -> None:
    for model, warm in (("m01", 9.0), ("m02", 20.0)):
        served(box, [warm] * 200, model=model)
        box.predictions.flush()
        box.monitor.check(model)
    address = "/alerts?model=m01#silences"
    assert address in Site(box, "carl").get("/monitoring").text
    assert address in Site(box, "carl").get("/monitoring/m01").text
    assert address not in Site(box, "vic").get("/monitoring").text
    assert address not in Site(box, "vic").get("/monitoring/m01").text
    for model in ("m01", "m02"):
        page = Site(box, "carl").get(f"/alerts?model={model}").text
        offered = re.search(r'name="labels"[^>]*><option [^>]*>(.*?)</option>', page)
        assert offered
        assert offered[1] == f"everything of {model}", "what somebody came for is chosen"


def test_a_report_is_taken_from_the_page_of_its_model(box: Box) -> None:
    served(box, [9.0] * 200, model="m03")
    box.predictions.flush()
    viewer = Site(box, "vic")
    found = re.search(r'href="([^"]*/report[^"]*)" download>Report, last', viewer.get("/monitoring/m03").text)
    assert found
    report = viewer.get(html.unescape(found[1]))
    assert report.status_code == 200
    assert "<svg" in report.text
    assert "/report" not in viewer.get("/monitoring/w00").text, "it is not in Production"


def test_tokens_are_listed_by_their_user(box: Box) -> None:
    for number in range(3):
        box.access.create_token("bea", f"of bea {number}", actor="admin")
        box.access.create_token("carl", f"of carl {number}", actor="admin")
    text = Site(box).get("/admin?user=bea").text
    assert len(rows(text)) == 3
    assert all("of bea" in row for row in rows(text))
    assert '/admin?user=bea#tokens"' in Site(box).get("/admin").text
    assert "of carl" not in Site(box, "bea").get("/admin?user=carl").text, "nobody sees another's"


def test_of_many_teams_ones_own_are_open_and_the_others_a_press_away(box: Box) -> None:
    for number in range(8):
        box.teams.create(f"team{number}", actor="admin")
    box.teams.add_member("team3", "bea", "member", actor="admin")
    box.teams.add_member("team5", "carl", "admin", actor="admin")
    site = Site(box, "bea")
    text = site.get("/teams").text
    assert 'aria-label="Members of team3"' in text
    assert 'aria-label="Members of team5"' not in text
    assert re.findall(r'href="/teams\?team=(\w+)"', text) == ["everyone", *(f"team{n}" for n in range(8) if n != 3)]
    chosen = site.get("/teams?team=team5").text
    assert 'aria-label="Members of team5"' in chosen
    assert 'aria-label="Members of team3"' not in chosen
    assert site.get("/teams?team=none").status_code == 404


def test_the_audit_log_is_read_from_a_day_back(box: Box) -> None:
    site = Site(box)
    newest = box.events(limit=1)[0]
    assert first_of(newest.at - timedelta(milliseconds=2)) < newest.id < first_of(newest.at + timedelta(milliseconds=2))
    assert len(rows(site.get("/audit?until=2099-01-01").text)) == 50
    assert "No such event" in site.get("/audit?until=2020-02-29").text
    first = site.get(f"/audit?until={newest.at.date()}&actor=bea").text
    assert "until=" in more(first), "it holds for what follows"
    assert len(rows(site.get(more(first)).text)) > 0
    refused = site.get("/audit?until=2026-02-30")
    assert refused.status_code == 400
    assert "is not a day" in refused.text


def test_an_admin_is_offered_nothing_that_is_refused_to_everyone(box: Box) -> None:
    site = Site(box)
    serves, waits = site.get("/models/m00").text, site.get("/models/w00").text
    assert ("/rename" in serves, "Delete the model" in serves) == (False, False), "it is in Production"
    assert ("/rename" in waits, "Delete the model" in waits) == (True, True)
    queues = set(re.findall(r'aria-label="Remove the queue ([\w-]+)"', site.get("/admin/settings").text))
    assert queues == {queue.name for queue in box.sharing.set_queues()} - {"default"}
    assert queues, "others are removed here"


def test_services_and_sources_go_on_each_for_itself(box: Box) -> None:
    site = Site(box)
    with_history(box)
    for number in range(52):
        box.features.apply_service(f"s{number:02d}", ["weather:temp"], actor="ann")
    for number in range(52):
        columns = [Column(name="at", dtype="TIMESTAMP")]
        box.features.add_source(f"t{number:02d}", columns, "at", None, actor="ann")
    text = site.get("/features").text
    held = len(box.features.services()), len(box.features.sources())
    for name, address, count in zip(("service-rows", "source-rows"), ("services=", "sources="), held, strict=True):
        assert len(rows(text, name)) == 50
        assert address in more(text, name)
        assert len(rows(site.get(more(text, name)).text, name)) == count - 50
    assert len(rows(site.get(more(text, "service-rows")).text, "source-rows")) == 50, "the other list is as it was"


def test_of_many_versions_any_two_are_named(box: Box) -> None:
    for _ in range(51):
        box.registry.register(NewVersion(model="m49", trained_by="ann", submitted_by="ann"))
    page = Site(box).get("/models/m49/compare?first=1&second=2").text
    assert re.findall(r'<input type="number" name="(\w+)" value="(\d+)"', page) == [("first", "1"), ("second", "2")]
