"""Jobs that give way and go on, quotas by the clock, and teams that share: the real scheduler, virtual GPUs, real processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import Clock, ManualClock, parse_time
from mlbox.errors import InvalidInput
from mlbox.records import Job, JobQueue, TeamQuota
from mlbox.store.jobs.jobs import Grant
from tests.conftest import wait_for
from tests.scheduler.test_scheduler import House

COUNTS = """
count=$(cat "$MLBOX_CHECKPOINT_DIR/count" 2>/dev/null || echo 0)
echo "from $count"
trap 'exit 143' TERM
while [ ! -e ../../../release ]; do
  count=$((count + 1)); echo $count > "$MLBOX_CHECKPOINT_DIR/new"; mv "$MLBOX_CHECKPOINT_DIR/new" "$MLBOX_CHECKPOINT_DIR/count"
  sleep 0.05
done
"""
"""Saves how far it came, goes on from there, and ends when the test says so."""
WAITS = "while [ ! -e ../../../release ]; do sleep 0.05; done"


@pytest.fixture
def open_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def build(gpus: int = 1, clock: Clock | None = None) -> House:
        house = House(tmp_path, gpus=gpus, clock=clock)
        house.scheduler.start()
        houses.append(house)
        return house

    yield build
    for house in houses:
        house.close()


def release(house: House) -> None:
    (house.folder / "jobs" / "release").touch()


def saved(house: House, job: Job) -> bool:
    return (house.folder / "jobs" / job.id / "checkpoints" / "count").exists()


def victim_of(house: House, **spec: object) -> Job:
    """A job that has saved something."""
    job = house.until(house.shell(COUNTS, gpus=1, checkpoints=True, name="long", **spec), "running")
    wait_for(lambda: saved(house, job), what="the first checkpoint")
    return job


def check_both_went_well(house: House, victim: Job, urgent: Job) -> None:
    """The urgent job ran once; the victim gave way once, and went on from what it had saved."""
    release(house)
    urgent, victim = house.ended(urgent), house.ended(victim)
    assert [(job.state, job.exit_code, job.stop_cause) for job in (urgent, victim)] == [("succeeded", 0, None)] * 2
    assert [attempt.outcome for attempt in urgent.attempts] == ["succeeded"]
    assert [attempt.outcome for attempt in victim.attempts] == ["preempted", "succeeded"]
    assert house.log(victim, 1).startswith("from 0\n")
    assert int(house.log(victim, 2).split()[1]) > 0
    assert victim.attempts[1].started_at >= urgent.attempts[0].started_at
    assert house.tracker.run(victim.run_id or "").status == "FINISHED"


def test_an_urgent_job_runs_once_whom_it_stopped_has_ended_and_that_goes_on(open_house: Callable[..., House]) -> None:
    house = open_house()
    victim = victim_of(house, grace_seconds=600)  # it ends by itself: nobody waits for its grace
    urgent = house.until(house.shell("true", gpus=1, priority="urgent", name="now"), "running", "succeeded")
    gave_way = house.scheduler.job(victim.id).attempts[0]
    assert re.fullmatch(r"gives way to another job: that one is urgent \(.*143\)", gave_way.reason), gave_way.reason
    assert gave_way.ended_at is not None
    assert gave_way.ended_at <= urgent.attempts[0].started_at
    check_both_went_well(house, victim, urgent)
    told = [event.type for event in house.dbs["jobs"].events(subject=f"job:{victim.id}")]
    assert told.count("job.preempted") == 1


def test_a_job_gives_way_a_second_time_only_after_it_came_further(open_house: Callable[..., House]) -> None:
    house = open_house()
    victim = house.until(house.shell(WAITS, gpus=1, name="long"), "running")  # it saves nothing
    first = house.ended(house.shell("true", gpus=1, priority="urgent"))
    house.until(victim, "running")
    second = house.shell("true", gpus=1, priority="urgent", name="second")
    outlook = wait_for(lambda: house.scheduler.why(second.id).words, what="a reason")
    assert "long" in outlook
    wait_for(lambda: house.scheduler.why(victim.id).held_up == (second.id,), what="who waits for it")
    release(house)
    assert (house.ended(victim).state, house.ended(second).state, first.state) == ("succeeded",) * 3
    assert len(house.scheduler.job(victim.id).attempts) == 2


def test_who_has_room_made_hears_when_it_is_free_at_the_latest(open_house: Callable[..., House]) -> None:
    house = open_house()
    victim = house.until(house.shell(f"trap '' TERM; {WAITS}", gpus=1, grace_seconds=600), "running")
    urgent = house.shell("true", gpus=1, priority="urgent")
    victim = house.until(victim, "stopping")
    assert victim.stopping_at is not None
    free_at = victim.stopping_at + timedelta(seconds=600)
    wait_for(lambda: house.scheduler.why(urgent.id).expected_at == free_at, what="when it is free")
    assert "stopped by" in house.scheduler.why(urgent.id).words
    release(house)
    assert house.ended(urgent).state == "succeeded"


def test_in_a_queue_of_turns_a_short_job_is_not_stuck_behind_a_long_one(open_house: Callable[..., House]) -> None:
    clock = ManualClock(parse_time("2026-01-01T00:00Z"))
    house = open_house(1, clock)
    house.sharing.set_queue(JobQueue(name="turns", slice_minutes=10), actor="root")
    runs: set[str] = set()

    def turns(name: str, script: str) -> Job:
        job = house.shell(script, gpus=1, checkpoints=True, queue="turns", name=name)
        runs.add(job.run_id or "")
        return job

    long = house.until(turns("long", COUNTS), "running")
    wait_for(lambda: saved(house, long), what="the first checkpoint")
    short = turns("short", 'echo short; echo 1 > "$MLBOX_CHECKPOINT_DIR/count"')
    wait_for(lambda: "long" in house.scheduler.why(short.id).words, what="a reason")
    clock.advance(clock.now() + timedelta(minutes=11))
    house.sharing.set_weight("everyone", 1, actor="root")  # whatever wakes the scheduler
    short = house.ended(short)
    house.until(long, "running")
    release(house)
    long = house.ended(long)
    assert [attempt.outcome for attempt in long.attempts] == ["preempted", "succeeded"]
    assert [attempt.outcome for attempt in short.attempts] == ["succeeded"]
    assert int(house.log(long, 2).split()[1]) > 0
    assert {long.run_id, short.run_id} == runs  # each attempt goes on in the job's run


# -- restarts -----------------------------------------------------------------------------------------------------------


def stop_is_written(house: House, victim: Job, urgent: Job) -> None:
    """The server dies after it wrote that a job is to give way, and before it told it."""
    house.jobs.ask_to_stop(victim.id, actor="mlbox", cause="preempted", for_job=urgent.id)


def victim_ended_unheard(house: House, victim: Job, urgent: Job) -> None:
    """It dies after it told it; the job ends while nobody listens."""
    stop_is_written(house, victim, urgent)
    house.scheduler.start()
    house.until(victim, "stopping", "preempted")
    house.scheduler.close()
    house.scheduler = house.make()
    wait_for((house.folder / "jobs" / victim.id / "1" / "status.json").exists, what="the victim's end")


def urgent_has_its_row(house: House, victim: Job, urgent: Job) -> None:
    """It dies between the row of the urgent job's attempt and the process."""
    victim_ended_unheard(house, victim, urgent)
    house.scheduler.start()
    house.until(victim, "preempted", "starting", "running")
    house.scheduler.close()
    house.scheduler = house.make()
    if house.jobs.get(urgent.id).state == "queued":
        house.jobs.begin_attempts({urgent.id: Grant([0], ["VIRTUAL-0"], 1.0)})


