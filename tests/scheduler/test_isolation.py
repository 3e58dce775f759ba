"""Jobs reach their own files and no others, and ordinary training works all the same.

Real jobs under a real server. Where the kernel has no Landlock the server says so, which is tested too.
"""

from __future__ import annotations

import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import StartupError
from mlbox.scheduler import confine, isolation
from tests.conftest import Server, wait_for

landlock = pytest.mark.skipif(not confine.version(), reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A folder in the home, as an operator may have it, and not a temporary one, which jobs may write to."""
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix=".isolated-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def box(root: Path) -> Iterator[Server]:
    for name in ("home/.ssh", "home/.config/mlbox", "beside", "shared"):
        (root / name).mkdir(parents=True)
    (root / "home/.ssh/id").write_text("private key")
    (root / "home/.config/mlbox/context.toml").write_text("a token")
    (root / "beside/code.py").write_text("print('beside')")
    env = {"HOME": str(root / "home"), "MLBOX_JOB_WRITABLE": str(root / "shared"), "XDG_CONFIG_HOME": ""}
    server = Server(root / "data", env=env)
    yield server
    server.stop()


def run(box: Server, script: str, **spec: object) -> str:
    """What a job prints that runs this script."""
    body = {"command": ["python", "-c", textwrap.dedent(script)], "memory_gb": 1, **spec}
    job = box.http.post("/api/v1/jobs", json=body).json()["id"]
    wait_for(lambda: box.http.get(f"/api/v1/jobs/{job}").json()["ended_at"], what="the job to end", seconds=60)
    return box.http.get(f"/api/v1/jobs/{job}/logs").text


DENIED = ("PermissionError", "FileNotFoundError", "OSError: Invalid cross-device link")
ATTEMPT = """
import os
def attempt(what, path):
    try:
        print(what, path(), sep=": ")
    except OSError as err:
        name = type(err).__name__
        print(what, name if name != "OSError" else f"OSError: {err.strerror}", sep=": ")
"""


@landlock
def test_a_job_cannot_read_what_is_not_its_own(box: Server) -> None:
    root = box.data_dir.parent
    other = box.http.post(
        "/api/v1/jobs", json={"command": ["sh", "-c", "echo secret > other.txt"], "memory_gb": 1}
    ).json()
    wait_for(lambda: box.http.get(f"/api/v1/jobs/{other['id']}").json()["ended_at"], what="the other job")
    assert (box.data_dir / "jobs" / other["id"] / "1" / "work" / "other.txt").read_text() == "secret\n"
    said = run(
        box,
        ATTEMPT
        + f"""
root, pid = {str(root)!r}, {box.process.pid}
read = lambda path: lambda: open(path, "rb").read()[:20]
attempt("token", read(root + "/data/admin-token"))
attempt("database", read(root + "/data/access.sqlite"))
attempt("listing", lambda: os.listdir(root + "/data"))
attempt("jobs", lambda: os.listdir(root + "/data/jobs"))
attempt("other", read(root + "/data/jobs/{other["id"]}/1/work/other.txt"))
attempt("own spec", read("../spec.json"))
attempt("key", read(root + "/home/.ssh/id"))
attempt("context", read(root + "/home/.config/mlbox/context.toml"))
attempt("environ", read(f"/proc/{{pid}}/environ"))
attempt("memory", lambda: open(f"/proc/{{pid}}/mem", "rb").read(1))
attempt("root", read(f"/proc/{{pid}}/root" + root + "/data/admin-token"))
attempt("cwd", lambda: os.listdir(f"/proc/{{pid}}/cwd"))
attempt("descriptor", lambda: os.listdir(f"/proc/{{pid}}/fd") and open(f"/proc/{{pid}}/fd/3", "rb").read(1))
os.symlink(root + "/data/admin-token", "link")
attempt("link", read("link"))
attempt("hard link", lambda: os.link(root + "/data/admin-token", "hard"))
attempt("rename", lambda: os.rename(root + "/data/admin-token", "mine"))
attempt("signal", lambda: os.kill(pid, 0))
""",
    )
    lines = dict(line.split(": ", 1) for line in said.splitlines())
    allowed = {"signal"} if confine.version() < 6 else set()
    assert len(lines) == 17, said
    for what, answer in lines.items():
        assert what in allowed or answer in DENIED, (what, answer)
    assert box.token


@landlock
def test_a_job_has_no_capabilities_whoever_runs_the_server_and_no_program_gives_it_any(box: Server) -> None:
    said = run(box, "import subprocess\nsubprocess.run(['cat', '/proc/self/status'])")
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


@landlock
def test_a_job_writes_to_its_own_folders_and_what_the_operator_named(box: Server) -> None:
    root = box.data_dir.parent
    said = run(
        box,
        ATTEMPT
        + f"""
import sys, tempfile
write = lambda path: lambda: open(path, "w").write("x")
attempt("work", write("mine.txt"))
attempt("tmp", write(tempfile.gettempdir() + "/x"))
attempt("own tmp", lambda: tempfile.gettempdir().startswith({str(root)!r}))
attempt("shared", write({str(root / "shared" / "checkpoint")!r}))
attempt("beside", write({str(root / "beside" / "code.py")!r}))
attempt("home", write({str(root / "home" / ".bashrc")!r}))
attempt("status", write("../status.json"))
attempt("interpreter", write(os.path.dirname(os.__file__) + "/evil.pth"))
attempt("server", write(os.path.dirname(sys.executable) + "/mlbox-evil"))
""",
    )
    lines = dict(line.split(": ", 1) for line in said.splitlines())
    fine = {name for name, answer in lines.items() if answer in ("1", "True")}
    assert fine == {"work", "tmp", "own tmp", "shared"}, said
    assert {lines[name] for name in set(lines) - fine} <= set(DENIED)
    assert (root / "beside" / "code.py").read_text() == "print('beside')"


@landlock
def test_ordinary_work_works(box: Server) -> None:
    said = run(
        box,
        """
        import multiprocessing, subprocess, tempfile
        import numpy
        import mlbox

        with tempfile.TemporaryFile() as file:
            numpy.save(file, numpy.zeros(3))
        subprocess.run(["git", "init", "-q", "repository"], check=True)
        with mlbox.run() as run:
            run.log(total=2016)
            run.artifact(b"weights", as_="w.bin")
        with multiprocessing.Pool(2) as pool:
            print(sum(pool.map(abs, range(10))))
        """,
    )
    assert said.splitlines()[-1] == "45", said
    runs = box.http.get("/api/v1/runs", params={"limit": 1}).json()
    assert runs[0]["metrics"]["total"]["value"] == 2016


@pytest.mark.slow
@landlock
def test_ordinary_training_works(box: Server) -> None:
    said = run(
        box,
        """
        import tempfile
        import numpy, torch
        from sklearn.ensemble import HistGradientBoostingClassifier
        from torch.utils.data import DataLoader, TensorDataset

        data = TensorDataset(torch.arange(64.0))
        total = sum(batch[0].sum().item() for batch in DataLoader(data, batch_size=8, num_workers=2))
        x = numpy.random.default_rng(0).normal(size=(200, 3))
        HistGradientBoostingClassifier(max_iter=5).fit(x, x[:, 0] > 0)
        with tempfile.NamedTemporaryFile() as file:
            torch.save({"w": torch.zeros(3)}, file.name)
        print(total)
        """,
    )
    assert said.splitlines()[-1] == "2016.0", said


@landlock
def test_the_server_says_that_jobs_are_isolated(box: Server) -> None:
    assert box.http.get("/readyz").json()["jobs"] == f"jobs are isolated by Landlock {confine.version()}"


def test_where_isolation_is_off_the_server_says_so(make_server: Callable[..., Server]) -> None:
    server = make_server("--job-isolation", "off")
    assert "jobs are not isolated" in server.http.get("/readyz").json()["jobs"]
    assert "jobs are not isolated" in server.http.get("/admin", headers={"accept": "text/html"}).text


def test_a_kernel_without_landlock_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "version", lambda: 0)
    found = isolation.isolation("auto", tmp_path)
    assert (found.confined, found.rules_of(tmp_path, tmp_path)) == (False, None)
    assert "no Landlock" in found.state
    with pytest.raises(StartupError, match="no Landlock"):
        isolation.isolation("required", tmp_path)


# -- the plan ---------------------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c"])
trees = st.recursive(st.just({}), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=20)


def paths_of(tree: dict, at: str = "/") -> Iterator[str]:
    yield at
    for name, inner in tree.items():
        yield from paths_of(inner, os.path.join(at, name))


@landlock
def test_what_appears_between_two_jobs_is_there_for_the_second(box: Server) -> None:
    root = box.data_dir.parent
    assert run(box, "print('first')") == "first\n"
    (root / "late").mkdir()
    (root / "late" / "file").write_text("seen")
    assert run(box, f"print(open({str(root / 'late' / 'file')!r}).read())") == "seen\n"


@pytest.fixture
def apart() -> Iterator[Path]:
    """A folder with few beside it: of a crowd no rules are kept open."""
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix=".isolated-") as folder:
        yield Path(folder)


def test_shared_rules_follow_what_is_there_and_close_what_they_opened(apart: Path) -> None:
    (apart / "data").mkdir()
    (apart / "beside").mkdir()
    ground = confine.Ground({"closed": [str(apart / "data")], "fixed": [], "writable": []})
    before = len(os.listdir("/proc/self/fd"))
    ground.prepare()
    count = len(ground.rules)
    (apart / "late").mkdir()
    ground.prepare()
    assert (len(ground.rules), len(os.listdir("/proc/self/fd"))) == (count + 1, before + count + 1)
    ground.rest()
    assert (ground.rules, len(os.listdir("/proc/self/fd"))) == ([], before)


@given(tree=trees, data=st.data())
def test_the_plan_reads_everything_but_what_is_closed(tree: dict, data: st.DataObject) -> None:
    """For every path of a tree: readable exactly when neither it nor what it is in is closed, nor anything in it."""
    every = list(paths_of(tree))
    closed = set(data.draw(st.lists(st.sampled_from(every), max_size=3)))
    writable = data.draw(st.lists(st.sampled_from(every), max_size=2))
    fixed = set(data.draw(st.lists(st.sampled_from(every), max_size=2)))

    def children(path: str) -> list[str]:
        node = tree
        for part in path.strip("/").split("/") if path != "/" else []:
            node = node[part]
        return sorted(node)

    rules = confine.plan(closed, fixed, writable, children)
    for path in every:
        granted = [rights for rule, rights in rules.items() if rule == path or confine.is_below(path, rule)]
        readable = any(rights & confine.READ_FILE for rights in granted)
        shut = any(path == one or confine.is_below(path, one) for one in closed)
        kept = any(path == one or confine.is_below(path, one) or confine.is_below(one, path) for one in fixed)
        leads = any(confine.is_below(one, path) for one in closed)
        opened = any(
            (path == one or confine.is_below(path, one))
            and (any(one == c or confine.is_below(one, c) for c in closed) or not (shut or leads or kept))
            for one in writable
        )
        assert readable == (opened or not (shut or leads)), (path, rules)
        assert any(rights & confine.WRITE_FILE for rights in granted) == opened
