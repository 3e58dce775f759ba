"""`mlbox user` and `mlbox token`: accounts, passwords, services, links, lives of tokens."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from mlbox.records import Token, User
from tests.conftest import Server

GOOD, BETTER = "correct horse battery", "correct horse battery staple"


@pytest.fixture
def server(shared: Server) -> Server:
    return shared


def test_a_service_and_its_token(box_cli: Callable, server: Server) -> None:
    assert box_cli("user", "create", "bot", "--service", "-o", "id").out == "bot\n"
    users = msgspec.json.decode(box_cli("user", "ls", "-o", "json").out, type=list[User])
    assert [(u.name, u.kind) for u in users] == [("admin", "person"), ("bot", "service")]
    made = box_cli(
        "token", "create", "--user", "bot", "--name", "ci", "--role", "viewer", "--expires", "30d", "-o", "id"
    )
    as_bot = {"MLBOX_TOKEN": made.out.strip()}
    assert box_cli("status", **as_bot).code == 0
    [token] = [
        t for t in msgspec.json.decode(box_cli("token", "ls", "-o", "json").out, type=list[Token]) if t.user == "bot"
    ]
    assert token.expires_at is not None
    assert (token.role, (token.expires_at - token.created_at).days) == ("viewer", 30)
    assert token.used_at is not None
    header, *rows = box_cli("token", "ls").out.splitlines()
    assert header.split()[:2] == ["name", "user"]
    assert [row for row in rows if row.startswith("ci ") and "at most viewer" in row and token.id in row]
    assert [row for row in rows if row.startswith("admin-token ") and "what its user may  never" in row]
    assert token.id in box_cli("token", "ls", "-o", "id").out.split()
    refused = box_cli("user", "link", "bot")
    assert (refused.code, "is a service" in refused.line) == (4, True)
    wrong = box_cli("token", "create", "--name", "x", "--expires", "soon")
    assert (wrong.code, "Write it like 12h, 30d or 52w." in wrong.line) == (2, True)


def test_disabling_stops_an_account_at_once(box_cli: Callable) -> None:
    box_cli("user", "create", "bea")
    as_bea = {"MLBOX_TOKEN": box_cli("token", "create", "--user", "bea", "--name", "x", "-o", "id").out.strip()}
    assert box_cli("status", **as_bea).code == 0
    assert box_cli("user", "disable", "bea").code == 0
    ran = box_cli("user", "ls", **as_bea)
    assert (ran.code, "The account is disabled." in ran.line) == (4, True)
    assert box_cli("user", "enable", "bea").err == "bea may sign in again.\n"
    assert box_cli("status", **as_bea).code == 0
    ran = box_cli("user", "disable", "admin")
    assert (ran.code, "only admin" in ran.line) == (5, True)
    assert box_cli("user", "disable", "nobody").code == 3


def test_a_new_colleague_comes_in_by_a_link_sets_a_password_and_signs_in_with_it(
    cli: Callable, box_cli: Callable, server: Server
) -> None:
    box_cli("user", "create", "cleo")
    link = box_cli("user", "link", "cleo").out.strip()
    assert link.startswith(f"{server.url}/login?once=")
    assert cli("login", "--once", link).code == 0
    assert cli("user", "password", stdin=f"{GOOD}\n").err.startswith("The password of cleo is set.")
    ran = cli("user", "password", stdin=f"wrong\n{BETTER}\n")
    assert (ran.code, "present password is wrong" in ran.line) == (2, True)
    ran = cli("user", "password", stdin=f"{GOOD}\n")
    assert (ran.code, "new password is missing" in ran.line) == (2, True)
    assert cli("user", "password", stdin=f"{GOOD}\n{BETTER}\n").code == 0
    ran = cli("login", server.url, "--user", "cleo", stdin=f"{GOOD}\n")
    assert (ran.code, "user name or the password" in ran.line) == (4, True)
    assert cli("login", server.url, "--user", "cleo", stdin=f"{BETTER}\n").err.startswith("You are cleo (member)")
    ran = cli("user", "password", "admin", stdin=f"{GOOD}\n")
    assert (ran.code, "role admin" in ran.line) == (4, True)


def test_an_admin_sets_a_first_password_takes_it_away_and_signs_someone_out(
    cli: Callable, server: Server, box_cli: Callable
) -> None:
    admin = {"MLBOX_URL": server.url, "MLBOX_TOKEN": server.token}
    box_cli("user", "create", "dora")
    assert cli("user", "password", "dora", stdin=f"{GOOD}\n", **admin).code == 0
    ran = cli("user", "password", "dora", stdin=f"{BETTER}\n", **admin)
    assert (ran.code, "--remove" in ran.line) == (4, True)
    assert box_cli("user", "password", "dora", "--remove").err == "dora has no password now.\n"
    assert box_cli("user", "sign-out", "dora").err == "0 sessions of dora ended.\n"


def test_no_password_is_an_argument(cli: Callable) -> None:
    for command in (("user", "password"), ("login",)):
        assert "--password" not in cli(*command, "--help").out
