"""The contract of executors: one suite, against every one that there is."""

from __future__ import annotations

import io
import queue
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlbox.records import JobSpec
from mlbox.scheduler.executors import Executor, Launch, Observed, Ref
from mlbox.scheduler.executors.local import Local
from mlbox.scheduler.gpus import Virtual
from tests.conftest import wait_for


class Bench:
    """An executor, what it told of, and how a server that came after would see the same."""

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make = make
        self.changes: queue.SimpleQueue[Ref] = queue.SimpleQueue()
        self._count = 0
        self.begin()

    def begin(self) -> None:
        self.executor = self._make()
        self.executor.open(self.changes.put)

    def restart(self) -> None:
        self.executor.close()
        self.begin()

    def launch(self, script: str, ref: Ref | None = None, **more: object) -> Launch:
        self._count += 1
        spec = JobSpec(command=("sh", "-c", script), **more.pop("spec", {}))  # type: ignore[arg-type]
        given = {"grace_seconds": 0.5, "env": {"MLBOX_X": "ours"}, **more}
        return Launch(ref=ref or Ref(f"{self._count:032x}", 1), spec=spec, **given)  # type: ignore[arg-type]

    def start(self, script: str, **more: object) -> Ref:
        launch = self.launch(script, **more)
        self.executor.start(launch)
        return launch.ref

    def until(self, ref: Ref, phase: str) -> Observed:
        def there() -> Observed | None:
            seen = self.executor.state(ref)
            return seen if seen.phase == phase else None

        return wait_for(there, what=f"{ref} to be {phase}")

    def run(self, script: str, **more: object) -> tuple[int | None, str]:
        ref = self.start(script, **more)
        ended = self.until(ref, "ended").ended
        assert ended is not None
        return ended.exit_code, self.log(ref)

    def log(self, ref: Ref, offset: int = 0, limit: int = 1 << 20) -> str:
        return self.executor.log(ref, offset, limit).decode()


