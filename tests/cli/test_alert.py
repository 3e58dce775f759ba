"""`mlbox alert`: silences and channels as an operator uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Server


@pytest.fixture
def server(make_server: Callable[..., Server], tmp_path: Path) -> Server:
    rules = tmp_path / "alerts.toml"
    rules.write_text('[channel.ops]\ntype = "slack"\nurl = "http://127.0.0.1:9/never"\n')
    return make_server("--alert-rules", str(rules))


def test_a_silence_from_its_beginning_to_its_end(box_cli: Callable) -> None:
    made = box_cli("alert", "silence", "model=delay", "--for", "2h", "--reason", "backfill", "-o", "json")
    (silence,) = msgspec.json.decode(made.out)
    assert (silence["labels"], silence["author"], silence["reason"]) == ({"model": "delay"}, "admin", "backfill")
    assert "backfill" in box_cli("alert", "silences").out
    assert box_cli("alert", "unsilence", silence["id"]).code == 0
    assert "LABEL=VALUE" in box_cli("alert", "silence", "delay", "--for", "2h", "--reason", "x").err

    assert "mlbox alert deliveries ops" in box_cli("alert", "test", "ops").err
    (sent,) = msgspec.json.decode(box_cli("alert", "deliveries", "ops", "-o", "json").out)
    assert (sent["address"], sent["text"]) == ("channel:ops", "A test by admin: this channel works.")
    assert "no channel 'pager'" in box_cli("alert", "test", "pager").err
