"""A job from the command line: submitted, looked at, followed, waited for; against one running box."""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.cli.conftest import Ran
from tests.conftest import MLBOX, Server, wait_for

SMALL = ("--memory", "100MB", "--cpus", "0.1", "--retries", "0")


def job(box: Callable[..., Ran], word: str) -> dict:
    return msgspec.json.decode(box("show", word, "-o", "json").out)


def started(*words: str, server: Server, home: Path) -> subprocess.Popen[str]:
    """A command in a process of its own, which is read and interrupted while it runs."""
    return subprocess.Popen(
        [str(MLBOX), *words],
        cwd=home,
        env={**os.environ, "HOME": str(home), "MLBOX_URL": server.url, "MLBOX_TOKEN": server.token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_followed_job_ends_as_the_job_ends(box: Callable[..., Ran], home: Path) -> None:
    (home / "train.py").write_text("import os, sys\nprint(os.environ['MLBOX_SEED'])\nsys.exit(int(sys.argv[1]))")
    ran = box("submit", *SMALL, "--name", "mlp", "--seed", "7", "--follow", "--", "python", "train.py", "0")
    assert (ran.code, ran.out) == (0, "7\n")
    assert ran.err.startswith("The job mlp is queued: http://")
    ran = box("submit", *SMALL, "--follow", "--", "python", "train.py", "42")
    assert ran.code == 42
    first, *_, last = ran.err.splitlines()
    assert last == f"mlbox: {first.partition(' is queued')[0]} failed: exit status 42."
    ran = box("submit", *SMALL, "--retries", "1", "--follow", "--", "python", "train.py", "3")
    assert ran.err.splitlines()[-1].endswith(" failed after 2 attempts: exit status 3.")
    assert box("submit", *SMALL, "--timeout", "0.3", "-f", "--", "sleep", "60").code == 124
    assert box("submit", *SMALL, "-f", "--", "sh", "-c", "kill -SEGV $$").code == 128 + signal.SIGSEGV


def test_ctrl_c_lets_the_job_go_on_and_says_how_to_look_again(
    box: Callable[..., Ran], shared: Server, home: Path
) -> None:
    words = ("submit", *SMALL, "--name", "long", "-f", "--", "sh", "-c", "echo up; sleep 60")
    with started(*words, server=shared, home=home) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The job goes on: `mlbox logs -f " in said
    assert job(box, "long")["state"] == "running"
    assert box("stop", "long").err == "The job long is stopping.\n"
    waited = box("wait", "long")
    assert (waited.code, waited.err) == (128 + signal.SIGTERM, "mlbox: The job long stopped: stopped by admin.\n")
    assert box("retry", "long", "-o", "id").out == job(box, "long")["id"] + "\n"
    box("stop", "long")


def test_a_job_file_is_submitted_and_flags_stand_above_it(box: Callable[..., Ran], home: Path) -> None:
    (home / "deep").mkdir()
    (home / "deep" / "where.py").write_text(
        "import os, sys; print(sorted(os.listdir()), os.environ['A'], sys.argv[1:])"
    )
    (home / "deep" / "job.toml").write_text(
        'name = "filed"\ncommand = "python where.py x"\nmemory_gb = 0.1\ncpus = 0.1\n'
        'hyperparameters = { lr = 0.1, bs = 2 }\nenv = { A = "1" }\n'
    )
    ran = box("submit", "deep/job.toml", "-f", "--param", "lr=0.2", "--tag", "k=v")
    assert ran.out == "['job.toml', 'where.py'] 1 ['x']\n"
    spec = job(box, "filed")["spec"]
    assert (spec["hyperparameters"], spec["tags"]) == ({"lr": "0.2", "bs": "2"}, {"k": "v"})
    ran = box("submit", "deep/job.toml", "--name", "other", "-f", "--", "python", "where.py", "y")
    assert ran.out.endswith("['y']\n")


def test_every_word_that_ps_shows_a_job_by_is_taken_where_an_id_is(box: Callable[..., Ran]) -> None:
    ids = {
        name: box(
            "submit", *SMALL, *(["--name", name] if name else []), "-o", "id", "--", "sh", "-c", "sleep 60"
        ).out.strip()
        for name in ("", "napper")
    }
    head, *lines = box("ps").out.splitlines()
    columns = [(match[0], match.start()) for match in re.finditer(r"\S+", head)]
    rows = [{name: line[at:].split("  ")[0].strip() for name, at in columns} for line in lines]
    shown = {name: next(row for row in rows if ids[name].endswith(row["job"])) for name in ids}
    assert {row["command"] for row in shown.values()} == {"sh -c 'sleep 60'"}, "a command is shown as one"
    assert [shown[name]["name"] for name in ("", "napper")] == ["", "napper"]
    for name, row in shown.items():
        for word in filter(None, (row["job"], row["name"], ids[name])):
            assert job(box, word)["id"] == ids[name]
            assert box("logs", word).code == 0
    assert box("stop", shown[""]["job"], "napper").code == 0
    assert box("wait", shown[""]["job"], "napper", "-o", "id").out.split() == [ids[""], ids["napper"]]


def test_an_attempt_that_there_is_not_has_no_log(box: Callable[..., Ran]) -> None:
    assert box("submit", *SMALL, "--name", "said", "-f", "--", "echo", "it").code == 0
    assert box("logs", "said", "--attempt", "1").out == "it\n"
    for more in ((), ("-f",), ("--tail", "3")):
        ran = box("logs", "said", "--attempt", "9", *more)
        assert (ran.code, ran.out) == (3, "")
        assert ran.line == "The job has no attempt 9. The last is 1: `mlbox show` lists them."


def test_of_several_jobs_each_is_stopped_or_retried_that_can_be(box: Callable[..., Ran]) -> None:
    assert box("submit", *SMALL, "--name", "through", "-f", "--", "true").code == 0
    assert box("submit", *SMALL, "--name", "napping", "--", "sleep", "60").code == 0
    ran = box("stop", "through", "nobody", "napping")
    first, second, third = ran.err.splitlines()
    assert first.startswith("mlbox: through: The job has ended: it succeeded.")
    assert second.startswith("mlbox: nobody: There is no job 'nobody'.")
    assert (ran.code, third) == (5, "The job napping is stopping.")
    assert box("wait", "napping").code == 128 + signal.SIGTERM
    ran = box("retry", "nobody", "napping", "-o", "id")
    assert (ran.code, ran.out) == (3, job(box, "napping")["id"] + "\n")
    assert box("stop", "napping", "-o", "id").code == 0


def test_a_dry_run_says_what_would_come_of_it_and_changes_nothing(
    box: Callable[..., Ran], shared: Server, home: Path
) -> None:
    before = box("ps", "-a", "-o", "id").out
    plan = msgspec.json.decode(box("submit", *SMALL, "--dry-run", "-o", "json", "--", "true").out)
    assert (plan["starts_now"], plan["gpus"], plan["spec"]["memory_gb"]) == (True, [], 100 / 1024)
    everything = str(os.cpu_count())
    holder = box("submit", "--cpus", everything, "--memory", "1", "-o", "id", "--", "sleep", "60").out.strip()
    wait_for(lambda: job(box, holder)["state"] == "running", what="the job to run")
    plan = msgspec.json.decode(box("submit", "--memory", "1", "--dry-run", "-o", "json", "--", "true").out)
    assert not plan["starts_now"]
    assert plan["words"].startswith("0 CPUs free, you ask 1; held by job ")
    waiting = box("submit", "--memory", "1", "--name", "after", "-o", "id", "--", "true").out.strip()
    assert re.search("^waits for +0 CPUs free, you ask 1", box("show", "after").out, flags=re.M)
    nameless = box("submit", "--memory", "1", "-o", "id", "--", "true").out.strip()
    shown = f"^held up +after, {nameless[-8:]}$"
    wait_for(lambda: re.search(shown, box("show", holder).out, flags=re.M), what="who waits, by name")
    assert not re.search("^reason", box("show", "after").out, flags=re.M), "what it waits for says it"
    with started("logs", "-f", "after", server=shared, home=home) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("It is queued: 0 CPUs free, you ask 1; held by job ")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    box("stop", holder, waiting, nameless)
    assert set(box("ps", "-a", "-o", "id").out.split()) == {*before.split(), holder, waiting, nameless}


def test_rules_are_said_as_in_a_job_file(box: Callable[..., Ran], home: Path) -> None:
    (home / "job.toml").write_text('command = "true"\n[[rules]]\nkind = "nonfinite"\nmetric = "loss"\n')

    def rules(*arguments: str) -> list[dict[str, Any]]:
        plan = msgspec.json.decode(box("submit", *SMALL, "--dry-run", "-o", "json", *arguments).out)
        found: list[dict[str, Any]] = plan["spec"]["rules"]
        return found

    told = [("--rule", "nonfinite stop"), ("--rule", "no_better auc 50 higher"), ("--rule", "above grad_norm 1e3")]
    one, two, three = rules(*itertools.chain(*told), "job.toml")
    assert (one["kind"], one.get("metric", ""), one["action"]) == ("nonfinite", "", "stop")
    assert (two["metric"], two["steps"], two["higher_is_better"]) == ("auc", 50, True)
    assert two.get("action", "notify") == "notify"
    assert (three["metric"], three["bound"]) == ("grad_norm", 1000.0)
    assert [rule["metric"] for rule in rules("job.toml")] == ["loss"]
    assert rules("--rule", "none", "job.toml") == []


def test_bad_input_is_refused_in_words_before_anything_is_sent(
    box: Callable[..., Ran], shared: Server, home: Path
) -> None:
    before = list((shared.data_dir / "artifacts").rglob("*"))
    (home / "file.py").write_text(str(time.time()))
    for arguments, says in [
        (("--memory", "lots", "--", "true"), "'lots' is no amount of memory. Write it like 32, 32GB or 512MB."),
        (("--timeout", "1y", "--", "true"), "'1y' is no duration. Write it like 90, 45s, 2h30m or 1d."),
        (("--timeout", "99999999999d", "--", "true"), "up to 315,360,000 (ten years), or none for no limit."),
        (("--gpus", "9", "--", "true"), "asks for 9 GPUs and this box has none"),
        (("--cpus", "9000", "--", "true"), "it asks 9000 CPUs, the box has"),
        (("--name", "two words", "--", "true"), "'two words' is not a valid name."),
        (("--dataset", "nothing@v1", "--", "true"), "no dataset"),
        (("--secret", "NOTHING", "--", "true"), "no secret"),
        (("--team", "nobody", "--", "true"), "nobody"),
        (("--workdir", "nowhere", "--", "true"), "nowhere is no folder"),
        (("nowhere.toml",), "nowhere.toml cannot be read: No such file or directory. Give another file."),
        (("train.py",), "train.py is no program. Write it like: mlbox submit -- python train.py"),
        (("--mane", "a", "--", "true"), "No such option: --mane. Did you mean --image or --name?"),
        (("--env", "A", "--", "true"), "'A' is not KEY=VALUE"),
        (("--retry-on", "300", "--", "true"), "Exit codes are 1 to 255."),
        (
            ("--rule", "no_better loss soon", "--", "true"),
            "'no_better loss soon' is no rule. Write it like 'nonfinite stop'",
        ),
        (("--rule", "above loss 1 higher", "--", "true"), "is no rule."),
        (("--rule", "no_better loss 0", "--", "true"), "A rule `no_better` needs steps, and has 0."),
        (("--dry-run", "-o", "id", "--", "true"), "A dry run makes no job, so there is no id."),
    ]:
        ran = box("submit", *arguments)
        assert says in ran.line, ran
        assert 2 <= ran.code <= 4, ran
    assert list((shared.data_dir / "artifacts").rglob("*")) == before


def test_logs_from_the_end_and_since(box: Callable[..., Ran], shared: Server, home: Path) -> None:
    go_on = home / "go on"
    script = f"echo one; echo two; until [ -e '{go_on}' ]; do sleep 0.05; done; echo three; printf four"
    job_id = box("submit", *SMALL, "--name", "talks", "-o", "id", "--", "sh", "-c", script).out.strip()
    wait_for(lambda: "two" in box("logs", "talks").out, what="the first lines")
    assert box("logs", "--tail", "1", "talks").out == "two\n"
    assert box("logs", "--tail", "0", "talks").out == ""
    with started("logs", "-f", "--tail", "1", job_id[-8:], server=shared, home=home) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "two\n"
        go_on.touch()
        assert process.communicate(timeout=60) == ("three\nfour", "")
    assert process.returncode == 0
    assert box("logs", "--tail", "2", "talks").out == "three\nfour"
    assert box("logs", "--tail", "9", "talks").out == "one\ntwo\nthree\nfour"
    assert box("logs", "--since", "1h", "talks").out == "one\ntwo\nthree\nfour"
    assert box("logs", "--since", "2099-01-01T00:00Z", "talks").out == ""
    assert "is not a time" in box("logs", "--since", "yesterday", "talks").line
    assert "99999999999d ago is before all time." in box("logs", "--since", "99999999999d", "talks").line
    assert box("logs", "nothing").line.startswith("There is no job 'nothing'.")


def test_watched_jobs_are_told_as_they_change(box: Callable[..., Ran], shared: Server, home: Path) -> None:
    with started("ps", "-w", "-o", "jsonl", server=shared, home=home) as process:
        assert process.stdout is not None
        job_id = box("submit", *SMALL, "-o", "id", "--", "sleep", "60").out.strip()
        while msgspec.json.decode(process.stdout.readline())["id"] != job_id:
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    top = box("top").out
    assert "1 running, 0 waiting; they hold 0.1 CPUs" in top
    assert job_id[-8:] in top
    assert [each["id"] for each in msgspec.json.decode(box("top", "-o", "json").out)["jobs"]] == [job_id]
    box("stop", job_id)


def test_a_job_is_run_again_as_it_was_with_what_differs(box: Callable[..., Ran], shared: Server, home: Path) -> None:
    for arguments in (("init", "-q"), ("config", "user.name", "a"), ("config", "user.email", "a@b")):
        subprocess.run(["git", *arguments], cwd=home, check=True)
    script = home / "train.py"
    script.write_text("print('committed')\n")
    subprocess.run("git add train.py && git commit -qm one", cwd=home, check=True, shell=True)
    script.write_text("import os; print(os.environ['MLBOX_SEED'], os.environ['A'])\n")
    (home / "untracked.txt").touch()
    flags = ("--name", "first", "--env", "A=b", "--param", "lr=1")
    first = box("submit", *SMALL, *flags, "-f", "--", "python", "train.py")
    assert first.code == 0, first
    script.write_text("raise SystemExit('other code')")
    again = box("rerun", "first", "--name", "second", "-f")
    assert (again.code, again.out) == (0, first.out)
    assert "Not as it was" not in again.err
    old, new = job(box, "first"), job(box, "second")
    assert new["spec"] == old["spec"] | {"name": "second", "tags": {"mlbox.rerun_of": old["id"]}}
    assert new["run_id"] != old["run_id"]
    assert new["attempts"][0]["ran_on"]["python"]
    assert old["spec"]["git_commit"].endswith("-dirty")
    diff = shared.http.get("/api/v1/jobs/first/diff").text
    assert "-print('committed')" in diff
    with tarfile.open(fileobj=io.BytesIO(shared.http.get("/api/v1/jobs/second/code").content)) as code:
        assert code.getnames() == ["train.py", "untracked.txt"]
    page = shared.http.get(f"/jobs/{old['id']}", headers={"accept": "text/html"}).text
    assert "with changes" in page
    assert str(old["spec"]["seed"]) in page
    assert "There is no job 'nothing'" in box("rerun", "nothing").line
