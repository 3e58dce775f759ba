"""What an approver sees, who answers for a version, and model cards: over HTTP, as pages, and from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from mlbox.errors import InvalidInput
from mlbox.records import (
    Compared,
    CompareSpec,
    Comparison,
    Fairness,
    FairnessColumn,
    FairnessGroup,
    FairnessSpec,
    GateResult,
    ModelVersion,
    Promotion,
    PromotionPolicy,
    RampStep,
    Rate,
)
from mlbox.serve.promotion.card import yaml as written
from mlbox.serve.promotion.governance import changes
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.web.site import NASTY, Site, open_box

RATE = Rate(value=0.4, low=0.3, high=0.5)
FAIR = Fairness(
    model="delay",
    version=2,
    spec=FairnessSpec(dataset="held@v1", label="late", sensitive=("sex",)),
    columns=(
        FairnessColumn(
            column="sex",
            groups=(
                FairnessGroup(group="f", rows=100, positives=40, judged=True, selection_rate=RATE, auc=RATE),
                FairnessGroup(group=NASTY, rows=3, positives=1, judged=False),
            ),
            parity_ratio=0.91,
        ),
    ),
)
COMPARED = Comparison(
    model="delay",
    first=1,
    second=2,
    spec=CompareSpec(dataset="held@v1", label="late"),
    found=(Compared(rows=1000, outcome="better", first=0.7, second=0.72, difference=0.02, low=0.01, high=0.03),),
)


def register(box: Box, auc: float, dataset: str, **facts: Any) -> ModelVersion:
    new = NewVersion(
        model="delay",
        features=("a@v1:x",),
        artifact="a" * 64,
        size=1000,
        metrics={"auc": auc},
        dataset=dataset,
        dataset_hash="d" * 64,
        git_commit="c" * 40,
        trained_by="ada",
        submitted_by="ada",
        **facts,
    )
    return box.registry.register(new)


def waiting(box: Box, version: ModelVersion) -> Promotion:
    promotion = box.promotions.propose(version, actor="ada")
    gate = GateResult(gate="size", passed=True, required="small", measured="small", at=box.clock.real())
    kept = {"fairness": FAIR, "comparison": COMPARED}
    promotion = box.promotions.record_gates(promotion.id, [gate], kept)
    return box.promotions.shadow_done(promotion.id, "seen enough") if promotion.state == "shadow" else promotion


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Version 1 is in Production; version 2 waits for its second approval."""
    box = open_box(Path(tmp_path_factory.mktemp("box") / "data"))
    for name in ("grace", "lin"):
        box.access.create_user(name, "approver", actor="admin")
    first = waiting(box, register(box, 0.7, "flights@v1", description="to warn passengers"))
    box.promotions.decide(first.id, approver="grace", decision="approve", comment="first")
    steps = (RampStep(percent=10, hold_seconds=60), RampStep(percent=100, hold_seconds=0))
    policy = PromotionPolicy(approvals=2, reviewers=("grace", "lin"), steps=steps)
    box.registry.policies.set("delay", policy, actor="admin")
    second = waiting(box, register(box, 0.72, "flights@v2", tags={NASTY: "1"}))
    box.promotions.decide(second.id, approver="grace", decision="approve", comment="looked at all of it")
    yield box
    box.close()


def test_the_inbox_lists_what_waits_and_one_page_says_all(box: Box) -> None:
    site = Site(box, "lin")
    (found,) = site.request("GET", "/api/v1/approvals").json()
    assert (found["model"], found["version"]) == ("delay", 2)
    inbox = site.request("GET", "/approvals").text
    assert f'href="/approvals/{found["id"]}"' in inbox
    assert "1 of 2" in inbox
    page = site.request("GET", f"/approvals/{found['id']}")
    assert page.status_code == 200
    for words in (
        "looked at all of it",
        "flights@v2",
        "Against the champion",
        "0.72",
        "Demographic parity: ratio 0.91",
        "The card says nothing of intended use and limitations",
        "No sensitive columns are named",
        f'action="/api/v1/promotions/{found["id"]}/approve"',
    ):
        assert words in page.text, words
    assert NASTY not in page.text
    other = Site(box, "admin").request("GET", f"/approvals/{found['id']}").text
    assert "The policy names other reviewers: grace, lin." in other


def test_the_dossier_says_in_what_the_candidate_differs(box: Box) -> None:
    site = Site(box, "lin")
    (found,) = site.request("GET", "/api/v1/approvals").json()
    dossier = site.request("GET", f"/api/v1/promotions/{found['id']}/dossier").json()
    told = {(one["part"], one["name"]): (one["champion"], one["candidate"]) for one in dossier["changes"]}
    assert told == {("data", "dataset"): ("flights@v1", "flights@v2"), ("metrics", "auc"): ("0.7", "0.72")}
    assert dossier["fairness"]["columns"][0]["parity_ratio"] == 0.91
    assert dossier["comparison"]["found"][0]["outcome"] == "better"
    assert dossier["card"].startswith("---\n")
    assert site.request("GET", "/api/v1/promotions/gone/dossier").status_code == 404


