"""Teams: who may do what to whose, and what is private."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, MlboxError, NotAuthorised, NotFound
from mlbox.events import EventBus
from mlbox.records import Kind, Principal, Role
from mlbox.store import migrations
from mlbox.store.access.access import Access
from mlbox.store.access.roles import ACTIONS, ROLES, at_least, lower_of
from mlbox.store.access.teams import EVERYONE, Teams
from mlbox.store.asking import asking
from mlbox.store.db import Database


class World:
    """Accounts, and two teams: ada is an approver of vision, bea an admin of speech, cyd in neither, eve the box's admin."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(parse_time("2026-01-01T00:00Z"))
        self.db = Database(folder / "access.sqlite", migrations.access, self.clock, EventBus())
        self.access = Access(self.db, self.clock)
        self.teams = Teams(self.db)
        self.other = Database(folder / "jobs.sqlite", migrations.jobs, self.clock, EventBus(), privacy=self.teams)
        for name, role in (("ada", "member"), ("bea", "viewer"), ("cyd", "member"), ("eve", "admin")):
            self.access.create_user(name, role, actor="test")
        self.teams.create("vision", actor="eve")
        self.teams.create("speech", actor="eve")
        self.teams.add_member("vision", "ada", "approver", actor="eve")
        self.teams.add_member("speech", "bea", "admin", actor="eve")

    def who(self, name: str, **changes: object) -> Principal:
        """A principal as authentication finds it."""
        role = self.access.user(name).role
        ceiling = changes.pop("ceiling", "admin")
        return Principal(name=name, role=lower_of(role, ceiling), ceiling=ceiling, **changes)

    def may(self, user: str, action: str, **whose: str) -> bool:
        try:
            self.teams.require(self.who(user), action, **whose)
        except NotAuthorised:
            return False
        return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.other.close()
    world.db.close()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.other.close()
    world.db.close()


def test_a_name_says_whose_it_is(world: World) -> None:
    for name, team in (
        ("vision.flights", "vision"),
        ("vision.a.b", "vision"),
        ("vision", EVERYONE),
        ("visions.flights", EVERYONE),
        ("nobody.flights", EVERYONE),
        (".flights", EVERYONE),
        ("flights", EVERYONE),
    ):
        assert world.teams.team_of(name) == team, name


def test_the_role_in_the_owning_team_counts(world: World) -> None:
    assert world.may("ada", "model.approve", name="vision.faces")
    assert not world.may("ada", "model.approve", name="faces")  # in everyone she is a member
    assert not world.may("bea", "source.append", name="vision.faces")
    assert world.may("bea", "model.policy", name="speech.words")
    assert not world.may("bea", "dataset.create", name="words")  # in everyone she is a viewer
    assert world.may("cyd", "dataset.create", name="words")
    assert world.may("eve", "model.policy", name="vision.faces")
    assert not world.may("bea", "box.advance")  # an admin of a team is not the box's


def test_a_refusal_says_what_it_takes_and_where(world: World) -> None:
    with pytest.raises(NotAuthorised, match=r"takes the role member in the team vision; cyd is not in it"):
        world.teams.require(world.who("cyd"), "dataset.create", name="vision.x")
    with pytest.raises(NotAuthorised, match=r"takes the role admin; cyd is member"):
        world.teams.require(world.who("cyd"), "user.create")


@given(
    action=st.sampled_from(sorted(ACTIONS)),
    user=st.sampled_from(["ada", "bea", "cyd", "eve"]),
    ceiling=st.sampled_from(ROLES),
    name=st.sampled_from(["vision.x", "speech.x", "x"]),
)
def test_no_token_may_do_more_than_its_ceiling_or_its_holder(
    shared_world: World, action: str, user: str, ceiling: Role, name: str
) -> None:
    """The table against the rule said anew: the role held where the action asks for it, capped by the token."""
    teams, wanted = shared_world.teams, ACTIONS[action]
    held = {"ada": {"vision": "approver"}, "bea": {"speech": "admin"}}.get(user, {})
    account = shared_world.access.user(user).role
    in_team: dict[str, Role] = {EVERYONE: account, **held}
    if account == ceiling == "admin":  # a weaker token of an admin is no admin's
        in_team |= {"vision": "admin", "speech": "admin"}
    places = {
        "any": list(in_team),
        "box": [EVERYONE],
        "owner": [teams.team_of(name)],
        "named": [teams.team_of(name)],
    }[wanted.where]
    expected = any(at_least(lower_of(in_team[t], ceiling), wanted.role) for t in places if t in in_team)
    try:
        teams.require(shared_world.who(user, ceiling=ceiling), action, name=name)
    except NotAuthorised:
        assert not expected
    else:
        assert expected


