"""A job's rows: how they are read, and the record that they make."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from mlbox.clock import from_us
from mlbox.records import Attempt, Job, JobSpec
from mlbox.store.db import Row

JOB_SQL = """
SELECT job.*, (SELECT json_group_array(json_object('number', number, 'started_us', started_us, 'ended_us', ended_us,
    'exit_code', exit_code, 'pid', pid, 'gpus', json(gpus), 'devices', json(devices), 'gpu_count', gpu_count,
    'yields_to', json(yields_to), 'outcome', outcome, 'reason', reason, 'ran_on', json(ran_on)))
  FROM (SELECT * FROM attempt WHERE job_id = job.id ORDER BY number)) AS attempts
FROM job
"""


def job_of(row: Row) -> Job:
    return Job(
        id=row["id"],
        user=row["user"],
        spec=msgspec.json.decode(row["spec"], type=JobSpec),
        state=row["state"],
        created_at=from_us(row["created_us"]),
        run_id=row["run_id"],
        ended_at=_moment(row["ended_us"]),
        exit_code=row["exit_code"],
        reason=row["reason"],
        not_before=_moment(row["not_before_us"]),
        queued_at=_moment(row["queued_us"]),
        promised=bool(row["promised"]),
        stop_cause=row["stop_cause"],
        stopping_at=_moment(row["stopping_us"]),
        attempts=tuple(
            Attempt(
                number=a["number"],
                started_at=from_us(a["started_us"]),
                ended_at=_moment(a["ended_us"]),
                exit_code=a["exit_code"],
                pid=a["pid"],
                gpus=tuple(a["gpus"]),
                devices=tuple(a["devices"]),
                gpu_count=a["gpu_count"],
                yields_to=tuple(a["yields_to"]),
                outcome=a["outcome"],
                reason=a["reason"],
                ran_on=a["ran_on"],
            )
            for a in msgspec.json.decode(row["attempts"])
        ),
    )


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _moment(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)
