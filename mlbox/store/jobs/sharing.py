"""How the box is shared: queues, what teams may hold and when, how much each weighs, and what everyone has used.

What was used is not counted anywhere: it follows from the attempts, which have their GPUs, their begin and their end. So no crash
between two writes can lose or double a second of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.errors import Conflict, InvalidInput, NotFound, suggest
from mlbox.records import JobQueue, TeamQuota, TeamWeight, UsageRow, check_name
from mlbox.store.db import Database, Row, Tx
from mlbox.store.windows import check_zone, parse_window

DEFAULT = "default"
MOST_WEIGHT = 1000.0
MOST_SLICE = 7 * 24 * 60.0
"""Minutes: who waits for a turn longer than a week gets none."""
_HOUR_US = 3_600_000_000
_ZERO_AFTER = 20
"""Half-lives after which what was used is nothing any more: a millionth."""

_USED = """
SELECT team, CASE WHEN visible('team', team) THEN user END AS who, count(DISTINCT job.id) AS jobs,
  sum(max(0, min(coalesce(attempt.ended_us, :until), :until) - max(started_us, :since)) * gpu_count) AS gpu_us,
  sum(max(0, min(coalesce(attempt.ended_us, :until), :until) - max(started_us, :since)) * cpu_count) AS cpu_us
