"""Datasets that a job named lie ready for it: whole, proven, not to be written to, and gone once it has ended.

Real jobs under a real server, confined and not, as root and as another user.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest

from mlbox.records import DataFile, DatasetVersion, JobSpec
from mlbox.scheduler import confine
from mlbox.scheduler.executors import Launch, Mount, Ref
from mlbox.scheduler.executors.local import Local
from mlbox.scheduler.gpus import Virtual
from mlbox.scheduler.isolation import Isolation
from tests.conftest import MLBOX, Server, wait_for

landlock = pytest.mark.skipif(not confine.version(), reason="this kernel has no Landlock")
OTHER_USER = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
"""A user who may read as root does, to reach an interpreter in root's home, and write as any other."""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mounts") / "data")
    yield server
    server.stop()


def upload(box: Server, name: str, first: int = 0, rows: int = 1000) -> dict[str, Any]:
    content = "n,price\n" + "".join(f"{n},{n / 4}\n" for n in range(first, first + rows))
    answer = box.http.post(f"/api/v1/datasets/{name}/rows?format=csv", content=content.encode())
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def artifact(box: Server, version: dict[str, Any]) -> Path:
    """Where the store has the only file of a version."""
    (file,) = version["files"]
    return box.data_dir / "artifacts" / file["sha256"][:2] / file["sha256"][2:]


