"""A candidate's evidence as people see it: a shadow by segment, then a canary that labels and a segment speak about."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import numpy as np

from mlbox.records import Column, Guard, LabelSet, Promotion, PromotionPolicy, RampStep
from mlbox.serve.predictions.batches import Given
from mlbox.serve.predictions.routing import Beside
from mlbox.serve.rollout.verdict import recompute
from mlbox.web.box import Box
from tests.web.monitored import in_production, register, served
from tests.web.site import NASTY, Site, open_box

WHO = Column(name="who", dtype="STRING")
POLICY = PromotionPolicy(
    shadow_seconds=0,
    shadow_min_predictions=1,
    segments=("who",),
    largest_segments=1,
    guards=(Guard(kind="errors", stop=1.0), Guard(kind="labels", stop=1.0, metric="errors")),
    steps=(RampStep(percent=10, hold_seconds=10**6), RampStep(percent=100, hold_seconds=0)),
)


def shadowed(box: Box) -> Promotion:
    """Version 2 beside version 1, on four rows of two kinds."""
    in_production(box)
    box.registry.policies.set("delay", POLICY, actor="admin")
    box.labels.apply(LabelSet(name="late", keys=(WHO,), value=Column(name="late", dtype="BOOL")), actor="ann")
    box.curation.set_model_tag("delay", "label_set", "late", actor="ann")
    promotion = register(box)
    given = Given(4, entities=[{"who": "eva"}] * 3 + [{"who": NASTY}])
    box.rollouts.paired("delay", 2, Beside(given, [0.4] * 4, 2.0, [0.4, 0.4, 0.6, 0.1], 7.0))
    box.rollouts.paired("delay", 2, Beside(given._replace(rows=1, entities=given.entities[:1]), [0.5], 2.0, None))
    return promotion


def labelled(box: Box) -> None:
    """The same people asked both sides; the canary says the opposite of what their labels say."""
    said = np.arange(200) % 2 == 0
    for version, role, wrong in ((2, "canary", True), (1, "control", False)):
        for number, truth in enumerate(said):
            score = 0.9 if truth != wrong else 0.1
            served(box, [1.0], score=score, version=version, role=role, entity={"who": f"p{number}"})
    box.clock.advance(box.clock.now() + timedelta(hours=1))
    rows = [{"who": f"p{n}", "event_time": box.clock.now().isoformat(), "late": bool(y)} for n, y in enumerate(said)]
    box.labels.append_rows("late", rows, source="upload", actor="ann")


def test_a_candidate_is_judged_by_what_it_does_to_each_segment_and_by_late_labels(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data", rollout_seconds=3600)
    try:
        promotion = shadowed(box)
        page = Site(box)
        found = page.get(f"/api/v1/promotions/{promotion.id}/shadow").json()
        assert [(one["segment"][:7], one["rows"], one["failed"]) for one in found] == [
            ("", 4, 1),
            ("who=eva", 3, 1),
            (f"who={NASTY}"[:7], 1, 0),
        ]
        text = page.get("/endpoints/delay").text
        assert re.search(r"\+[45]\.\d\d", text), "how much slower it is"
        assert NASTY not in text

        served(box, [1.0], version=2, role="shadow")
        box.rollouts.tick()
        assert box.promotions.get(promotion.id).state == "waiting_approval"
        assert "Both on the same requests" in page.get(f"/approvals/{promotion.id}").text
        assert page.get(f"/api/v1/promotions/{promotion.id}/shadow").json() == found, "it is kept as it ended"

        box.promotions.decide(promotion.id, approver="bea", decision="approve")
        (endpoint,) = box.rollouts.endpoints()
        assert [one.words for one in endpoint.findings][1].startswith("labels of 0 predictions are known")
        labelled(box)
        (endpoint,) = box.rollouts.endpoints()
        worse = next(one for one in endpoint.findings if one.guard == "labels errors")
        assert (worse.state, worse.statistic) == ("worse", None), "the champion was never wrong"
        shown = page.get("/endpoints/delay").text
        assert "share that was wrong 1 over 200 labels" in shown
        own = page.get("/models/delay/2").text
        assert "share that was wrong 1 over 200 labels" in own, "the version's own page says it, too"
        assert {"/roll-back", "/pause", "/advance"} <= set(re.findall(r"promotions/\w+(/[\w-]+)", own))
        assert "Version 2 as a canary" not in page.get("/models/delay/1").text
        box.access.create_user("vic", "viewer", actor="admin")
        viewer = Site(box, "vic").get("/models/delay/2").text
        assert "share that was wrong 1 over 200 labels" in viewer
        assert "/roll-back" not in viewer
        said = re.findall(r'<span class="badge (\w+)">.*?</svg>([\w ]+)</span>', shown)
        assert {("bad", "worse"), ("wait", "undecided")} <= set(said), "what each guard says"
        box.rollouts.tick()
        ended = box.promotions.get(promotion.id)
        assert (ended.state, ended.reason[:17]) == ("rolled_back", "share that was wr")
        made = box.rollout_log.of(promotion.id)[-1]
        assert made.samples.labels["labels errors"].candidate_loss == 200
        assert recompute(made, promotion.policy).same
        (point,) = page.get(f"/api/v1/promotions/{promotion.id}/course").json()
        assert (point["step"], point["predictions"]) == (0, 200)
        assert [one["guard"] for one in point["findings"]] == ["errors", "labels errors"], "no segment's"
        for way in (f"/approvals/{promotion.id}", "/models/delay/2"):
            assert "labels errors over the predictions of this step" in page.get(way).text, "also when it has ended"
        assert "Guards as they tighten" not in page.get("/models/delay/1").text
        box.promotions.propose(box.registry.version("delay", 2), actor="ann")
        assert "Guards as they tighten" in page.get("/models/delay/2").text, "and when it is proposed once more"
    finally:
        box.close()
