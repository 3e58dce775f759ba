"""What the README and the first tutorial tell a reader to type is typed here, against a real server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlbox.errors import BY_CODE
from tests import zygote
from tests.conftest import MLBOX, Server, wait_for

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorials" / "first-model.md"
ALERT = ROOT / "docs" / "tutorials" / "first-alert.md"
FEATURES = ROOT / "docs" / "tutorials" / "first-features.md"
Shell = Callable[[str], str]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


@pytest.fixture
def shell(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A terminal in a new git repository, signed in, as ann who is a member."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("MLBOX_URL", "MLBOX_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "code"
    home.mkdir()

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    with zygote.program() as folder:
        monkeypatch.setenv("PATH", f"{folder}:{MLBOX.parent}:/usr/bin:/bin")
        run("git init -q && git config user.name ann && git config user.email ann@example.org")
        run(f"mlbox login {server.url} --token {server.token}")
        yield run


def test_the_readmes_commands_work(server: Server, shell: Shell) -> None:
    (own,) = [block for block in blocks(ROOT / "README.md", "console") if "mlbox submit" in block]
    (submit,) = [line[2:] for line in own.splitlines() if line.startswith("$ mlbox submit")]
    assert "hello from a job" in shell(submit)


def test_the_exit_codes_that_are_told_are_the_programs() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.M)}
    assert told == {0, 130, 141} | {error.exit_code for error in BY_CODE.values()}


def test_every_file_that_a_page_links_to_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}"


IMAGE = re.compile(r"(?:src|srcset)=\"([^\"]+)\"|!\[[^\]]*\]\(([^)\s]+)")
MOST_OF_PICTURES = 1_500_000


def test_every_picture_is_there_in_both_themes_is_shown_and_they_are_small() -> None:
    shown = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for source in ("".join(found) for found in IMAGE.findall(page.read_text())):
            path = (page.parent / source).resolve()
            assert path.is_file(), f"{page.name} shows {source}"
            shown.add(path)
    there = set((ROOT / "docs" / "images").resolve().iterdir())
    assert shown == there
    for path in there:
        assert path.suffix == ".svg" or path.with_name(re.sub("-(light|dark)", "-dark", path.name)) in shown
    assert sum(path.stat().st_size for path in there) < MOST_OF_PICTURES


def typed(text: str, shell: Shell, code: Path) -> dict[str, list[str]]:
    """Type what a page says, and give back what each command printed last. Files are written as the page names them; of what a
    command prints, the page shows how lines begin, in their order, with … where it leaves something out."""
    last: dict[str, list[str]] = {}
    for language, block in re.findall(r"^```(python|toml|console)\n(.*?)^```", text, flags=re.S | re.M):
        if language != "console":
            (code / block.splitlines()[0].removeprefix("# ")).write_text(block)
            continue
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *expected = part.splitlines()
            printed = last[command] = shell(f"({command}) 2>&1").splitlines()
            rest = iter(printed)
            for wanted in expected:
                pattern = ".*".join(map(re.escape, wanted.split("…")))
                shown = f"{command} printed no {wanted!r}, or too early:\n" + "\n".join(printed)
                assert any(re.match(pattern, line) for line in rest), shown
    return last


def test_the_first_tutorial_ends_in_predictions_and_the_next_in_an_alert(
    server: Server, shell: Shell, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    text = TUTORIAL.read_text().replace("http://127.0.0.1:8265", server.url)
    upto, promote, then = text.partition("$ mlbox model promote comes-back/1\n```\n")
    typed(upto + promote, shell, code)
    wait_for(lambda: "waiting_approval" in shell("mlbox model status comes-back/1"), what="the gates")
    refused = subprocess.run(["mlbox", "model", "approve", "comes-back/1"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "trained" in refused.stderr) == (5, True)
    typed(then, shell, code)
    (in_python,) = re.findall(r"`(mlbox\.predict\([^`]+)`", then)
    assert re.search(r"0\.\d+", shell(f"{shlex.quote(sys.executable)} -c 'import mlbox; print({in_python})'"))
    (script,) = blocks(ROOT / "README.md", "python")
    (code / "again.py").write_text(script)
    shell("python again.py")
    again = json.loads(shell("mlbox model versions comes-back -o json"))[0]
    assert (again["version"], again["dataset"], sorted(again["metrics"])) == (2, "visits@v1", ["auc"])
    printed = typed(ALERT.read_text(), shell, code)
    assert not [line for line in printed["mlbox alert show"] if "firing" in line]
    resolved = [line for line in printed["mlbox alert ls --state resolved"] if "resolved" in line]
    assert any("habits@v1:spent_30d" in line for line in resolved)


def test_the_tutorial_on_features_prints_what_it_shows(server: Server, shell: Shell, tmp_path: Path) -> None:
    typed(FEATURES.read_text(), shell, tmp_path / "code")


@pytest.mark.slow
def test_the_guide_to_reading_datasets_trains_in_a_job_and_elsewhere(
    server: Server, shell: Shell, tmp_path: Path
) -> None:
    page = ROOT / "docs" / "how-to" / "read-datasets.md"
    (train,) = [block for block in blocks(page, "python") if block.startswith("# train.py")]
    code = tmp_path / "code"
    (code / "train.py").write_text(train)
    rows = "\n".join(f"f{n},{n % 50 * 10.0},{n % 24}.0,{n % 7}.5" for n in range(400))
    parts = [{"name": "train", "share": 0.75}, {"name": "test", "share": 0.25}]
    about = {"split": {"by": "hash", "keys": ["flight"], "parts": parts}}
    query = {"format": "csv", "about": json.dumps(about)}
    content = f"flight,distance,hour,delay\n{rows}\n"
    server.http.post("/api/v1/datasets/flights/rows", params=query, content=content).raise_for_status()
    shell("git add train.py && git commit -qm train")
    (submit,) = [line[2:] for line in blocks(page, "console")[0].splitlines()]
    said = shell(submit.replace("--dataset", "--follow --dataset"))
    assert "flights@v1 400 ('train', 'test')" in said
    (run,) = server.http.get("/api/v1/runs").json()
    assert (run["dataset"], run["metrics"]["loss"]["step"]) == ("flights@v1", 2)
    elsewhere = shell(f"{shlex.quote(sys.executable)} train.py")
    assert [line for line in elsewhere.splitlines() if "rows" in line] == [
        line for line in said.splitlines() if "rows" in line
    ], "fetched, the same rows as mounted"
    kept = list((tmp_path / "cache" / "mlbox").glob("??/*.parquet"))
    assert len(kept) == len(server.http.get("/api/v1/datasets/flights@v1").json()["files"])
