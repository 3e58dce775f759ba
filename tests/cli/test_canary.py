"""A canary in people's hands, from the command line: held, let go, frozen, taken back; and Production gone back at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlbox.records import GateResult, PromotionPolicy, RampStep
from mlbox.settings import Settings
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.conftest import Server

POLICY = PromotionPolicy(steps=(RampStep(percent=10, hold_seconds=86_400), RampStep(percent=100, hold_seconds=0)))


def fill(box: Box) -> None:
    """Version 1 was in Production, 2 is, and 3 takes 10 % as a canary."""
    box.registry.policies.set("delay", POLICY, actor="admin")
    for number in (1, 2, 3):
        version = box.registry.register(NewVersion(model="delay", trained_by="ann", submitted_by="ann"))
        gate = GateResult(gate="size", passed=True, required="", measured="", at=box.clock.real())
        promotion = box.promotions.record_gates(box.promotions.propose(version, actor="ann").id, [gate])
        if promotion.state == "shadow":
            box.promotions.shadow_done(promotion.id, "seen")
        box.promotions.decide(promotion.id, approver="bea", decision="approve")
        if number == 2:
            box.promotions.next_step(promotion.id, "held")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with closing(Box(Settings(data_dir=str(tmp_path / "data"), gpus="none"), url="http://localhost")) as box:
        fill(box)
    server = Server(tmp_path / "data", "--gpus", "none")
    yield server
    server.stop()


def test_a_canary_by_hand_and_each_decision_made_again(server: Server) -> None:
    def told(*words: str, code: int = 0) -> str:
        ran = server.command("model", *words)
        assert ran.returncode == code, ran.stderr
        return ran.stdout + ran.stderr

    assert "delay/3: held" in (said := told("guards", "delay"))
    assert "0 of 0 runs failed, the champion's 0 of 0" in said
    assert "delay/3 is a canary, paused 10 %." in told("pause", "delay/3", "-m", "a sale")
    assert "delay/3 is a canary, takes 10 %." in told("resume", "delay/3")
    assert "may be shortened when all its guards hold" in told("advance", "delay/3", code=5)
    assert "delay/3 is a canary, frozen 0 %." in told("freeze", "delay/3", "-m", "for the post-mortem")
    assert "delay/3 is frozen" in told("resume", "delay/3", code=5)
    assert "delay/3 was rolled back." in told("rollback", "delay/3", "-m", "complaints")
    made = json.loads(told("decisions", "delay/3", "-o", "json"))
    assert [(one["decision"]["done"], one["decision"]["comment"]) for one in made] == [
        ("paused", "a sale"),
        ("resumed", ""),
        ("frozen", "for the post-mortem"),
        ("roll_back", "complaints"),
    ]
    assert all(one["same"] and one["action"] == one["decision"]["action"] for one in made)
    assert "delay/1 is in Production again." in told("rollback", "delay/1")
    facts = json.loads(told("governance", "delay/1", "-o", "json"))
    assert (facts["stage"], facts["percent"]) == ("Production", 100)
    assert [stay["until"] is None for stay in facts["in_production"]] == [True, False]
    assert (
        "is in stage None and was never in Production"
        in server.http.post("/api/v1/models/delay/versions/3/reinstate", json={}).text
    )
