"""Logging in, and everything that `mlbox` says about a box, its people and their tokens."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from mlbox.records import Token, User
from tests.conftest import Server


def context_file(home: Path) -> Path:
    return home / ".config" / "mlbox" / "context.toml"


@pytest.fixture
def server(shared: Server) -> Server:
    return shared


def test_login_keeps_a_token_that_works_for_its_owner_only(cli: Callable, home: Path, server: Server) -> None:
    ran = cli("login", server.url, "--token", server.token)
    assert (ran.code, ran.out, ran.err) == (0, "", f"You are admin (admin) on {server.url}.\n")
    assert stat.S_IMODE(context_file(home).stat().st_mode) == 0o600
    assert cli("status", "-o", "id").code == 0
    rows = msgspec.json.decode(cli("context", "ls", "-o", "json").out)
    assert rows == [{"name": server.url.removeprefix("http://"), "url": server.url, "current": True}]


def test_status_tells_one_time_where_there_is_one_clock(cli: Callable, server: Server) -> None:
    assert cli("login", server.url, "--token", server.token).code == 0
    said = cli("status").out
    assert re.search(r"^domain time  \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$", said, re.MULTILINE), said
    assert "real time" not in said
    both = msgspec.json.decode(cli("status", "-o", "json").out)
    assert both["real_time"].endswith("Z")
    assert (both["replay"], both["standby"]) == (False, False)


def test_login_reads_the_token_from_stdin_where_nobody_types(cli: Callable, server: Server) -> None:
    assert cli("login", server.url, stdin=f"{server.token}\n").code == 0
    ran = cli("login", server.url, stdin="")
    assert ran.code == 2
    assert ran.line == "No token was given. Give --token, or write it to stdin."


def test_a_login_link_works_once(cli: Callable, server: Server) -> None:
    link = re.findall(r"Sign in once, within 30 minutes: (\S+)", server.log)[-1]
    assert cli("login", "--once", link).code == 0
    assert msgspec.json.decode(cli("status", "-o", "json").out)["user"] == "admin"
    again = cli("login", "--once", link)
    assert (again.code, again.line.startswith("The login link was used already")) == (4, True)


def test_a_login_that_fails_stores_nothing(cli: Callable, home: Path, server: Server) -> None:
    for arguments, code, says in [
        ((server.url, "--token", "mlb_wrong"), 4, "The token is damaged"),
        (("ftp://box",), 2, "is not the address of a box"),
        (("http://127.0.0.1:9", "--token", "x"), 1, "No answer from http://127.0.0.1:9"),
        ((), 2, "No box was named"),
        (("--once", "http://box/login"), 2, "is not a login link"),
    ]:
        ran = cli("login", *arguments, stdin="x\n")
        assert (ran.code, says in ran.line) == (code, True), ran
    assert not context_file(home).exists()


def test_without_a_box_every_command_says_how_to_get_one(cli: Callable) -> None:
    for arguments in (("status",), ("user", "ls"), ("token", "ls"), ("clock", "show"), ("model", "ls")):
        ran = cli(*arguments)
        assert (ran.code, "mlbox login URL" in ran.line) == (4, True), arguments


def test_contexts_are_listed_and_chosen(cli: Callable, server: Server) -> None:
    name = server.url.removeprefix("http://")
    other = server.url.replace("127.0.0.1", "localhost")
    cli("login", server.url, "--token", server.token)
    cli("login", other, "--token", server.token)
    assert msgspec.json.decode(cli("status", "-o", "json").out)["url"] == other
    assert cli("context", "use", name).err == f"Commands now talk to {server.url}.\n"
    assert msgspec.json.decode(cli("status", "-o", "json").out)["url"] == server.url
    assert cli("context", "ls", "-o", "id").out.splitlines() == sorted([name, other.removeprefix("http://")])
    ran = cli("context", "use", "nowhere")
    assert (ran.code, "There is no context 'nowhere'" in ran.line) == (3, True)


def test_a_stored_token_goes_only_to_its_own_box(cli: Callable, server: Server) -> None:
    cli("login", server.url, "--token", server.token)
    assert cli("status", MLBOX_URL=server.url).code == 0
    ran = cli("status", MLBOX_URL="http://127.0.0.1:9")
    assert (ran.code, "No token for http://127.0.0.1:9 is known." in ran.line) == (4, True)
    assert cli("status", MLBOX_TOKEN="mlb_other").code == 4


def test_status_tells_who_where_and_how_it_is(box_cli: Callable, server: Server) -> None:
    told = msgspec.json.decode(box_cli("status", "-o", "json").out)
    assert (told["url"], told["user"], told["role"], told["replay"]) == (server.url, "admin", "admin", False)
    assert set(told["stores"].values()) == {"ok"}
    table = box_cli("status").out
    assert "domain time" in table
    assert "access=ok" in table


def test_users_and_tokens(box_cli: Callable, server: Server) -> None:
    assert box_cli("user", "create", "bea", "--role", "approver", "-o", "id").out == "bea\n"
    users = msgspec.json.decode(box_cli("user", "ls", "-o", "json").out, type=list[User])
    assert [(u.name, u.role) for u in users] == [("admin", "admin"), ("bea", "approver")]
    secret = box_cli("token", "create", "--user", "bea", "--name", "laptop", "--role", "viewer", "-o", "id").out.strip()
    as_bea = {"MLBOX_TOKEN": secret}
    assert '"role": "viewer"' in box_cli("status", "-o", "json", **as_bea).out
    again = box_cli("user", "create", "bea")
    assert (again.code, "exists already" in again.line) == (5, True)
    refused = box_cli("user", "create", "carl", **as_bea)
    assert (refused.code, "role admin" in refused.line) == (4, True)
    tokens = msgspec.json.decode(box_cli("token", "ls", "-o", "json").out, type=list[Token])
    [of_bea] = [token for token in tokens if token.user == "bea"]
    assert secret not in box_cli("token", "ls", "-o", "json").out
    assert box_cli("token", "revoke", of_bea.id).code == 0
    assert box_cli("status", **as_bea).code == 4
    unknown = box_cli("token", "revoke", "0" * 32)
    assert unknown.code == 3


def test_a_token_is_ones_own_where_no_user_is_named(box_cli: Callable, server: Server) -> None:
    ran = box_cli("token", "create", "--name", "ci", "--role", "viewer")
    assert ran.code == 0
    assert "The secret is not shown again." in ran.err
    [secret] = re.findall(r"secret +(mlb_\S+)", ran.out)
    answer = httpx.get(f"{server.url}/api/v1/whoami", headers={"Authorization": f"Bearer {secret}"})
    assert (answer.json()["name"], answer.json()["role"]) == ("admin", "viewer")


def test_the_clock_is_shown_and_moved_where_it_is_replayed(cli: Callable, make_server: Callable[..., Server]) -> None:
    server = make_server("--replay-clock", "2013-01-01T00:00Z")
    box = {"MLBOX_URL": server.url, "MLBOX_TOKEN": server.token}
    assert "2013-01-01" in cli("clock", "show", **box).out
    assert "2013-02-01" in cli("clock", "advance", "2013-02-01T00:00Z", **box).out
    back = cli("clock", "advance", "2013-01-01T00:00Z", **box)
    assert (back.code, "cannot go back" in back.line) == (2, True)


def test_a_real_clock_is_not_moved(box_cli: Callable) -> None:
    ran = box_cli("clock", "advance", "2030-01-01T00:00Z")
    assert (ran.code, "cannot be advanced" in ran.line) == (2, True)
