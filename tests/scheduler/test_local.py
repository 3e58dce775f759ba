"""Attempts as processes: whatever they do, and whatever is done to them, they have an end, and nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.records import JobSpec
from mlbox.scheduler.executors import Ended, Launch, Observed, Ref
from mlbox.scheduler.executors.base import ABSENT
from mlbox.scheduler.executors.local import Local, cgroups, processes, spawner
from mlbox.scheduler.gpus import Virtual
from tests.conftest import wait_for

PYTHON = sys.executable


class Machine:
    """A local executor, and a look at what its attempts leave."""

    def __init__(self, folder: Path, **options: int) -> None:
        self.root = folder / "jobs"
        self.options = options
        self.count = 0
        self.told: list[Ref] = []
        self.begin()

    def begin(self) -> None:
        self.executor = Local(self.root, Virtual([]), cpus=4, memory_gb=16, **self.options)
        self.executor.open(self.told.append)

    def restart(self) -> None:
        self.executor.close()
        self.begin()

    def start(self, *command: str, grace: float = 0.5, env: dict[str, str] | None = None, **spec: object) -> Ref:
        self.count += 1
        ref = Ref(f"{os.getpid():026x}{self.count:06x}", 1)
        asked = JobSpec(command=command, env=env or {}, **{"memory_gb": 1, **spec})  # type: ignore[arg-type]
        self.executor.start(Launch(ref, asked, grace))
        return ref

    def shell(self, script: str, **more: object) -> Ref:
        return self.start("sh", "-c", script, **more)  # type: ignore[arg-type]

    def python(self, script: str, **more: object) -> Ref:
        return self.start(PYTHON, "-uc", script, **more)  # type: ignore[arg-type]

    def running(self, ref: Ref) -> int:
        """The shim's process id, once the command runs."""

        def there() -> int | None:
            seen = self.executor.state(ref)
            assert seen.phase != "ended", (seen, self.log(ref))
            return seen.number if seen.phase == "running" and self.left(ref) else None

        return wait_for(there, what=f"{ref} to run")

    def ended(self, ref: Ref, seconds: float = 30) -> Ended:
        return wait_for(lambda: self.executor.state(ref).ended, what=f"the end of {ref}", seconds=seconds)

    def says(self, ref: Ref, word: str) -> None:
        wait_for(lambda: word in self.log(ref), what=f"{word!r} in the log")

    def log(self, ref: Ref) -> str:
        return self.executor.log(ref, 0, 1 << 24).decode(errors="replace")

    def left(self, ref: Ref) -> list[int]:
        return processes.of_attempt(*ref)

    def folder(self, ref: Ref) -> Path:
        return self.root / ref.job_id / str(ref.number)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    built = Machine(tmp_path)
    yield built
    built.executor.close()


def test_what_ends_at_once_is_not_first_said_to_run(machine: Machine) -> None:
    refs = [machine.start("true") for _ in range(20)]
    for ref in refs:
        machine.ended(ref)
    wait_for(lambda: {*refs} <= {*machine.told}, what="each end to be told")
    assert any(machine.told.count(ref) == 1 for ref in refs)  # of each, unless the machine is so busy that it took long
    longer = machine.start("sleep", "300")
    wait_for(lambda: longer in machine.told, what="it to be said to run")
    assert machine.executor.state(longer).phase == "running"
    machine.executor.stop(longer)
    machine.ended(longer)


# -- what was done to it ----------------------------------------------------------------------------------------------------


