"""Whose account a person of a sign-in provider uses, and what their groups give them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, NotAuthorised, NotFound
from mlbox.store.access.access import Access
from mlbox.store.access.identities import GroupMap, Identities, Person, account_name, check_subject
from mlbox.store.access.teams import Teams
from mlbox.store.db import Database

ISSUER = "https://idp.example"
MAP = GroupMap(("ml=vision:member", "lead=vision:approver", "lead=everyone:member", "cn=a,ou=b=data:viewer"))


class House:
    def __init__(self, db: Database, clock: ManualClock) -> None:
        self.db = db
        self.access, self.teams = Access(db, clock), Teams(db)
        self.identities = Identities(db, self.access, self.teams)
        self.access.create_user("root", "admin", actor="mlbox")

    def sign_in(self, subject: str, *groups: str, name: str = "", group_map: GroupMap = MAP) -> str:
        person = Person(ISSUER, subject, name or subject, group_map.roles(groups))
        session = self.access.session(self.identities.sign_in(person, group_map.teams))
        assert session is not None
        return session.principal.name


@pytest.fixture
def house(access_db: Database, clock: ManualClock) -> House:
    return House(access_db, clock)


def test_groups_become_the_highest_role_in_each_team() -> None:
    assert MAP.roles(["ml", "x"]) == {"everyone": "viewer", "vision": "member"}
    assert MAP.roles(["ml", "lead"]) == {"everyone": "member", "vision": "approver"}
    assert MAP.roles(["cn=a,ou=b"]) == {"everyone": "viewer", "data": "viewer"}
    assert MAP.roles(["ML", "ml ", ""]) is None
    assert MAP.roles([]) is None
    assert MAP.teams == {"vision", "everyone", "data"}
    assert GroupMap((), "member").roles([]) == {"everyone": "member"}
    assert GroupMap(("a=everyone:admin",), "member").roles(["a"]) == {"everyone": "admin"}
    assert GroupMap(()).roles(["a"]) is None, "with nothing set nobody gets in"


@pytest.mark.parametrize(
    "entry", ["", "ml", "ml=vision", "ml=vision:owner", "=vision:member", "ml=:member", "ml=a.b:member"]
)
def test_entries_that_say_nothing(entry: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        GroupMap((entry,))
    assert caught.value.field == "oidc_groups"


def test_names_of_accounts() -> None:
    cases = {"Ann": "ann", "ann.b@example.org": "ann.b", "DOM\\Ann B": "dom-ann-b", "Zoë": "zo", "--x--": "x"}
    assert {claimed: account_name(claimed) for claimed in cases} == cases
    for claimed in ("", "@example.org", "日本", "..", "a" * 300):
        with pytest.raises(InvalidInput):
            account_name(claimed)
    for subject in ("", "s" * 256, "a\nb", "é"):
        with pytest.raises(InvalidInput):
            check_subject(subject)


def test_the_account_follows_the_subject_and_not_the_name(house: House) -> None:
    assert house.sign_in("s1", "ml", name="ann") == "ann"
    assert house.sign_in("s1", "ml", name="renamed") == "ann"
    with pytest.raises(AlreadyExists, match="never takes over"):
        house.sign_in("s2", "ml", name="ann")
    other = Person("https://other.example", "s1", "ann", MAP.roles(["ml"]))
    with pytest.raises(AlreadyExists):
        house.identities.sign_in(other, MAP.teams)
    assert house.identities.user_of(ISSUER, "s1") == "ann"
    assert house.identities.user_of("https://other.example", "s1") is None


@pytest.mark.parametrize("name", ["root", "ROOT", "root@elsewhere.example", "mlbox", "token", "everyone", "oidc"])
def test_names_that_nobody_gets_from_a_provider(house: House, name: str) -> None:
    with pytest.raises(AlreadyExists):
        house.sign_in("s9", "lead", name=name)
    assert house.identities.user_of(ISSUER, "s9") is None


def test_only_the_teams_of_the_mapping_follow_the_groups(house: House) -> None:
    house.teams.create("hand", actor="root")
    house.sign_in("ann", "ml")
    house.teams.add_member("hand", "ann", "approver", actor="root")
    house.sign_in("ann", "cn=a,ou=b")
    assert house.teams.memberships("ann") == {"hand": "approver", "data": "viewer"}
    only_teams = GroupMap(("ml=vision:member",))
    house.teams.add_member("everyone", "ann", "member", actor="root")
    house.sign_in("ann", "ml", group_map=only_teams)
    assert house.access.user("ann").role == "member", "everyone is not in this mapping"


def test_who_lost_every_group_keeps_nothing_of_the_providers(house: House) -> None:
    house.sign_in("ann", "lead")
    session = house.access.begin_session("ann")
    with pytest.raises(NotAuthorised, match="None of your groups"):
        house.sign_in("ann")
    assert house.access.session(session) is None
    assert house.teams.memberships("ann") == {}
    assert house.access.user("ann").role == "viewer"


def test_the_last_admin_is_not_made_less(house: House) -> None:
    house.identities.link("root", ISSUER, "s1", actor="root")
    with pytest.raises(Conflict, match="only admin"):
        house.sign_in("s1", "ml")
    assert house.access.user("root").role == "admin"


def test_services_and_the_disabled_do_not_sign_in(house: House) -> None:
    house.access.create_user("bot", "member", actor="root", kind="service")
    with pytest.raises(NotAuthorised):
        house.identities.link("bot", ISSUER, "s1", actor="root")
    house.sign_in("ann", "ml")
    house.access.disable("ann", actor="root")
    with pytest.raises(NotAuthorised, match="disabled"):
        house.sign_in("ann", "lead")
    assert house.teams.memberships("ann") == {"vision": "member"}
    with pytest.raises(NotAuthorised):
        house.access.begin_session("ann")


def test_linking_by_hand(house: House) -> None:
    house.access.create_user("ann", "member", actor="root")
    made = house.identities.link("ann", ISSUER, "s1", actor="root")
    assert house.identities.link("ann", ISSUER, "s1", actor="root") == made
    assert house.identities.identities() == [made]
    with pytest.raises(Conflict, match="ann already"):
        house.identities.link("root", ISSUER, "s1", actor="root")
    assert house.sign_in("s1", "ml", name="whoever") == "ann"
    house.identities.unlink(ISSUER, "s1", actor="root")
    with pytest.raises(NotFound):
        house.identities.unlink(ISSUER, "s1", actor="root")
    types = [event.type for event in house.db.events(limit=100)]
    assert types.count("user.linked") == types.count("user.unlinked") == 1


def test_a_session_ends_as_any_other(house: House, clock: ManualClock) -> None:
    house.sign_in("ann", "ml")
    secret = house.access.begin_session("ann")
    assert house.access.session(secret) is not None
    clock.advance(clock.now() + timedelta(hours=13))
    assert house.access.session(secret) is None
