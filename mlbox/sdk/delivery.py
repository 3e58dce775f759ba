"""Bringing what a spool holds to the box: in order, in batches, each operation exactly once in effect."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mlbox.client import Client
from mlbox.errors import MlboxError, TimedOut, Unavailable
from mlbox.records import Run, RunArtifact
from mlbox.sdk.spool import Spool

BATCH = 1000
"""Points in one request, the most that the box takes."""
Op = dict[str, Any]


class Delivery:
    """Sends one run's spool."""

    def __init__(self, client: Client, run_id: str, spool: Spool, record: Run | None = None) -> None:
        self._client = client
        self._run_id = run_id
        self._spool = spool
        self.record = record
        """The run as the box last told of it."""

    def step(self) -> list[MlboxError]:
        """Send what waits, about a megabyte at most; what was refused, and why.

        Raises Unavailable or TimedOut when the box does not answer: what it has not taken is sent by the next step.
        """
        refused: list[MlboxError] = []
        for offset, ops in _batches(list(self._spool.pending())):
            refused += self._send(ops)
            self._spool.taken(offset)
        return refused

    def _send(self, ops: list[Op]) -> list[MlboxError]:
        try:
            self._tell(ops)
        except (Unavailable, TimedOut):
            raise
        except MlboxError as err:
            if len(ops) == 1:
                self._spool.refuse(ops[0], str(err))
                return [err]
            return [error for op in ops for error in self._send([op])]  # the others are not to suffer for one
        return []

    def _tell(self, ops: list[Op]) -> None:
        run, first = f"/api/v1/runs/{self._run_id}", ops[0]
        match first["op"]:
            case "start":
                self.record = self._client.post("/api/v1/runs", Run, first["body"])
            case "log":
                self._client.request("POST", f"{run}/log", body=_merged(ops))
            case "artifact":
                kept = self._spool.folder / "files" / first["file"]
                if kept.exists():  # else the box has it, and this process ended before it could note so
                    self._client.upload("PUT", f"{run}/artifacts/{quote(first['path'])}", kept, RunArtifact)
                    kept.unlink()
            case "end":
                self.record = self._client.post(f"{run}/end", Run, {"status": first["status"]})


def _batches(waiting: list[tuple[int, Op]]) -> list[tuple[int, list[Op]]]:
    """Operations in their order, those that are logged in a row together, with the offset after each batch."""
    found: list[tuple[int, list[Op]]] = []
    points = 0
    for offset, op in waiting:
        size = len(op.get("metrics", ()))
        if found and _joins(op, found[-1][1][-1]) and points + size <= BATCH:
            batch = found.pop()[1]
            batch.append(op)
            found.append((offset, batch))
            points += size
        else:
            found.append((offset, [op]))
            points = size
    return found


def _joins(op: Op, before: Op) -> bool:
    """True for what can share a request: parameters go alone, so that a second value is refused and seen."""
    return op["op"] == before["op"] == "log" and not op.get("params") and not before.get("params")


def _merged(ops: list[Op]) -> dict[str, Any]:
    """One request for several: points in their order, the last word on a tag."""
    body: dict[str, Any] = {"metrics": [], "params": {}, "tags": {}}
    for op in ops:
        body["metrics"] += op.get("metrics", ())
        body["params"] |= op.get("params", {})
        body["tags"] |= op.get("tags", {})
    return body