def test_a_shim_that_is_killed_is_lost_and_takes_its_processes_with_it(machine: Machine) -> None:
    ref = machine.shell("setsid sleep 300 & sleep 300")
    shim = machine.running(ref)
    wait_for(lambda: len(machine.left(ref)) >= 3, what="the processes")
    os.kill(shim, signal.SIGKILL)
    ended = machine.ended(ref)
    assert (ended.lost, ended.reason) == (True, "its shim was killed, and its processes with it")
    assert machine.left(ref) == []


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def test_what_forgot_whose_it_is_goes_with_its_group_when_the_shim_is_killed(machine: Machine) -> None:
    ref = machine.shell("env -i setsid sleep 301 & sleep 300")
    shim = machine.running(ref)
    group = cgroups.name_of(shim, processes.start_ticks(shim))
    if not cgroups.members(group):
        pytest.skip("this machine lets us have no control groups")

    def nameless() -> list[int]:
        return [pid for pid in cgroups.members(group) if command_of(pid) == ["sleep", "301"]]

    (pid,) = wait_for(nameless, what="the process without an environment")
    assert pid not in machine.left(ref)
    start = processes.start_ticks(pid)
    os.kill(shim, signal.SIGKILL)
    assert machine.ended(ref).lost
    with contextlib.suppress(OSError):
        assert processes.stat_of(pid)[0] == b"Z" or processes.start_ticks(pid) != start, "it lives"
    assert cgroups.members(group) == []


IN_A_GROUP = """
import sys, time
from mlbox.scheduler.executors.local import cgroups
group = cgroups.Group(sys.argv[1], 1 << 30, {"unified": cgroups.mounts()["unified"]})
group.join()
print(group.kills, flush=True)
time.sleep(600)
"""


