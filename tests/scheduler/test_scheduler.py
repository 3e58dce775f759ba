"""Jobs from submission to their end, with real processes."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import signal
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlbox.clock import Clock, ManualClock, SystemClock, parse_time
from mlbox.errors import Conflict, InvalidInput, NotAuthenticated, NotFound
from mlbox.events import EventBus
from mlbox.records import Job, JobSpec
from mlbox.scheduler.executors.local import Local
from mlbox.scheduler.executors.local.folder import Folder
from mlbox.scheduler.gpus import Virtual
from mlbox.scheduler.launcher import Launcher, ref_of
from mlbox.scheduler.scheduler import Scheduler
from mlbox.store import migrations
from mlbox.store.access.access import Access
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database
from mlbox.store.jobs.jobs import Grant, Jobs
from mlbox.store.jobs.sharing import Sharing
from mlbox.store.jobs.states import ACTIVE, ENDED, MOVES
from mlbox.store.tracking.tracking import Tracker
from tests.conftest import wait_for


class House:
    """A scheduler over real stores."""

    def __init__(self, folder: Path, *, gpus: int = 2, clock: Clock | None = None) -> None:
        self.folder = folder
        self.gpus = gpus
        clock, bus = clock or SystemClock(), EventBus()
        self.dbs = {
            name: Database(folder / f"{name}.sqlite", getattr(migrations, name), clock, bus)
            for name in ("access", "tracking", "jobs")
        }
        self.access = Access(self.dbs["access"], clock)
        self.artifacts = Artifacts(folder / "artifacts")
        self.tracker = Tracker(self.dbs["tracking"], self.artifacts, clock)
        self.clock = clock
        self.jobs, self.sharing = Jobs(self.dbs["jobs"]), Sharing(self.dbs["jobs"])
        if not self.access.users():
            self.access.create_user("ann", "member", actor="test")
        self.scheduler = self.make()

    def make(self, **options: Any) -> Scheduler:
        self.executor = executor = Local(self.folder / "jobs", Virtual([("", 80.0)] * self.gpus), cpus=4, memory_gb=16)
        launcher = Launcher(self.access, self.artifacts, url="http://127.0.0.1:1", grace_seconds=0.3, **options)
        stores = (self.jobs, self.tracker, self.access, self.artifacts, self.clock)
        return Scheduler(*stores, executor, launcher, self.sharing)

    def again(self) -> None:
        """What a restart of the server does."""
        self.scheduler.close()
        self.scheduler = self.make()
        self.scheduler.start()

    def submit(self, *command: str, **spec: object) -> Job:
        return self.scheduler.submit(JobSpec(command=command, **{"gpus": 0, "memory_gb": 1, **spec}), user="ann")  # type: ignore[arg-type]

    def shell(self, script: str, **spec: object) -> Job:
        return self.submit("sh", "-c", script, **spec)

    def until(self, job: Job, *states: str) -> Job:
        def there() -> Job | None:
            found = self.scheduler.job(job.id)
            return found if found.state in states else None

        return wait_for(there, what=f"{job.id} to be {states}")

    def ended(self, job: Job) -> Job:
        return self.until(job, *ENDED)

    def log(self, job: Job, attempt: int | None = None) -> str:
        return self.scheduler.log(job.id, attempt).decode()

    def close(self) -> None:
        """Close all, and end what a test that failed left running."""
        self.scheduler.close()
        for job in self.jobs.in_states(ACTIVE):
            claim = Folder(str(self.folder / "jobs"), ref_of(job)).claim()
            if claim is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(claim.pid, signal.SIGTERM)
        for db in self.dbs.values():
            db.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    built.scheduler.start()
    yield built
    built.close()


def test_a_job_runs_is_recorded_and_its_token_ends_with_it(house: House) -> None:
    job = house.ended(house.shell('echo "$MLBOX_TOKEN $MLBOX_RUN_ID $PWD"', hyperparameters={"lr": "1"}))
    token, run_id, folder = house.log(job).split()
    assert (job.state, job.exit_code, job.reason) == ("succeeded", 0, "exit status 0")
    assert run_id == job.run_id
    assert folder == str(house.folder / "jobs" / job.id / "1" / "work")
    run = wait_for(lambda: (r := house.tracker.run(run_id)).status == "FINISHED" and r, what="the run to end")
    assert (run.job_id, run.user, run.params) == (job.id, "ann", {"lr": "1"})
    with pytest.raises(NotAuthenticated, match="revoked"):
        wait_for(lambda: not house.access.authenticate(token), what="the token to end")


def test_while_it_runs_its_token_names_the_job(house: House) -> None:
    job = house.until(house.shell('echo "$MLBOX_TOKEN"; sleep 60'), "running")
    token = wait_for(lambda: house.log(job).strip(), what="the log")
    principal = house.access.authenticate(token)
    assert (principal.name, principal.job_id) == ("ann", job.id)
    house.scheduler.stop(job.id, actor="ann")
    assert house.ended(job).state == "stopped"


def test_the_environment_is_clean_and_ours_cannot_be_overridden(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", "s3cret")
    job = house.ended(house.submit("env", env={"COLOUR": "red", "MLBOX_URL": "http://elsewhere"}))
    lines = house.log(job).splitlines()
    assert "COLOUR=red" in lines
    assert "MLBOX_URL=http://127.0.0.1:1" in lines
    assert "CUDA_VISIBLE_DEVICES=" in lines
    assert not any("s3cret" in line for line in lines)


def test_gpus_are_handed_out_and_taken_back(house: House) -> None:
    first = house.until(house.shell('echo "$CUDA_VISIBLE_DEVICES"; sleep 60', gpus=2), "running")
    second = house.shell('echo "$CUDA_VISIBLE_DEVICES"', gpus=1)
    assert house.scheduler.job(second.id).state == "queued"
    house.scheduler.stop(first.id, actor="ann")
    assert house.log(house.ended(second)).strip() == "VIRTUAL-0"
    assert house.scheduler.job(first.id).attempts[0].gpus == (0, 1)


def test_a_failure_says_how_and_is_tried_again_as_often_as_was_asked(house: House) -> None:
    job = house.ended(house.shell("echo try; [ -e ../../1/work/ok ] && exit 0; touch ok; exit 3", retries=2))
    assert (job.state, len(job.attempts)) == ("succeeded", 2)
    assert job.attempts[0].reason == "exit status 3"
    failed = house.ended(house.shell("exit 7", retries=0))
    assert (failed.state, failed.exit_code, failed.reason) == ("failed", 7, "exit status 7")


def test_each_further_try_comes_after_twice_the_time_and_a_clock_that_is_set_back_holds_none_up(tmp_path: Path) -> None:
    clock = ManualClock(parse_time("2026-01-01T00:00Z"))
    house = House(tmp_path, clock=clock)
    house.scheduler.start()
    job = house.shell("exit 3", retries=4)

    def waits_after(count: int) -> Job:
        def there() -> Job | None:
            found = house.scheduler.job(job.id)
            return found if found.state == "queued" and len(found.attempts) == count else None

        return wait_for(there, what=f"the end of try {count}")

    for count, seconds in enumerate((2, 4, 8), 1):
        waits = waits_after(count)
        assert waits.not_before == clock.real() + timedelta(seconds=seconds)
        clock.advance(waits.not_before)
        house.sharing.set_weight("everyone", 1, actor="root")  # whatever wakes the scheduler
    waits_after(4)
    house.scheduler.close()
    clock._now = parse_time("2025-01-01T00:00Z")
    house.scheduler = house.make()
    house.scheduler.start()
    assert len(house.ended(job).attempts) == 5
    house.close()


def test_an_exit_code_that_was_not_named_is_not_tried_again(house: House) -> None:
    named = house.ended(house.shell("exit 9", retries=1, retry_exit_codes=(9, 10)))
    other = house.ended(house.shell("exit 3", retries=1, retry_exit_codes=(9, 10)))
    assert (len(named.attempts), len(other.attempts)) == (2, 1)


def test_a_command_that_cannot_be_started_fails_in_words(house: House) -> None:
    job = house.ended(house.submit("no-such-program"))
    assert job.state == "failed"
    assert "cannot be started: there is no program 'no-such-program' on its PATH (" in job.reason
    assert "no-such-program" in house.log(job)


def test_a_file_that_is_no_program_is_told_what_it_lacks(house: House, tmp_path: Path) -> None:
    for name, text, mode, said in (
        ("plain.sh", "#!/bin/sh\n", 0o600, "may not be executed: `chmod +x` it"),
        ("none.py", "#!/no/such/python\n", 0o700, "names an interpreter that is not there"),
        ("bare", "echo\n", 0o700, "is no program of this machine"),
        ("absent", None, 0, "was it left out of the snapshot"),
    ):
        file = tmp_path / name
        if text is not None:
            file.write_text(text)
            file.chmod(mode)
        job = house.ended(house.submit(str(file)))
        assert said in job.reason
        assert job.reason in house.log(job)


def test_a_signal_is_named(house: House) -> None:
    assert house.ended(house.shell("kill -SEGV $$")).reason == "ended by SIGSEGV"


def test_a_job_that_runs_out_of_time_is_ended_with_all_it_started(house: House) -> None:
    job = house.ended(house.shell("sleep 300 & echo $!; trap '' TERM; sleep 300", timeout_seconds=0.5))
    assert (job.state, job.reason) == ("timed_out", "ran out of time")
    child = int(house.log(job).split()[0])
    wait_for(lambda: not alive(child), what="the job's child to end")


def test_a_stopped_job_may_end_well_and_one_that_will_not_is_killed(house: House) -> None:
    kind = house.shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: "up" in house.log(kind), what="the trap")
    house.scheduler.stop(kind.id, actor="ann")
    job = house.ended(kind)
    assert (job.state, job.reason) == ("stopped", "stopped by ann")
    assert "bye" in house.log(job)
    with pytest.raises(Conflict, match="The job has ended: it was stopped"):
        house.scheduler.stop(job.id, actor="ann")


def test_a_queued_job_is_stopped_before_it_starts(house: House) -> None:
    running = house.until(house.shell("sleep 60", cpus=4), "running")
    waiting = house.shell("echo never", cpus=4)
    assert house.scheduler.stop(waiting.id, actor="bea").state == "stopped"
    house.scheduler.stop(running.id, actor="ann")
    house.ended(running)
    assert house.scheduler.job(waiting.id).attempts == ()


def test_a_job_that_is_stopped_before_its_command_starts_never_runs(house: House) -> None:
    zygote = house.executor.zygote
    os.kill(zygote, signal.SIGSTOP)  # what was granted its part of the box cannot start
    jobs = [house.until(house.shell(f": > {house.folder}/ran-{number}"), "starting") for number in range(3)]
    assert {house.scheduler.stop(job.id, actor="ann").state for job in jobs} == {"stopping"}
    os.kill(zygote, signal.SIGCONT)
    assert {house.ended(job).state for job in jobs} == {"stopped"}
    assert house.ended(house.shell("exit 0")).state == "succeeded"
    assert not list(house.folder.glob("ran-*"))
    assert house.scheduler.job(jobs[0].id).attempts[0].outcome == "stopped"


def test_a_retry_is_another_attempt_with_another_run(house: House) -> None:
    first = house.ended(house.shell("exit 1"))
    again = house.ended(house.scheduler.retry(first.id, actor="ann"))
    assert len(again.attempts) == 2
    assert again.run_id != first.run_id


def test_code_is_unpacked_into_the_working_directory(house: House) -> None:
    digest, _ = house.artifacts.put([archive({"train.py": b"print(6 * 7)"})])
    job = house.ended(house.submit("python", "train.py", snapshot=digest))
    assert house.log(job).strip() == "42"


def test_code_that_leads_out_of_its_folder_is_refused(house: House) -> None:
    digest, _ = house.artifacts.put([archive({"../../../escaped": b"x"})])
    job = house.ended(house.submit("true", snapshot=digest))
    assert job.state == "failed"
    assert "'../../../escaped' is not a relative path" in job.reason
    assert not list(house.folder.rglob("escaped"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08" + bytes(30)])
def test_a_snapshot_that_is_none_fails_its_job_and_no_other(house: House, content: bytes) -> None:
    digest, _ = house.artifacts.put([content])
    job = house.ended(house.submit("true", snapshot=digest))
    assert "cannot be unpacked" in job.reason
    assert house.ended(house.submit("true")).state == "succeeded"


def test_a_snapshot_that_unpacks_to_more_than_code_is_refused_before_it_is_written(house: House) -> None:
    large = tarfile.TarInfo("weights.bin")
    large.size = 2 << 30
    digest, _ = house.artifacts.put([gzip.compress(large.tobuf())])
    job = house.ended(house.submit("true", snapshot=digest))
    assert "The snapshot holds more than 1,024 MiB or 100,000 files" in job.reason
    assert not list((house.folder / "jobs" / job.id).rglob("weights.bin"))


def test_links_in_a_snapshot_are_refused(house: House) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    digest, _ = house.artifacts.put([packed.getvalue()])
    assert "neither a file nor a folder" in house.ended(house.submit("true", snapshot=digest)).reason


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"command": ()}, "command"),
        ({"command": ("x",), "gpus": 3}, "gpus"),
        ({"command": ("x",), "gpus": 1.5}, "gpus"),
        ({"command": ("x",), "cpus": 5}, "cpus"),
        ({"command": ("x",), "memory_gb": 17}, "memory_gb"),
        ({"command": ("x",), "cpus": -1}, "cpus"),
    ],
)
def test_what_the_box_can_never_run_is_refused_at_once(house: House, spec: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.scheduler.submit(JobSpec(**spec), user="ann")  # type: ignore[arg-type]
    assert caught.value.field == field
    assert house.scheduler.jobs() == []


def test_an_unknown_snapshot_or_job_is_not_found(house: House) -> None:
    with pytest.raises(NotFound):
        house.submit("true", snapshot="a" * 64)
    with pytest.raises(NotFound, match="no job"):
        house.scheduler.job("nope")


# -- restarts -----------------------------------------------------------------------------------------------------------------


def test_a_job_goes_on_without_its_scheduler_and_is_found_again(house: House) -> None:
    job = house.until(house.shell("sleep 0.5; echo done"), "running")
    house.scheduler.close()
    house.scheduler = house.make()
    house.scheduler.start()
    after = house.ended(job)
    assert (after.state, len(after.attempts)) == ("succeeded", 1)
    assert house.log(after).strip() == "done"


def test_a_job_that_ended_in_the_meantime_is_read_from_its_status(house: House) -> None:
    job = house.until(house.shell("exit 4"), "running", "failed")
    house.scheduler.close()
    wait_for((house.folder / "jobs" / job.id / "1" / "status.json").exists, what="the status")
    house.scheduler = house.make()
    house.scheduler.start()
    assert house.ended(job).exit_code == 4


def test_an_attempt_that_has_its_row_and_no_shim_is_started_once(tmp_path: Path) -> None:
    """A server that dies between writing the row and starting the shim neither loses the job nor runs it twice."""
    house = House(tmp_path)
    job = house.shell("echo once >> ../../count")
    Jobs(house.dbs["jobs"]).begin_attempts({job.id: Grant()})
    house.scheduler.start()
    after = house.ended(job)
    assert (after.state, len(after.attempts)) == ("succeeded", 1)
    assert (tmp_path / "jobs" / job.id / "count").read_text() == "once\n"
    house.close()


def test_one_whose_row_is_of_another_boot_may_have_run_and_is_lost(tmp_path: Path) -> None:
    """A power cut may take a claim away that was not on disk yet, though the command had begun."""
    house = House(tmp_path)
    job = house.shell('echo "$MLBOX_ATTEMPT" >> ../../count', retries=1)
    Jobs(house.dbs["jobs"]).begin_attempts({job.id: Grant(epoch="another boot")})
    house.scheduler.start()
    after = house.ended(job)
    assert [attempt.outcome for attempt in after.attempts] == ["lost", "succeeded"]
    assert after.attempts[0].reason.startswith("the machine was restarted")
    assert (tmp_path / "jobs" / job.id / "count").read_text() == "2\n"
    house.close()


def test_an_attempt_whose_shim_is_killed_is_lost_with_all_it_started(house: House) -> None:
    job = house.until(house.shell("sleep 60"), "running")
    pid = job.attempts[0].pid
    assert pid is not None
    child = _child_of(pid)
    os.kill(pid, signal.SIGKILL)
    after = house.ended(job)
    assert (after.state, after.reason) == ("lost", "its shim was killed, and its processes with it")
    assert not alive(child)


def test_a_lost_attempt_is_tried_again_as_often_as_was_asked(house: House) -> None:
    job = house.until(house.shell("[ -e ../../1/work/was ] && exit 0; touch was; sleep 60", retries=1), "running")
    wait_for((house.folder / "jobs" / job.id / "1" / "work" / "was").exists, what="the first attempt")
    assert job.attempts[0].pid is not None
    os.kill(job.attempts[0].pid, signal.SIGKILL)
    after = house.ended(job)
    assert [attempt.outcome for attempt in after.attempts] == ["lost", "succeeded"]


def test_a_running_attempt_of_which_nothing_is_left_is_lost_and_not_run_again(house: House) -> None:
    job = house.until(house.shell("echo once >> ../../count; sleep 60"), "running")
    wait_for((house.folder / "jobs" / job.id / "count").exists, what="the command")
    house.scheduler.close()
    (house.folder / "jobs" / job.id / "1").rename(house.folder / "elsewhere")
    house.scheduler = house.make()
    house.scheduler.start()
    assert house.ended(job).state == "lost"
    assert (house.folder / "jobs" / job.id / "count").read_text() == "once\n"
    assert job.attempts[0].pid is not None
    os.kill(job.attempts[0].pid, signal.SIGTERM)
    wait_for(lambda: not alive(job.attempts[0].pid or 0), what="the shim to end")


def test_the_grace_is_the_jobs_own(house: House) -> None:
    job = house.shell(
        "trap 'sleep 0.6; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done", grace_seconds=20
    )
    wait_for(lambda: "up" in house.log(job), what="the trap")
    house.scheduler.stop(job.id, actor="ann")
    assert house.ended(job).state == "stopped"
    assert "saved" in house.log(job)


def test_the_machine_holds_nothing_of_ended_jobs(house: House) -> None:
    house.ended(house.shell("true"))  # every thread has its connections now
    before = len(os.listdir("/proc/self/fd"))
    for job in [house.shell("true") for _ in range(5)]:
        house.ended(job)
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before + 4, what="the descriptors to be closed")


def test_the_machine_of_states_ends_where_it_says() -> None:
    assert set(MOVES) == {state for targets in MOVES.values() for state in targets} | {"queued"}


def archive(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return content.getvalue()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
