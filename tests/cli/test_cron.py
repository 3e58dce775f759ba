"""Crons from the command line, against a running box."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.cli.conftest import Ran
from tests.conftest import wait_for

JOB = """
command = "python -c 'print(1)'"
memory_gb = 0.1
cpus = 0.1
"""


def test_a_job_comes_again_and_its_code_outlives_a_collection(box: Callable[..., Ran], home: Path) -> None:
    (home / "job.toml").write_text(JOB)
    added = box("cron", "add", "0 3 * * MON-FRI", "job.toml", "--name", "nightly", "--timezone", "Europe/Berlin")
    assert added.code == 0, added.err
    assert "0 3 * * MON-FRI" in added.out
    assert box("cron", "add", "0 3 * * *", "job.toml", "--name", "nightly").code == 5
    assert "At 03:00 on Monday through Friday" in box("cron", "preview", "0 3 * * MON-FRI").err
    assert box("gc").code == 0
    fired = msgspec.json.decode(box("cron", "fire", "nightly", "-o", "json").out)
    assert fired["outcome"] == "submitted"
    job = wait_for(
        lambda: (found := msgspec.json.decode(box("show", "nightly", "-o", "json").out))["ended_at"] and found,
        what="the job to end",
    )
    assert (job["state"], job["spec"]["tags"]["mlbox.cron"]) == ("succeeded", "nightly")
    shown = box("cron", "show", "nightly")
    assert "submitted" in shown.out
    assert "rests" in box("cron", "pause", "nightly").err
    assert "goes on, next" in box("cron", "resume", "nightly").err
    assert box("cron", "ls", "-o", "id").out.count("\n") == 1
    assert box("cron", "rm", "nightly").code == 0
    assert box("cron", "show", "nightly").code == 3


def test_what_makes_no_sense_is_said_before_anything_is_sent(box: Callable[..., Ran], home: Path) -> None:
    (home / "job.toml").write_text(JOB)
    for words, said in (
        (("0 3 * * *",), "a job file are wanted"),
        (("0 3 * *", "job.toml", "--name", "x"), "it has 4 fields"),
        (("0", "job.toml", "--name", "x"), "it has 1 field."),
        (("0 0 32 2 *", "job.toml", "--name", "x"), "is no schedule: Bad day-of-month"),
        (
            ("0 0 30 2 *", "job.toml", "--name", "x"),
            "never comes: none of its months has such a day. Check day and month.",
        ),
        (("0 0 31 4,6 *", "job.toml", "--name", "x"), "never comes"),
        (("job.toml", "--name", "x"), "Nothing asks for the job"),
        (("job.toml", "--name", "x", "--on", "dataset"), "says nothing that happens"),
        (("0 3 * * *", "job.toml", "--name", "x", "--timezone", "Mars"), "is no time zone"),
    ):
        ran = box("cron", "add", *words)
        assert (ran.code, said in ran.line) == (2, True), ran
    for what, said in (
        ("alert:dleay", "There is no model 'dleay'"),
        ("dataset:fligths", "There is no dataset 'fligths'"),
    ):
        ran = box("cron", "add", "job.toml", "--name", "x", "--on", what)
        assert (ran.code, said in ran.line) == (3, True), ran