FROM attempt JOIN job ON job.id = attempt.job_id
WHERE started_us < :until AND coalesce(attempt.ended_us, :until) > :since
GROUP BY team, who ORDER BY gpu_us DESC, cpu_us DESC, team, who
"""


class Spent(NamedTuple):
    """Seconds of GPUs, and of CPUs by attempts without one, the older ones counted less."""

    gpu_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: object) -> Spent:
        """Of both together."""
        assert isinstance(other, Spent)
        return Spent(self.gpu_seconds + other.gpu_seconds, self.cpu_seconds + other.cpu_seconds)


class Sharing:
    """The rules by which one box is shared."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.version = 0
        """Another one after each change."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change, in the thread that made it."""

    def _change(self, write: Callable[[Tx], None]) -> None:
        self._db.write(write)
        self.version += 1
        self.on_change()

    # -- queues -----------------------------------------------------------------------------------------------------

    def queues(self) -> list[JobQueue]:
        """All queues by name, with how many jobs wait and run in each."""
        rows = self._db.all(
            "SELECT coalesce(nullif(json_extract(spec, '$.queue'), ''), :default) AS name,"
            " sum(state IN ('queued', 'preempted')) AS waiting, sum(state IN ('starting', 'running', 'stopping')) AS running"
            " FROM job WHERE state IN ('queued', 'preempted', 'starting', 'running', 'stopping') GROUP BY 1",
            {"default": DEFAULT},
        )
        counts = {row["name"]: (row["waiting"], row["running"]) for row in rows}
        kept = {queue.name: queue for queue in self.set_queues()}
        found = {name: JobQueue(name=name) for name in counts if self._db.privacy.visible("team", name)} | kept
        return [
            msgspec.structs.replace(queue, waiting=counts.get(name, (0, 0))[0], running=counts.get(name, (0, 0))[1])
            for name, queue in sorted(found.items())
        ]

    def set_queues(self) -> list[JobQueue]:
        """The queues that somebody made, without counting their jobs."""
        return [_queue(row) for row in self._db.all("SELECT * FROM queue")]

    def queue(self, name: str) -> JobQueue:
        """One queue; raises NotFound."""
        queues = {queue.name: queue for queue in self.queues()}
        if name not in queues:
            raise self._no_queue(name)
        return queues[name]

    def _no_queue(self, name: str) -> NotFound:
        hint = suggest(name, [queue.name for queue in self.queues()], otherwise="`mlbox queue ls` lists them.")
        return NotFound(f"There is no queue {name[:80]!r}.", hint=hint, field="queue")

    def set_queue(self, queue: JobQueue, *, actor: str) -> JobQueue:
        """Make a queue, or change one."""
        check_name(queue.name, field="name")
        _check_weight(queue.weight)
        _check_least(queue.max_gpus, "max_gpus", 0.0)
        _check_least(queue.max_running, "max_running", 0)
        _check_between(queue.slice_minutes, "slice_minutes", 0.1, MOST_SLICE)
        limits = (queue.weight, queue.max_gpus, queue.max_running, queue.slice_minutes)

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO queue (name, weight, max_gpus, max_running, slice_minutes, created_us) VALUES (?,?,?,?,?,?)"
                " ON CONFLICT (name) DO UPDATE SET weight = excluded.weight, max_gpus = excluded.max_gpus,"
                " max_running = excluded.max_running, slice_minutes = excluded.slice_minutes",
                (queue.name, *limits, tx.now_us),
            )
            said = dict(zip(("weight", "max_gpus", "max_running", "slice_minutes"), limits, strict=True))
            tx.emit("queue.set", f"queue:{queue.name}", actor, **said)

        self._change(write)
        return self.queue(queue.name)

    def remove_queue(self, name: str, *, actor: str) -> None:
        """Take a queue away; raises Conflict for the default one, and while jobs wait or run in it."""
        if name == DEFAULT:
            raise Conflict("The default queue cannot be removed.", hint="Limit it instead: `mlbox queue set default`.")
        found = self.queue(name)
        if found.waiting or found.running:
            raise Conflict(
                f"{found.waiting + found.running} jobs wait or run in the queue {name}.",
                hint="Stop them, or wait for their end.",
            )

        def write(tx: Tx) -> None:
            if tx.run("DELETE FROM queue WHERE name = ?", (name,)).rowcount:
                tx.emit("queue.removed", f"queue:{name}", actor)

        self._change(write)

    def check_queue(self, name: str, team: str, owner: str) -> None:
        """Raise for a queue that a team's job cannot use; `owner` is the team that owns what has the queue's name.

        A team's own queue bears its name and need not be made; it takes that team's jobs alone.
        """
        if name in ("", DEFAULT):
            return
        known = self._db.one("SELECT 1 FROM queue WHERE name = ?", (name,)) is not None
        if name == team or (known and owner in ("everyone", team)):
            return
        if known:
            raise InvalidInput(
                f"The queue {name} is the team {owner}'s, and the job is {team}'s.",
                hint="Submit it in that team's name, or to another queue.",
                field="queue",
            )
        raise self._no_queue(name)

    # -- quotas -----------------------------------------------------------------------------------------------------

    def quotas(self, team: str | None = None) -> list[TeamQuota]:
        """All quotas, or a team's."""
        rows = self._db.all("SELECT * FROM team_quota WHERE :team IS NULL OR team = :team", {"team": team})
        return sorted(map(_quota, rows), key=lambda quota: (quota.team, quota.name))

    def set_quota(self, quota: TeamQuota, *, actor: str) -> TeamQuota:
        """Say what a team may hold; another one of the same name is replaced."""
        kept = _checked(quota)

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT OR REPLACE INTO team_quota (team, name, gpus, share, windows, zone, borrowable) VALUES (?,?,?,?,?,?,?)",
                (
                    *(kept.team, kept.name, kept.gpus, kept.share),
                    *(msgspec.json.encode(kept.windows).decode(), kept.zone, kept.borrowable),
                ),
            )
            said = {name: getattr(kept, name) for name in ("gpus", "share", "windows", "zone", "borrowable")}
            tx.emit("quota.set", f"quota:{kept.team}/{kept.name}", actor, **said)

        self._change(write)
        return kept

    def remove_quota(self, team: str, name: str, *, actor: str) -> None:
        """Take a quota away; raises NotFound."""

        def write(tx: Tx) -> None:
            if not tx.run("DELETE FROM team_quota WHERE team = ? AND name = ?", (team, name)).rowcount:
                raise NotFound(
                    f"The team {team} has no quota {name[:80]!r}.", hint="`mlbox quota ls` lists them.", field="name"
                )
            tx.emit("quota.removed", f"quota:{team}/{name}", actor)

        self._change(write)

    def weights(self) -> list[TeamWeight]:
        """The teams whose weight is not 1."""
        rows = self._db.all("SELECT * FROM team_weight ORDER BY team")
        return [TeamWeight(team=row["team"], weight=row["weight"]) for row in rows]

    def set_weight(self, team: str, weight: float, *, actor: str) -> TeamWeight:
        """Say how much of the box a team gets beside others that want it, too."""
        _check_weight(weight)

        def write(tx: Tx) -> None:
            tx.run("INSERT OR REPLACE INTO team_weight (team, weight) VALUES (?,?)", (team, weight))
            tx.emit("quota.weight", f"team:{team}", actor, weight=weight)

        self._change(write)
        return TeamWeight(team=team, weight=weight)

    # -- use --------------------------------------------------------------------------------------------------------

    def used(self, since: datetime, until: datetime) -> list[UsageRow]:
        """What each person of each team used in a period, most first; what runs counts up to its end, which has come."""
        rows = self._db.all(_USED, {"since": to_us(since), "until": to_us(until)})
        return [
            UsageRow(
                team=row["team"],
                user=row["who"],
                gpu_hours=row["gpu_us"] / _HOUR_US,
                cpu_hours=row["cpu_us"] / _HOUR_US,
                jobs=row["jobs"],
            )
            for row in rows
        ]

    def spent(self, now: datetime, half_life: timedelta) -> Mapping[tuple[str, str], Spent]:
        """By team and queue what was used up to now, halved with every half-life that went by since."""
        rows = self._db.all(
            "SELECT team, coalesce(nullif(json_extract(spec, '$.queue'), ''), :default) AS queue, started_us,"
            " coalesce(attempt.ended_us, :now) AS ended_us, gpu_count, cpu_count FROM attempt JOIN job ON job.id = job_id"
            " WHERE coalesce(attempt.ended_us, :now) > :since AND started_us < :now",
            {"now": to_us(now), "since": to_us(now - _ZERO_AFTER * half_life), "default": DEFAULT},
        )
        found: dict[tuple[str, str], Spent] = {}
        for row in rows:
            seconds = _decayed(now, from_us(row["started_us"]), min(now, from_us(row["ended_us"])), half_life)
            key = (row["team"], row["queue"])
            cpus = 0.0 if row["gpu_count"] else row["cpu_count"]
            found[key] = found.get(key, Spent()) + Spent(seconds * row["gpu_count"], seconds * cpus)
        return found