def submit(box: Server, script: str, *datasets: str, **spec: object) -> str:
    body = {"command": ["python", "-c", textwrap.dedent(script)], "memory_gb": 1, "datasets": datasets, **spec}
    answer = box.http.post("/api/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


def ended(box: Server, job: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        state: dict[str, Any] = box.http.get(f"/api/v1/jobs/{job}").json()
        return state if state["ended_at"] else None

    return wait_for(found, what=f"the job {job} to end", seconds=60)


def log(box: Server, job: str) -> str:
    return box.http.get(f"/api/v1/jobs/{job}/logs").text


def run(box: Server, script: str, *datasets: str, **spec: object) -> str:
    """What a job prints that runs this script and succeeds."""
    job = submit(box, script, *datasets, **spec)
    found = ended(box, job)
    assert found["state"] == "succeeded", (found, log(box, job))
    return log(box, job)


def folder_of(box: Server, job: str, attempt: int = 1) -> Path:
    return box.data_dir / "jobs" / job / str(attempt)


WAITS = """
import os, time
open("here", "w").close()
while not os.path.exists("go"):
    time.sleep(0.02)
"""
"""A job that says it is there, and goes on once it is told to."""


def let_go(box: Server, job: str) -> None:
    (folder_of(box, job) / "work" / "go").touch()


def is_there(box: Server, job: str) -> None:
    wait_for((folder_of(box, job) / "work" / "here").exists, what="the job's command")


def test_the_sdk_finds_what_is_mounted_by_itself_and_asks_the_box_for_nothing(box: Server) -> None:
    upload(box, "found", 0)
    upload(box, "found", 5000)
    upload(box, "other")
    said = run(
        box,
        """
        import os, mlbox
        cache = os.environ["XDG_CACHE_HOME"] = os.path.abspath("cache")
        data = mlbox.dataset("found@v1")
        (file,) = data.files()
        print(data.info.ref, file.relative_to(os.environ["MLBOX_DATASETS"]))
        print(mlbox.dataset("found").info.ref, mlbox.dataset("other").to_arrow().num_rows)
        print(data.to_arrow().column("n").to_pylist()[:3])
        print(sum(batch.num_rows for batch in data.batches(batch_size=64)))
        print(os.path.exists(cache))
        """,
        "found@v1",
        "other",
    )
    assert said.splitlines() == [
        "found@v1 found@v1/part-00000.parquet",
        "found@v1 1000",
        "[0, 1, 2]",
        "1000",
        "False",
    ]


@pytest.mark.slow
def test_what_is_mounted_is_read_into_the_libraries_that_train(box: Server) -> None:
    upload(box, "trained")
    said = run(
        box,
        """
        import mlbox
        data = mlbox.dataset("trained")
        print(data.to_pandas()["price"].sum(), data.to_polars()["n"].max())
        batches = data.to_torch(batch_size=128, columns=["n"], seed=3)
        print(sorted(n for batch in batches for n in batch["n"].tolist()) == list(range(1000)))
        """,
        "trained",
    )
    assert said.splitlines() == ["124875.0 999", "True"]


def test_what_was_the_latest_version_at_submission_is_mounted(box: Server) -> None:
    upload(box, "moving")
    job = submit(box, WAITS + "print(os.listdir(os.environ['MLBOX_DATASETS']))", "moving")
    is_there(box, job)
    upload(box, "moving", 7000)
    let_go(box, job)
    assert ended(box, job)["state"] == "succeeded"
    assert "moving@v1.json" in log(box, job)
    assert "moving@v2" not in log(box, job)
    runs = box.http.get("/api/v1/runs", params={"limit": 1}).json()
    assert runs[0]["dataset"] == "moving@v1", "and its run names it"


def test_a_job_that_names_several_datasets_reads_all_of_them(box: Server) -> None:
    upload(box, "beside")
    upload(box, "features")
    run(box, "print('trained')", "features@v1", "beside")
    (job,) = box.http.get("/api/v1/jobs", params={"limit": 1}).json()
    found = box.http.get(f"/api/v1/runs/{job['run_id']}").json()
    assert found["dataset"] == "features@v1", "its models are said to be trained on the first"
    assert found["datasets"] == ["features@v1", "beside@v1"]
    told = box.http.get("/api/2.0/mlflow/runs/get", params={"run_id": found["id"]}).json()["run"]["inputs"]
    assert {one["dataset"]["name"] for one in told["dataset_inputs"]} == {"features@v1", "beside@v1"}
    page = box.http.get(f"/runs/{found['id']}").text
    for ref in found["datasets"]:
        assert f'href="/datasets/{ref}"' in page
        assert f'href="/runs/{found["id"]}"' in box.http.get(f"/datasets/{ref}").text


def test_a_version_that_was_not_named_is_not_for_the_job(box: Server) -> None:
    upload(box, "named"), upload(box, "unnamed")
    job = submit(box, "import mlbox; mlbox.dataset('unnamed@v1')", "named@v1")
    assert ended(box, job)["state"] == "failed"
    assert "for the datasets that the job named" in log(box, job)


# -- not to be written to ---------------------------------------------------------------------------------------------------

WRITES = """
import os, mlbox
(file,) = mlbox.dataset("kept@v1").files()
folder = file.parent
def attempt(what, does):
    try:
        does()
        print(what, "done")
    except OSError as err:
        print(what, "refused")
attempt("open", lambda: open(file, "r+b").write(b"nonsense"))
attempt("truncate", lambda: os.truncate(file, 1))
attempt("add", lambda: open(folder / "more", "w").close())
attempt("link", lambda: os.link(file, "mine.parquet"))
attempt("rename", lambda: os.rename(file, folder / "other"))
attempt("unlink", lambda: os.unlink(file))
attempt("replace", lambda: open(folder.parent / "kept@v1.json", "w").close())
print("uid", os.geteuid())
"""
CHANGES = {"open", "truncate"}
"""What changes the bytes themselves; the rest is about names, of which the job has its own."""


def said_by(box: Server) -> dict[str, str]:
    """What became of each attempt to write; the box has the file as it was in any case."""
    version = upload(box, "kept")
    words = dict(line.split(" ", 1) for line in run(box, WRITES, "kept@v1").splitlines())
    assert [one["error"] for one in box.http.get("/api/v1/datasets/kept@v1/verify").json()] == [""]
    assert artifact(box, version).stat().st_size == version["files"][0]["size"]
    return words


@landlock
def test_a_confined_job_cannot_touch_its_dataset(box: Server) -> None:
    words = said_by(box)
    words.pop("uid")
    assert set(words.values()) == {"refused"}, words


def test_a_job_of_another_user_than_root_cannot_change_its_dataset(tmp_path: Path) -> None:
    data, command = tmp_path / "data", [str(MLBOX)]
    data.mkdir()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("there is no setpriv to become another user with")
        os.chown(data, 65534, 65534)
        command = [*OTHER_USER, *command]
    server = Server(data, "--job-isolation", "off", env={"HOME": str(data)}, command=command)
    try:
        words = said_by(server)
        assert words.pop("uid") != "0"
        assert {words[name] for name in CHANGES} == {"refused"}, words
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may write to what has no mode to be written to")
def test_a_job_of_root_that_is_not_confined_has_copies(make_server: Callable[..., Server]) -> None:
    words = said_by(make_server("--job-isolation", "off"))
    assert words["uid"] == "0"
    assert {words[name] for name in CHANGES} == {"done"}, words


# -- what cannot be mounted -------------------------------------------------------------------------------------------------


def test_a_missing_file_fails_the_job_and_says_which(box: Server) -> None:
    version = upload(box, "missing", 3)
    artifact(box, version).unlink()
    job = submit(box, "print('ran')", "missing@v1")
    found = ended(box, job)
    assert (found["state"], found["exit_code"]) == ("failed", None)
    assert "A file of missing@v1 is missing" in found["reason"]
    assert "A file of missing@v1 is missing" in log(box, job)


def test_a_damaged_file_fails_the_job_before_its_command(box: Server) -> None:
    version = upload(box, "damaged", 4)
    path = artifact(box, version)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)
    job = submit(box, "print('ran')", "damaged@v1")
    found = ended(box, job)
    assert (found["state"], "damaged@v1 is damaged" in found["reason"]) == ("failed", True), found
    assert log(box, job) == (
        "mlbox: part-00000.parquet of damaged@v1 is damaged: it has not the hash that it is known by."
        " Restore it from a backup.\n"
    )
    assert not (folder_of(box, job) / "datasets").exists()


def test_a_removed_version_fails_the_job_that_waited_for_it(box: Server) -> None:
    upload(box, "removed", 5)
    waiting = submit(box, WAITS, cpus=os.cpu_count() or 1)
    is_there(box, waiting)
    job = submit(box, "print('ran')", "removed@v1")
    box.http.delete("/api/v1/datasets/removed@v1").raise_for_status()
    let_go(box, waiting)
    found = ended(box, job)
    assert (found["state"], "removed@v1" in found["reason"]) == ("failed", True), found


@pytest.mark.parametrize("link", [True, False])
def test_a_stop_while_files_are_mounted_ends_the_job_before_its_command(tmp_path: Path, link: bool) -> None:
    """The file is a pipe that the test writes to, so that the stop comes when half of it is read."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    file = DataFile(path="big.parquet", sha256="0" * 64, size=1, rows=1)
    version = DatasetVersion(
        id="1",
        name="big",
        version=1,
        hash="0" * 64,
        files=(file,),
        columns=(),
        rows=1,
        query="",
        created_by="ann",
        created_at=datetime.now(UTC),
    )
    executor = Local(tmp_path / "jobs", Virtual([]), isolation=Isolation(link, "as the test wants it"))
    ref = Ref("j" * 32, 1)
    executor.open(lambda ref: None)
    spec = JobSpec(command=("echo", "ran"), memory_gb=1)
    executor.start(Launch(ref, spec, 1.0, mounts=[Mount(version, (pipe,))]))
    with pipe.open("wb", buffering=0) as content:
        content.write(b"first")
        executor.stop(ref)
        wait_for(lambda: not _takes(content), what="the shim to give up")
    ended = wait_for(lambda: executor.state(ref).ended, what="the attempt to end")
    assert (ended.stopped, ended.exit_code) == (True, None)
    assert b"ran" not in executor.log(ref, 0, 1000)
    executor.close()


def _takes(pipe: IO[bytes]) -> bool:
    """Whether somebody still reads from a pipe, of as much as it holds."""
    try:
        return bool(pipe.write(bytes(65_536)))
    except BrokenPipeError:
        return False


# -- how long they stay -----------------------------------------------------------------------------------------------------


def test_what_is_mounted_stays_whole_until_the_job_ends_whatever_is_collected(box: Server) -> None:
    version = upload(box, "collected", 6)
    script = WAITS + "import mlbox; print(mlbox.dataset('collected').to_arrow()['n'].to_pylist()[-1])"
    job = submit(box, script, "collected@v1")
    is_there(box, job)
    box.http.delete("/api/v1/datasets/collected@v1").raise_for_status()
    box.http.post("/api/v1/gc", json={"older_than_days": 0, "grace_seconds": 0}).raise_for_status()
    assert not artifact(box, version).exists()
    mounted = folder_of(box, job) / "datasets" / "collected@v1" / "part-00000.parquet"
    assert hashlib.sha256(mounted.read_bytes()).hexdigest() == version["files"][0]["sha256"]
    let_go(box, job)
    assert (ended(box, job)["state"], log(box, job)) == ("succeeded", "1005\n")
    assert not (folder_of(box, job) / "datasets").exists()


def test_what_is_about_to_be_mounted_is_not_collected(box: Server) -> None:
    """Between the scheduler's look at a file and the shim's link to it lies no time that the file could go in."""
    version = upload(box, "about", 8)
    os.utime(artifact(box, version), (0, 0))
    job = submit(box, "pass", "about@v1")
    assert ended(box, job)["state"] == "succeeded"
    box.http.delete("/api/v1/datasets/about@v1").raise_for_status()
    collected = box.http.post("/api/v1/gc", json={"older_than_days": 0}).json()
    assert artifact(box, version).exists(), collected


def test_mounts_go_when_a_job_ends_however_it_ends(box: Server) -> None:
    upload(box, "ending", 9)
    stopped = submit(box, WAITS, "ending@v1")
    is_there(box, stopped)
    assert (folder_of(box, stopped) / "datasets" / "ending@v1").exists()
    box.http.post(f"/api/v1/jobs/{stopped}/stop").raise_for_status()
    failed = submit(box, "raise SystemExit(3)", "ending@v1")
    killed = submit(box, "import os; os.kill(os.getpid(), 9)", "ending@v1")
    late = submit(box, WAITS, "ending@v1", timeout_seconds=0.5)
    ends = {job: ended(box, job)["state"] for job in (stopped, failed, killed, late)}
    assert list(ends.values()) == ["stopped", "failed", "failed", "timed_out"]
    for job in ends:
        assert not (folder_of(box, job) / "datasets").exists()


def test_a_retry_has_them_again(box: Server) -> None:
    upload(box, "again", 10)
    script = """
    import os, sys, mlbox
    print(mlbox.dataset("again").to_arrow().num_rows)
    sys.exit(os.getcwd().endswith("/1/work"))
    """
    job = submit(box, script, "again@v1", retries=1)
    wait_for(lambda: box.http.get(f"/api/v1/jobs/{job}").json()["state"] == "succeeded", what="the second attempt")
    assert box.http.get(f"/api/v1/jobs/{job}/logs?attempt=2").text == "1000\n"


def test_mounts_outlive_the_server_and_go_with_the_next_one(make_server: Callable[..., Server]) -> None:
    first = make_server()
    upload(first, "outlives")
    script = WAITS + "import mlbox; print(mlbox.dataset('outlives').to_arrow().num_rows)"
    job = submit(first, script, "outlives@v1")
    is_there(first, job)
    first.process.kill()
    first.process.wait()
    let_go(first, job)
    wait_for((folder_of(first, job) / "status.json").exists, what="the job's end")
    assert (folder_of(first, job) / "datasets").exists()
    second = make_server(data_dir=first.data_dir)
    assert (ended(second, job)["state"], log(second, job)) == ("succeeded", "1000\n")
    assert not (folder_of(second, job) / "datasets").exists()
