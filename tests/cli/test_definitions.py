"""`mlbox feature plan` and `apply`: Python, TOML and folders of them, read from a terminal's point of view."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlbox.define import text_of
from tests.cli.conftest import Ran
from tests.conftest import Server

PYTHON = '''
from datetime import datetime, timedelta

from mlbox.define import Entity, FeatureService, FeatureView, Source, feature, on_demand

customer = Entity("customer", keys={"who": str}, description="Who buys.")
sales = Source("sales", columns={"who": str, "amount": float, "bought": datetime}, event_time="bought")
last = FeatureView(
    "last",
    entity=customer,
    features=[feature("amount", float, unit="EUR")],
    sources=[sales],
    sql="""
        SELECT who, amount, bought AS event_time
        FROM sales
    """,
    ttl=timedelta(days=7),
    schedule="upstream",
)
twice = [FeatureView("twice", keys={"who": str}, features={"amount": float}, sources=[last],
                     sql="SELECT who, 2 * amount AS amount, event_time FROM last")]


@on_demand(inputs={"amount": last["amount"], "limit": float}, outputs={"share": float})
def share(amount, limit):
    """How much of a limit the last sale took."""
    return amount / limit


assert share(1.0, 4.0) == 0.25
churn = FeatureService("churn", [last["amount"], share["share"]])
'''
TOML = """
[[views]]
name = "last"
entity = "customer"
join_keys = [{name = "who", dtype = "STRING"}]
features = [{name = "amount", dtype = "FP64", unit = "EUR"}]
sources = ["sales"]
sql = "SELECT who, amount, bought AS event_time\\nFROM sales\\nWHERE amount > 0"
ttl = "7d"
schedule = "0 * * * *"
"""


@pytest.fixture
def server(shared: Server) -> Server:
    return shared


def test_a_python_file_is_planned_applied_and_unchanged(
    box_cli: Callable[..., Ran], server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "features.py"
    file.write_text(PYTHON)
    planned = box_cli("feature", "plan", str(file))
    assert planned.code == 0, planned.err
    assert planned.out.splitlines() == [
        "+ source sales",
        "+ entity customer",
        "+ view last@v1",
        "+ view twice@v1",
        "+ transform share@v1",
        "+ service churn@v1",
    ]
    assert "6 to create, 0 new versions, 0 described, 0 unchanged." in planned.err
    assert server.http.get("/api/v1/features/views").json() == []
    assert box_cli("feature", "apply", str(file)).out == planned.out
    view = server.http.get("/api/v1/features/views/last").json()
    assert (view["ttl_seconds"], view["schedule"], view["entity"]) == (7 * 86_400, "upstream", "customer")
    assert view["sql"] == "SELECT who, amount, bought AS event_time\nFROM sales"
    transform = server.http.get("/api/v1/features/transforms/share").json()
    assert transform["description"] == "How much of a limit the last sale took."
    again = box_cli("feature", "apply", str(file), "--yes")
    assert (again.out, "0 to create, 0 new versions, 0 described, 6 unchanged." in again.err) == ("", True)
    assert [one["name"] for one in server.http.get("/api/v1/features/entities").json()] == ["customer"]

    (tmp_path / "last.toml").write_text(TOML)
    changed = json.loads(box_cli("feature", "plan", str(tmp_path / "last.toml"), "-o", "json").out)
    (one,) = changed["changes"]
    assert (one["action"], one["ref"]) == ("new version", "last@v2")
    assert one["touches"] == ["service churn@v1"]
    assert "  +WHERE amount > 0" in one["differences"]

    stale = server.http.post("/api/v1/features/apply", json={"definitions": {"views": []}, "base": "of another time"})
    assert (stale.status_code, stale.json()["error"]["field"]) == (409, "base")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_like_it", "line 1: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError"),
        ("raise SystemExit", "SystemExit"),
        ("from mlbox.define import Entity\nx = Entity('x', keys={'y': bytes})", "is no type"),
        ("x = 1", "The files define nothing"),
    ],
)
def test_a_python_file_that_fails_says_where(box_cli: Callable[..., Ran], tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "features.py"
    file.write_text(text)
    ran = box_cli("feature", "plan", str(file))
    assert (ran.code, says in ran.line) == (2, True), ran.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[views", "holds no definitions"),
        ("[[view]]", "unknown field `view`"),
        (TOML.replace('"7d"', '"a week"'), "a length such as 90m, 12h or 7d is wanted"),
        (TOML.replace("sources = ", "source = "), "missing required field `sources`"),
    ],
)
def test_a_toml_file_that_does_not_fit_says_why(
    box_cli: Callable[..., Ran], tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "features.toml"
    file.write_text(text)
    ran = box_cli("feature", "plan", str(file))
    assert (ran.code, says in ran.line, "features.toml" in ran.line) == (2, True, True), ran.err


def test_a_name_in_two_files_is_named_with_both(box_cli: Callable[..., Ran], tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(TOML)
    ran = box_cli("feature", "plan", str(tmp_path))
    assert ran.code == 2
    assert "'last' of `views` is defined in" in ran.line
    assert all(name in ran.line for name in ("a.toml", "b.toml"))


def test_what_is_wrong_in_a_set_names_the_definition(box_cli: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "last.toml").write_text(TOML.replace("sales", "nothing").replace('entity = "customer"\n', ""))
    ran = box_cli("feature", "apply", str(tmp_path / "last.toml"))
    assert (ran.code, "view last: There is no source 'nothing'" in ran.line) == (3, True), ran.err


def test_a_function_is_known_by_what_it_does() -> None:
    def one(sales):  # type: ignore[no-untyped-def]
        """What it says."""
        return sales.slice(0, 1)  # the first

    def other(sales):  # type: ignore[no-untyped-def]
        return sales.slice(
            0,
            1,
        )

    def another(sales):  # type: ignore[no-untyped-def]
        return sales.slice(0, 2)

    assert text_of(one) == text_of(other) != text_of(another)


def test_defining_loads_nothing_of_the_server() -> None:
    code = (
        "import sys, mlbox.define; print([m for m in ('duckdb', 'pyarrow', 'litestar', 'numpy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
