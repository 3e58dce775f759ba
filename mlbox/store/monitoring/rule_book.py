"""The rules of alerts in force: those of the file that the setting names, and over them those that were written on the page.

What the page says of a channel or a rule replaces what the file says of the one with that name; `[[inhibit]]` on the page
replaces the file's. Both are checked as one. Where they are wrong (a name, a time, a file that is gone) the last ones that were
right stay in force, across restarts too, and what is wrong is a state that is shown: nobody falls silent because of a typo.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mlbox.clock import from_us
from mlbox.errors import Conflict, InvalidInput, MlboxError
from mlbox.records import WrittenRules
from mlbox.store.db import Database, Row, Tx
from mlbox.store.monitoring.alert_rules import DEFAULT, Channel, Inhibition, Rule, Rules, load_text, parse, read

LONGEST = 65_536
TABLE = """
CREATE TABLE alert_rules (
  revision INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('file', 'page')), text TEXT NOT NULL, actor TEXT NOT NULL,
  at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX alert_rules_kind ON alert_rules (kind, revision);
"""
_log = logging.getLogger(__name__)


class RuleBook:
    """Rules that change while the server runs. `path` is the file, empty for none."""

    def __init__(self, db: Database, path: str) -> None:
        self._db = db
        self._path = path
        self._changing = threading.Lock()
        self._now: Rules = DEFAULT
        self._read: str | None = None
        """The file's text that is in force."""
        self.error: MlboxError | None = None
        """What is wrong with what is written; the rules in force are then those before."""
        self._begin()

    # -- as they are ----------------------------------------------------------------------------------------------------

    @property
    def channel(self) -> Mapping[str, Channel]:
        """Channels by name."""
        return self._now.channel

    @property
    def inhibit(self) -> Sequence[Inhibition]:
        """Which alert says why another is not told of."""
        return self._now.inhibit

    def of(self, name: str) -> Rule:
        """The rule of an alert."""
        return self._now.of(name)

    # -- how they come to be --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Those that were right when a server last ran, then those that are written now."""
        try:
            before = self._last("file") if self._path else None
            self._now = self._merged(before["text"] if before else "", self._page_text())
        except MlboxError as err:
            self.error = err
            _log.warning("The alert rules that were in force last cannot be had: %s", err)
        self.refresh()

    def refresh(self) -> None:
        """Read the file again, and put it in force where it has changed and is right."""
        if not self._path:
            return
        with self._changing:
            try:
                text = load_text(self._path)
                if text == self._read and self.error is None:
                    return
                rules = self._merged(text, self._page_text())
                self._keep("file", text, "mlbox")
            except MlboxError as err:
                if str(err) != str(self.error or ""):
                    _log.warning("The alert rules are wrong, and those before stay in force: %s", err)
                self.error = err
                return
            self._now, self._read, self.error = rules, text, None

    def write(self, text: str, *, revision: int | None = None, actor: str) -> WrittenRules:
        """Put what the page says in force, empty for nothing; raises InvalidInput, with what was in force as it was.

        With `revision`, the one that was read, raises Conflict where somebody else wrote meanwhile.
        """
        if len(text.encode()) > LONGEST:
            raise InvalidInput("These are more than 64 KiB of rules.", hint="Write them into a file.", field="text")
        with self._changing:
            known = self._last("page")
            if revision is not None and revision != (known["revision"] if known else 0):
                raise Conflict("The rules were changed meanwhile.", hint="Read them again.", field="revision")
            content = read(text, "of the page")
            _check_files(content)
            rules = self._merged(self._file_text(), text)
            self._keep(
                "page", text, actor, channels=sorted(content.get("channel", {})), rules=sorted(content.get("rule", {}))
            )
            self._now, self.error = rules, None
        self.refresh()  # what the file was refused for may be right now
        return self.written()

    def written(self) -> WrittenRules:
        """What the page says, and what is wrong."""
        row = self._last("page")
        return WrittenRules(
            text=row["text"] if row else "",
            revision=row["revision"] if row else 0,
            by=row["actor"] if row else "",
            at=from_us(row["at_us"]) if row else None,
            file=self._path,
            error=f"{self.error.message} {self.error.hint}".strip() if self.error else "",
        )

    def _file_text(self) -> str:
        """The file as it was when it was right last; empty for none."""
        row = self._last("file") if self._path else None
        return row["text"] if row else ""

    def _page_text(self) -> str:
        row = self._last("page")
        return row["text"] if row else ""

    def _merged(self, file: str, page: str) -> Rules:
        below, above = read(file, self._path), read(page, "of the page")
        merged: dict[str, Any] = {**below, **above}
        for part in ("channel", "rule"):
            sides = [side.get(part, {}) for side in (below, above)]
            if all(isinstance(side, dict) for side in sides) and any(sides):
                merged[part] = {**sides[0], **sides[1]}
        return parse(merged)

    def _last(self, kind: str) -> Row | None:
        return self._db.one("SELECT * FROM alert_rules WHERE kind = ? ORDER BY revision DESC LIMIT 1", (kind,))

    def _keep(self, kind: str, text: str, actor: str, **named: Any) -> None:
        """Write down what was found right. The audit log says which names are in it: an address is often a secret."""

        def write(tx: Tx) -> None:
            row = tx.one("SELECT text FROM alert_rules WHERE kind = ? ORDER BY revision DESC LIMIT 1", (kind,))
            if row is not None and row["text"] == text:
                return
            tx.run(
                "INSERT INTO alert_rules (kind, text, actor, at_us) VALUES (?,?,?,?)", (kind, text, actor, tx.now_us)
            )
            tx.emit("alert.rules", f"alert:rules-of-the-{kind}", actor, labels={}, **named)

        self._db.write(write)


def _check_files(content: Mapping[str, Any]) -> None:
    """What is written over the network names no files of the server."""
    channels = content.get("channel", {})
    for name, channel in channels.items() if isinstance(channels, dict) else ():
        for field in ("url_file", "secret_file"):
            if isinstance(channel, dict) and channel.get(field):
                raise InvalidInput(
                    f"The channel {name[:80]} names a file of the server, which only the server's own file of rules may.",
                    hint="Declare the channel in the file that the setting alert_rules names.",
                    field=f"channel.{name[:80]}.{field}",
                )
