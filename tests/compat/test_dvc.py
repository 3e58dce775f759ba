"""DVC's unmodified program with mlbox as its remote: pushes, pulls and status, pointers to versions and back."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.compat.conftest import environment, token_of
from tests.conftest import MLBOX, Server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "dvc.md"
CONFIG = """
[core]
    remote = mlbox
['remote "mlbox"']
    url = {url}/dvc
    method = PUT
    auth = custom
    custom_auth_header = Authorization
"""
PASSWORD = """
['remote "mlbox"']
    password = Bearer {token}
"""


class Repository:
    """A git repository with DVC in it, and whose remote it has."""

    def __init__(self, folder: Path, url: str, token: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.token = token
        home = folder.parent / f"home-{folder.name}"
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DVC_NO_ANALYTICS": "true",
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "MLBOX_URL": url,
            "MLBOX_TOKEN": token,
        }
        self._dvc = environment("dvc").with_name("dvc")
        subprocess.run(["git", "init", "-q", str(folder)], check=True, env=self._env)
        self.dvc("init", "-q")
        self.write(".dvc/config", CONFIG.format(url=url).encode())
        self.write(".dvc/config.local", PASSWORD.format(token=token).encode())

    def dvc(self, *arguments: str, fails: bool = False) -> str:
        """What `dvc` says."""
        return self._run([str(self._dvc), *arguments], fails)

    def mlbox(self, *arguments: str, fails: bool = False) -> str:
        return self._run([str(MLBOX), *arguments], fails)

    def _run(self, command: list[str], fails: bool) -> str:
        ran = subprocess.run(
            command, cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=200, check=False
        )
        said = ran.stdout + ran.stderr
        assert (ran.returncode != 0) is fails, f"{command[1:]} ended with {ran.returncode}:\n{said}"
        return said

    def write(self, path: str, content: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def takes_pointers(self, other: Repository) -> None:
        """What git brings from another clone."""
        for pointer in other.folder.glob("?*.dvc"):
            shutil.copy(pointer, self.folder)


Clone = Callable[..., Repository]


@pytest.fixture
def clone(box: Server, tmp_path: Path) -> Clone:
    """A new repository, of ann unless somebody else is named."""

    def make(name: str, *, person: str = "ann", url: str = box.url, token: str = "") -> Repository:
        return Repository(tmp_path / name, url, token or token_of(box, person, "member"))

    return make


def kept(box: Server) -> set[str]:
    root = box.data_dir / "artifacts"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_files_and_directories_are_pushed_pulled_and_compared(clone: Clone) -> None:
    first, second = clone("first"), clone("second")
    files = {
        "parts/a.csv": b"n\n1\n",
        "parts/deep/b.csv": b"n\n2\n",
        "parts/\u00fcml\u00e4ut c.csv": b"",
        "big.bin": os.urandom(5 << 20),
    }
    for path, content in files.items():
        first.write(path, content)
    first.dvc("add", "-q", "parts", "big.bin")
    assert first.dvc("status", "--cloud").count("new:") == 5, "four files and the directory"
    assert "5 files pushed" in first.dvc("push")
    assert "in sync" in first.dvc("status", "--cloud")
    assert "Everything is up to date" in first.dvc("push")
    second.takes_pointers(first)
    assert second.dvc("status", "--cloud").count("deleted:") == 4, "what the remote has and this cache lacks"
    second.dvc("pull", "-q")
    assert {path: second.read(path) for path in files} == files
    assert "up to date" in second.dvc("status")
    second.write("parts/a.csv", b"n\n7\n")
    assert "modified:" in second.dvc("status")
    second.dvc("add", "-q", "parts")
    assert second.dvc("status", "--cloud").count("new:") == 2, "a file and the directory"
    second.dvc("push", "-q")
    first.takes_pointers(second)
    first.dvc("pull", "-q")
    assert first.read("parts/a.csv") == b"n\n7\n"


def test_the_remote_is_set_up_as_the_guide_says(box: Server, clone: Clone) -> None:
    """And works with POST, too, which is DVC's default."""
    first, second = clone("first"), clone("second")
    for name in ("config", "config.local"):
        (first.folder / ".dvc" / name).unlink()
    lines = [line[2:] for line in GUIDE.read_text().splitlines() if line.startswith("$ dvc remote")]
    for line in lines:
        said = line.replace("http://box:8265", box.url).replace("$MLBOX_TOKEN", first.token)
        first.dvc(*shlex.split(said)[1:])
    first.write("put.bin", b"by PUT" * 1000)
    first.dvc("add", "-q", "put.bin")
    first.dvc("push", "-q")
    first.dvc("remote", "modify", "--unset", "mlbox", "method")
    first.write("posted.bin", b"by POST" * 1000)
    first.dvc("add", "-q", "posted.bin")
    first.dvc("push", "-q")
    second.takes_pointers(first)
    second.dvc("pull", "-q")
    assert (second.read("put.bin"), second.read("posted.bin")) == (b"by PUT" * 1000, b"by POST" * 1000)


