"""Secrets at rest: encrypted, bound to their team and name, and what a lost or open key file means."""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.errors import InvalidInput, NotAuthorised, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.records import Job, JobSpec
from mlbox.store import migrations
from mlbox.store.access.secrets import MOST_BYTES, Secrets
from mlbox.store.datadir import DataDir
from mlbox.store.db import Database
from mlbox.store.keyfile import KeyFile

VALUE = "hf_Q7x9mLw2"


class House:
    """Secrets over a real file; `gone` are users who left."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.folder = folder
        self.key = folder / "keys" / "secret.key"
        self.gone: set[str] = set()
        self.db = Database(folder / "secrets.sqlite", migrations.secrets, clock, EventBus())
        self.secrets = Secrets(self.db, KeyFile(self.key, marked=True), lambda user, team: user not in self.gone)
        self.clock = clock

    def job(self, *, team: str = "everyone", user: str = "ann", **wanted: str) -> Job:
        found = self.secrets.resolve(wanted, team=team)
        spec = JobSpec(command=("true",), team=team, secrets=found)
        return Job(id="j1", user=user, spec=spec, state="starting", created_at=self.clock.real())


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock) -> Iterator[House]:
    built = House(tmp_path, clock)
    yield built
    built.db.close()


def test_a_secret_is_kept_listed_by_name_given_to_a_job_and_forgotten(house: House) -> None:
    made = house.secrets.put("everyone", "HF_TOKEN", VALUE, actor="ann")
    assert (made.team, made.name, made.set_by, made.used_at, made.usable) == ("everyone", "HF_TOKEN", "ann", None, True)
    assert house.secrets.all() == [made]
    given = house.secrets.of_job(house.job(TOKEN="HF_TOKEN"))
    assert given == ({"TOKEN": VALUE}, {"HF_TOKEN": VALUE})
    assert given.masking("mlb_x") == {"HF_TOKEN": VALUE, "MLBOX_TOKEN": "mlb_x"}
    assert house.secrets.one("everyone", "HF_TOKEN").used_at == house.clock.real()
    house.secrets.remove("everyone", "HF_TOKEN", actor="ann")
    assert house.secrets.all() == []
    with pytest.raises(NotFound, match="HF_TOKEN"):
        house.secrets.remove("everyone", "HF_TOKEN", actor="ann")
    told = [(event.type, event.subject, event.data["team"]) for event in reversed(house.db.events())]
    assert told == [(f"secret.{verb}", "secret:HF_TOKEN", "everyone") for verb in ("set", "used", "removed")]


def test_a_job_without_secrets_gets_none_and_its_log_is_not_masked(house: House) -> None:
    assert house.secrets.of_job(house.job()).masking("mlb_x") == {}
    assert not house.key.exists()


def test_nothing_on_disk_but_the_key_file_helps_to_read_a_value(house: House) -> None:
    house.secrets.put("everyone", "HF_TOKEN", VALUE, actor="ann")
    key = base64.b64decode(house.key.read_bytes())
    house.db.close()
    for path in house.folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert VALUE.encode() not in content, path
        assert key not in content
        assert (base64.b64encode(key) in content) == (path == house.key)
    assert stat.S_IMODE(house.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(house.key.parent.stat().st_mode) == 0o700
    assert (house.key.parent / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_the_snapshot_before_a_migration_leaves_the_key_out(house: House) -> None:
    house.secrets.put("everyone", "HF_TOKEN", VALUE, actor="ann")
    (house.folder / "MLBOX_VERSION").write_text('{"layout": 0}')
    DataDir(house.folder).close()
    copied = [path.name for path in (house.folder / "snapshots").rglob("*") if path.is_file()]
    assert copied == ["secrets.sqlite"]


def test_a_name_is_of_the_jobs_team_first_then_of_everyone_and_of_no_other(house: House) -> None:
    for team in ("everyone", "vision", "speech"):
        house.secrets.put(team, "HF_TOKEN", f"{VALUE}-{team}", actor="ann")
    house.secrets.put("everyone", "DB", "a database", actor="ann")
    job = house.job(team="vision", A="HF_TOKEN", B="everyone/HF_TOKEN", C="DB")
    assert job.spec.secrets == {"A": "vision/HF_TOKEN", "B": "everyone/HF_TOKEN", "C": "everyone/DB"}
    given = house.secrets.of_job(job)
    assert given.env == {"A": f"{VALUE}-vision", "B": f"{VALUE}-everyone", "C": "a database"}
    assert sorted(given.values) == ["DB", "everyone/HF_TOKEN", "vision/HF_TOKEN"], "both are masked"
    with pytest.raises(InvalidInput, match="cannot have the secret 'speech/HF_TOKEN'"):
        house.job(team="vision", A="speech/HF_TOKEN")
    with pytest.raises(NotFound, match="no secret 'NONE'"):
        house.job(A="NONE")


@pytest.mark.parametrize("variable", ["MLBOX_TOKEN", "PATH", "CUDA_VISIBLE_DEVICES", "1A", "A B", "A=B", ""])
def test_a_variable_that_is_none_or_ours_is_refused(house: House, variable: str) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    with pytest.raises(InvalidInput):
        house.secrets.resolve({variable: "X"}, team="everyone")


def test_a_variable_is_given_once(house: House) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    with pytest.raises(InvalidInput, match="as a value and as a secret"):
        house.secrets.resolve({"X": "X"}, team="everyone", env={"X": "1"})


def test_who_left_the_team_gets_nothing_of_it_although_the_job_waits_since_before(house: House) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    job = house.job(X="X")
    house.gone.add("ann")
    with pytest.raises(NotAuthorised, match="may no longer use"):
        house.secrets.of_job(job)
    assert house.secrets.one("everyone", "X").used_at is None


@pytest.mark.parametrize("value", ["", "abc", "ab\ncd\nef", "   abc   ", "a" * (MOST_BYTES + 1), "with\0nul"])
def test_a_value_that_cannot_be_masked_or_given_is_refused_without_being_told(house: House, value: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        house.secrets.put("everyone", "X", value, actor="ann")
    assert raised.value.field == "value"
    assert not value.strip() or value not in str(raised.value)
    assert house.secrets.all() == []


def test_a_row_that_was_copied_to_another_name_or_team_does_not_open(house: House) -> None:
    house.secrets.put("vision", "X", VALUE, actor="ann")
    house.db.write(lambda tx: tx.run("UPDATE secret SET team = 'everyone'"))
    with pytest.raises(Unavailable, match="was changed on disk"):
        house.secrets.of_job(house.job(X="X"))


def test_a_new_key_opens_everything_and_the_old_one_is_forgotten(house: House) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    house.secrets.put("vision", "Y", "another value", actor="ann")
    before = house.key.read_text()
    assert house.secrets.rotate_key(actor="admin") == (2, ())
    assert before not in house.key.read_text()
    assert len(house.key.read_text().split()) == 1
    assert house.secrets.of_job(house.job(team="vision", X="X", Y="Y")).env == {"X": VALUE, "Y": "another value"}


def test_a_crash_in_the_middle_of_a_rotation_loses_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    write, calls = KeyFile.write, []

    def once(self: KeyFile, keys: list[bytes]) -> dict[str, bytes]:
        calls.append(len(keys))
        if len(calls) == 2:
            raise OSError("the power failed")
        return write(self, keys)

    monkeypatch.setattr(KeyFile, "write", once)
    with pytest.raises(OSError, match="power"):
        house.secrets.rotate_key(actor="admin")
    assert calls == [2, 1]
    assert house.secrets.of_job(house.job(X="X")).env == {"X": VALUE}
    assert house.secrets.rotate_key(actor="admin") == (1, ())
    assert len(house.key.read_text().split()) == 1


def test_a_lost_key_names_what_to_set_again_and_breaks_nothing_else(house: House) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    house.secrets.put("everyone", "Y", VALUE, actor="ann")
    job = house.job(X="X", Y="Y")
    house.key.unlink()
    assert house.secrets.lost() == ["everyone/X", "everyone/Y"]
    assert [secret.usable for secret in house.secrets.all()] == [False, False]
    with pytest.raises(Unavailable, match="set again with `mlbox secret set`: everyone/X, everyone/Y"):
        house.secrets.of_job(job)
    house.secrets.put("everyone", "X", "a new value", actor="ann")
    assert house.secrets.of_job(house.job(X="X")).env == {"X": "a new value"}
    assert house.secrets.lost() == ["everyone/Y"]
    assert house.secrets.rotate_key(actor="admin") == (1, ("everyone/Y",))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_file_that_others_may_read_is_refused(house: House, mode: int) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    house.key.chmod(mode)
    for attempt in (
        lambda: house.secrets.of_job(house.job(X="X")),
        lambda: house.secrets.put("everyone", "Y", VALUE, actor="ann"),
        lambda: house.secrets.rotate_key(actor="admin"),
    ):
        with pytest.raises(Unavailable, match="open to other accounts"):
            attempt()
    assert not house.secrets.all()[0].usable
    house.key.chmod(0o600)
    assert house.secrets.of_job(house.job(X="X")).env == {"X": VALUE}


@pytest.mark.parametrize("content", [b"", b"not base64!\n", b"\xff\n", base64.b64encode(b"short") + b"\n"])
def test_a_damaged_key_file_is_refused_and_never_replaced(house: House, content: bytes) -> None:
    house.secrets.put("everyone", "X", VALUE, actor="ann")
    house.key.write_bytes(content)
    with pytest.raises(Unavailable, match="damaged"):
        house.secrets.put("everyone", "Y", VALUE, actor="ann")
    assert house.key.read_bytes() == content


def test_what_was_set_under_one_key_stays_when_time_passes(house: House, clock: ManualClock) -> None:
    first = house.secrets.put("everyone", "X", VALUE, actor="ann")
    clock.advance(clock.now() + timedelta(days=1))
    again = house.secrets.put("everyone", "X", "another one", actor="bea")
    assert again.set_by == "bea"
    assert again.set_at - first.set_at == timedelta(days=1)
    assert house.secrets.of_job(house.job(X="X")).env == {"X": "another one"}
