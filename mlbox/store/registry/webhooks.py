"""Webhooks: addresses that are told what happens to registered models, in MLflow's words.

The audit log is the queue. Each webhook has its own place in the registry's events, which moves on once an event was taken, or
was tried too often; so nothing is written twice for it, a server that was killed goes on where it was, and an event may come
twice but is never lost. A webhook is told only of what its owner may know of.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from mlbox.clock import from_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import Webhook, WebhookDelivery
from mlbox.store.access.secrets import Secrets
from mlbox.store.db import Database, Row, Tx

EVENTS: dict[tuple[str, bool], str] = {
    ("model.created", False): "registered_model.created",
    ("model.registered", True): "model_version.created",
    ("model.tagged", True): "model_version_tag.set",
    ("model.untagged", True): "model_version_tag.deleted",
    ("model.alias", True): "model_version_alias.created",
    ("model.unaliased", False): "model_version_alias.deleted",
    ("model.unaliased", True): "model_version_alias.deleted",
    ("model.stage", True): "model_version.stage_changed",
    ("model.archived", True): "model_version.stage_changed",
    **{
        (f"promotion.{what}", True): f"promotion.{what}"
        for what in (
            *(
                "proposed",
                "testing",
                "waiting_traffic",
                "command",
                "integration",
                "shadow",
                "waiting_approval",
                "reminder",
                "approval",
                "approved",
            ),
            *("canary", "step", "paused", "resumed", "undecided", "frozen"),
            *("completed", "rejected", "rolled_back", "withdrawn", "expired"),
        )
    },
}
"""Names by our events, and by whether they are about a version: MLflow's where it has one, and ours for what it does not know."""
MLFLOW = frozenset(name for name in EVENTS.values() if not name.startswith(("promotion.", "model_version.stage")))
PROMOTION_FACTS = ("promotion", "reason", "percent", "gate", "job", "decision")
NAMES = tuple(dict.fromkeys(EVENTS.values()))
MAX_URL, MAX_SECRET, MAX_WEBHOOKS = 2000, 500, 100
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
AT_ONCE = 100
MOST_DELIVERIES, MOST_STATUS = 1000, 500
_SECRETS_OF = "~webhook"
"""Where secrets are kept: no team has such a name."""


class Pending(NamedTuple):
    """An event that a webhook is to be told of."""

    seq: int
    id: str
    name: str
    at_us: int
    data: dict[str, Any]


