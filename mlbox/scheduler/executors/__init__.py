"""Where attempts run: the seam, and what is behind it."""

from mlbox.scheduler.executors.base import ABSENT, STARTING, Ended, Executor, Launch, Mount, Observed, Ref, Supply

__all__ = ["ABSENT", "STARTING", "Ended", "Executor", "Launch", "Mount", "Observed", "Ref", "Supply"]
