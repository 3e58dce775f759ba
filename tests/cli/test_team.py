"""`mlbox team` and `mlbox queue` as people of two teams use them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from mlbox.records import QueueEntry
from tests.conftest import Server, wait_for


@pytest.fixture
def server(shared: Server) -> Server:
    return shared


def test_a_team_from_its_first_member_to_its_last(box_cli: Callable) -> None:
    assert box_cli("user", "create", "bea").code == 0
    made = box_cli("team", "create", "vision")
    assert (made.code, made.out) == (0, "")
    assert "vision.NAME" in made.err
    assert box_cli("team", "add", "vision", "bea", "--role", "approver").err == "bea is approver in vision.\n"
    lines = msgspec.json.decode(box_cli("team", "ls", "-o", "json").out)
    assert {"team": "vision", "user": "bea", "role": "approver"} in lines
    assert {"team": "everyone", "user": "admin", "role": "admin"} in lines
    assert box_cli("team", "ls", "-o", "id").out.split() == ["everyone", "vision"]
    full = box_cli("team", "rm", "vision")
    assert (full.code, "The team vision has members: bea." in full.line) == (5, True)
    assert box_cli("team", "rm", "vision", "bea").err == "bea is not in vision.\n"
    assert box_cli("team", "remove", "vision", "bea").code == 0  # as it was called before
    assert box_cli("team", "rm", "vision").code == 0
    assert box_cli("team", "ls", "-o", "id").out.split() == ["everyone"]


def test_wrong_words_are_explained(box_cli: Callable) -> None:
    for words, code, part in (
        (("create", "a.b"), 2, "has a dot"),
        (("create", "everyone"), 5, "exists already"),
        (("add", "nowhere", "admin"), 3, "There is no team 'nowhere'"),
        (("rm", "Everyon"), 3, "There is no team 'Everyon'. Did you mean everyone?"),
        (("add", "everyone", "admn"), 3, "There is no user 'admn'. Did you mean admin?"),
        (("hide", "dataset", "flights"), 2, "belongs to everyone"),
        (("hide", "user", "x"), 2, "is not one of"),
    ):
        ran = box_cli("team", *words)
        assert ran.code == code, (words, ran)
        assert part in ran.line


def test_others_see_of_a_teams_job_that_it_is_there(box_cli: Callable, cli: Callable, server: Server) -> None:
    for user in ("bea", "cyd"):
        box_cli("user", "create", user)
    box_cli("team", "create", "vision")
    box_cli("team", "add", "vision", "bea")
    bea, cyd = (box_cli("token", "create", "--user", u, "--name", "t", "-o", "id").out.strip() for u in ("bea", "cyd"))
    job = cli(
        *("submit", "--team", "vision", "--timeout", "600", "--name", "secret-plan", "-o", "id"),
        *("--", "python", "-c", "import sys; sys.stdin.read() or __import__('signal').pause()"),
        MLBOX_URL=server.url,
        MLBOX_TOKEN=bea,
    ).out.strip()
    assert job

    def queue(token: str) -> list[QueueEntry]:
        out = cli("queue", "-o", "json", MLBOX_URL=server.url, MLBOX_TOKEN=token).out
        return msgspec.json.decode(out, type=list[QueueEntry])

    wait_for(lambda: queue(bea)[0].state == "running", what="the job to run")
    mine, theirs = queue(bea)[0], queue(cyd)[0]
    assert (mine.id, mine.name, mine.user) == (job, "secret-plan", "bea")
    assert theirs.team == "vision"
    assert theirs.expected_end is not None
    assert (theirs.id, theirs.name, theirs.user, theirs.reason) == (None, None, None, None)
    assert "secret-plan" not in cli("ps", "-o", "json", MLBOX_URL=server.url, MLBOX_TOKEN=cyd).out
    refused = cli("stop", job, MLBOX_URL=server.url, MLBOX_TOKEN=cyd)
    assert refused.code == 3
    assert cli("stop", job, MLBOX_URL=server.url, MLBOX_TOKEN=bea).code == 0
