"""What reads jobs, GPUs, queues, quotas and crons prints the same rows as a table, for people, and in each form for programs."""

from __future__ import annotations

import csv
import io
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.conftest import Ran
from tests.conftest import Server, wait_for

SMALL = ("--gpus", "1", "--memory", "100MB", "--cpus", "0.1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("box") / "data", "--gpus", "virtual:A100=80,A100=80")
    yield server
    server.stop(signal.SIGKILL)


def rows(box: Callable[..., Ran], *words: str) -> dict[str, Any]:
    """A command's rows in each form; every form ends as well as the others."""
    ran = {form: box(*words, "-o", form) for form in ("table", "json", "jsonl", "csv", "id")}
    assert {each.code for each in ran.values()} == {0}, ran
    assert not [form for form, each in ran.items() if each.out and not each.out.endswith("\n")]
    whole = msgspec.json.decode(ran["json"].out)
    return {
        "table": ran["table"].out.splitlines(),
        "json": whole if isinstance(whole, list) else [whole],
        "jsonl": [msgspec.json.decode(line) for line in ran["jsonl"].out.splitlines()],
        "csv": list(csv.DictReader(io.StringIO(ran["csv"].out))),
        "id": ran["id"].out.splitlines(),
    }


LISTS = [  # words, the field or fields that -o id prints, and a word that people see in the table
    (("ps",), "id", "one"),
    (("ps", "-a"), "id", "one"),
    (("job", "ls"), "id", "one"),
    (("queue",), "id", "one"),
    (("queue", "ls"), "name", "experiments"),
    (("gpus",), "uuid", "(virtual)"),
    (("usage",), "team/user", "everyone"),
    (("quota", "ls"), "team/name", "mon-fri 09:00-18:00"),
    (("quota", "show", "everyone"), "team/name", "mon-fri 09:00-18:00"),
    (("quota", "weights"), "team", "everyone"),
    (("cron", "ls"), "id", "nightly"),
    (("cron", "preview", "0 3 * * *", "--timezone", "Europe/Berlin"), "at", "03:00 CE"),
]
ONES = [
    (("show", "one"), "id", "one"),
    (("cron", "show", "nightly"), "id", "nightly"),
]


def test_every_reading_command_knows_every_form(box: Callable[..., Ran], home: Path) -> None:
    (home / "job.toml").write_text('command = "true"\nmemory_gb = 0.1\ncpus = 0.1\n')
    job_id = box("submit", *SMALL, "--name", "one", "-o", "id", "--", "sleep", "600").out.strip()
    wait_for(lambda: '"running"' in box("ps", "-o", "json").out, what="the job to run")
    window = ("--window", "mon-fri 09:00-18:00", "--zone", "Europe/Berlin")
    assert box("quota", "set", "everyone", "2", *window).code == 0
    assert box("quota", "weight", "everyone", "2").code == 0
    assert box("cron", "add", "0 3 * * *", "job.toml", "--name", "nightly").code == 0
    for words, key, seen in [*LISTS, *ONES]:
        found = rows(box, *words)
        assert any(seen in line for line in found["table"]), (words, found["table"])
        assert found["json"], words
        for form in ("json", "jsonl", "csv"):
            assert ["/".join(row[name] for name in key.split("/")) for row in found[form]] == found["id"], (words, form)
        assert list(found["csv"][0]) == list(found["json"][0]), words
    for name in ("nightly", rows(box, "cron", "ls")["id"][0]):
        shown = box("cron", "show", name).out
        for said in ("schedule +0 3 [*] [*] [*]", "misfire +once, within 1 d 0 h", "overlap +skip", "command +true"):
            assert re.search(f"^{said}$", shown, flags=re.M), (said, shown)
    assert box("cron", "rm", "nightly").code == 0

    for words in (("queue",), ("gpus",)):
        (line,) = [line for line in box(*words).out.splitlines() if job_id[-8:] in line]
        assert job_id not in line, "as short as elsewhere"

    overview = rows(box, "top")
    assert [job["id"] for job in overview["json"][0]["jobs"]] == overview["id"] == [job_id]
    assert overview["json"][0]["gpus"][0]["jobs"] == [job_id]
    assert "1 running, 0 waiting; they hold 0.1 CPUs" in overview["table"][0]
    assert any(line.startswith("0 ") and "A100" in line and "one" in line for line in overview["table"])

    plan = {form: box("submit", "--dry-run", *SMALL, "-o", form, "--", "true").out for form in ("json", "jsonl", "csv")}
    for_people = box("submit", "--dry-run", *SMALL, "--", "true").out
    assert re.search(r"^on gpus +1$", for_people, flags=re.M)
    assert re.search(r"^asks +1 GPU, 0[.]1 CPU, 0[.]09", for_people, flags=re.M)
    both = box("submit", "--dry-run", *SMALL, "--gpu-memory", "40GB", "--", "true").out
    assert re.search(r"^asks +1 GPU with 40 GiB, 0[.]1 CPU, ", both, flags=re.M), both
    plans = [msgspec.json.decode(plan["json"]), msgspec.json.decode(plan["jsonl"])]
    assert [(each["starts_now"], each["gpus"]) for each in plans] == [(True, [1])] * 2
    assert next(csv.DictReader(io.StringIO(plan["csv"])))["starts_now"] == "true"

    box("stop", "one")
    assert box("wait", "one", "-o", "id").out == f"{job_id}\n"
    ended = {form: box("wait", "one", "-o", form) for form in ("table", "json", "jsonl", "csv")}
    assert {each.code for each in ended.values()} == {128 + signal.SIGTERM}
    assert "stopped by admin" in ended["table"].out
    assert [msgspec.json.decode(ended["json"].out)[0]["state"], msgspec.json.decode(ended["jsonl"].out)["state"]] == [
        "stopped"
    ] * 2
    assert next(csv.DictReader(io.StringIO(ended["csv"].out)))["exit_code"] == str(-signal.SIGTERM)
