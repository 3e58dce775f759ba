"""Attempts as processes of this machine."""

from mlbox.scheduler.executors.local.executor import Local

__all__ = ["Local"]
