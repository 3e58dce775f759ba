"""The rules by which the box is shared, as the policy takes them: read once, and again when somebody changed them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from mlbox.records import TeamQuota
from mlbox.scheduler.policy import Queue, Quota, Window, span
from mlbox.store.jobs.sharing import Sharing
from mlbox.store.windows import parse_window


class Rulebook:
    """Queues, quotas and weights. `changed` is called after each change, in the thread that made it."""

    def __init__(self, sharing: Sharing, changed: Callable[[], None] = lambda: None) -> None:
        self._sharing = sharing
        self._changed = changed
        self._version = -1
        self.queues: Mapping[str, Queue] = {}
        self.quotas: tuple[Quota, ...] = ()
        self.shares: Mapping[str, float] = {}
        sharing.on_change = changed

    def refresh(self) -> None:
        """Read what was changed since the last time."""
        version = self._sharing.version
        if version == self._version:
            return
        self.queues = {
            queue.name: Queue(
                name=queue.name,
                weight=queue.weight,
                max_gpus=queue.max_gpus,
                max_running=queue.max_running,
                quantum_seconds=queue.slice_minutes and queue.slice_minutes * 60,
            )
            for queue in self._sharing.set_queues()
        }
        self.quotas = tuple(map(_quota, self._sharing.quotas()))
        self.shares = {each.team: each.weight for each in self._sharing.weights()}
        self._version = version


def shown(quota: TeamQuota, now: datetime) -> TeamQuota:
    """A quota with whether it counts now, and until when."""
    if not quota.windows:
        return quota
    windows = _quota(quota).windows
    open_now = [found for window in windows if (found := span(window, now)) is not None]
    until = max((closes for _, closes in open_now), default=None)
    return msgspec.structs.replace(quota, counts=bool(open_now), open_until=until)


def _quota(quota: TeamQuota) -> Quota:
    windows = [(parse_window(text), quota.zone) for text in quota.windows]
    return Quota(
        team=quota.team,
        gpus=quota.gpus,
        share=quota.share,
        windows=tuple(Window(days=each.days, start=each.start, end=each.end, zone=zone) for each, zone in windows),
        borrowable=quota.borrowable,
    )