class Webhooks:
    """All webhooks of one box."""

    def __init__(self, db: Database, secrets: Secrets) -> None:
        self._db = db
        self._secrets = secrets

    # -- what there is ----------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        url: str,
        events: Sequence[str],
        *,
        owner: str,
        description: str = "",
        secret: str = "",
        active: bool = True,
    ) -> Webhook:
        """A new webhook, for what happens from now on; raises InvalidInput."""
        _check(name=name, url=url, events=events, secret=secret)
        if len(self.all()) >= MAX_WEBHOOKS:
            raise InvalidInput(f"There are {MAX_WEBHOOKS} webhooks.", hint="Delete one first.", field="name")
        own = new_id()
        if secret:
            self._secrets.keep(_SECRETS_OF, _secret_name(own), secret)

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO webhook (id, name, description, url, events, signed, active, owner, created_us, updated_us, seq)"
                " VALUES (?,?,?,?,?,?,?,?,?,?, (SELECT coalesce(max(seq), 0) FROM event))",
                (own, name, description, url, _joined(events), bool(secret), active, owner, tx.now_us, tx.now_us),
            )
            tx.emit("webhook.created", f"webhook:{name}", owner, url=_place(url), events=sorted(events))

        self._db.write(write)
        return self.get(own)

    def get(self, webhook_id: str) -> Webhook:
        """One webhook; raises NotFound."""
        row = self._db.one("SELECT * FROM webhook WHERE id = ? AND deleted_us IS NULL", (webhook_id,))
        if row is None:
            raise NotFound(f"Webhook with ID {webhook_id[:80]} not found.", field="webhook_id")
        return _webhook(row)

    def all(self, *, limit: int = 1000, after: str = "") -> list[Webhook]:
        """Webhooks, oldest first, from above the id `after`."""
        rows = self._db.all(
            "SELECT * FROM webhook WHERE deleted_us IS NULL AND id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [_webhook(row) for row in rows]

    def change(
        self,
        webhook_id: str,
        *,
        actor: str,
        name: str | None = None,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        secret: str | None = None,
        active: bool | None = None,
    ) -> Webhook:
        """Change what is given. One that is made active again is told of what happens from then on."""
        _check(name=name, url=url, events=events, secret=secret)
        before = self.get(webhook_id)
        if secret:
            self._secrets.keep(_SECRETS_OF, _secret_name(webhook_id), secret)
        given: dict[str, Any] = {
            "name": name,
            "url": url,
            "events": None if events is None else _joined(events),
            "description": description,
            "signed": True if secret else None,
            "active": active,
        }
        changes = {key: value for key, value in given.items() if value is not None}

        def write(tx: Tx) -> None:
            for key, value in changes.items():
                tx.run(f"UPDATE webhook SET {key} = ? WHERE id = ?", (value, webhook_id))
            tx.run("UPDATE webhook SET updated_us = ?, tries = 0, next_us = 0 WHERE id = ?", (tx.now_us, webhook_id))
            if active and not before.active:
                tx.run("UPDATE webhook SET seq = (SELECT coalesce(max(seq), 0) FROM event) WHERE id = ?", (webhook_id,))
            tx.emit("webhook.changed", f"webhook:{name or before.name}", actor, fields=sorted(changes))

        self._db.write(write)
        return self.get(webhook_id)

    def delete(self, webhook_id: str, *, actor: str) -> None:
        """Forget a webhook and its secret."""
        found = self.get(webhook_id)

        def write(tx: Tx) -> None:
            tx.run("UPDATE webhook SET deleted_us = ?, active = 0 WHERE id = ?", (tx.now_us, webhook_id))
            tx.emit("webhook.deleted", f"webhook:{found.name}", actor)

        self._db.write(write)
        if found.signed:
            self._secrets.drop(_SECRETS_OF, _secret_name(webhook_id))

    def secret_of(self, webhook: Webhook) -> str:
        """What its deliveries are signed with; empty where they are not. Raises Unavailable where its key is lost."""
        return self._secrets.reveal(_SECRETS_OF, _secret_name(webhook.id)) if webhook.signed else ""

    # -- the queue --------------------------------------------------------------------------------------------------

    def due(self, now_us: int) -> list[Webhook]:
        """Active webhooks that may be tried, of which not all has been told."""
        rows = self._db.all(
            "SELECT * FROM webhook WHERE active AND deleted_us IS NULL AND next_us <= ?"
            " AND seq < (SELECT coalesce(max(seq), 0) FROM event)",
            (now_us,),
        )
        return [_webhook(row) for row in rows]

    def next_try(self) -> int | None:
        """When the first of those that failed is to be tried again, in microseconds."""
        row = self._db.one("SELECT min(next_us) AS at FROM webhook WHERE active AND deleted_us IS NULL AND tries > 0")
        return row["at"] if row is not None else None

    def pending(self, webhook: Webhook) -> tuple[list[Pending], int]:
        """Some of what a webhook was not told yet, oldest first, and the place in the log up to which that is all."""
        rows = self._db.all(
            "SELECT seq, id, type, subject, at_us, data FROM event WHERE seq > (SELECT seq FROM webhook WHERE id = ?)"
            " ORDER BY seq LIMIT ?",
            (webhook.id, AT_ONCE),
        )
        found = [told for row in rows if (told := self._told(row, webhook.events)) is not None]
        return found, rows[-1]["seq"] if rows else 0

    def _told(self, row: Row, wanted: Collection[str]) -> Pending | None:
        model, _, version = row["subject"].removeprefix("model:").partition("/")
        name = EVENTS.get((row["type"], bool(version)))
        if name is None or name not in wanted or not self._db.privacy.visible("model", model):
            return None
        given = msgspec.json.decode(row["data"])
        data = {"name": model, **self._details(name, model, version, given)}
        return Pending(row["seq"], row["id"], name, row["at_us"], data)

    def _details(self, name: str, model: str, version: str, given: Mapping[str, Any]) -> dict[str, Any]:
        if name == "registered_model.created":
            return self._of_model(model)
        if name == "model_version.created":
            return {"version": version, **self._of_version(model, version, given)}
        if name == "model_version_alias.deleted":
            return {"alias": given.get("alias", "")}
        if name == "model_version.stage_changed":
            return {"version": version, "stage": given.get("stage", "Archived")}
        if name.startswith("promotion."):
            told = {key: given[key] for key in PROMOTION_FACTS if given.get(key) not in (None, "")}
            return {"version": version, "state": name.partition(".")[2], **told}
        wanted = {"model_version_alias.created": ("alias",), "model_version_tag.set": ("key", "value")}.get(
            name, ("key",)
        )
        return {"version": version, **{key: given.get(key, "") for key in wanted}}

    def _of_model(self, model: str) -> dict[str, Any]:
        row = self._db.one(
            "SELECT purpose, (SELECT json_group_object(key, value) FROM model_tag WHERE model_id = model.id) AS tags"
            " FROM model WHERE name = ?",
            (model,),
        )
        tags = msgspec.json.decode(row["tags"]) if row is not None else {}
        return {"tags": tags, "description": row["purpose"] if row is not None else ""}

    def _of_version(self, model: str, version: str, given: Mapping[str, Any]) -> dict[str, Any]:
        row = self._db.one(
            "SELECT source, description,"
            " (SELECT json_group_object(key, value) FROM version_tag WHERE version_id = v.id) AS tags"
            " FROM model_version v JOIN model m ON m.id = v.model_id WHERE m.name = ? AND v.version = ?",
            (model, int(version)),
        )
        tags = msgspec.json.decode(row["tags"]) if row is not None else {}
        source, description = (row["source"], row["description"]) if row is not None else ("", "")
        return {"source": source or "", "run_id": given.get("run"), "tags": tags, "description": description}

    def moved(self, webhook: Webhook, seq: int, status: str | None = None) -> None:
        """A webhook has nothing to be told up to a place in the log; without a status it keeps the last one."""
        self._db.write(lambda tx: _move(tx, webhook.id, seq, status))

    def took(self, webhook: Webhook, event: Pending, status: str) -> None:
        """A webhook took an event, and is told of what came after it."""

        def write(tx: Tx) -> None:
            _move(tx, webhook.id, event.seq, status)
            _note(tx, webhook.id, event, "delivered", status)

        self._db.write(write)

    def failed(self, webhook: Webhook, event: Pending, status: str, again_us: int) -> None:
        """A delivery failed and is to be tried again at a time."""

        def write(tx: Tx) -> None:
            tx.run(
                "UPDATE webhook SET tries = tries + 1, next_us = ?, status = ? WHERE id = ?",
                (again_us, status, webhook.id),
            )
            _note(tx, webhook.id, event, "due", status)

        self._db.write(write)

    def gave_up(self, webhook: Webhook, event: Pending, status: str) -> None:
        """A delivery failed for good: the webhook goes on with what came after it, and the audit log says so."""

        def write(tx: Tx) -> None:
            tx.run(
                "UPDATE webhook SET seq = max(seq, ?), tries = 0, next_us = 0, status = ?, lost = lost + 1 WHERE id = ?",
                (event.seq, status, webhook.id),
            )
            _note(tx, webhook.id, event, "gave_up", status)
            tx.emit("webhook.failed", f"webhook:{webhook.name}", "system", event=event.name, reason=status[:200])

        self._db.write(write)

    def deliveries(self, webhook_id: str, *, limit: int = 100) -> list[WebhookDelivery]:
        """What a webhook was told, newest first, as far as it is kept; raises NotFound."""
        rows = self._db.all(
            "SELECT * FROM webhook_delivery WHERE webhook_id = ? ORDER BY seq DESC LIMIT ?",
            (self.get(webhook_id).id, limit),
        )
        return [
            WebhookDelivery(
                event=row["event"],
                state=row["state"],
                status=row["status"],
                tries=row["tries"],
                at=from_us(row["at_us"]),
            )
            for row in rows
        ]


def _move(tx: Tx, webhook_id: str, seq: int, status: str | None) -> None:
    tx.run(
        "UPDATE webhook SET seq = max(seq, ?), tries = 0, next_us = 0, status = coalesce(?, status) WHERE id = ?",
        (seq, status, webhook_id),
    )


def _note(tx: Tx, webhook_id: str, event: Pending, state: str, status: str) -> None:
    """Record what became of a delivery; of each webhook the last ones are kept."""
    tx.run(
        "INSERT INTO webhook_delivery VALUES (?,?,?,?,?,?,1,?) ON CONFLICT (webhook_id, event_id) DO UPDATE"
        " SET state = excluded.state, status = excluded.status, tries = tries + 1, at_us = excluded.at_us",
        (webhook_id, event.id, event.seq, event.name, state, status[:MOST_STATUS], tx.now_us),
    )
    tx.run(
        "DELETE FROM webhook_delivery WHERE webhook_id = :id AND seq <= (SELECT seq FROM webhook_delivery"
        " WHERE webhook_id = :id ORDER BY seq DESC LIMIT 1 OFFSET :kept)",
        {"id": webhook_id, "kept": MOST_DELIVERIES},
    )


def _check(*, name: str | None, url: str | None, events: Sequence[str] | None, secret: str | None) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise InvalidInput(
            f"Invalid value {name[:80]!r} for parameter 'name' supplied.",
            hint="1 to 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends.",
            field="name",
        )
    if url is not None:
        if len(url) > MAX_URL:
            raise InvalidInput(f"The URL has {len(url):,} characters.", hint=f"Use at most {MAX_URL}.", field="url")
        _place(url)
    if events is not None and not events:
        raise InvalidInput(
            "Missing value for required parameter 'events'.", hint=f"Of {', '.join(NAMES)}.", field="events"
        )
    for event in events or ():
        if event not in NAMES:
            raise InvalidInput(
                f"Invalid value {event[:80]!r} for parameter 'events' supplied.",
                hint=f"One of {', '.join(NAMES)}.",
                field="events",
            )
    if secret and not 8 <= len(secret) <= MAX_SECRET:
        raise InvalidInput(
            "The secret is too short or too long.", hint=f"Use 8 to {MAX_SECRET} characters.", field="secret"
        )


def _joined(events: Sequence[str]) -> str:
    return ",".join(name for name in NAMES if name in events)


def _place(url: str) -> str:
    """A URL as the audit log has it: what stands behind the host may be a secret. Raises InvalidInput for what is none."""
    from mlbox.outgoing import check_url  # imported late, with its HTTP client

    parsed = check_url(url)
    return f"{parsed.scheme}://{parsed.host}"


def _secret_name(webhook_id: str) -> str:
    return f"W{webhook_id}"


def _webhook(row: Row) -> Webhook:
    plain = ("id", "name", "description", "url", "owner", "status", "tries", "lost")
    return Webhook(
        **{name: row[name] for name in plain},
        events=tuple(row["events"].split(",")),
        signed=bool(row["signed"]),
        active=bool(row["active"]),
        created_at=from_us(row["created_us"]),
        updated_at=from_us(row["updated_us"]),
    )
