"""What an idle server must not have loaded: read from what the process has mapped, not from what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Server

NEVER = ("torch", "sklearn", "scipy", "pandas", "skl2onnx", "onnx", "onnxruntime", "pyarrow", "numpy", "duckdb")


def mapped(pid: int) -> set[str]:
    """Packages whose shared libraries a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {
        name.lstrip("_") for name in re.findall(r"-packages/([A-Za-z0-9_]+?)(?:\.libs|\.cpython[^/]*)?(?:/|\n)", maps)
    }


def test_an_idle_server_has_loaded_none_of_the_heavy_libraries(server: Server) -> None:
    loaded = mapped(server.process.pid)
    assert "msgspec" in loaded, "or the reading of the maps is wrong"
    assert not loaded & set(NEVER)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("mlbox", {"httpx", "msgspec", "typer", "rich", "litestar", "mlbox.web", "mlbox.store"}),
        ("mlbox.cli.main", {"httpx", "msgspec", "rich", "litestar", "mlbox.web", "mlbox.store"}),
        ("mlbox.client", {"litestar", "sqlite3", "mlbox.web", "mlbox.store", "mlbox.cli"}),
        ("mlbox.web.server", {"httpx", "typer", "rich", "faker", "polyfactory", "pydantic", *NEVER}),
    ],
)
def test_an_import_loads_no_more_than_it_needs(module: str, forbidden: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not forbidden & set(ran.stdout.split())
