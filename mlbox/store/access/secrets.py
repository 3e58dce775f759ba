"""Secrets for jobs: named values of a team, encrypted at rest, given to its jobs and to nobody else.

AES-256-GCM, with a random nonce per value; the associated data binds a ciphertext to its team, its name and its key, so that a
row that was copied or renamed in the file does not open. No function gives a value back but the one that starts a job.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlbox.clock import from_us
from mlbox.errors import InvalidInput, NotAuthorised, NotFound, Unavailable, suggest
from mlbox.events import EventBus
from mlbox.masking import SHORTEST, lines_of
from mlbox.records import Event, Job, Secret
from mlbox.store.access.teams import EVERYONE
from mlbox.store.db import Database, Row, Tx
from mlbox.store.keyfile import KEY_BYTES, KeyFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MOST_BYTES = 65536
"""Largest value: an environment variable of twice that does not start a process on Linux."""
TOKEN = "MLBOX_TOKEN"  # noqa: S105
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NONCE_BYTES = 12
_RESERVED = ("CUDA_VISIBLE_DEVICES", "PATH")
_VISIBLE = "visible('team', team)"


class Given(NamedTuple):
    """What one job gets."""

    env: dict[str, str] = {}
    """Values by environment variable."""
    values: dict[str, str] = {}
    """Values by the secret's name."""

    def masking(self, token: str) -> dict[str, str]:
        """What must not stand in the job's log, by the name that stands for it: its token too, where there is a secret."""
        return {**self.values, TOKEN: token} if self.values else {}


class Rotated(NamedTuple):
    """What a change of the key did."""

    sealed: int
    """Secrets that are now under the new key."""
    lost: tuple[str, ...]
    """Secrets as TEAM/NAME whose key is not there, and that must be set again."""