def _decayed(now: datetime, start: datetime, end: datetime, half_life: timedelta) -> float:
    """The seconds of a period, each halved with every half-life since: the integral of 2 ** (-age / half-life).

    None where the clock was set back in it.
    """
    if end <= start:
        return 0.0
    scale = half_life.total_seconds() / math.log(2)
    return scale * float(0.5 ** ((now - end) / half_life) - 0.5 ** ((now - start) / half_life))


def _checked(quota: TeamQuota) -> TeamQuota:
    """A quota in the form that is kept; raises InvalidInput with the field."""
    check_name(quota.name)
    if (quota.gpus is None) == (quota.share is None):
        raise InvalidInput(
            "A quota is a number of GPUs or a share of them.", hint="Give one of gpus and share.", field="gpus"
        )
    _check_least(quota.gpus, "gpus", 0.0)
    if quota.share is not None and not 0 <= quota.share <= 1:
        raise InvalidInput(f"The share is {quota.share}.", hint="Give 0 to 1, such as 0.4.", field="share")
    windows = tuple(str(parse_window(text)) for text in quota.windows)
    if len(windows) > 50:
        raise InvalidInput(f"The quota has {len(windows)} windows.", hint="Use at most 50.", field="windows")
    return msgspec.structs.replace(quota, windows=windows, zone=check_zone(quota.zone), open_until=None, counts=True)


def _check_weight(weight: float) -> None:
    if not 1 / MOST_WEIGHT <= weight <= MOST_WEIGHT:
        raise InvalidInput(
            f"The weight is {weight:g}.", hint=f"Use {1 / MOST_WEIGHT:g} to {MOST_WEIGHT:g}.", field="weight"
        )


def _check_least(value: float | None, field: str, least: float) -> None:
    if value is not None and not (least <= value < math.inf):
        raise InvalidInput(f"{field} is {value}.", hint=f"Use {least:g} or more.", field=field)


def _check_between(value: float | None, field: str, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidInput(f"{field} is {value:g}.", hint=f"Use {least:g} to {most:,g}.", field=field)


def _queue(row: Row) -> JobQueue:
    return JobQueue(**{name: row[name] for name in ("name", "weight", "max_gpus", "max_running", "slice_minutes")})


def _quota(row: Row) -> TeamQuota:
    return TeamQuota(
        **{name: row[name] for name in ("team", "name", "gpus", "share", "zone")},
        windows=msgspec.json.decode(row["windows"], type=tuple[str, ...]),
        borrowable=bool(row["borrowable"]),
    )