def test_an_exported_version_is_pulled(box: Server, clone: Clone) -> None:
    for first in (0, 500):
        rows = "n,price\n" + "".join(f"{n},{n / 4}\n" for n in range(first, first + 500))
        box.http.post("/api/v1/datasets/exported/rows?format=csv", content=rows.encode()).raise_for_status()
    mine = clone("mine")
    mine.mlbox("dataset", "export", "exported@v1", "--dvc")
    mine.dvc("pull", "-q", "exported.dvc")
    version = box.http.get("/api/v1/datasets/exported@v1").json()
    for file in version["files"]:
        content = box.http.get(f"/api/v1/datasets/exported@v1/files/{file['path']}").content
        assert mine.read(f"exported/{file['path']}") == content
    assert "up to date" in mine.dvc("status")
    assert "in sync" in mine.dvc("status", "--cloud")
    before = mine.read("exported.dvc")
    mine.mlbox("dataset", "export", "exported", "--dvc")
    assert mine.read("exported.dvc") != before, "the latest one"
    mine.dvc("pull", "-q", "--force", "exported.dvc")
    assert "up to date" in mine.dvc("status")


def test_a_pushed_pointer_becomes_a_version_and_comes_back_as_it_was(box: Server, clone: Clone) -> None:
    mine = clone("mine")
    mine.write("prices/2026.csv", b"day,price\n1,2.5\n2,3.5\n")
    mine.write("prices/2027.csv", b"day,price\n3,4.5\n")
    mine.dvc("add", "-q", "prices")
    mine.dvc("push", "-q")
    assert "prices@v1: 2 files, 3 rows" in mine.mlbox("dataset", "import-dvc", "prices.dvc", "--name", "prices")
    mine.mlbox("dataset", "export", "prices@v1", "--dvc", "--to", "back.dvc")
    mine.dvc("pull", "-q", "back.dvc")
    assert mine.read("back/2027.csv") == b"day,price\n3,4.5\n"
    (oid,) = re.findall(r"md5: (\w+\.dir)", mine.read("prices.dvc").decode())
    assert oid in mine.read("back.dvc").decode(), "the same directory"
    mine.mlbox("dataset", "export", "prices@v1", "--dvc")
    assert "dataset: prices@v1" in mine.read("prices.dvc").decode(), "over the pointer that it came from"
    mine.write("other.txt", b"other")
    mine.dvc("add", "-q", "other.txt")
    said = mine.mlbox("dataset", "export", "prices@v1", "--dvc", "--to", "other.txt.dvc", fails=True)
    assert "other.txt.dvc exists, and points to no version of prices" in said
    assert box.http.get("/api/v1/datasets/prices@v1").json()["created_by"] == "ann"


