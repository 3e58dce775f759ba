"""What can never run here, so that it is refused when it is submitted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mlbox.scheduler.policy.capacity import gpus
from mlbox.scheduler.policy.quotas import active, most
from mlbox.scheduler.policy.types import DEFAULT_QUEUE, EPSILON, Box, Need, Queue, Reason, State
from mlbox.scheduler.policy.windows import changes

_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
"""Any week tells what is so in all of them."""
_WEEK = timedelta(days=8)


def impossible(
    need: Need,
    state: State,
    *,
    team: str = "everyone",
    queue: str = DEFAULT_QUEUE,
    checkpoints: bool = False,
) -> Reason | None:
    """Why a job could not run on the empty box, today or any day; None where it could.

    `asked` and `free` of the reason are what it asks and the most that there ever is; `kind` tells what of.
    """
    line = state.queues.get(queue)
    if line and line.quantum_seconds is not None and not checkpoints:
        return Reason("turns", f"jobs in the queue {queue} take turns, and it saves no checkpoints")
    asked = gpus(need, state.box)
    return _too_large(need, state.box) or _over_queue(asked, line) or _over_quota(asked, state, team)


def _too_large(need: Need, box: Box) -> Reason | None:
    if need.cpus > box.cpus + EPSILON:
        return Reason("cpus", f"it asks {need.cpus:g} CPUs, the box has {box.cpus:g}", need.cpus, box.cpus)
    if need.memory_gb > box.memory_gb + EPSILON:
        words = f"it asks {need.memory_gb:g} GiB, the box has {box.memory_gb:.4g} GiB"
        return Reason("memory", words, need.memory_gb, box.memory_gb)
    if need.count > len(box.devices):
        return Reason(
            "gpus", f"it asks {need.count} GPUs, the box has {len(box.devices)}", need.count, len(box.devices)
        )
    large = sum(device.memory_gb + EPSILON >= need.gpu_memory_gb for device in box.devices)
    if need.gpu_memory_gb and large < need.count:
        most = max((device.memory_gb for device in box.devices), default=0.0)
        words = f"it asks {need.gpu_memory_gb:g} GiB on each of {need.count} GPUs, the largest GPU has {most:g} GiB"
        if large:
            words = f"it asks {need.gpu_memory_gb:g} GiB on each of {need.count} GPUs, only {large} have so much"
        return Reason("gpu_memory", words, need.gpu_memory_gb, most)
    return None


def _over_queue(asked: float, queue: Queue | None) -> Reason | None:
    if queue is None:
        return None
    if queue.max_running == 0:
        return Reason("queue_running", f"the queue {queue.name} runs no jobs", 1, 0)
    if asked and queue.max_gpus is not None and asked > queue.max_gpus + EPSILON:
        return Reason("queue_gpus", f"the queue {queue.name} may hold {queue.max_gpus:g} GPUs", asked, queue.max_gpus)
    return None


def _over_quota(asked: float, state: State, team: str) -> Reason | None:
    """Whether at each moment of a week some quota that cannot be passed is too small."""
    caps = [quota for quota in state.quotas if quota.team == team and not quota.borrowable]
    windows = [window for quota in caps for window in quota.windows]
    moments = {_MONDAY, *(moment for window in windows for moment in changes(window, _MONDAY, _MONDAY + _WEEK))}
    allowed = [
        min((most(quota, state) for quota in caps if active(quota, moment)[0]), default=float("inf"))
        for moment in moments
    ]
    highest = max(allowed)
    if not asked or asked <= highest + EPSILON:
        return None
    return Reason("team_quota", f"team {team} may never hold more than {highest:g} GPUs", asked, highest)
