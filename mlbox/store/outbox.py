"""What people asked to be told of, until it is told: written in the transaction of what happened, and sent afterwards.

So nothing that happened goes untold because the server was killed in between, and what never happened is never told. One cause is
told to one address once; a message may still arrive twice, where the server died between sending it and noting that.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import msgspec

from mlbox.clock import from_us
from mlbox.errors import InvalidInput
from mlbox.ids import new_id
from mlbox.records import Delivery
from mlbox.store.db import Database, Row, Tx

MOST_TRIES = 12
"""Over about half a day."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 7200.0
"""Seconds before the second try, three times as long each time."""
AT_ONCE = 100
MAX_ADDRESS = 2000
TABLE = """
CREATE TABLE delivery (
  id TEXT PRIMARY KEY, address TEXT NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL, cause TEXT NOT NULL,
  created_us INTEGER NOT NULL, next_us INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'due',
  status TEXT NOT NULL DEFAULT '', UNIQUE (cause, address)
) STRICT;
CREATE INDEX delivery_due ON delivery (next_us) WHERE state = 'due';
CREATE INDEX delivery_of ON delivery (subject, id);
"""
"""For the migrations of each store that has an outbox."""
_MAIL = re.compile(r"mailto:[^\s@,;<>\"]+@[A-Za-z0-9.-]+")


class Message(NamedTuple):
    """One message to one address, to be sent."""

    id: str
    address: str
    body: dict[str, Any]
    created_us: int
    tries: int


def check_address(address: str) -> str:
    """An address that can be told something: an https or http URL, or mailto:SOMEBODY; raises InvalidInput."""
    from mlbox.outgoing import check_url

    if len(address) > MAX_ADDRESS:
        raise InvalidInput("The address is too long.", hint=f"At most {MAX_ADDRESS} characters.", field="notify")
    if address.startswith("mailto:"):
        if not _MAIL.fullmatch(address):
            raise InvalidInput(
                f"{address[:200]!r} is no mail address.", hint="Write mailto:ann@example.org.", field="notify"
            )
        return address
    try:
        check_url(address)
    except InvalidInput as err:
        raise InvalidInput(
            f"{err.message}", hint="Give an https URL, or mailto:ann@example.org.", field="notify"
        ) from err
    return address


def post(tx: Tx, address: str, subject: str, body: dict[str, Any], *, cause: str) -> None:
    """Have an address told something; nothing where it was told of this cause before.

    `text` in the body is for people; `place` is the path of the page that it is about.
    """
    tx.run(
        "INSERT OR IGNORE INTO delivery (id, address, subject, body, cause, created_us, next_us) VALUES (?,?,?,?,?,?,?)",
        (new_id(), address, subject, msgspec.json.encode(body).decode(), cause, tx.now_us, tx.now_us),
    )


class Outbox:
    """The messages of one store. With a `url`, where people reach this server, those that are about a page link to it."""

    def __init__(self, db: Database, *, url: str = "") -> None:
        self._db = db
        self._url = url.rstrip("/")

    def due(self, now_us: int) -> list[Message]:
        """Messages to send now, oldest first."""
        rows = self._db.all(
            "SELECT * FROM delivery WHERE state = 'due' AND next_us <= ? ORDER BY next_us, id LIMIT ?",
            (now_us, AT_ONCE),
        )
        return [Message(row["id"], row["address"], self._body(row), row["created_us"], row["tries"]) for row in rows]

    def next_us(self) -> int | None:
        """When there is something to send."""
        row = self._db.one("SELECT min(next_us) AS next_us FROM delivery WHERE state = 'due'")
        return None if row is None else row["next_us"]

    def settle(self, message: Message, state: Literal["delivered", "gave_up"], status: str) -> None:
        """Write down what became of a message."""
        self._db.write(
            lambda tx: tx.run(
                "UPDATE delivery SET state = ?, status = ?, tries = tries + 1 WHERE id = ?", (state, status, message.id)
            )
        )

    def again(self, message: Message, status: str, now_us: int) -> None:
        """Try a message again later, or give it up after the last try."""
        if message.tries + 1 >= MOST_TRIES:
            self.settle(message, "gave_up", status)
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 3**message.tries)
        self._db.write(
            lambda tx: tx.run(
                "UPDATE delivery SET next_us = ?, status = ?, tries = tries + 1 WHERE id = ?",
                (now_us + int(pause * 1e6), status, message.id),
            )
        )

    def of(self, subject: str, *, limit: int = 100) -> list[Delivery]:
        """What was told about something, newest first."""
        rows = self._db.all("SELECT * FROM delivery WHERE subject = ? ORDER BY id DESC LIMIT ?", (subject, limit))
        return [_delivery(row, self._body(row).get("text", "")) for row in rows]

    def _body(self, row: Row) -> dict[str, Any]:
        body: dict[str, Any] = msgspec.json.decode(row["body"])
        place = body.get("place", "")
        if not place or not self._url:
            return body
        url, text = self._url + place, body.get("text", "")
        return {**body, "url": url, "text": text.replace(place, url) if place in text else f"{text}\n{url}"}


def place_of(address: str) -> str:
    """An address as it may be shown: of a URL only its host, because its path is often the secret."""
    if address.startswith(("mailto:", "channel:", "openlineage:")):
        return address
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def _delivery(row: Row, text: str) -> Delivery:
    return Delivery(
        id=row["id"],
        address=place_of(row["address"]),
        text=text,
        created_at=from_us(row["created_us"]),
        state=row["state"],
        tries=row["tries"],
        status=row["status"],
        next_at=from_us(row["next_us"]) if row["state"] == "due" else None,
    )
