"""Who is told what of a job: by `notify` in its specification, at its end, when it gives way, and when it diverges."""

from __future__ import annotations

from collections.abc import Sequence

from mlbox.errors import InvalidInput
from mlbox.records import Job
from mlbox.store.db import Tx
from mlbox.store.outbox import check_address, post

MOST_ADDRESSES = 10
WORDS: dict[str, str] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "timed_out": "ran out of time",
    "stopped": "was stopped",
    "lost": "was lost",
    "preempted": "gives way to another and will go on",
    "diverged": "diverges",
}
"""By what happened to a job, what its people are told."""


def check_notify(addresses: Sequence[str]) -> None:
    """Raise InvalidInput for an address that nothing can be sent to."""
    if len(addresses) > MOST_ADDRESSES:
        raise InvalidInput(
            f"{len(addresses)} addresses are too many.", hint=f"{MOST_ADDRESSES} at most.", field="notify"
        )
    for address in addresses:
        check_address(address)


def tell(tx: Tx, job: Job, what: str, reason: str, *, cause: str = "") -> None:
    """Have a job's people told what happened, if it is something that they are told of; once per attempt and cause."""
    if what not in WORDS or not job.spec.notify:
        return
    name = job.spec.name or job.id
    body = {
        "text": f"{name} of {job.user} {WORDS[what]}" + (f": {reason}" if reason else ""),
        "event": f"job.{what}",
        "place": f"/jobs/{job.id}",
        "reason": reason,
        "job": {"id": job.id, "name": job.spec.name, "user": job.user, "team": job.spec.team, "run": job.run_id},
    }
    for address in job.spec.notify:
        post(tx, address, f"job:{job.id}", body, cause=f"{what} {job.id} {len(job.attempts)} {cause}")
