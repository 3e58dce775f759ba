"""What can never run here, so that it is refused when it is submitted."""

from __future__ import annotations

from mlbox.scheduler.policy.capacity import gpus
from mlbox.scheduler.policy.types import DEFAULT_QUEUE, EPSILON, Need, Reason, State


def impossible(
    need: Need, state: State, *, team: str = "everyone", queue: str = DEFAULT_QUEUE, checkpoints: bool = False
) -> Reason | None:
    """Why a job could not run on the empty box, whatever anyone waits for; None where it could.

    `asked` and `free` are what it asks and the most that there ever is; `kind` names the field.
    """
    line = state.queues.get(queue)
    if line and line.quantum_seconds is not None and not checkpoints:
        return Reason("turns", f"jobs in the queue {queue} take turns, and it saves no checkpoints")
    return _too_large(need, state) or _over_limits(need, state, team, queue)


def _too_large(need: Need, state: State) -> Reason | None:
    box = state.box
    if need.cpus > box.cpus + EPSILON:
        return Reason("cpus", f"it asks {need.cpus:g} CPUs, the box has {box.cpus:g}", need.cpus, box.cpus)
    if need.memory_gb > box.memory_gb + EPSILON:
        words = f"it asks {need.memory_gb:g} GB, the box has {box.memory_gb:.4g} GB"
        return Reason("memory", words, need.memory_gb, box.memory_gb)
    if need.count > len(box.devices):
        return Reason(
            "gpus", f"it asks {need.count} GPUs, the box has {len(box.devices)}", need.count, len(box.devices)
        )
    large = sum(device.memory_gb + EPSILON >= need.gpu_memory_gb for device in box.devices)
    if need.gpu_memory_gb and large < need.count:
        most = max((device.memory_gb for device in box.devices), default=0.0)
        words = f"it asks {need.gpu_memory_gb:g} GB on each of {need.count} GPUs, the largest GPU has {most:g} GB"
        if large:
            words = f"it asks {need.gpu_memory_gb:g} GB on each of {need.count} GPUs, only {large} have so much"
        return Reason("gpu_memory", words, need.gpu_memory_gb, most)
    return None


def _over_limits(need: Need, state: State, team: str, queue: str) -> Reason | None:
    asked = gpus(need, state.box)
    line = state.queues.get(queue)
    if line and line.max_running == 0:
        return Reason("queue_running", f"the queue {queue} runs no jobs", 1, 0)
    if line and line.max_gpus is not None and asked > line.max_gpus + EPSILON:
        return Reason("queue_gpus", f"the queue {queue} may hold {line.max_gpus:g} GPUs", asked, line.max_gpus)
    for quota in state.quotas:
        if quota.team != team or quota.borrowable or quota.windows:
            continue
        most = quota.gpus if quota.gpus is not None else (quota.share or 0.0) * len(state.box.devices)
        if asked > most + EPSILON:
            return Reason("team_quota", f"team {team} may hold {most:g} GPUs at any time", asked, most)
    return None
