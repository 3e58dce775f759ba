"""Environments first, then places: a job whose environment is being built waits for that, and holds nothing of the box."""

from __future__ import annotations

from collections.abc import Mapping

from mlbox.scheduler.environments import key_of
from mlbox.scheduler.executors import Executor, Ref
from mlbox.scheduler.launcher import Launcher
from mlbox.scheduler.roster import Build


class Builds:
    """Who waits for what is being built, as of the last look."""

    def __init__(self, launcher: Launcher, executor: Executor) -> None:
        self._launcher = launcher
        self._executor = executor
        self.waiting: Mapping[str, str] = {}
        """By job, what it waits for, in words."""

    def look(self, asked: Mapping[str, Build]) -> list[str]:
        """Have built what is not there; the jobs whose environment could not be."""
        waiting: dict[str, str] = {}
        failed: list[str] = []
        for environment, jobs in _by_environment(asked).items():
            if self._launcher.is_built(environment):
                continue
            wait = self._launcher.build(environment, jobs)
            waiting |= dict.fromkeys(wait, f"building environment {key_of(environment)[:12]}")
            if not self._launcher.is_built(environment):
                failed += [job_id for job_id in jobs if job_id not in wait]
        for job_id in waiting.keys() - self.waiting.keys():
            self._say(job_id, asked[job_id], f"{waiting[job_id]} ...")
        for job_id in (self.waiting.keys() - waiting.keys()) & asked.keys() - set(failed):
            self._say(job_id, asked[job_id], "the environment is built")
        self.waiting = waiting
        return failed

    def _say(self, job_id: str, build: Build, line: str) -> None:
        self._executor.say(Ref(job_id, build.attempt), line)


def _by_environment(asked: Mapping[str, Build]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for job_id, build in asked.items():
        found.setdefault(build.environment, []).append(job_id)
    return found
