"""Rules that change while the server runs: of a file and of the page, wrong ones among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import Conflict, InvalidInput
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.monitoring.alert_rules import NAMES
from mlbox.store.monitoring.rule_book import LONGEST, RuleBook

FILE = '[channel.ops]\ntype = "slack"\nurl = "https://ops.example.org"\n[rule.default]\nchannels = ["ops"]\n'
PAGE = (
    '[channel.team]\ntype = "email"\nto = "ml@example.org"\n[rule.staleness]\nchannels = ["team", "ops"]\nfor = "1h"\n'
)


@pytest.fixture
def db(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Database]:
    opened = Database(tmp_path / "monitoring.db", migrations.monitoring, clock, bus)
    yield opened
    opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.toml"
    path.write_text(FILE)
    return path


def channels(book: RuleBook) -> dict[str, tuple[str, ...]]:
    return {name: tuple(book.of(name).channels) for name in NAMES}


def test_the_page_is_over_the_file_and_nothing_of_the_file_is_lost(db: Database, file: Path) -> None:
    book = RuleBook(db, str(file))
    assert set(book.channel) == {"ops"}
    written = book.write(PAGE, revision=0, actor="ann")
    assert (written.by, written.error, written.file) == ("ann", "", str(file))
    assert channels(book)["staleness"] == ("team", "ops")
    assert channels(book)["feature_drift"] == ("ops",)
    assert book.of("staleness").hold == "1h"
    assert [event.actor for event in db.events(type="alert.rules")] == ["ann", "mlbox"]
    assert "example.org" not in str([event.data for event in db.events(type="alert.rules")]), "an address is a secret"
    book.write("", actor="ann")
    assert set(book.channel) == {"ops"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rule.feature_drif]\n", "Did you mean feature_drift"),
        ('[rule.default]\nchannels = ["pager"]\n', "pager"),
        ("[rule.default\n", "not TOML"),
        ('[channel.a]\ntype = "slack"\nurl_file = "/etc/shadow"\n', "file of the server"),
        ('[channel.a]\ntype = "webhook"\nurl = "https://x"\nsecret_file = "/etc/shadow"\n', "file of the server"),
        ("channel = 3\n", "channel"),
        ("rule = [1]\n", "rule"),
        ("#" * (LONGEST + 1), "64 KiB"),
    ],
)
def test_what_is_wrong_on_the_page_changes_nothing(db: Database, file: Path, text: str, words: str) -> None:
    book = RuleBook(db, str(file))
    before = channels(book)
    with pytest.raises(InvalidInput) as caught:
        book.write(text, actor="ann")
    assert words in f"{caught.value.message} {caught.value.hint}"
    assert channels(book) == before
    assert book.written().revision == 0
    assert book.error is None


def test_two_people_do_not_overwrite_each_other(db: Database) -> None:
    book = RuleBook(db, "")
    first = book.write('[rule.default]\nowner = "ann"\n', revision=0, actor="ann")
    with pytest.raises(Conflict):
        book.write("", revision=0, actor="bea")
    assert book.of("staleness").owner == "ann"
    assert book.write("", revision=first.revision, actor="bea").by == "bea"


def test_a_file_that_becomes_wrong_is_a_state_and_silences_nobody(db: Database, file: Path) -> None:
    book = RuleBook(db, str(file))
    for wrong in ("[rule.feature_drif]\n", "no toml", None):
        if wrong is None:
            file.unlink()
        else:
            file.write_text(wrong)
        book.refresh()
        assert book.written().error
        assert set(book.channel) == {"ops"}, "what was right stays in force"
    again = RuleBook(db, str(file))
    assert again.written().error
    assert set(again.channel) == {"ops"}, "across a restart too"
    file.write_text(FILE.replace("ops", "pager"))
    again.refresh()
    assert again.written().error == ""
    assert set(again.channel) == {"pager"}


def test_a_file_that_takes_away_what_the_page_needs_is_told_until_the_page_is_mended(db: Database, file: Path) -> None:
    book = RuleBook(db, str(file))
    book.write(PAGE, actor="ann")
    file.write_text("")
    book.refresh()
    assert "ops" in book.written().error
    assert channels(book)["staleness"] == ("team", "ops")
    book.write(PAGE.replace('"team", "ops"', '"team"'), actor="ann")
    assert book.error is None
    assert channels(book)["staleness"] == ("team",)
    assert set(book.channel) == {"team"}


def test_a_first_start_with_a_wrong_file_starts(db: Database, tmp_path: Path) -> None:
    book = RuleBook(db, str(tmp_path / "none.toml"))
    assert "cannot be read" in book.written().error
    assert book.channel == {}