@pytest.mark.parametrize("crash", [None, stop_is_written, victim_ended_unheard, urgent_has_its_row])
def test_a_restart_in_the_middle_of_it_loses_nothing(
    open_house: Callable[..., House], crash: Callable[[House, Job, Job], None] | None
) -> None:
    house = open_house()
    victim = victim_of(house)
    house.scheduler.close()
    house.scheduler = house.make()  # it takes jobs, and decides nothing yet
    urgent = house.shell("true", gpus=1, priority="urgent")
    if crash is not None:
        crash(house, victim, urgent)
    house.again()
    house.until(urgent, "running", "succeeded")
    check_both_went_well(house, victim, urgent)


def test_who_was_promised_room_has_it_after_a_restart(open_house: Callable[..., House]) -> None:
    house = open_house()
    victim = victim_of(house)
    house.scheduler.close()
    house.scheduler = house.make()
    urgent = house.shell("true", gpus=1, priority="urgent")
    house.jobs.ask_to_stop(victim.id, actor="mlbox", cause="preempted", for_job=urgent.id)
    assert house.jobs.get(urgent.id).promised
    house.again()
    assert not house.ended(urgent).promised


# -- quotas -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        ("2026-03-28T00:30Z", "2026-03-28T02:30Z"),
        ("2026-03-29T00:30Z", "2026-03-29T01:30Z"),  # clocks are set from 02:00 to 03:00
        ("2026-10-24T23:30Z", "2026-10-25T02:30Z"),  # and back from 03:00 to 02:00
    ],
)
def test_a_quota_counts_in_its_window_on_the_days_on_which_clocks_are_set(
    open_house: Callable[..., House], opens: str, closes: str
) -> None:
    clock = ManualClock(parse_time(opens))
    house = open_house(2, clock)
    quota = TeamQuota(team="vision", gpus=1, windows=("daily 01:30-03:30",), zone="Europe/Berlin")
    house.sharing.set_quota(quota, actor="root")
    first = house.until(house.shell(WAITS, gpus=1, team="vision"), "running")
    second = house.shell(WAITS, gpus=1, team="vision", name="second")
    third = house.until(house.shell(WAITS, gpus=1, team="speech"), "running")  # after the second was looked at
    assert house.scheduler.job(second.id).state == "queued"
    assert "your team holds 1 of the 1 GPUs it may have until" in house.scheduler.why(second.id).words
    house.scheduler.stop(third.id, actor="ann")
    house.ended(third)
    clock.advance(parse_time(closes) - timedelta(seconds=1))
    house.ended(house.shell("true", gpus=1, team="speech"))
    assert house.scheduler.job(second.id).state == "queued"
    clock.advance(parse_time(closes))
    house.sharing.set_weight("everyone", 1, actor="root")  # whatever wakes the scheduler
    house.until(second, "running")
    assert house.scheduler.job(first.id).state == "running"
    release(house)
    house.ended(second)


