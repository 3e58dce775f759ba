"""Jobs with secrets, as real processes: they have them, and nothing that mlbox keeps shows them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mlbox.store import migrations
from mlbox.store.access.secrets import Secrets
from mlbox.store.db import Database
from mlbox.store.keyfile import KeyFile
from tests.conftest import wait_for
from tests.scheduler.test_scheduler import House, alive

VALUE = "s3cr/t+value 17"


class SecretHouse(House):
    """A scheduler with one secret of everyone's, DB."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.dbs["secrets"] = Database(folder / "secrets.sqlite", migrations.secrets, self.clock, self.access._db._bus)
        self.secrets = Secrets(self.dbs["secrets"], KeyFile(folder / "keys" / "secret.key"), lambda user, team: True)
        self.secrets.put("everyone", "DB", VALUE, actor="ann")
        self.scheduler = self.make(secrets=self.secrets)

    def files_with(self, text: str) -> list[str]:
        """Files below the house in which a text stands."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
        return [str(path.relative_to(self.folder)) for path in found]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[SecretHouse]:
    built = SecretHouse(tmp_path)
    built.scheduler.start()
    yield built
    built.close()


SCRIPT = """
import base64, os, sys, urllib.parse
value = os.environ["DB_URL"]
print("length", len(value))
print("plain", value)
print("basic", base64.b64encode(value.encode()).decode())
print("url", urllib.parse.quote(value, safe=""))
print("error", value, file=sys.stderr)
print("token", os.environ["MLBOX_TOKEN"])
for piece in ("cut ", value[:5], value[5:], "\\n"):
    os.write(1, piece.encode())
"""


def test_a_job_has_its_secret_and_its_log_has_the_name(house: SecretHouse) -> None:
    job = house.ended(house.submit("python", "-uc", SCRIPT, secrets={"DB_URL": "everyone/DB"}))
    assert (job.state, job.reason) == ("succeeded", "exit status 0")
    assert house.log(job).splitlines() == [
        f"length {len(VALUE)}",
        *(f"{word} ***DB***" for word in ("plain", "basic", "url", "error")),
        "token ***MLBOX_TOKEN***",
        "cut ***DB***",
    ]
    for text in (VALUE, quote(VALUE, safe=""), base64.b64encode(VALUE.encode()).decode()):
        assert house.files_with(text) == []


def test_while_it_runs_neither_secret_nor_token_lies_on_disk(house: SecretHouse) -> None:
    script = 'echo "$MLBOX_TOKEN" >&3; echo began; sleep 60'
    out = house.folder.parent / "token.txt"
    job = house.submit("sh", "-c", f"exec 3> {out}; {script}", secrets={"DB": "everyone/DB"})
    wait_for(lambda: "began" in house.log(job), what="the job to begin")
    token = out.read_text().strip()
    assert token.startswith("mlb_")
    assert house.files_with(VALUE) == []
    assert house.files_with(token) == []
    house.scheduler.stop(job.id, actor="ann")
    assert house.ended(job).state == "stopped"


def test_what_a_job_leaves_behind_does_not_hold_its_end_up(house: SecretHouse) -> None:
    left = house.folder / "left"
    script = f"setsid sh -c 'echo $$ > {left}; exec sleep 60' & while [ ! -s {left} ]; do sleep 0.05; done; echo $DB"
    job = house.ended(house.shell(script, secrets={"DB": "everyone/DB"}))
    assert (job.state, house.log(job)) == ("succeeded", "***DB***\n")
    assert not alive(int(left.read_text())), "and it ends with its job, whatever session it is in"


def test_a_job_whose_secret_is_gone_does_not_start_and_says_why(house: SecretHouse) -> None:
    house.secrets.remove("everyone", "DB", actor="ann")
    job = house.ended(house.shell("true", secrets={"DB": "everyone/DB"}))
    assert job.state == "failed"
    assert "could not be started: There is no secret 'DB'" in job.reason


def test_a_job_whose_key_is_lost_says_which_secret_to_set_again(house: SecretHouse) -> None:
    (house.folder / "keys" / "secret.key").unlink()
    job = house.ended(house.shell("true", secrets={"DB": "everyone/DB"}))
    assert "The key of everyone/DB is lost" in job.reason
    assert house.ended(house.shell("true")).state == "succeeded", "other jobs run"


def test_a_command_that_cannot_be_started_ends_with_its_log(house: SecretHouse) -> None:
    job = house.ended(house.submit("no-such-program", secrets={"DB": "everyone/DB"}))
    assert (job.state, job.exit_code) == ("failed", 127)
    assert "no-such-program" in house.log(job)
