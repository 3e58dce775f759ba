"""An erasure that is killed at any step has lost nobody else's predictions, counts none twice, and is made by the next start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.serve.kept import Kept

KILLED = """
import os, pathlib, signal, sys
from mlbox.serve.predictions import files as predfiles
from mlbox.store import datadir
from tests.serve.kept import SET, Kept

kept = Kept(pathlib.Path(sys.argv[1]))
for model in ("m", "n"):
    kept.model(model)
    for number in range(3):
        for who in ("gone", "stays"):
            if (model, number, who) != ("n", 2, "stays"):  # a file that is emptied
                kept.put(model, who, days_ago=1)
        kept.log.flush()
    kept.outcomes.join(model, SET)
left = int(sys.argv[2])
print("BEGIN", flush=True)

def dying(step):
    def wrapped(*args, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args, **more)
    return wrapped

# Each step that changes what is on disk, and the ones into the joins and the database between them.
for name in ("rename", "unlink"):
    setattr(pathlib.Path, name, dying(getattr(pathlib.Path, name)))
predfiles.sync_folder = dying(predfiles.sync_folder)
kept.outcomes.forget = dying(kept.outcomes.forget)
kept.business.forget = dying(kept.business.forget)
kept.rows.end = dying(kept.rows.end)
kept.keeping.erase({"who": "gone"}, model=None, reason="asked", actor="ann")
print("END", flush=True)
os._exit(0)
"""


def killed_at(step: int, folder: Path) -> str:
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, str(folder), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.stdout.startswith("BEGIN"), done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((4,), id="one"),
        pytest.param(range(1, 100, 2), marks=pytest.mark.slow, id="odd"),
        pytest.param(range(2, 100, 2), marks=pytest.mark.slow, id="even"),
    ],
)
def test_a_killed_erasure_is_made_by_the_next_start(tmp_path: Path, steps: range) -> None:
    for step in steps:
        said = killed_at(step, tmp_path / str(step))
        kept = Kept(tmp_path / str(step), make=False)
        try:
            before = {model: kept.ids(model) for model in ("m", "n")}
            staying = {m: {row.id for row in kept.log.recent(m) if row.entity["who"] == "stays"} for m in before}
            assert [len(staying[model]) for model in ("m", "n")] == [3, 2], "nothing of others is lost, or there twice"
            assert bool(kept.rows.pending()) == ("END" not in said)
            kept.keeping.start()
            wait_for(lambda kept=kept: not kept.rows.pending(), what="the erasure")
            assert {model: kept.ids(model) for model in before} == staying
            assert {model: kept.joined(model) for model in before} == staying
            assert kept.rows.removals()[0].state == "done"
        finally:
            kept.close()
        if "END" in said:
            return
    assert len(list(steps)) < 10, "it never came to its end"
