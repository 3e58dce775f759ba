"""Jobs that are asked for at the same time are queued together, and each is judged for itself."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from mlbox.errors import AlreadyExists, InvalidInput, NotAuthorised
from mlbox.records import Job, JobSpec, Principal
from tests.web.site import open_box

ANN = Principal(name="ann", role="member", token_id="token-of-ann")
BOB = Principal(name="bob", role="member", token_id="token-of-bob")
EVE = Principal(name="eve", role="viewer")


def spec(**given: object) -> JobSpec:
    plain = {"command": ("true",), "cpus": 0.1, "memory_gb": 0.1, "gpus": 0} | given
    return JobSpec(**plain)  # type: ignore[arg-type]


def test_each_of_many_gets_its_own_answer(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data")
    try:
        for name in ("ann", "bob"):
            box.access.create_user(name, "member", actor="admin")
        asked = [
            (spec(name="one", hyperparameters={"lr": "0.1"}), ANN),
            (spec(command=()), ANN),
            (spec(name="one"), ANN),
            (spec(name="two"), BOB),
            (spec(name="three"), EVE),
            (spec(cpus=1e6), BOB),
            (spec(name="four", hyperparameters={"long": "x" * 10_000}), ANN),
            (spec(name="five"), ANN),
        ]
        one, empty, taken, two, forbidden, huge, long, five = box.admission.submit_each(asked)
        assert [type(each) for each in (empty, taken, forbidden, huge, long)] == [
            *(InvalidInput, AlreadyExists, NotAuthorised, InvalidInput, InvalidInput)
        ]
        queued = [job for job in (one, two, five) if isinstance(job, Job)]
        assert [(job.spec.name, job.user) for job in queued] == [("one", "ann"), ("two", "bob"), ("five", "ann")]
        assert sorted(job.id for job in queued) == [job.id for job in queued], "ids are in the order of submission"
        known = {job.id for job in box.scheduler.jobs()}
        assert known == {job.id for job in queued}, "of the others there is no job"
        for job in queued:
            run = box.tracker.run(job.run_id or "")
            assert (run.job_id, run.user) == (job.id, job.user)
        assert sorted(run.status for run in box.tracker.runs() if run.job_id not in known) == ["KILLED"], (
            "no run waits for no job"
        )
        assert box.tracker.run(queued[0].run_id or "").params == {"lr": "0.1"}
        with contextlib.closing(sqlite3.connect(box.store_paths()["jobs"])) as file:
            by = set(file.execute("SELECT actor, token_id FROM event WHERE type = 'job.submitted'"))
        assert by == {("ann", "token-of-ann"), ("bob", "token-of-bob")}, "the audit log names who asked, of each"
    finally:
        box.close()