def test_who_answers_for_a_version(box: Box) -> None:
    site = Site(box, "lin")
    facts = site.request("GET", "/api/v1/models/delay/versions/1/governance").json()
    assert (facts["trained_by"], facts["dataset"], facts["git_commit"]) == ("ada", "flights@v1", "c" * 40)
    assert [a["approver"] for a in facts["approvals"]] == ["grace"]
    assert (facts["purpose"], facts["percent"]) == ("to warn passengers", 100)
    (stay,) = facts["in_production"]
    assert stay["until"] is None
    waits = site.request("GET", "/api/v1/models/delay/versions/2/governance").json()
    assert (waits["in_production"], waits["percent"], waits["policy_revision"]) == ([], 0, 1)


def test_a_card_is_markdown_that_hugging_face_reads(box: Box) -> None:
    site = Site(box, "admin")
    answer = site.request("GET", "/api/v1/models/delay/versions/2/card")
    assert answer.headers["content-type"].startswith("text/markdown")
    _, front, body = answer.text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["datasets"] == ["flights@v2"]
    assert found["tags"] == ["mlbox", NASTY]
    (entry,) = found["model-index"]
    assert entry["results"][0]["metrics"] == [{"type": "auc", "name": "auc", "value": 0.72}]
    assert entry["results"][0]["dataset"]["revision"] == "d" * 64
    assert "# delay, version 2" in body
    assert "0.400 (0.300 to 0.500)" in body
    assert "<script>" not in body


def test_its_human_parts_are_edited_and_every_edit_is_kept(box: Box) -> None:
    site = Site(box, "admin")
    token = box.access.create_token("admin", "test", actor="admin")[1]
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    for body in ({"license": "apache-2.0", "intended_use": "Rush hours."}, {"intended_use": "All hours."}):
        assert site.request("POST", "/api/v1/models/delay/card", json=body, headers=headers).status_code == 200
    card = box.cards.of("delay")
    assert (card.revision, card.edited_by, card.parts.intended_use) == (2, "admin", "All hours.")
    assert card.parts.license == "apache-2.0"
    events = [event for event in box.events(limit=20) if event.type == "model.card"]
    assert [event.data["parts"] for event in events] == ["intended_use", "intended_use, license"]
    text = box.governor.card("delay", 2)
    assert 'license: "apache-2.0"' in text
    assert "All hours." in text
    page = site.request("GET", "/models/delay/2/card").text
    assert "All hours." in page
    assert site.request("POST", "/api/v1/models/delay/card", json={"colour": "red"}, headers=headers).status_code == 400
    with pytest.raises(InvalidInput, match="20,001 characters"):
        box.cards.edit("delay", {"ethics": "x" * 20_001}, actor="admin")


def test_an_expiry_reminds_ahead_and_on_the_day_once_each(box: Box) -> None:
    now = box.clock.real()

    def told() -> list[str]:
        return [event.type for event in box.events(limit=100) if event.type in ("model.expiring", "model.expired")]

    box.curation.describe("delay", actor="admin", expires_at=now + timedelta(days=60))
    assert box.promotions.remind(now) == 0
    assert box.promotions.remind(now + timedelta(days=31)) == 1
    assert box.promotions.remind(now + timedelta(days=32)) == 0
    assert box.promotions.remind(now + timedelta(days=61)) == 1
    assert box.promotions.remind(now + timedelta(days=62)) == 0
    assert told() == ["model.expired", "model.expiring"]
    box.curation.describe("delay", actor="admin", expires_at=now + timedelta(days=10))
    assert box.promotions.remind(now) == 1


@pytest.mark.parametrize(
    "tree",
    [
        {"a": {"b": [1, {"c": None, "d": [["x"], []]}], "e": {}}},
        {"text": "yes: no\n- '\"#", "some": [True, 0.5, "1"]},
        {"list": [{"name": NASTY, "results": [{"value": 1e-9}]}]},
    ],
)
def test_what_is_written_as_yaml_is_read_as_it_was(tree: dict[str, Any]) -> None:
    assert yaml.safe_load(written(tree)) == tree


def test_features_and_parameters_that_differ_are_named(box: Box) -> None:
    one = box.registry.version("delay", 1)
    other = msgspec.structs.replace(one, features=("b@v1:y",), size=2000, git_commit="e" * 40)
    before, now = (
        box.tracker.start_run(experiment="e", user="ada", params=params)
        for params in ({"depth": "3", "rate": "0.1"}, {"depth": "4", "rate": "0.1"})
    )
    assert changes(one, one, before, before) == ()
    told = [
        (change.part, change.name, change.champion, change.candidate) for change in changes(one, other, before, now)
    ]
    assert told == [
        ("code", "commit", "c" * 12, "e" * 12),
        ("features", "b@v1:y", "", "new"),
        ("features", "a@v1:x", "gone", ""),
        ("parameters", "depth", "3", "4"),
        ("file", "bytes", "1,000", "2,000"),
    ]