def test_a_jobs_token_does_what_jobs_may_and_no_more(world: World) -> None:
    job = world.who("eve", job_id="j1")
    for action, wanted in ACTIONS.items():
        if wanted.job:
            world.teams.require(job, action, name="vision.x")
        else:
            with pytest.raises(NotAuthorised, match="job's token"):
                world.teams.require(job, action, name="vision.x")


def test_a_change_of_role_counts_at_once(world: World) -> None:
    assert not world.may("cyd", "model.promote", name="vision.x")
    world.teams.add_member("vision", "cyd", "member", actor="eve")
    assert world.may("cyd", "model.promote", name="vision.x")
    world.teams.remove_member("vision", "cyd", actor="eve")
    assert not world.may("cyd", "model.promote", name="vision.x")
    world.teams.add_member(EVERYONE, "cyd", "admin", actor="eve")
    assert world.may("cyd", "box.advance")


def test_a_box_keeps_an_admin(world: World) -> None:
    with pytest.raises(Conflict, match="only admin"):
        world.teams.add_member(EVERYONE, "eve", "member", actor="eve")
    world.teams.add_member(EVERYONE, "cyd", "admin", actor="eve")
    world.teams.add_member(EVERYONE, "eve", "member", actor="cyd")
    assert world.access.user("eve").role == "member"


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_private_is_absent_for_others(world: World, kind: Kind) -> None:
    world.teams.set_private(kind, "vision.secret", True, actor="ada")
    for name, sees in (("ada", True), ("bea", False), ("cyd", False), ("eve", True)):
        with asking(world.who(name)):
            assert world.teams.visible(kind, "vision.secret") is sees, name
            assert (world.teams.private() == [(kind, "vision.secret")]) is sees
            assert world.other.one("SELECT visible(?, ?) AS v", (kind, "vision.secret"))["v"] == sees
            assert world.teams.visible(kind, "vision.other")
    assert world.teams.visible(kind, "vision.secret")  # the box itself
    assert world.teams.hides_something(world.who("cyd"))
    assert not world.teams.hides_something(world.who("ada"))
    world.teams.set_private(kind, "vision.secret", False, actor="ada")
    with asking(world.who("cyd")):
        assert world.teams.visible(kind, "vision.secret")


def test_what_everyone_owns_cannot_be_private(world: World) -> None:
    with pytest.raises(InvalidInput, match="belongs to everyone"):
        world.teams.set_private("dataset", "flights", True, actor="eve")
    with pytest.raises(InvalidInput, match="cannot be private"):
        world.teams.set_private("user", "vision.x", True, actor="eve")  # type: ignore[arg-type]


def test_nothing_shared_tells_of_private_parts(world: World) -> None:
    world.teams.set_private("dataset", "vision.faces", True, actor="ada")
    parts = [("dataset", "vision.faces")]
    for name in ("faces", "vision.model", "speech.model"):
        with pytest.raises(InvalidInput, match="which is private"):
            world.teams.shelter("model", name, parts)
    world.teams.set_private("model", "vision.model", True, actor="ada")
    world.teams.shelter("model", "vision.model", parts)
    world.teams.set_private("model", "speech.model", True, actor="bea")
    with pytest.raises(InvalidInput, match="which is private"):
        world.teams.shelter("model", "speech.model", parts)


def test_a_team_with_private_objects_stays(world: World) -> None:
    world.teams.set_private("model", "vision.secret", True, actor="ada")
    with pytest.raises(Conflict, match=r"vision\.secret"):
        world.teams.remove("vision", actor="eve")
    world.teams.set_private("model", "vision.secret", False, actor="ada")
    world.teams.remove("vision", actor="eve")
    assert world.teams.team_of("vision.secret") == EVERYONE


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda teams: teams.create("vision", actor="eve"), AlreadyExists),
        (lambda teams: teams.create("everyone", actor="eve"), AlreadyExists),
        (lambda teams: teams.create("a.b", actor="eve"), InvalidInput),
        (lambda teams: teams.create("", actor="eve"), InvalidInput),
        (lambda teams: teams.add_member("nowhere", "ada", "member", actor="eve"), NotFound),
        (lambda teams: teams.add_member("vision", "nobody", "member", actor="eve"), NotFound),
        (lambda teams: teams.add_member("vision", "ada", "king", actor="eve"), InvalidInput),
        (lambda teams: teams.remove_member("everyone", "ada", actor="eve"), InvalidInput),
        (lambda teams: teams.remove("nowhere", actor="eve"), NotFound),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(
    world: World, change: Callable[[Teams], object], error: type[MlboxError]
) -> None:
    before = world.teams.teams()
    with pytest.raises(error):
        change(world.teams)
    assert world.teams.teams() == before


def test_a_restart_finds_everything_again(world: World) -> None:
    world.teams.set_private("model", "vision.secret", True, actor="ada")
    again = Teams(world.db)
    assert again.teams() == world.teams.teams()
    assert again.private() == world.teams.private()
    assert again.memberships("ada") == {"vision": "approver"}
