"""Replays of logged traffic that people asked for, kept with their versions; what a restart cut off is begun anew."""

from __future__ import annotations

import msgspec

from mlbox.errors import NotFound
from mlbox.ids import new_id
from mlbox.records import ModelVersion, Replay
from mlbox.store.db import Database, Tx

MOST_KEPT = 20
"""Of a version: the newest."""
MOST_STARTS = 2
"""One that cut off the server so often is not begun again."""


class Replays:
    """The replays of all versions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, version: ModelVersion, asked: Replay) -> Replay:
        """Put one into the queue; the oldest of its version go."""
        found = msgspec.structs.replace(asked, id=new_id())

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO replay (id, version_id, state, found) VALUES (?,?,?,?)",
                (found.id, version.id, found.state, found.to_json().decode()),
            )
            tx.run(
                "DELETE FROM replay WHERE version_id = :version AND state NOT IN ('waiting', 'running') AND id NOT IN"
                " (SELECT id FROM replay WHERE version_id = :version ORDER BY id DESC LIMIT :most)",
                {"version": version.id, "most": MOST_KEPT},
            )
            tx.emit("model.replay", f"model:{version.ref}", found.by, replay=found.id)

        self._db.write(write)
        return found

    def begin(self, replay: Replay) -> Replay:
        """It is under way; failed, where it was so at the end of so many servers."""
        found = msgspec.structs.replace(replay, state="running")

        def write(tx: Tx) -> int:
            row = tx.one("UPDATE replay SET starts = starts + 1 WHERE id = ? RETURNING starts", (replay.id,))
            if row is None or row["starts"] > MOST_STARTS:
                return 0
            _put(tx, found)
            return 1

        if self._db.write(write):
            return found
        reason = f"the server ended {MOST_STARTS} times while it ran: it is not begun again"
        return self.end(msgspec.structs.replace(replay, state="failed", reason=reason))

    def put_back(self, replay: Replay) -> None:
        """The server ends in good order: the next one begins it, and that counts for nothing."""
        found = msgspec.structs.replace(replay, state="waiting")

        def write(tx: Tx) -> None:
            tx.run("UPDATE replay SET starts = starts - 1 WHERE id = ?", (replay.id,))
            _put(tx, found)

        self._db.write(write)

    def end(self, replay: Replay) -> Replay:
        """Keep what came of it."""

        def write(tx: Tx) -> None:
            _put(tx, replay)
            tx.emit("model.replayed", f"model:{replay.ref}", replay.by, replay=replay.id, reason=replay.words)

        self._db.write(write)
        return replay

    def of(self, version: ModelVersion, *, limit: int = MOST_KEPT) -> list[Replay]:
        """A version's, newest first."""
        rows = self._db.all(
            "SELECT found FROM replay WHERE version_id = ? ORDER BY id DESC LIMIT ?", (version.id, limit)
        )
        return [_replay(row["found"], version.model) for row in rows]

    def get(self, version: ModelVersion, replay_id: str) -> Replay:
        """One of a version's; raises NotFound."""
        row = self._db.one("SELECT found FROM replay WHERE version_id = ? AND id = ?", (version.id, replay_id))
        if row is None:
            raise NotFound(
                f"{version.ref} has no replay {replay_id!r:.80}.",
                hint=f"`mlbox model replay {version.ref}` makes one.",
                field="id",
            )
        return _replay(row["found"], version.model)

    def open(self) -> list[Replay]:
        """Those in the queue or under way, oldest first."""
        rows = self._db.all(
            "SELECT found, m.name FROM replay r JOIN model_version v ON v.id = r.version_id JOIN model m ON m.id = v.model_id"
            " WHERE r.state IN ('waiting', 'running') ORDER BY r.id"
        )
        return [_replay(row["found"], row["name"]) for row in rows]


def _replay(found: str, model: str) -> Replay:
    """As it was kept, under the name that the model has now."""
    return msgspec.structs.replace(msgspec.json.decode(found, type=Replay), model=model)


def _put(tx: Tx, replay: Replay) -> None:
    tx.run("UPDATE replay SET state = ?, found = ? WHERE id = ?", (replay.state, replay.to_json().decode(), replay.id))
