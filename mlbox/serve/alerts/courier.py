"""Sends what is in outboxes: one thread that posts JSON to URLs and mails people, until it is taken.

The JSON has `text`, which Slack, Mattermost and Teams show as it is, beside the facts for programs.
"""

from __future__ import annotations

import functools
import logging
import smtplib
import ssl
from collections.abc import Callable, Mapping, Sequence
from email.message import EmailMessage
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from mlbox.clock import Clock, to_us
from mlbox.errors import InvalidInput, MlboxError
from mlbox.events import EventBus
from mlbox.loop import Loop
from mlbox.serve.alerts import by_apprise
from mlbox.serve.alerts.notifier import PREFIX, Notifier, Post
from mlbox.store.outbox import Message, Outbox, place_of

if TYPE_CHECKING:
    from mlbox.outgoing import Outgoing

AGAIN = frozenset((408, 425, 429))
"""Refusals that may be none the next time, besides 5xx."""
IDLE_SECONDS = 60.0
CLOSE_SECONDS = 2.0
SMTP_SECONDS = 20.0
_log = logging.getLogger(__name__)


class Mail(NamedTuple):
    """Where mail is handed in, and whom it is from."""

    url: str
    """smtp://USER@HOST:PORT with STARTTLS where the server has it, smtps:// with TLS from the start; empty for none."""
    sender: str = "mlbox@localhost"
    password: str = ""


class Courier:
    """Sends what is due, of all outboxes. `told_by` are the beginnings of the events after which there may be something."""

    def __init__(
        self,
        outboxes: Sequence[Outbox],
        outgoing: Callable[[], Outgoing],
        mail: Mail,
        clock: Clock,
        bus: EventBus,
        *,
        told_by: tuple[str, ...],
        channels: Notifier | None = None,
        allow: Sequence[str] = (),
        posts: Mapping[str, Callable[[Message], Post]] | None = None,
    ) -> None:
        self._outboxes = outboxes
        self._outgoing = functools.cache(outgoing)
        self._mail = mail
        self._channels = channels
        self._allow = allow
        """The setting `outgoing_allow`, for what does not go by `outgoing`."""
        self._posts = posts or {}
        """By address, how a message to it is posted."""
        self._clock = clock
        self._loop = Loop(
            self._deliver_all, name="mlbox-courier", failed="Messages could not be sent", again=IDLE_SECONDS
        )
        self._loop.wake_on(bus, told_by)

    def start(self) -> None:
        """Begin, with what a former server left."""
        self._loop.start()

    def wake(self) -> None:
        """There is something to send."""
        self._loop.wake()

    def close(self) -> None:
        """Stop; what was not sent is by the next server."""
        self._loop.close(CLOSE_SECONDS)

    def _deliver_all(self) -> float:
        while not self._loop.stopping and self.deliver():
            pass
        times = [at for outbox in self._outboxes if (at := outbox.next_us()) is not None]
        until = (min(times) - to_us(self._clock.real())) / 1e6 if times else IDLE_SECONDS
        return min(IDLE_SECONDS, max(0.05, until))

    def deliver(self) -> bool:
        """Try all that is due once; whether there was anything."""
        found = False
        for outbox in self._outboxes:
            for message in outbox.due(to_us(self._clock.real())):
                if self._loop.stopping:
                    return False
                found = True
                self._send(outbox, message)
        return found

    def _send(self, outbox: Outbox, message: Message) -> None:
        try:
            status, taken, final = self._try(message)
        except InvalidInput as err:
            status, taken, final = str(err), False, True
        except MlboxError as err:
            status, taken, final = str(err), False, False
        if taken or final:
            if not taken:
                _log.warning("%s did not take a message: %s", place_of(message.address), status)
            outbox.settle(message, "delivered" if taken else "gave_up", status)
        else:
            outbox.again(message, status, to_us(self._clock.real()))

    def _try(self, message: Message) -> tuple[str, bool, bool]:
        """The status in words, whether it was taken, and whether another try makes no sense."""
        if self._channels is not None and message.address.startswith(PREFIX):
            return self._to_channel(self._channels, message)
        if message.address in self._posts:
            return self._by_post(self._posts[message.address](message))
        if message.address.startswith("mailto:"):
            return self._by_mail(message)
        headers = {"Content-Type": "application/json", "X-Mlbox-Delivery": message.id}
        return self._by_post(Post(message.address, msgspec.json.encode(message.body), headers))

    def _to_channel(self, channels: Notifier, message: Message) -> tuple[str, bool, bool]:
        if to := channels.address(message):
            return self._by_mail(message._replace(address=to))
        if url := channels.by_apprise(message):
            told = by_apprise.send(url, str(message.body.get("text", "")), self._allow)
            return told.words, told.taken, told.final
        return self._by_post(channels.request(message))

    def _by_post(self, post: Post) -> tuple[str, bool, bool]:
        answer = self._outgoing().post(post.url, post.body, post.headers)
        code = answer.status_code
        return str(code), code < 300, 300 <= code < 500 and code not in AGAIN

    def _by_mail(self, message: Message) -> tuple[str, bool, bool]:
        if not self._mail.url:
            raise InvalidInput("This box sends no mail.", hint="Set smtp_url.", field="smtp_url")
        mail = EmailMessage()
        text = str(message.body.get("text", ""))
        mail["Subject"] = f"[mlbox] {text.partition(chr(10))[0][:150]}"
        mail["From"], mail["To"] = self._mail.sender, message.address.removeprefix("mailto:")
        mail["Message-ID"] = f"<{message.id}@{self._mail.sender.rpartition('@')[2]}>"
        mail.set_content(text)
        try:
            with _connected(self._mail) as smtp:
                smtp.send_message(mail)
        except smtplib.SMTPResponseException as err:
            return f"{err.smtp_code} {err.smtp_error!r:.200}", False, 500 <= err.smtp_code < 600
        except (OSError, smtplib.SMTPException) as err:
            return f"{type(err).__name__}: {err!s:.200}", False, False
        return "sent", True, True


def _connected(given: Mail) -> smtplib.SMTP:
    """A connection to a mail server, signed in where the URL names a user; raises OSError or SMTPException."""
    parts = urlsplit(given.url)
    kind = smtplib.SMTP_SSL if parts.scheme == "smtps" else smtplib.SMTP
    smtp = kind(parts.hostname or "localhost", parts.port or 0, timeout=SMTP_SECONDS)
    try:
        smtp.ehlo()
        if parts.scheme == "smtp" and smtp.has_extn("starttls"):
            smtp.starttls(context=ssl.create_default_context())
            smtp.ehlo()
        if parts.username:
            smtp.login(unquote(parts.username), given.password)
    except BaseException:
        smtp.close()
        raise
    return smtp
