"""`mlbox label`: from a new set to a settled tie."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.cli.conftest import Ran

WHEN = "2026-01-01T00:00:01+00:00"


def test_the_command_line_does_all_of_it(box_cli: Callable[..., Ran]) -> None:
    def mlbox(*words: str) -> str:
        ran = box_cli(*words)
        assert ran.code == 0, ran.err
        return ran.out

    made = mlbox(
        *("label", "create", "score", "-k", "who:STRING", "--value", "stars:INT64", "--class", "1", "--class", "2"),
        *("--source", "staff:annotation:2", "--source", "crowd:feedback", "--policy", "majority"),
    )
    assert "majority" in made
    row = [f"event_time={WHEN}", "who=a"]
    mlbox("label", "add", "score", *row, "stars=1", "--source", "staff")
    mlbox("label", "add", "score", *row, "stars=2", "--source", "crowd")
    mlbox("label", "add", "score", *row, "stars=9", "--source", "crowd")
    assert "none of the classes" in mlbox("label", "held", "score")
    (held,) = json.loads(mlbox("label", "held", "score", "-o", "json"))
    assert "staff" in mlbox("label", "review", "score", "-o", "json")
    to_the_minute = ["event_time=2026-01-01T00:00Z", "who=b"]
    for stars, source in (("1", "staff"), ("2", "crowd")):
        mlbox("label", "add", "score", *to_the_minute, f"stars={stars}", "--source", source)
    assert json.loads(mlbox("label", "settle", "score", "1", *to_the_minute, "-o", "json"))["value"] == 1
    assert "One of BOOL, INT64" in box_cli("label", "create", "x", "-k", "who:STRNG", "--value", "y:BOOL").err
    assert json.loads(mlbox("label", "settle", "score", "2", *row, "-o", "json"))["value"] == 2
    mlbox("label", "discard", "score", str(held["id"]))
    assert json.loads(mlbox("label", "held", "score", "-o", "json")) == []
    assert json.loads(mlbox("label", "agreement", "score", "-o", "json"))["items"] == 2
    assert {one["source"] for one in json.loads(mlbox("label", "counts", "score", "-o", "json"))} == {
        *("staff", "crowd", "review")
    }