def test_a_group_of_version_2_is_killed_at_once() -> None:
    if not os.access(cgroups.mounts().get("unified", (2, "/nowhere"))[1], os.W_OK):
        pytest.skip("this machine lets us have no control group of version 2")
    name = f"mlbox-test-{os.getpid()}"
    with subprocess.Popen([PYTHON, "-c", IN_A_GROUP, name], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "True\n":
            process.kill()
            pytest.skip("this kernel kills no group at once")
        assert cgroups.members(name) == [process.pid]
        cgroups.kill(name)
        assert process.wait(60) == -signal.SIGKILL
    cgroups.remove(name)
    assert not Path(cgroups.mounts()["unified"][1], name).exists()


OUT_AGAIN = """
import os, subprocess, sys
from mlbox.scheduler.executors.local import cgroups
group = cgroups.Group(sys.argv[1], 1 << 30, {"unified": cgroups.mounts()["unified"]})
group.join()
child = subprocess.Popen(["sleep", "300"])
group.leave()
print(cgroups.members(sys.argv[1]) == [child.pid], flush=True)
child.kill()
child.wait()
group.remove()
"""


def test_who_leaves_a_group_of_version_2_leaves_in_it_what_it_started() -> None:
    if not os.access(cgroups.mounts().get("unified", (2, "/nowhere"))[1], os.W_OK):
        pytest.skip("this machine lets us have no control group of version 2")
    name = f"mlbox-test-out-{os.getpid()}"
    ran = subprocess.run([PYTHON, "-c", OUT_AGAIN, name], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert ran.stdout == "True\n"
    assert not Path(cgroups.mounts()["unified"][1], name).exists()


def test_a_group_of_version_2_is_told_its_limits_and_asked_whom_the_kernel_killed(tmp_path: Path) -> None:
    """Files as the kernel's documentation has them, since few machines have version 2 with all controllers."""
    folder = tmp_path / cgroups.name_of(1, 2)
    folder.mkdir()
    for name in ("memory.max", "memory.swap.max", "memory.events", "memory.current", "pids.max", "cgroup.kill"):
        (folder / name).touch()
    group = cgroups.Group(folder.name, 1 << 30, {"unified": (2, str(tmp_path))})
    told = {name: (folder / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")}
    assert told == {"memory.max": str(1 << 30), "memory.swap.max": "0", "pids.max": str(cgroups.MOST_PROCESSES)}
    assert group.bounds_memory
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert [group.out_of_memory(), group.out_of_memory()] == [True, False], "once for each"
    for held, clean in ((4096, True), (cgroups.MOST_LEFT + 1, False)):
        (folder / "memory.current").write_text(f"{held}\n")
        assert group.is_clean == clean
    group.kill()
    assert (folder / "cgroup.kill").read_text() == "1"


def test_a_shim_that_is_killed_while_no_server_is_there_is_lost_to_the_next(machine: Machine) -> None:
    ref = machine.shell("setsid sleep 300 & sleep 300")
    shim = machine.running(ref)
    machine.executor.close()
    os.kill(shim, signal.SIGKILL)
    machine.begin()
    assert machine.ended(ref).lost
    assert machine.left(ref) == []


def claim_as(machine: Machine, pid: int, start: int, boot: str) -> Ref:
    """An attempt whose claim says this, and that left no status."""
    ref = Ref("c" * 32, 1)
    machine.folder(ref).mkdir(parents=True)
    (machine.folder(ref) / "claim").symlink_to(f"{pid} {start} {boot}")
    return ref


def test_after_a_restart_of_the_machine_what_ran_is_lost(machine: Machine) -> None:
    ref = claim_as(machine, os.getpid(), processes.start_ticks(os.getpid()), "another-boot")
    ended = machine.ended(ref)
    assert (ended.lost, ended.reason) == (True, "the machine was restarted while it ran")


def test_a_status_of_which_the_power_left_only_the_name_is_none(machine: Machine) -> None:
    ref = claim_as(machine, os.getpid(), processes.start_ticks(os.getpid()), "another-boot")
    (machine.folder(ref) / "status.json").write_bytes(bytes(64))
    assert machine.ended(ref).lost


def test_a_process_id_that_another_process_has_now_is_not_the_shim(machine: Machine) -> None:
    own = processes.start_ticks(os.getpid())
    ref = claim_as(machine, os.getpid(), own - 1, processes.boot_id())
    assert machine.ended(ref).lost
    os.kill(os.getpid(), 0)  # and we are not what is killed for it


def test_a_claim_that_names_a_living_process_is_running(machine: Machine) -> None:
    with subprocess.Popen(["sleep", "300"]) as other:
        ref = claim_as(machine, other.pid, processes.start_ticks(other.pid), processes.boot_id())
        assert machine.executor.state(ref) == Observed("running", other.pid)
        other.kill()
        other.wait()
        assert machine.ended(ref).lost


def test_the_zygote_may_die_and_jobs_go_on_and_new_ones_start(machine: Machine) -> None:
    before = machine.shell("read _; sleep 0.5; exit 3")
    running = machine.shell("sleep 1; exit 3")
    machine.running(running)
    old = machine.executor.zygote
    os.kill(old, signal.SIGKILL)
    after = [machine.shell(f"exit {code}") for code in range(4)]  # asked of one that is dead or dying
    assert [machine.ended(ref).exit_code for ref in after] == [0, 1, 2, 3]
    assert machine.executor.zygote != old
    assert machine.ended(running).exit_code == 3
    machine.ended(before)


def test_of_many_shims_for_one_attempt_one_runs_the_command(machine: Machine, tmp_path: Path) -> None:
    spec = {
        "folder": str(machine.root / "x"),
        "cwd": str(tmp_path),
        "env": {"PATH": os.environ["PATH"]},
        "command": ["sh", "-c", "echo once >> count"],
        "procs": 1,
        "name": "x",
        "grouped": False,
        "memory_bytes": 1 << 30,
        "grace_seconds": 1,
        "log_bytes": 1000,
        "folders": [],
        "tmp": str(tmp_path / "t"),
        "tmp_stays": False,
    }
    (machine.root / "x").mkdir(parents=True)
    for number in range(1, 6):
        machine.executor._give(Ref("x", number), spec)
    wait_for((machine.root / "x" / "status.json").exists, what="the status")
    wait_for(lambda: len(machine.executor._over) == 5, what="all shims to end")
    assert (tmp_path / "count").read_text() == "once\n"
    assert not list((machine.root / "x").glob(".status*"))


@pytest.mark.parametrize("beside", [True, False])
def test_temporary_files_go_at_the_end_and_their_folder_then_or_with_the_others(tmp_path: Path, beside: bool) -> None:
    with tempfile.TemporaryDirectory() as short:  # so that there is room for sockets' names below the data directory
        machine = Machine(Path(short) if beside else tmp_path)
        try:
            full, unused = (
                machine.shell('mkdir "$TMPDIR/a"; echo > "$TMPDIR/a/b"; echo "$TMPDIR"'),
                machine.shell('echo "$TMPDIR"'),
            )
            for ref in (full, unused):
                assert machine.ended(ref).exit_code == 0
                folder = Path(machine.log(ref).strip())
                assert folder.is_relative_to(short) is beside
                assert folder.exists() is (beside and ref is unused)
                machine.executor.clear(ref)  # as the scheduler does once it has heard of it, and some time later
                machine.executor.discard(ref.job_id, 1, checkpoints=True)
                assert not folder.exists()
        finally:
            machine.executor.close()


# -- one shim, many attempts ------------------------------------------------------------------------------------------------


def shim_of(machine: Machine, ref: Ref) -> int:
    """Whose the attempt is or was."""
    return int(os.readlink(machine.folder(ref) / "claim").split()[0])


def taken_by(machine: Machine, ref: Ref) -> int:
    """The same, of one that may not be taken yet."""
    return wait_for(lambda: machine.executor.state(ref).number, what=f"{ref} to be taken")


def once_there(gate: Path, then: str) -> str:
    """What waits for a file."""
    return f"while ! test -e {gate}; do sleep 0.05; done; {then}"


def one_after_the_other(
    machine: Machine, first: str, second: str, env: dict[str, str] | None = None, **more: object
) -> tuple[Ref, Ref]:
    """Two attempts of one shim, the first of which has ended. A shim waits a second for another; a slow test may be too late."""
    for _ in range(20):
        one = machine.shell(first, env=env, **more)
        machine.ended(one)
        wait_for(lambda: machine.executor._spawner._resting or not machine.executor._shims, what="the shim to rest")
        two = machine.shell(second, **more)
        if taken_by(machine, two) == shim_of(machine, one):
            return one, two
        machine.executor.stop(two)
        machine.ended(two)
    raise AssertionError("no shim took a second attempt")


def test_a_shim_that_is_through_takes_the_next_attempt_which_finds_nothing_of_the_one_before(machine: Machine) -> None:
    before = "echo one; echo secret > there; umask 0; sleep 300 & exit 3"
    first, second = one_after_the_other(machine, before, "ls; env; umask; exit 4", env={"ONE": "1"})
    assert machine.ended(second).exit_code == 4
    log = machine.log(second)
    assert "there" not in log
    assert "ONE=" not in log
    assert "\n0000\n" not in log
    assert machine.log(first) == "one\n"
    assert machine.ended(first).exit_code == 3, "though its shim lives"
    assert machine.left(first) == []


def test_a_stop_that_comes_too_late_does_not_stop_the_next_attempt_of_the_shim(
    machine: Machine, tmp_path: Path
) -> None:
    first, second = one_after_the_other(machine, "exit 3", once_there(tmp_path / "gate", "exit 4"))
    machine.executor.stop(first)
    (tmp_path / "gate").touch()
    assert machine.ended(second).exit_code == 4


def test_a_stop_ends_the_second_attempt_of_a_shim_and_the_shim(machine: Machine) -> None:
    _, second = one_after_the_other(machine, "exit 3", "sleep 300")
    machine.executor.stop(second)
    assert machine.ended(second).stopped
    third = machine.shell("exit 5")
    assert machine.ended(third).exit_code == 5
    assert shim_of(machine, third) != shim_of(machine, second)


def test_what_is_stopped_before_a_shim_has_it_never_starts(machine: Machine, tmp_path: Path) -> None:
    os.kill(
        machine.executor.zygote, signal.SIGSTOP
    )  # it is asked for the first of these, and the others wait for their turn
    refs = [machine.shell(f": > {tmp_path}/{number}") for number in range(spawner.MOST_STARTING + 2)]
    for ref in refs:
        machine.executor.stop(ref)
    os.kill(machine.executor.zygote, signal.SIGCONT)
    assert machine.ended(machine.shell("exit 3")).exit_code == 3
    for ref in refs:
        wait_for(lambda ref=ref: machine.executor.state(ref) == ABSENT, what=f"{ref} to be let go")  # type: ignore[misc]
    assert not [path for path in tmp_path.iterdir() if path.name.isdigit()]


def test_what_is_stopped_while_a_shim_that_rested_is_to_take_it_never_starts(machine: Machine, tmp_path: Path) -> None:
    first = machine.shell("exit 3")
    machine.ended(first)
    shim = shim_of(machine, first)
    with contextlib.suppress(ProcessLookupError):  # it may have waited long enough
        os.kill(shim, signal.SIGSTOP)
    second = machine.shell(f": > {tmp_path}/ran")
    machine.executor.stop(second)
    with contextlib.suppress(ProcessLookupError):
        os.kill(shim, signal.SIGCONT)
    wait_for(lambda: machine.executor.state(second).phase in ("absent", "ended"), what="its end")
    assert machine.ended(machine.shell("exit 4")).exit_code == 4
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_given_to_a_shim_that_ends_meanwhile_runs_all_the_same(machine: Machine, number: int) -> None:
    first = machine.shell("exit 3")
    assert machine.ended(first).exit_code == 3
    shim = shim_of(machine, first)
    with contextlib.suppress(ProcessLookupError):  # it may have waited long enough
        os.kill(shim, signal.SIGSTOP)  # now it can take nothing more
    second = machine.shell("exit 4")
    for each in (number, signal.SIGCONT):
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim, each)
    assert machine.ended(second).exit_code == 4
    assert shim_of(machine, second) != shim


def test_a_shim_whose_server_is_gone_ends_with_its_attempt(machine: Machine, tmp_path: Path) -> None:
    ref = machine.shell(once_there(tmp_path / "gate", "exit 3"))
    shim = os.pidfd_open(machine.running(ref))
    machine.restart()
    (tmp_path / "gate").touch()
    assert machine.ended(ref).exit_code == 3
    assert select.select([shim], [], [], 60)[0]
    os.close(shim)


@pytest.mark.slow
@pytest.mark.parametrize("attended", [True, False])
def test_a_shim_without_a_server_puts_the_end_on_disk(machine: Machine, tmp_path: Path, attended: bool) -> None:
    """A kill cannot show it, because the page cache survives that: strace can."""
    calls = tmp_path / "calls"
    trace = ["strace", "-f", "-e", "trace=syncfs", "-o", str(calls), "-p", str(machine.executor.zygote)]
    with subprocess.Popen(trace, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        assert "attached" in strace.stderr.readline()
        ref = machine.shell(once_there(tmp_path / "gate", "exit 3"))
        shim = os.pidfd_open(machine.running(ref))
        if not attended:
            machine.restart()
        (tmp_path / "gate").touch()
        assert machine.ended(ref).exit_code == 3
        assert select.select([shim], [], [], 60)[0]
        os.close(shim)
        strace.send_signal(signal.SIGINT)
        strace.wait(60)
    assert ("syncfs(" in calls.read_text()) is not attended


def test_a_shim_without_an_attempt_waits_but_a_moment(machine: Machine) -> None:
    assert machine.ended(machine.shell("exit 3")).exit_code == 3
    wait_for(lambda: not machine.executor._shims, what="the shim to end")


def test_many_that_come_at_once_run_side_by_side(machine: Machine, tmp_path: Path) -> None:
    script = once_there(tmp_path / "gate", "exit 7")
    refs = [machine.shell(script) for _ in range(3 * spawner.MOST_STARTING)]
    for ref in refs:
        machine.running(ref)
    (tmp_path / "gate").touch()
    assert {machine.ended(ref).exit_code for ref in refs} == {7}


# -- what it does -----------------------------------------------------------------------------------------------------------

ESCAPE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        print("escaped", flush=True)
        time.sleep(300)
    os._exit(0)
os.wait()
"""


def test_what_escaped_its_session_ends_with_the_command(machine: Machine) -> None:
    ref = machine.python(ESCAPE + "time.sleep(0.2)")
    assert machine.ended(ref).exit_code == 0
    assert "escaped" in machine.log(ref)
    assert machine.left(ref) == []


def test_what_escaped_its_session_ends_with_a_stop(machine: Machine) -> None:
    ref = machine.python(ESCAPE + "time.sleep(300)")
    machine.says(ref, "escaped")
    machine.executor.stop(ref)
    assert machine.ended(ref).stopped
    assert machine.left(ref) == []


@pytest.mark.parametrize("groups", [True, False])
def test_a_fork_bomb_is_ended_within_the_grace_and_five_seconds(tmp_path: Path, groups: bool) -> None:
    """Fifteen processes that are another one each two milliseconds: killing those that were seen catches none.

    It stays small and ends by itself, so that the machine of the tests survives a failure.
    """
    machine = Machine(tmp_path, groups=groups)
    bomb = """
import os, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(15):
    if os.fork() == 0:
        os.setsid()
        break
else:
    time.sleep(60)
end = time.time() + 30
while time.time() < end:
    if os.fork():
        os._exit(0)
    os.write(1, b"x")
    time.sleep(0.002)
"""
    ref = machine.python(bomb, grace=0.2)
    wait_for(lambda: len(machine.log(ref)) > 100, what="the bomb")
    machine.executor.stop(ref)
    assert machine.ended(ref, seconds=5.2).stopped
    assert machine.left(ref) == []
    machine.executor.close()


def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(machine: Machine) -> None:
    ref = machine.shell("trap '' TERM; echo up; while :; do sleep 0.05; done", grace=0.3)
    machine.says(ref, "up")
    machine.executor.stop(ref)
    ended = machine.ended(ref, seconds=5.3)
    assert (ended.stopped, ended.exit_code) == (True, -9)


def test_a_job_that_closes_its_output_goes_on(machine: Machine, tmp_path: Path) -> None:
    ref = machine.shell(f"echo first; exec >&- 2>&-; sleep 0.2; : > {tmp_path}/later; exit 7")
    assert machine.ended(ref).exit_code == 7
    assert (tmp_path / "later").exists()
    assert machine.log(ref) == "first\n"


def test_a_job_that_removes_its_own_folder_ends_as_it_ends(machine: Machine) -> None:
    ref = machine.shell('cd /; rm -rf "$OLDPWD/.."; exit 5')
    assert machine.ended(ref).exit_code == 5
    machine.restart()
    assert machine.ended(ref).exit_code == 5


def test_a_log_is_no_longer_than_it_may_be_and_says_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path, log_bytes=10_000)
    ref = machine.python("import os\nfor _ in range(300): os.write(1, b'0123456789' * 1000)")
    assert machine.ended(ref).exit_code == 0
    log = machine.log(ref)
    assert log.startswith("0123456789" * 1000)
    assert log[10_000:] == (
        "\nmlbox: what is printed from here on is not kept: a log has 10000 bytes at most.\n"
        "mlbox: 2990000 more bytes were printed and are not here: a log has 10000 bytes at most.\n"
    )
    machine.executor.close()


@pytest.mark.slow
def test_ten_gigabytes_of_output_fill_no_disk_and_hold_nothing_up(tmp_path: Path) -> None:
    machine = Machine(tmp_path, log_bytes=1 << 20)
    ref = machine.shell("head -c 10G /dev/zero")
    assert machine.ended(ref, seconds=300).exit_code == 0
    assert (machine.folder(ref) / "log").stat().st_size < 2 << 20
    machine.executor.close()


def test_a_full_disk_does_not_hide_how_a_job_ended(small_disk: Path) -> None:
    machine = Machine(small_disk)
    ref = machine.shell("head -c 16M /dev/zero > big; echo said; exit 4")
    ended = machine.ended(ref)
    assert ended.exit_code == 4
    (machine.folder(ref) / "work" / "big").unlink()
    assert machine.ended(machine.shell("exit 0")).exit_code == 0, "and the next one runs"
    machine.executor.close()


# -- memory -----------------------------------------------------------------------------------------------------------------

HOG = "x = []\nwhile True: x.append(bytearray(1 << 20))"


def test_a_job_that_takes_more_than_twice_its_memory_is_out_of_memory(machine: Machine) -> None:
    ref = machine.python(HOG, memory_gb=0.05)
    ended = machine.ended(ref)
    assert ended.out_of_memory
    assert "ran out of memory" in ended.reason


def test_where_no_group_bounds_memory_it_is_watched(tmp_path: Path) -> None:
    machine = Machine(tmp_path, groups=False)
    ended = machine.ended(machine.python(HOG, memory_gb=0.05))
    assert (ended.out_of_memory, ended.exit_code) == (True, -9)
    machine.executor.close()


def test_what_processes_hold_is_counted() -> None:
    with subprocess.Popen(
        [PYTHON, "-c", "x = b'x' * (200 << 20); print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as hog:
        assert hog.stdout is not None
        hog.stdout.readline()
        assert 200 << 20 < processes.memory_of([hog.pid]) < 300 << 20
        assert hog.pid in processes.descendants(os.getpid())
        hog.kill()


def groups_of(pid: int) -> list[Path]:
    return [path for _, folder in cgroups.mounts().values() for path in Path(folder).glob(f"{cgroups.PREFIX}{pid}-*")]


def test_a_group_is_the_next_attempts_too_and_leaves_nothing_behind(machine: Machine) -> None:
    _, second = one_after_the_other(machine, "setsid sleep 300 & exit 0", "cat /proc/self/cgroup")
    machine.ended(second)
    shim = shim_of(machine, second)
    wait_for(lambda: not machine.executor._shims, what="the shim to end")
    assert not groups_of(shim)
    if cgroups.mounts().get("memory", (0, ""))[0] == 1:
        assert f"/{cgroups.PREFIX}{shim}-" in machine.log(second)


def test_the_memory_of_one_attempt_is_not_charged_to_the_next(machine: Machine, tmp_path: Path) -> None:
    """What one leaves in /dev/shm stays charged to its group, and would be the next one's end."""
    left = Path(f"/dev/shm/mlbox-test-{os.getpid()}")
    try:
        first, second = one_after_the_other(
            machine, f"head -c 60M /dev/zero > {left}", "head -c 60M /dev/zero | tail -c 60M | wc -c", memory_gb=0.05
        )
        assert machine.ended(first).exit_code == 0
        ended = machine.ended(second)
        assert (ended.exit_code, ended.out_of_memory, machine.log(second)) == (0, False, f"{60 << 20}\n")
    finally:
        left.unlink(missing_ok=True)


def test_one_that_ran_out_of_memory_does_not_say_so_of_the_next(machine: Machine) -> None:
    hog = f'"{PYTHON}" -c "{HOG}"'.replace("\n", "\n")
    first, second = one_after_the_other(machine, hog, "exit 3", memory_gb=0.05)
    assert machine.ended(first).out_of_memory
    assert (machine.ended(second).out_of_memory, machine.ended(second).exit_code) == (False, 3)


def test_groups_of_shims_that_were_killed_between_attempts_are_removed_by_the_next_server(machine: Machine) -> None:
    machine.ended(machine.shell("exit 0"))
    wait_for(lambda: machine.executor._spawner._resting, what="the shim to rest")
    (shim,) = machine.executor._shims
    had = groups_of(shim)
    os.kill(shim, signal.SIGKILL)
    wait_for(lambda: not machine.executor._shims, what="the shim to be gone")
    machine.restart()
    assert had == [] or not groups_of(shim)


# -- folders, ranks and images ----------------------------------------------------------------------------------------------


def test_it_runs_in_the_folder_that_was_asked_for(machine: Machine) -> None:
    ref = machine.shell("pwd", workdir="a/b")
    assert "No such file or directory" in machine.ended(ref).reason
    assert machine.ended(ref).exit_code == 127


def test_checkpoints_are_one_folder_for_all_attempts_and_their_time_is_told(machine: Machine) -> None:
    ref = machine.shell('echo 1 > "$MLBOX_CHECKPOINT_DIR/step"; echo saved; sleep 300')
    machine.says(ref, "saved")
    machine.restart()  # the next look is not the first one's memory
    seen = machine.executor.state(ref)
    assert seen.checkpoint_at is not None
    machine.executor.stop(ref)
    machine.ended(ref)
    again = Ref(ref.job_id, 2)
    command = ("sh", "-c", 'cat "$MLBOX_CHECKPOINT_DIR/step"')
    machine.executor.start(Launch(again, JobSpec(command=command, memory_gb=1), 1.0))
    machine.ended(again)
    assert machine.log(again) == "1\n"


def test_ranks_know_each_other(machine: Machine) -> None:
    ref = machine.shell('echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT"', procs=3)
    assert machine.ended(ref).exit_code == 0
    lines = sorted(machine.log(ref).splitlines())
    assert [line.split()[:4] for line in lines] == [[str(n), str(n), "3", "127.0.0.1"] for n in range(3)]
    assert len({line.split()[4] for line in lines}) == 1


def test_a_rank_that_dies_ends_the_attempt(machine: Machine) -> None:
    ref = machine.shell('[ "$RANK" = 1 ] && exit 3; sleep 300', procs=3)
    ended = machine.ended(ref)
    assert ended.exit_code == 3
    assert "rank 1 ended with 3" in machine.log(ref)
    assert machine.left(ref) == []


@pytest.mark.slow
def test_ranks_of_torch_meet_over_gloo(machine: Machine) -> None:
    script = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(x)
print(f"sum {x.item()} {dist.get_world_size()}\\n", end="")
dist.destroy_process_group()
"""
    ref = machine.python(script, procs=2, memory_gb=4)
    assert machine.ended(ref, seconds=120).exit_code == 0, machine.log(ref)
    assert machine.log(ref).count("sum 3.0 2") == 2


def test_a_shim_holds_little_memory(machine: Machine) -> None:
    refs = [machine.shell("sleep 300") for _ in range(5)]
    shims = [machine.running(ref) for ref in refs]
    pss = []
    for shim in shims:
        lines = Path(f"/proc/{shim}/smaps_rollup").read_text().splitlines()
        pss.append(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")))
    assert max(pss) < 15, pss
    for ref in refs:
        machine.executor.stop(ref)
    for ref in refs:
        machine.ended(ref)


@pytest.fixture(autouse=True, scope="module")
def leaves_no_groups() -> Iterator[None]:
    yield

    def none_is_left() -> bool:
        cgroups.sweep(processes.lives)
        names = [
            name for _, folder in cgroups.mounts().values() if os.access(folder, os.R_OK) for name in os.listdir(folder)
        ]
        shims = [name.removeprefix(cgroups.PREFIX).split("-") for name in names if name.startswith(cgroups.PREFIX)]
        return all(processes.lives(int(pid), int(start)) for pid, start in shims)

    wait_for(none_is_left, what="the groups to be gone")
