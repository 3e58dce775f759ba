"""A registry that Feast makes now is read as the one that the tests keep, by the numbers that Feast's own messages have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlbox.transfer.definition_file import to_toml
from mlbox.transfer.feast import convert
from mlbox.transfer.feast_registry import Registry
from mlbox.transfer.feast_repo import open_repository
from mlbox.transfer.protobuf import Message
from tests.compat.conftest import HERE, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
REPO = HERE.parent / "cli" / "data" / "feast_repo"


def run(folder: Path, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "FEAST_USAGE": "False"}
    command = [str(environment("feast")), *arguments]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout


def test_a_repository_that_feast_applies_now_is_the_one_that_is_kept(tmp_path: Path) -> None:
    for name in ("feature_store.yaml", "definitions.py", "make_data.py"):
        shutil.copy(REPO / name, tmp_path)
    run(tmp_path, "make_data.py")
    main = "from feast.cli.cli import cli; cli()"
    for _ in range(2):  # the second changes the registry in place
        run(tmp_path, "-c", main, "apply", "--skip-source-validation")
        fresh, kept = convert(open_repository(tmp_path)), convert(open_repository(REPO))
        assert to_toml(fresh.definitions) == to_toml(kept.definitions)
        assert (fresh.left, fresh.notes, fresh.drafts) == (kept.left, kept.notes, kept.drafts)
        assert len(fresh.definitions.views) == 7


def test_every_field_that_is_read_is_feasts(tmp_path: Path) -> None:
    messages = json.loads(run(tmp_path, str(HERE / "scripts" / "feast_messages.py")))
    seen: set[tuple[type[Message], str]] = set()

    def compare(kind: type[Message], feast: str) -> None:
        if (kind, feast) in seen:
            return
        seen.add((kind, feast))
        for number, field in kind.wire.items():
            name, there, many, is_bytes = theirs(feast, number)
            assert name == field.name, (feast, number)
            assert not is_bytes
            if isinstance(field.kind, type):
                assert many == field.many, (feast, name)
                compare(field.kind, there)
            elif field.kind == "present":
                assert there in messages, (feast, name)
            else:
                assert there == field.kind, (feast, name)
                assert many == (field.many or field.kind == "pairs"), (feast, name)

    def theirs(feast: str, number: int) -> list[Any]:
        found: list[Any] = messages[feast][str(number)]
        return found

    compare(Registry, "feast.core.Registry")
    assert len(seen) > 30