def test_a_token_that_is_none_pushes_and_pulls_nothing(box: Server, clone: Clone) -> None:
    stranger, before = clone("stranger", token="mlbox_nobody"), kept(box)
    stranger.write("mine.bin", b"of a stranger")
    stranger.dvc("add", "-q", "mine.bin")
    assert "401" in stranger.dvc("push", fails=True)
    assert kept(box) == before
    known = clone("known")
    known.write("known.bin", b"of somebody")
    known.dvc("add", "-q", "known.bin")
    known.dvc("push", "-q")
    stranger.takes_pointers(known)
    stranger.dvc("pull", "known.dvc", fails=True)
    assert not (stranger.folder / "known.bin").exists()


def test_what_is_a_teams_is_pulled_by_the_team_alone(box: Server, clone: Clone) -> None:
    box.http.post("/api/v1/teams", json={"name": "stripes"}).raise_for_status()
    token_of(box, "mia", "member"), token_of(box, "otto", "member")
    box.http.put("/api/v1/teams/stripes/members/mia", json={"role": "member"}).raise_for_status()
    mia, otto = clone("mia", person="mia"), clone("otto", person="otto")
    mia.dvc("remote", "modify", "mlbox", "url", f"{box.url}/dvc/stripes")
    mia.write("secret.bin", b"for stripes alone")
    mia.dvc("add", "-q", "secret.bin")
    mia.dvc("push", "-q")
    otto.takes_pointers(mia)
    assert "missing" in otto.dvc("status", "--cloud")
    otto.dvc("pull", fails=True)
    otto.dvc("remote", "modify", "mlbox", "url", f"{box.url}/dvc/stripes")
    otto.dvc("pull", fails=True)
    assert not (otto.folder / "secret.bin").exists()
    mia.dvc("pull", "-q")


class Way:
    """A way to a server on which what the client sends is damaged, or the connection breaks, after so many bytes."""

    def __init__(self, url: str) -> None:
        self._to = httpx.URL(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.breaks_at = self.damaged_at = 1 << 40
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._to.host, self._to.port or 80))
            there = (client, server, self.breaks_at, self.damaged_at)
            for arguments in (there, (server, client, 1 << 40, 1 << 40)):
                threading.Thread(target=_pump, args=arguments, daemon=True).start()
            self._ends += (client, server)

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            end.close()


def _pump(one: socket.socket, other: socket.socket, breaks_at: int, damaged_at: int) -> None:
    sent = 0
    try:
        while sent < breaks_at and (chunk := bytearray(one.recv(65_536))):
            if sent <= damaged_at < sent + len(chunk):
                chunk[damaged_at - sent] ^= 1
            other.sendall(chunk)
            sent += len(chunk)
    except OSError:
        return
    finally:
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # which ends the other thread's wait, as closing alone would not
                if sent >= breaks_at:
                    # Reset, as by a line that fails: a sender who has just filled the window would wait for ever after a FIN.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.close()


@pytest.fixture
def way(box: Server) -> Iterator[Way]:
    made = Way(box.url)
    yield made
    made.close()


@pytest.mark.parametrize("fault", ["broken off", "damaged"])
def test_a_push_that_does_not_arrive_whole_is_not_there_and_is_made_good(
    box: Server, clone: Clone, way: Way, fault: str
) -> None:
    mine, before = clone("mine", url=way.url), kept(box)
    content = os.urandom(8 << 20)
    mine.write("fragile.bin", content)
    mine.dvc("add", "-q", "fragile.bin")
    if fault == "damaged":
        way.damaged_at = 3 << 20
        assert "400" in mine.dvc("push", fails=True)
    else:
        way.breaks_at = 3 << 20
        mine.dvc("push", fails=True)
    wait_for(lambda: kept(box) == before, what="the half to be dropped")
    way.damaged_at = way.breaks_at = 1 << 40
    assert "new:" in mine.dvc("status", "--cloud")
    mine.dvc("push", "-q")
    other = clone("other")
    other.takes_pointers(mine)
    other.dvc("pull", "-q")
    assert other.read("fragile.bin") == content