class Secrets:
    """All secrets of one box. `may_use(user, team)` says whether a user's job may have a team's secrets.

    On the bus it hears of teams that are gone: their secrets go with them, and a later team of the same name inherits none.
    """

    def __init__(
        self, db: Database, key_file: KeyFile, may_use: Callable[[str, str], bool], bus: EventBus | None = None
    ) -> None:
        self._db = db
        self._key_file = key_file
        self._may_use = may_use
        self._lock = threading.Lock()
        """Held while the key is read to encrypt with, or changed."""
        if bus is not None:
            bus.subscribe(self._on_event, ["team."])

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, team: str, name: str, value: str, *, actor: str) -> Secret:
        """Keep a value, in place of a former one. Raises InvalidInput for one that cannot be kept, without telling it."""
        _check_name(name, "name")
        _check_value(value)
        self.keep(team, name, value, actor=actor)
        return self.one(team, name)

    def keep(self, team: str, name: str, value: str, *, actor: str | None = None) -> None:
        """Keep a value for the box itself, where no actor is named: `team` begins with `~`, as no team's name does."""
        with self._lock:
            key_id, key = self._key_file.current()
            nonce, sealed = _seal(key, key_id, team, name, value.encode())

            def write(tx: Tx) -> None:
                tx.run(
                    "INSERT INTO secret (team, name, key_id, nonce, sealed, set_by, set_us) VALUES (?,?,?,?,?,?,?)"
                    " ON CONFLICT (team, name) DO UPDATE SET key_id = excluded.key_id, nonce = excluded.nonce,"
                    " sealed = excluded.sealed, set_by = excluded.set_by, set_us = excluded.set_us",
                    (team, name, key_id, nonce, sealed, actor or "system", tx.now_us),
                )
                if actor is not None:
                    tx.emit("secret.set", f"secret:{name}", actor, team=team)

            self._db.write(write)

    def reveal(self, team: str, name: str) -> str:
        """A value that the box keeps for itself; raises NotFound, or Unavailable where its key is lost."""
        row = self._db.one("SELECT * FROM secret WHERE team = ? AND name = ?", (team, name))
        if row is None:
            raise _missing(team, name)
        return self._open_all([row])[team, name]

    def drop(self, team: str, name: str) -> None:
        """Forget a value that the box kept for itself."""
        self._db.write(lambda tx: tx.run("DELETE FROM secret WHERE team = ? AND name = ?", (team, name)))

    def remove(self, team: str, name: str, *, actor: str) -> None:
        """Forget a secret; raises NotFound. A job that is under way keeps what it was given."""

        def write(tx: Tx) -> None:
            if not tx.run("DELETE FROM secret WHERE team = ? AND name = ?", (team, name)).rowcount:
                raise _missing(team, name)
            tx.emit("secret.removed", f"secret:{name}", actor, team=team)

        self._db.write(write)

    def _on_event(self, event: Event) -> None:
        if event.type in ("team.removed", "team.created"):
            team = event.subject.partition(":")[2]
            self._db.submit(lambda tx: _forget_team(tx, team, event.actor))

    def rotate_key(self, *, actor: str) -> Rotated:
        """Encrypt everything anew under a new key and forget the old one.

        The file holds both keys until every row is written, so that a crash in between loses nothing.
        """
        with self._lock:
            keys = self._key_file.keys()
            new = self._key_file.write([os.urandom(KEY_BYTES), *keys.values()])
            key_id, key = next(iter(new.items()))

            def write(tx: Tx) -> Rotated:
                rows = tx.all("SELECT * FROM secret ORDER BY team, name")
                known = [row for row in rows if row["key_id"] in keys]
                for row in known:
                    value = _open(keys[row["key_id"]], row)
                    nonce, sealed = _seal(key, key_id, row["team"], row["name"], value)
                    tx.run(
                        "UPDATE secret SET key_id = ?, nonce = ?, sealed = ? WHERE team = ? AND name = ?",
                        (key_id, nonce, sealed, row["team"], row["name"]),
                    )
                tx.emit("secret.rotated", "secret:*", actor, secrets=len(known))
                return Rotated(len(known), tuple(_ref(row) for row in rows if row["key_id"] not in keys))

            done = self._db.write(write)
            self._key_file.write([key])
        return done

    # -- reading ------------------------------------------------------------------------------------------------------

    def all(self) -> list[Secret]:
        """The secrets of the teams of whoever asks, by team and name, without their values."""
        known = self._known_keys()
        rows = self._db.all(f"SELECT * FROM secret WHERE {_VISIBLE} AND team NOT LIKE '~%' ORDER BY team, name")
        return [_secret(row, known) for row in rows]

    def one(self, team: str, name: str) -> Secret:
        """One secret without its value; raises NotFound, for another team's too."""
        return _secret(self._row(team, name), self._known_keys())

    def lost(self) -> list[str]:
        """Secrets, as TEAM/NAME, that must be set again, because the key that they were encrypted with is not there."""
        known = self._known_keys()
        return [
            _ref(row) for row in self._db.all("SELECT * FROM secret ORDER BY team, name") if row["key_id"] not in known
        ]

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def resolve(self, wanted: Mapping[str, str], *, team: str, env: Mapping[str, str] = {}) -> dict[str, str]:
        """What a job of a team asks for, by variable, with each secret as TEAM/NAME.

        NAME alone is the job's team's, else everyone's. Another team's is refused, because those who may read this job's files
        are not in it. Raises InvalidInput naming the variable, or NotFound.
        """
        found = {}
        for variable, reference in wanted.items():
            _check_variable(variable, env)
            owner, slash, name = reference.rpartition("/")
            if slash and owner not in (team, EVERYONE):
                raise InvalidInput(
                    f"A job of the team {team} cannot have the secret {reference[:200]!r}.",
                    hint=f"Only secrets of {team} and of {EVERYONE} can go to it.",
                    field="secrets",
                )
            found[variable] = _ref(self._row(owner, name) if slash else self._of_team_or_everyone(team, name))
        return found

    def of_job(self, job: Job) -> Given:
        """The values that a job is to start with; says in the audit log that it got them.

        Raises NotFound for a secret that is no longer there, NotAuthorised for a user who has left its team, and Unavailable
        naming what must be set again where a key is lost.
        """
        if not job.spec.secrets:
            return Given()
        references = {variable: tuple(ref.split("/", 1)) for variable, ref in job.spec.secrets.items()}
        rows = {(team, name): self._row(team, name) for team, name in sorted(set(references.values()))}
        for team, name in rows:
            if not self._may_use(job.user, team):
                raise NotAuthorised(
                    f"{job.user} may no longer use the secret {team}/{name}.", hint=f"It takes a member of {team}."
                )
        opened = self._open_all(list(rows.values()))
        self._db.write(lambda tx: _note_use(tx, list(rows), job))
        names = [name for _, name in rows]
        return Given(
            {variable: opened[where] for variable, where in references.items()},
            {name if names.count(name) == 1 else f"{team}/{name}": opened[team, name] for team, name in rows},
        )

    def _open_all(self, rows: Sequence[Row]) -> dict[tuple[str, ...], str]:
        keys = self._key_file.keys()
        lost = [_ref(row) for row in rows if row["key_id"] not in keys]
        if lost:
            raise Unavailable(
                f"The key of {', '.join(lost)} is lost.",
                hint=f"Restore {self._key_file.path}, or set again with `mlbox secret set`: {', '.join(lost)}.",
            )
        return {(row["team"], row["name"]): _open(keys[row["key_id"]], row).decode() for row in rows}

    def _of_team_or_everyone(self, team: str, name: str) -> Row:
        rows = self._db.all(
            f"SELECT * FROM secret WHERE team IN (?, ?) AND name = ? AND {_VISIBLE} ORDER BY team = ?",
            (team, EVERYONE, name, EVERYONE),
        )
        if not rows:
            known = self._db.all(f"SELECT name FROM secret WHERE team IN (?, ?) AND {_VISIBLE}", (team, EVERYONE))
            raise _missing(team, name, [row["name"] for row in known])
        return rows[0]

    def _row(self, team: str, name: str) -> Row:
        row = self._db.one(f"SELECT * FROM secret WHERE team = ? AND name = ? AND {_VISIBLE}", (team, name))
        if row is None:
            raise _missing(team, name)
        return row

    def _known_keys(self) -> set[str]:
        """Ids of the keys that are there; a file that cannot be used opens nothing."""
        try:
            return set(self._key_file.keys())
        except Unavailable:
            return set()