def test_what_a_quota_forbids_for_ever_is_refused_at_once(open_house: Callable[..., House]) -> None:
    house = open_house(2)
    house.sharing.set_quota(TeamQuota(team="vision", gpus=1), actor="root")
    house.sharing.set_queue(JobQueue(name="closed", max_running=0), actor="root")
    house.sharing.set_queue(JobQueue(name="turns", slice_minutes=1), actor="root")
    for spec, field, words in (
        ({"gpus": 2, "team": "vision"}, "gpus", "team vision may never hold more than 1"),
        ({"gpus": 3}, "gpus", "the box has 2"),
        ({"queue": "closed"}, "queue", "runs no jobs"),
        ({"queue": "turns"}, "queue", "saves no checkpoints"),
    ):
        with pytest.raises(InvalidInput, match=words) as caught:
            house.shell("true", **spec)
        assert (caught.value.field, bool(caught.value.hint)) == (field, True)
    assert house.ended(house.shell("true", gpus=1, team="vision")).state == "succeeded"


def test_what_a_team_borrowed_is_the_first_to_be_given_back(open_house: Callable[..., House]) -> None:
    house = open_house(2)
    house.sharing.set_quota(TeamQuota(team="vision", gpus=1, borrowable=True), actor="root")
    borrowed = [
        house.until(house.shell(COUNTS, gpus=1, checkpoints=True, team="vision", name=f"v{n}"), "running")
        for n in range(2)
    ]
    wait_for(lambda: all(saved(house, job) for job in borrowed), what="both to have saved something")
    theirs = house.until(house.shell(WAITS, gpus=1, team="speech"), "running")
    states = sorted(house.scheduler.job(job.id).state for job in borrowed)
    assert states == ["preempted", "running"]
    (waits,) = [job for job in borrowed if house.scheduler.job(job.id).state == "preempted"]
    assert "your team holds 1 of the 1 GPUs it may have" in house.scheduler.why(waits.id).words
    release(house)
    assert {house.ended(job).state for job in (*borrowed, theirs)} == {"succeeded"}


def test_of_two_teams_the_one_that_had_less_goes_first(open_house: Callable[..., House]) -> None:
    clock = ManualClock(parse_time("2026-01-01T00:00Z"))
    house = open_house(1, clock)
    greedy = house.until(house.shell(WAITS, gpus=1, team="greedy"), "running")
    clock.advance(clock.now() + timedelta(hours=10))
    waiting = [
        house.shell("true", gpus=1, team=team, name=f"{team}{n}") for n in range(2) for team in ("greedy", "modest")
    ]
    order: list[str] = []
    house.dbs["jobs"]._bus.subscribe(
        lambda event: order.append(str(event.data["name"])) if event.type == "job.starting" else None
    )
    house.again()  # what was used is known from the attempts alone
    release(house)
    for job in (greedy, *waiting):
        house.ended(job)
    assert order == ["modest0", "modest1", "greedy0", "greedy1"]
    used = {row.team: row.gpu_hours for row in house.sharing.used(parse_time("2026-01-01T00:00Z"), clock.now())}
    assert used["greedy"] == 10


# -- the how-to ---------------------------------------------------------------------------------------------------------


def test_the_training_of_the_how_to_goes_on_from_its_checkpoint(open_house: Callable[..., House]) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "checkpoints.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)
    house = open_house()
    job = house.submit("python", "-c", code, "60", gpus=1, checkpoints=True)
    folder = house.folder / "jobs" / job.id / "checkpoints"
    wait_for((folder / "checkpoint.json").exists, what="the first checkpoint")
    urgent = house.ended(house.shell("true", gpus=1, priority="urgent"))
    job = house.ended(job)
    assert (urgent.state, job.state) == ("succeeded", "succeeded")
    assert [attempt.exit_code for attempt in job.attempts] == [143, 0]
    resumed, done = house.log(job, 2).splitlines()
    assert int(resumed.removeprefix("resumes at step ")) >= 10
    assert done == f"done at step 60, loss {0.99**60:.4f}"
