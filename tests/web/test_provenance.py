"""Where one prediction comes from: by the API, on its page, from the command line; and nothing for whom it is not for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.records import LabelSet
from mlbox.web.box import Box
from tests.web.monitored import in_production, served
from tests.web.site import FEATURE, Filled, Site, fill, open_box
from tests.web.test_candidate import WHO


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Filled]]:
    box = open_box(Path(tmp_path_factory.mktemp("box") / "data"))
    yield box, fill(box)
    box.close()


def test_it_leads_back_to_the_raw_label(filled: tuple[Box, Filled]) -> None:
    box, made = filled
    found = Site(box).get(f"/api/v1/predictions/{made.prediction}/lineage").json()
    edges = {tuple(edge) for edge in found["edges"]}
    here, view = f"prediction:{made.prediction}", f"view:{FEATURE.partition(':')[0]}"
    assert edges >= {
        ("model:churn/1", here),
        (view, here),
        ("source:sales", view),
        (f"run:{made.run}", "model:churn/1"),
        ("dataset:churn@v1", f"run:{made.run}"),
        (view, "dataset:churn@v1"),
        ("labels:left", "dataset:churn@v1"),
        ("label source:left/crm", "labels:left"),
    }
    assert {end for edge in edges for end in edge} <= {node["id"] for node in found["nodes"]}


def test_it_is_drawn_on_a_page_that_the_endpoint_links(filled: tuple[Box, Filled]) -> None:
    box, made = filled
    page = Site(box).get(f"/predictions/{made.prediction}").text
    assert 'aria-label="Lineage of the prediction"' in page
    assert f">{made.run[-8:]}</text>" in page, "an id is drawn by its end, as elsewhere"
    assert 'href="/datasets/churn@v1"' in page
    assert f"/predictions/{made.prediction}" in Site(box).get("/endpoints/churn").text


def test_what_there_is_not_and_what_is_not_for_one_to_see_are_told_alike(filled: tuple[Box, Filled]) -> None:
    box, made = filled
    box.access.create_user("otto", "viewer", actor="admin")
    box.teams.create("lab", actor="admin")
    asks = Site(box, "otto")
    box.registry.create_model("lab.secret", actor="admin")
    (private,) = served(box, [1.0], model="lab.secret")
    box.teams.set_private("model", "lab.secret", True, actor="admin")
    told = []
    for known in (private.id, "0" * 32):
        answer = asks.get(f"/api/v1/predictions/{known}/lineage", headers={"accept": "application/json"})
        assert answer.status_code == 404
        told.append(answer.text.replace(known, "ID"))
        assert asks.get(f"/predictions/{known}").status_code == 404
    assert told[0] == told[1]
    assert Site(box).get(f"/predictions/{private.id}").status_code == 200
    assert asks.get(f"/predictions/{made.prediction}").status_code == 200


def test_it_has_the_label_that_the_prediction_met(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data")
    try:
        in_production(box)
        box.labels.apply(
            LabelSet(name="late", keys=(WHO,), value=WHO.__class__(name="late", dtype="BOOL")), actor="ann"
        )
        box.curation.set_model_tag("delay", "label_set", "late", actor="ann")
        (row,) = served(box, [1.0], entity={"who": "eva"})
        page = Site(box)
        path = f"/api/v1/predictions/{row.id}/lineage"
        assert not [node for node in page.get(path).json()["nodes"] if node["kind"] == "label"]
        said = {"who": "eva", "event_time": box.clock.now().isoformat(), "late": True}
        box.labels.append_rows("late", [said], source="upload", actor="ann")
        found = page.get(path).json()
        assert [f"prediction:{row.id}", "label:late = True"] in found["edges"]
        assert ["labels:late", "label:late = True"] in found["edges"]
    finally:
        box.close()
