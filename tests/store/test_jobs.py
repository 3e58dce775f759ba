"""Whatever is asked of a job, in whatever order: it moves as the table says, and a user's word is the last."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlbox.clock import ManualClock, SystemClock, parse_time
from mlbox.errors import AlreadyExists, Conflict, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import PHASES, Job, JobSpec, JobState
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.jobs.jobs import End, Grant, Jobs
from mlbox.store.jobs.states import ACTIVE, ENDED, MOVES, WAITING

ENDS: tuple[JobState, ...] = ("succeeded", "failed", "timed_out", "lost")


class Life(RuleBasedStateMachine):
    """One job, told what may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        clock = ManualClock(parse_time("2026-01-01T00:00Z"))
        self.clock = clock
        self.db = Database(Path(self.folder.name) / "jobs.sqlite", migrations.jobs, clock, EventBus())
        self.jobs = Jobs(self.db)
        spec = JobSpec(command=("true",), name="one")
        job = Job(id="j", user="ann", spec=spec, state="queued", created_at=clock.real(), run_id="r")
        assert self.jobs.add(job) == self.job
        self.before: JobState = "queued"
        self.stopped_by_user = False
        self.seen = self.job
        """As the scheduler knows it, which is not told at once of what people do."""

    @property
    def job(self) -> Job:
        return self.jobs.get("j")

    @precondition(lambda self: self.job.state in WAITING)
    @rule()
    def begins(self) -> None:
        grant = Grant([0], ["GPU-0"], 1.0, ["k"], {"cpu": "one"})
        moved = self.jobs.begin_attempts({"j": grant, "none": Grant()})
        assert moved == [self.job]
        self.seen = self.job
        assert self.job.state == "starting"

    @rule(seen=st.booleans())
    def runs(self, seen: bool) -> None:
        was = self.job.state
        if was in ACTIVE:
            (self.seen,) = (job,) = self.jobs.started({"j": 1}, [self.seen] * seen)
            assert job == self.job
            assert job.state == ("running" if was == "starting" else was)

    @precondition(lambda self: self.job.state in ACTIVE)
    @rule(state=st.sampled_from(ENDS), again=st.booleans(), seen=st.booleans())
    def ends(self, state: JobState, again: bool, seen: bool) -> None:
        was = self.job
        retry_at = self.clock.real() if again and state == "failed" else None
        (self.seen,) = (after,) = self.jobs.end_attempts({"j": End(state, 0, "so", retry_at)}, [self.seen] * seen)
        assert after == self.job
        if self.stopped_by_user:
            assert after.state == "stopped"
        elif was.state == "stopping":
            assert after.state == ("succeeded" if state == "succeeded" else "preempted")
        else:
            assert after.state == ("queued" if again and state == "failed" else state)

    @rule()
    def is_preempted(self) -> None:
        was = self.job.state
        if was in ENDED:
            with pytest.raises(Conflict, match="has ended: it"):
                self.jobs.ask_to_stop("j", actor="mlbox", cause="preempted")
            return
        after = self.jobs.ask_to_stop("j", actor="mlbox", cause="preempted", reason="gives way to 2").state
        assert after == ("stopping" if was in ("starting", "running") else was)

    @precondition(lambda self: self.job.state not in ENDED)
    @rule()
    def is_stopped(self) -> None:
        waits = self.job.state in WAITING
        assert self.jobs.ask_to_stop("j", actor="ann").state == ("stopped" if waits else "stopping")
        self.stopped_by_user = True

    @precondition(lambda self: self.job.state in ENDED)
    @rule()
    def is_retried(self) -> None:
        assert self.jobs.queue_again("j", actor="ann", run_id="r2").state == "queued"
        self.stopped_by_user = False

    @invariant()
    def moves_as_the_table_says(self) -> None:
        now = self.job
        # A rule makes at most one move, but for one that leaves it where it is.
        assert now.state == self.before or now.state in MOVES[self.before]
        assert (now.ended_at is not None) == (now.state in ENDED)
        assert (now.phase == "pending") == (now.state in WAITING)
        self.before = now.state

    @invariant()
    def every_ended_attempt_says_how(self) -> None:
        open_ones = [attempt for attempt in self.job.attempts if attempt.outcome is None]
        assert len(open_ones) == (self.job.state in ACTIVE)

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


def test_each_state_has_a_phase() -> None:
    assert set(PHASES) == set(MOVES) == {*WAITING, *ACTIVE, *ENDED}


# -- names --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    db = Database(tmp_path / "jobs.sqlite", migrations.jobs, ManualClock(parse_time("2026-01-01T00:00Z")), EventBus())
    yield Jobs(db)
    db.close()


def queued(jobs: Jobs, name: str, team: str = "everyone") -> Job:
    spec = JobSpec(command=("true",), name=name, team=team)
    return jobs.add(Job(id=new_id(), user="ann", spec=spec, state="queued", created_at=parse_time("2026-01-01T00:00Z")))


