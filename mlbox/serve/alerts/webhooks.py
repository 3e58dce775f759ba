"""Tells webhooks what happened: one thread that follows the registry's events and posts them, signed, until they are taken."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import InvalidInput, MlboxError
from mlbox.events import EventBus
from mlbox.loop import Loop
from mlbox.records import Principal, Webhook
from mlbox.store.asking import asking
from mlbox.store.registry.webhooks import NAMES, Pending, Webhooks

if TYPE_CHECKING:
    from mlbox.outgoing import Outgoing

MOST_TRIES = 20
"""Over about an hour."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds before the second try, twice as long each time."""
AGAIN = frozenset((408, 425, 429))
"""Refusals that may be none the next time, besides 5xx."""
IDLE_SECONDS = 60.0
CLOSE_SECONDS = 2.0
"""An address that does not answer holds up no shutdown: what it was being told is told again by the next server."""
MOST_SHOWN = 2000
_log = logging.getLogger(__name__)


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """What an address answered to an event that was made up."""

    ok: bool
    status: int | None = None
    body: str = ""
    error: str = ""


class Deliverer:
    """Delivers what is due. `owner_of` gives the account of a webhook's owner, or None for one that may see nothing any more."""

    def __init__(
        self,
        webhooks: Webhooks,
        outgoing: Callable[[], Outgoing],
        owner_of: Callable[[str], Principal | None],
        clock: Clock,
        bus: EventBus,
    ) -> None:
        self._webhooks = webhooks
        self._outgoing = functools.cache(outgoing)
        self._owner_of = owner_of
        self._clock = clock
        self._loop = Loop(
            self._deliver_all, name="mlbox-webhooks", failed="Webhooks could not be told", again=IDLE_SECONDS
        )
        self._loop.wake_on(bus, ("model.", "promotion.", "webhook."))

    def start(self) -> None:
        """Begin, with what a former server left."""
        self._loop.start()

    def close(self) -> None:
        """Stop; what was not delivered is by the next server."""
        self._loop.close(CLOSE_SECONDS)

    def _deliver_all(self) -> float:
        while not self._loop.stopping and self.deliver():
            pass
        at = self._webhooks.next_try()
        if at is None:
            return IDLE_SECONDS
        return min(IDLE_SECONDS, max(0.05, (at - to_us(self._clock.real())) / 1e6))

    def deliver(self) -> bool:
        """Tell each webhook that may be tried some of what it was not told; whether there was anything to do."""
        due = self._webhooks.due(to_us(self._clock.real()))
        for webhook in due:
            self._tell(webhook)
        return bool(due)

    def _tell(self, webhook: Webhook) -> None:
        owner = self._owner_of(webhook.owner)
        with asking(owner or Principal(name="", role="viewer")):
            events, upto = self._webhooks.pending(webhook)
        if owner is None:
            self._webhooks.moved(webhook, upto, "its owner may not sign in")
            return
        tries = webhook.tries
        for event in events:
            if self._loop.stopping or not self._send(webhook, event, tries):
                return
            tries = 0  # each event has its own, whatever became of the one before it
        self._webhooks.moved(webhook, upto)

    def _send(self, webhook: Webhook, event: Pending, tries: int) -> bool:
        """Whether the webhook may go on with what came after this event."""
        try:
            answer = self._post(webhook, event)
            status, final = str(answer.status_code), answer.status_code < 500 and answer.status_code not in AGAIN
            if answer.status_code < 300:
                self._webhooks.took(webhook, event, status)
                return True
        except InvalidInput as err:
            status, final = str(err), True
        except MlboxError as err:
            status, final = str(err), False
        if final or tries + 1 >= MOST_TRIES:
            _log.warning("The webhook %s did not take %s: %s", webhook.name, event.name, status)
            self._webhooks.gave_up(webhook, event, status)
            return True
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries)
        self._webhooks.failed(webhook, event, status, to_us(self._clock.real()) + int(pause * 1e6))
        return False

    def _post(self, webhook: Webhook, event: Pending) -> Any:
        body = msgspec.json.encode(
            {
                "entity": event.name.partition(".")[0],
                "action": event.name.partition(".")[2],
                "timestamp": from_us(event.at_us).isoformat(),
                "data": event.data,
            }
        )
        # The same for each try of an event, so that a receiver can tell that it has it already.
        delivery = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{webhook.id} {event.id}"))
        stamp = str(to_us(self._clock.real()) // 1_000_000)
        headers = {
            "Content-Type": "application/json",
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": stamp,
        }
        secret = self._webhooks.secret_of(webhook)
        if secret:
            headers["X-MLflow-Signature"] = signature(secret, delivery, stamp, body)
        return self._outgoing().post(webhook.url, body, headers)

    def check(self, url: str) -> None:
        """Raise what `Outgoing` would of an address that is to be told."""
        self._outgoing().check(url)

    def test(self, webhook: Webhook, name: str | None = None) -> Tested:
        """Send a made-up event once, and say what was answered."""
        name = name or webhook.events[0]
        if name not in NAMES:
            raise InvalidInput(f"{name[:80]!r} is no event.", hint=f"One of {', '.join(NAMES)}.", field="event")
        event = Pending(0, uuid.uuid4().hex, name, to_us(self._clock.real()), EXAMPLES[name])
        try:
            answer = self._post(webhook, event)
        except MlboxError as err:
            return Tested(ok=False, error=str(err))
        body = answer.content[:MOST_SHOWN].decode("utf-8", "replace")
        return Tested(ok=answer.status_code < 300, status=answer.status_code, body=body)


def signature(secret: str, delivery: str, stamp: str, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 of delivery, time and body joined by dots, in Base64: what MLflow's receivers check."""
    signed = f"{delivery}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret.encode(), signed, hashlib.sha256)).decode()


_EXAMPLE = {"name": "example_model", "version": "1"}
EXAMPLES: dict[str, dict[str, Any]] = {
    "registered_model.created": {"name": "example_model", "tags": {}, "description": "An example"},
    "model_version.created": {
        **_EXAMPLE,
        "source": "runs:/0123456789abcdef0123456789abcdef/model",
        "run_id": "0123456789abcdef0123456789abcdef",
        "tags": {},
        "description": "An example",
    },
    "model_version_tag.set": {**_EXAMPLE, "key": "example_key", "value": "example_value"},
    "model_version_tag.deleted": {**_EXAMPLE, "key": "example_key"},
    "model_version_alias.created": {**_EXAMPLE, "alias": "example_alias"},
    "model_version_alias.deleted": {"name": "example_model", "alias": "example_alias"},
    "model_version.stage_changed": {**_EXAMPLE, "stage": "Staging"},
}
EXAMPLES |= {
    name: {**_EXAMPLE, "state": name.partition(".")[2], "promotion": "0123456789abcdef0123456789abcdef"}
    for name in NAMES
    if name.startswith("promotion.")
}
