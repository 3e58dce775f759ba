"""The policy over time: a box on which jobs come, end, save their progress and are stopped, as hypothesis says."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlbox.records import Priority
from mlbox.scheduler.policy import RANKS, Need, Quota, Rules
from tests.scheduler.policy_world import BOX, NOW, QUEUES, TEAMS, World, job

AGEING = 600.0


@pytest.mark.parametrize("priority", ["low", "normal"])
@pytest.mark.parametrize("seed", range(8))
def test_no_job_starves(priority: Priority, seed: int) -> None:
    """Overdue after four (low) or three (normal) times the ageing, it waits for what runs, and for what urgent jobs take of it.

    All the while more urgent and smaller jobs of lighter teams come than the box can take.
    """
    rng = random.Random(seed)
    world = World(rules=Rules(ageing_seconds=AGEING))
    longest, step = 300.0, 60.0
    world.submit(job("wide", Need(gpus=4), priority=priority, team="red"))
    ends: dict[str, float] = {}
    bound = (4 - RANKS[priority]) * AGEING + 2 * longest + 2 * step
    for number in range(int(bound / step) + 1):
        for more in range(3):
            world.submit(
                job(
                    f"j{number}-{more}",
                    Need(gpus=rng.choice([0.5, 1, 1, 2])),
                    priority=rng.choice(["normal", "high", "urgent"]),
                    team=rng.choice(["blue", "green"]),
                    checkpoints=rng.random() < 0.5,
                )
            )
        world.decide()
        if "wide" in world.running:
            break
        world.advance(step)
        for name, one in list(world.running.items()):
            lasts = ends.setdefault(name, rng.uniform(step, longest))
            if (world.now - one.started_at).total_seconds() >= lasts:
                world.end(name)
    assert "wide" in world.running


class Box(RuleBasedStateMachine):
    """Whatever happens, every decision keeps the rules (`check`, in `World.decide`), and nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            quotas=(Quota("red", gpus=2), Quota("blue", gpus=1, borrowable=True)), rules=Rules(ageing_seconds=AGEING)
        )
        self.submitted: set[str] = set()
        self.ended: set[str] = set()

    @rule(
        gpus=st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 4.0]),
        priority=st.sampled_from(sorted(RANKS)),
        team=st.sampled_from(TEAMS),
        queue=st.sampled_from(sorted(QUEUES)),
        checkpoints=st.booleans(),
    )
    def submit(self, gpus: float, priority: str, team: str, queue: str, checkpoints: bool) -> None:
        name = f"j{len(self.submitted):02}"
        self.submitted.add(name)
        need = Need(gpus=gpus, cpus=1)
        self.world.submit(
            job(name, need, priority=priority, team=team, queue=queue, checkpoints=checkpoints or queue == "turns")
        )
        self.world.settle()

    @rule(seconds=st.sampled_from([1.0, 10.0, 300.0, 700.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.world.settle()

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def a_job_ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.running)))
        self.world.end(name)
        self.ended.add(name)
        self.world.settle()

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def a_job_saves_its_progress(self, data: st.DataObject) -> None:
        self.world.checkpoint(data.draw(st.sampled_from(sorted(self.world.running))))

    @invariant()
    def nothing_is_lost(self) -> None:
        held = [*self.world.waiting, *self.world.running, *self.ended]
        assert sorted(held) == sorted(self.submitted)

    def teardown(self) -> None:
        """When all that runs is let go of again and again, everybody had a turn."""
        for _ in range(4 * len(self.submitted)):
            if not self.world.waiting:
                break
            for name in list(self.world.running):
                self.world.end(name)
            self.world.advance(AGEING)
            self.world.decide()
        possible = {
            one.id for one in self.world.waiting.values() if not self._forbidden(one.team, one.need.gpus, one.queue)
        }
        assert not possible

    @staticmethod
    def _forbidden(team: str, gpus: float, queue: str) -> bool:
        return (team == "red" and gpus > 2) or (queue == "small" and gpus > 2)


Box.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestBox = Box.TestCase


def test_equals_take_turns() -> None:
    """Of two long jobs that want the whole box each has had its part after a while, and a short one is through at once."""
    world = World()
    for name in ("a", "b"):
        world.submit(job(name, Need(gpus=len(BOX.devices)), queue="turns", checkpoints=True))
    had = {"a": 0, "b": 0, "short": 0}
    for minute in range(240):
        if minute == 120:
            world.submit(job("short", Need(gpus=4), queue="turns", checkpoints=True))
        world.decide()
        for name in list(world.running):
            had[name] += 1
            world.checkpoint(name)
        world.advance(60)
        if had["short"] == 5:
            world.end("short")
            had["short"] += 1
            assert minute <= 135
    assert had["short"] == 6
    assert min(had["a"], had["b"]) > 60
    assert world.preempted
    assert world.now == NOW + timedelta(hours=4)
