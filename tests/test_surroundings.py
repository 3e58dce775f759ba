"""A run knows the code, the command and the machine that it ran on, and no secret of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlbox.sdk import surroundings
from tests.conftest import Server

SCRIPT = """
import mlbox
with mlbox.run("e", params={"lr": "1"}) as run:
    run.log({"loss": 0.5}, step=1)
    print(run.id)
"""


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    ran = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    git(folder, "init", "-q", "-b", "trunk")
    git(folder, "remote", "add", "origin", "https://ann:hunter2222@git.example/code.git")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def run_in(folder: Path, box: Server, tmp_path: Path, *arguments: str, **more: str) -> str:
    env = {
        **os.environ,
        "MLBOX_URL": box.url,
        "MLBOX_TOKEN": box.token,
        "MLBOX_SPOOL": str(tmp_path / "spool"),
        **more,
    }
    ran = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert "mlbox:" not in ran.stderr
    return ran.stdout.strip()


def test_a_run_says_what_it_ran_in(make_server: object, checkout: Path, tmp_path: Path) -> None:
    box: Server = make_server()  # type: ignore[operator]
    with (checkout / "train.py").open("a") as file:
        file.write("api_key = 'sk-very-private-123'\n")
    run_id = run_in(checkout, box, tmp_path, "--token", "t0p-s3cret", "--epochs", "3")
    run = box.http.get(f"/api/v1/runs/{run_id}").json()
    tags = run["tags"]
    assert tags["mlbox.git.commit"] == git(checkout, "rev-parse", "HEAD")
    assert (tags["mlbox.git.branch"], tags["mlbox.git.dirty"]) == ("trunk", "true")
    assert tags["mlbox.git.origin"] == "https://git.example/code.git"
    assert tags["mlbox.command"].endswith("train.py --token [hidden] --epochs 3")
    assert tags["mlbox.python"] == ".".join(map(str, sys.version_info[:3]))
    assert tags["mlbox.host"]
    assert int(tags["mlbox.cpus"]) >= 1
    packages = box.http.get(f"/api/v1/runs/{run_id}/artifacts/environment/packages.txt").text
    assert "msgspec==" in packages
    diff = box.http.get(f"/api/v1/runs/{run_id}/artifacts/environment/changes.diff").text
    assert "+api_key = '[hidden]'" in diff
    everything = str(run) + diff
    assert not [secret for secret in ("hunter2222", "t0p-s3cret", "sk-very-private") if secret in everything]


def test_it_can_be_switched_off_and_needs_no_git(make_server: object, tmp_path: Path) -> None:
    box: Server = make_server()  # type: ignore[operator]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "train.py").write_text(SCRIPT)
    run_id = run_in(plain, box, tmp_path, PATH="")
    tags = box.http.get(f"/api/v1/runs/{run_id}").json()["tags"]
    assert "mlbox.git.commit" not in tags
    assert tags["mlbox.host"]
    quiet = run_in(plain, box, tmp_path, MLBOX_RECORD="0")
    assert box.http.get(f"/api/v1/runs/{quiet}").json()["tags"] == {}
    assert box.http.get(f"/api/v1/runs/{quiet}/artifacts").json() == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--api-key=abcd1234 x", "--api-key=[hidden] x"),
        ("PASSWORD: 'hunter22'", "PASSWORD: '[hidden]'"),
        ("--tokenizer bert --lr 1", "--tokenizer [hidden] --lr 1"),
        ("--epochs 3 train.py", "--epochs 3 train.py"),
    ],
)
def test_what_stands_behind_a_word_for_a_secret_is_hidden(text: str, shown: str) -> None:
    assert surroundings.hide_secrets(text) == shown


@pytest.mark.parametrize("piece", ["0", "token", "token-", "token ", "token=", "token='"])
def test_the_diff_of_a_notebook_takes_no_longer_than_its_length(piece: str) -> None:
    long = piece * (1_000_000 // len(piece))
    assert surroundings.hide_secrets(f"{long}! --password hunter22").endswith("--password [hidden]")
