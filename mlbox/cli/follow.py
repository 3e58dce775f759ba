"""A job's log as it grows, over attempts and restarts of the box, to the job's own end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from mlbox.cli.context import connect
from mlbox.cli.jobtable import called
from mlbox.cli.output import note
from mlbox.records import WAITS, Job, JobState, Outlook

if TYPE_CHECKING:
    from mlbox.client import Client

POLL_SECONDS = 0.5
WHY_SECONDS = 10.0
"""Between two questions what a job waits for: the answer has numbers of what is free, which change all the time."""
TIMED_OUT = 124
"""As timeout(1) ends."""
INTERRUPTED = 130
OFFSET, ENDED = "x-mlbox-offset", "x-mlbox-ended"
WAITING: tuple[JobState, ...] = ("queued", "preempted")


def follow(job_id: str, *, attempt: int | None = None, **start: Any) -> int:
    """Print a job's log until it ends; its exit code, or that of Ctrl-C, which lets the job go on.

    `start` says where the log of the first attempt begins, as the route does: `tail`, `since`.
    """
    try:
        with connect() as client:
            return exit_code(_follow(client, job_id, attempt, start))
    except KeyboardInterrupt:
        note(f"\nThe job goes on: `mlbox logs -f {job_id}` shows it again, `mlbox stop {job_id}` ends it.")
        return INTERRUPTED


def _follow(client: Client, job_id: str, attempt: int | None, start: dict[str, Any]) -> Job:
    from mlbox.sdk.runs import patiently

    number, where, said, ask_at = attempt, start or {"offset": 0}, "", 0.0
    while True:
        job = patiently(
            lambda: client.get(f"/api/v1/jobs/{job_id}", Job)
        )  # before its log, which is whole if it has ended
        number = number or max(1, len(job.attempts))
        if job.state not in WAITING:
            ask_at = 0.0
        elif time.monotonic() >= ask_at:
            ask_at = time.monotonic() + WHY_SECONDS
            if (words := _why(client, job)) not in ("", said):
                said = words
                note(f"It is {job.state}: {said}.")
        offset, content = patiently(lambda: read(client, job.id, number, where))  # noqa: B023 (called at once)
        where = {"offset": offset}
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        if content:
            continue
        if attempt is None and number < len(job.attempts):
            note(f"Attempt {number} ended ({job.attempts[number - 1].reason}), and attempt {number + 1} began.")
            number, where = number + 1, {"offset": 0}
        elif job.ended_at is not None:
            return job
        else:
            time.sleep(POLL_SECONDS)


def _why(client: Client, job: Job) -> str:
    """Why a job waits: what became of its last attempt, or what it waits for, as far as that is known by now."""
    from mlbox.sdk.runs import patiently

    if job.reason != WAITS:
        return job.reason
    return patiently(lambda: client.get(f"/api/v1/jobs/{job.id}/explain", Outlook)).words


def read(client: Client, job_id: str, attempt: int | None, where: dict[str, Any]) -> tuple[int, bytes]:
    """A piece of a log, and the offset of the next one."""
    answer = client.exchange("GET", f"/api/v1/jobs/{job_id}/logs", query={"attempt": attempt, **where})
    return int(answer.headers[OFFSET]), answer.content


def exit_code(job: Job) -> int:
    """A job's end as that of a command: its own code, 128 and the number of the signal that ended it, or timeout's."""
    if job.state == "succeeded":
        return 0
    tries = f" after {len(job.attempts)} attempts" if job.state == "failed" and len(job.attempts) > 1 else ""
    note(f"mlbox: The job {called(job)} {job.state.replace('_', ' ')}{tries}: {job.reason}.")
    if job.state == "timed_out":
        return TIMED_OUT
    code = job.exit_code or 1
    return code if code > 0 else 128 - code