def test_a_name_is_good_wherever_an_id_is(jobs: Jobs) -> None:
    first = queued(jobs, "mlp")
    jobs.ask_to_stop(first.id, actor="ann")
    assert jobs.find("mlp").id == first.id
    second = queued(jobs, "mlp")
    assert jobs.find("mlp").id == second.id
    jobs.ask_to_stop(second.id, actor="ann")
    jobs.queue_again(first.id, actor="ann", run_id="r")
    assert jobs.find("mlp").id == first.id  # the one that has not ended, before the last


def test_of_a_teams_open_jobs_one_has_a_name(jobs: Jobs) -> None:
    first = queued(jobs, "mlp")
    with pytest.raises(AlreadyExists, match=f"{first.id} of everyone is called 'mlp' and is queued"):
        queued(jobs, "mlp")
    with pytest.raises(AlreadyExists):
        jobs.check_name(first.spec)
    other = queued(jobs, "mlp", team="vision")
    with pytest.raises(Conflict, match="means several jobs"):
        jobs.find("mlp")
    jobs.ask_to_stop(first.id, actor="ann")
    assert jobs.find("mlp").id == other.id
    third = queued(jobs, "mlp")
    with pytest.raises(AlreadyExists):
        jobs.queue_again(first.id, actor="ann", run_id="r")
    assert queued(jobs, "").id != queued(jobs, "").id != third.id


def test_what_begins_or_ends_an_id_alone_is_enough(jobs: Jobs) -> None:
    one, two = queued(jobs, ""), queued(jobs, "")
    assert jobs.find(one.id[-8:]).id == one.id
    assert jobs.find(two.id[:17]).id == two.id
    with pytest.raises(Conflict, match="means several"):
        jobs.find(one.id[:6])
    for word in ("____", "%%%%", one.id[-3:], "", "x" * 32):
        with pytest.raises(NotFound):
            jobs.find(word)


def test_who_slips_is_told_names_that_come_close(jobs: Jobs) -> None:
    queued(jobs, "nightly-train")
    with pytest.raises(NotFound, match=r"There is no job 'nightly-trian'.*Did you mean nightly-train"):
        jobs.find("nightly-trian")
    with pytest.raises(NotFound, match="`mlbox ps --all` lists them"):
        jobs.find("flights")


def test_who_runs_and_who_has_ended_are_one_write_and_a_stop_in_between_is_heard(tmp_path: Path) -> None:
    db = Database(tmp_path / "jobs.sqlite", migrations.jobs, SystemClock(), EventBus())
    jobs = Jobs(db)
    runs, ends, stopped = (queued(jobs, name).id for name in ("a", "b", "c"))
    seen = jobs.begin_attempts(dict.fromkeys((runs, ends, stopped), Grant()))
    jobs.ask_to_stop(stopped, actor="ann")
    over = {ends: End("succeeded", 0, "exit status 0"), stopped: End("failed", 1, "exit status 1")}
    moved = {job.id: job for job in jobs.follow({runs: 7}, over, seen)}
    assert moved == {id: jobs.get(id) for id in (runs, ends, stopped)}
    assert [moved[id].state for id in (runs, ends, stopped)] == ["running", "succeeded", "stopped"]
    assert [moved[runs].attempts[0].pid, moved[ends].exit_code] == [7, 0]
    told = {event.type: event.at for event in db.events()}  # what one write tells of happens at one moment
    assert told["job.running"] == told["job.succeeded"]
    db.close()


def test_what_is_wrong_with_one_job_holds_up_none_that_move_with_it(jobs: Jobs) -> None:
    one, wrong, two = (queued(jobs, name) for name in ("a", "b", "c"))
    refuse = f"CREATE TRIGGER refuse BEFORE INSERT ON attempt WHEN NEW.job_id = '{wrong.id}'"
    jobs._db.write(lambda tx: tx.run(f"{refuse} BEGIN SELECT RAISE(ABORT, 'broken'); END"))
    with pytest.raises(Unavailable, match="broken"):
        jobs.begin_attempts({job.id: Grant() for job in (one, wrong, two)})
    assert [jobs.get(job.id).state for job in (one, wrong, two)] == ["starting", "queued", "starting"]
    assert [len(jobs.get(job.id).attempts) for job in (one, wrong, two)] == [1, 0, 1]
    told = [event.subject for event in jobs._db.events(type="job.starting")]
    assert sorted(told) == sorted(f"job:{job.id}" for job in (one, two)), "and each is told of once"


def test_open_jobs_are_listed_apart(jobs: Jobs) -> None:
    one, two = queued(jobs, "a"), queued(jobs, "b", team="vision")
    jobs.ask_to_stop(one.id, actor="ann")
    assert [job.id for job in jobs.page(open_only=True)] == [two.id]
    assert [job.id for job in jobs.page(team="everyone")] == [one.id]
    assert [job.id for job in jobs.page(state="stopped")] == [one.id]