def _forget_team(tx: Tx, team: str, actor: str) -> None:
    for row in tx.all("SELECT name FROM secret WHERE team = ?", (team,)):
        tx.run("DELETE FROM secret WHERE team = ? AND name = ?", (team, row["name"]))
        tx.emit("secret.removed", f"secret:{row['name']}", actor, team=team)


def _note_use(tx: Tx, used: Sequence[tuple[str, ...]], job: Job) -> None:
    for team, name in used:
        tx.run("UPDATE secret SET used_us = ? WHERE team = ? AND name = ?", (tx.now_us, team, name))
        tx.emit("secret.used", f"secret:{name}", job.user, team=team, job=job.id)


def _cipher(key: bytes) -> AESGCM:
    # Here, because its library takes 20 ms to load and most servers start without a secret.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _seal(key: bytes, key_id: str, team: str, name: str, value: bytes) -> tuple[bytes, bytes]:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce, _cipher(key).encrypt(nonce, value, _bound_to(key_id, team, name))


def _open(key: bytes, row: Row) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(row["nonce"], row["sealed"], _bound_to(row["key_id"], row["team"], row["name"]))
    except InvalidTag as err:
        raise Unavailable(
            f"The secret {_ref(row)} was changed on disk, and does not open.", hint="Set it again: `mlbox secret set`."
        ) from err


def _bound_to(key_id: str, team: str, name: str) -> bytes:
    return b"\0".join([b"mlbox secret", key_id.encode(), team.encode(), name.encode()])


def _check_name(name: str, field: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not a valid {field} of a secret.",
            hint="Use letters, digits and '_', not beginning with a digit, as for an environment variable.",
            field=field,
        )


def _check_variable(variable: str, env: Mapping[str, str]) -> None:
    _check_name(variable, "variable")
    if variable.startswith("MLBOX_") or variable in _RESERVED:
        raise InvalidInput(f"The variable {variable} is mlbox's own.", hint="Choose another.", field="secrets")
    if variable in env:
        raise InvalidInput(
            f"The variable {variable} is given as a value and as a secret.", hint="Leave one out.", field="secrets"
        )


def _check_value(value: str) -> None:
    if not lines_of(value):
        raise InvalidInput(
            f"The value has no line of {SHORTEST} characters or more, and could not be told from other text in a log.",
            hint="Use a longer one.",
            field="value",
        )
    if len(value.encode()) > MOST_BYTES or "\0" in value:
        raise InvalidInput(
            f"The value is longer than {MOST_BYTES} bytes, or has a NUL, which no environment variable can hold.",
            hint="Keep a file in base64, without line breaks.",
            field="value",
        )


def _missing(team: str, name: str, known: Iterable[str] = ()) -> NotFound:
    """`known` are names that whoever asks may know of."""
    return NotFound(
        f"There is no secret {name[:128]!r} in the team {team[:80]}.",
        hint=suggest(name, known, otherwise="`mlbox secret ls` lists them."),
        field="secret",
    )


def _ref(row: Row) -> str:
    return f"{row['team']}/{row['name']}"


def _secret(row: Row, known: set[str]) -> Secret:
    return Secret(
        team=row["team"],
        name=row["name"],
        set_by=row["set_by"],
        set_at=from_us(row["set_us"]),
        used_at=from_us(row["used_us"]) if row["used_us"] is not None else None,
        usable=row["key_id"] in known,
    )
