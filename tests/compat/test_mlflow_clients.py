"""Programs that were written for MLflow, run by its own clients against `mlbox serve`."""

from __future__ import annotations

import pytest

from tests.compat.conftest import MAJORS, Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize(
    "name", ["registry", "stages", "textbook", "flavors", "autolog", "search", "command", "versions"]
)
def test_a_program_for_mlflow_runs(program: Program, major: int, name: str) -> None:
    assert f"{name} ok" in program(major, name)


def test_logged_models_of_the_newer_client(program: Program) -> None:
    assert "logged_models ok" in program(3, "logged_models")