@pytest.fixture(params=["local"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    makers: dict[str, Callable[[], Executor]] = {
        "local": lambda: Local(tmp_path / "jobs", Virtual([("", 80.0)] * 2), cpus=4, memory_gb=16)
    }
    built = Bench(makers[request.param])
    yield built
    built.executor.close()


def test_it_says_what_it_has(bench: Bench) -> None:
    supply = bench.executor.capacity()
    assert supply.box.cpus > 0
    assert supply.box.memory_gb > 0
    assert len(supply.box.devices) == len(supply.gpus)


def test_an_attempt_runs_and_what_it_printed_and_how_it_ended_is_known(bench: Bench) -> None:
    assert bench.run("echo out; echo err >&2; exit 3") == (3, "out\nerr\n")


def test_what_was_never_started_is_absent_and_has_no_log(bench: Bench) -> None:
    ref = Ref("f" * 32, 1)
    assert bench.executor.state(ref).phase == "absent"
    assert bench.log(ref) == ""
    bench.executor.stop(ref)


def test_its_environment_is_ours_over_the_users_with_its_devices(bench: Bench) -> None:
    script = 'echo "$MLBOX_X $COLOUR $SECRET $CUDA_VISIBLE_DEVICES"'
    code, log = bench.run(
        script,
        spec={"env": {"COLOUR": "red", "MLBOX_X": "theirs"}},
        private={"SECRET": "hidden"},
        devices=("0", "1"),
    )
    assert (code, log) == (0, "ours red hidden 0,1\n")


def test_what_is_to_be_masked_is(bench: Bench) -> None:
    assert bench.run('echo "$S"', private={"S": "s3cret-value"}, mask={"S": "s3cret-value"}) == (0, "***S***\n")


def test_its_code_is_in_its_working_directory(bench: Bench, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as packed:
        info = tarfile.TarInfo("a/b.txt")
        info.size = 2
        packed.addfile(info, io.BytesIO(b"hi"))
    snapshot = tmp_path / "code.tar.gz"
    snapshot.write_bytes(content.getvalue())
    assert bench.run("cat a/b.txt", snapshot=snapshot) == (0, "hi")


def test_a_log_is_read_in_pieces(bench: Bench) -> None:
    ref = bench.start("printf 0123456789")
    bench.until(ref, "ended")
    assert [bench.log(ref, 0, 4), bench.log(ref, 4, 4), bench.log(ref, 8, 4), bench.log(ref, 10, 4)] == [
        *("0123", "4567", "89"),
        "",
    ]


def test_a_stop_lets_it_end_by_itself_and_says_that_it_was_stopped(bench: Bench) -> None:
    ref = bench.start("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    wait_for(lambda: "up" in bench.log(ref), what="the trap")
    assert bench.executor.state(ref).phase == "running"
    bench.executor.stop(ref)
    ended = bench.until(ref, "ended").ended
    assert ended is not None
    assert (ended.stopped, ended.exit_code, bench.log(ref)[-4:]) == (True, 5, "bye\n")
    bench.executor.stop(ref)


def test_one_that_is_stopped_before_it_is_started_never_runs(bench: Bench, tmp_path: Path) -> None:
    launch = bench.launch(f": > {tmp_path}/ran")
    bench.executor.stop(launch.ref)
    for _ in range(2):
        bench.executor.start(launch)
    assert bench.run("exit 3") == (3, "")
    assert bench.executor.state(launch.ref).phase == "absent"
    assert not (tmp_path / "ran").exists()


def test_of_many_that_are_stopped_as_they_are_started_none_is_left(bench: Bench, tmp_path: Path) -> None:
    refs = [bench.start(f": > {tmp_path}/{number}; sleep 300") for number in range(20)]
    for ref in refs:
        bench.executor.stop(ref)
    for ref in refs:
        seen = wait_for(
            lambda ref=ref: (it := bench.executor.state(ref)).phase in ("absent", "ended") and it,  # type: ignore[misc]
            what=f"the end of {ref}",
        )
        assert seen.phase == "absent" or (seen.ended is not None and seen.ended.stopped), seen


def test_one_that_will_not_end_is_killed_after_its_grace(bench: Bench) -> None:
    ref = bench.start("trap '' TERM; echo up; while :; do sleep 0.05; done")
    wait_for(lambda: "up" in bench.log(ref), what="the trap")
    bench.executor.stop(ref)
    ended = bench.until(ref, "ended").ended
    assert ended is not None
    assert (ended.stopped, ended.exit_code) == (True, -9)


def test_one_that_fills_the_disk_is_ended_at_once_and_what_it_wrote_can_be_removed(bench: Bench) -> None:
    ref = bench.start("trap '' TERM; head -c 3000000 /dev/zero > big; echo there; sleep 600", grace_seconds=600)
    wait_for(lambda: bench.log(ref) == "there\n", what="what it writes")
    assert 3_000_000 <= bench.executor.held(ref) < 4_000_000
    bench.executor.evict(ref)
    ended = bench.until(ref, "ended").ended
    assert ended is not None
    assert (ended.disk_full, ended.stopped) == (True, False)
    bench.executor.relieve(ref)
    assert bench.executor.held(ref) < 100_000
    assert bench.log(ref).startswith("there\n")
    assert bench.until(ref, "ended").ended == ended
    assert bench.run("echo next") == (0, "next\n")


def test_its_time_limit_ends_it(bench: Bench) -> None:
    ref = bench.start("sleep 60", spec={"timeout_seconds": 0.3})
    ended = bench.until(ref, "ended").ended
    assert ended is not None
    assert ended.timed_out


def test_it_tells_of_every_change(bench: Bench) -> None:
    ref = bench.start("read _ < /dev/null; sleep 0.3")
    seen = []
    while not seen or seen[-1] != "ended":
        assert bench.changes.get(timeout=60) == ref
        seen.append(bench.executor.state(ref).phase)
    assert "running" in seen


def test_an_attempt_that_is_started_again_runs_once(bench: Bench, tmp_path: Path) -> None:
    count = tmp_path / "count"
    launch = bench.launch(f"echo once >> {count}; sleep 0.3")
    for _ in range(3):
        bench.executor.start(launch)
    bench.until(launch.ref, "running")
    bench.restart()
    bench.executor.start(launch)
    bench.until(launch.ref, "ended")
    bench.executor.start(launch)
    assert count.read_text() == "once\n"


def test_a_restarted_server_knows_what_runs_and_hears_of_its_end(bench: Bench, tmp_path: Path) -> None:
    go = tmp_path / "go"
    ref = bench.start(f"while [ ! -e {go} ]; do sleep 0.02; done; exit 4")
    before = bench.until(ref, "running")
    bench.restart()
    assert bench.executor.state(ref) == before
    go.touch()
    while bench.executor.state(ref).phase != "ended":
        assert bench.changes.get(timeout=60) == ref
    ended = bench.executor.state(ref).ended
    assert ended is not None
    assert ended.exit_code == 4


def test_what_ended_while_no_server_was_there_is_known(bench: Bench, tmp_path: Path) -> None:
    done = tmp_path / "done"
    ref = bench.start(f"echo done > {done}; exit 6")
    bench.executor.close()
    wait_for(done.exists, what="the attempt")
    bench.begin()
    ended = bench.until(ref, "ended").ended
    assert ended is not None
    assert ended.exit_code == 6


def test_a_line_of_the_schedulers_stands_in_the_log(bench: Bench) -> None:
    ref = Ref("e" * 32, 1)
    bench.executor.say(ref, "There is no such user.")
    assert bench.log(ref) == "mlbox: There is no such user.\n"
    bench.executor.clear(ref)


def test_what_an_attempt_left_can_be_discarded_but_not_what_tells_of_it(bench: Bench) -> None:
    save = (
        'echo saved > "$MLBOX_CHECKPOINT_DIR/a"; mkdir -p deep/er; echo x > deep/er/x; chmod 0 deep; echo done; exit 3'
    )
    launch = bench.launch(save)
    look = 'cat "$MLBOX_CHECKPOINT_DIR/a" || echo nothing'
    bench.executor.start(launch)
    before, log = bench.until(launch.ref, "ended"), bench.log(launch.ref)
    for _ in range(2):
        bench.executor.discard(launch.ref.job_id, 1, checkpoints=False)
        bench.executor.start(launch)
        assert (bench.executor.state(launch.ref), bench.log(launch.ref)) == (before, log)
    assert bench.run(look, ref=launch.ref._replace(number=2)) == (0, "saved\n")
    bench.executor.discard(launch.ref.job_id, 2, checkpoints=True)
    code, said = bench.run(look, ref=launch.ref._replace(number=3))
    assert (code, said.splitlines()[-1]) == (0, "nothing")
    assert bench.log(launch.ref) == log
    for _ in range(2):
        bench.executor.discard(launch.ref.job_id, 3, checkpoints=True, logs=True)
        assert bench.log(launch.ref).startswith("mlbox: this log was removed")
    assert bench.executor.state(launch.ref) == before
    bench.executor.discard("0" * 32, 1, checkpoints=True, logs=True)


def test_a_command_that_there_is_not_ends_in_words(bench: Bench) -> None:
    launch = bench.launch("")
    spec = JobSpec(command=("no-such-program",))
    bench.executor.start(Launch(ref=launch.ref, spec=spec, grace_seconds=1))
    ended = bench.until(launch.ref, "ended").ended
    assert ended is not None
    assert ended.exit_code == 127
    assert "cannot be started" in ended.reason
    assert "no-such-program" in bench.log(launch.ref)
