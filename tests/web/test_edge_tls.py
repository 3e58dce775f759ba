"""TLS with one's own certificate: the server, the client that trusts its authority, and what is wrong with the files."""

from __future__ import annotations

import io
import os
import socket
import ssl
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mlbox import context
from mlbox.client import Client
from mlbox.errors import InvalidInput, StartupError, Unavailable
from mlbox.records import Principal
from mlbox.settings import Settings
from mlbox.web.server import port_for_jobs, warnings_of
from mlbox.web.tls import server_context
from tests import zygote
from tests.conftest import Server, wait_for

DAY = timedelta(days=1)


class Files(NamedTuple):
    """An authority and a server that it signed, on disk."""

    ca: Path
    cert: Path
    key: Path


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_files(folder: Path, *, start: timedelta = -DAY, end: timedelta = DAY) -> Files:
    """A fresh authority and a certificate for 127.0.0.1 and localhost; times are from now."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = (
        x509.CertificateBuilder(name_of("a lab"), name_of("a lab"), ca_key.public_key(), 1, now - DAY, now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    cert = (
        x509.CertificateBuilder(ca.subject, name_of("box"), key.public_key(), 2, now + start, now + end)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    files.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    files.key.touch(mode=0o600)
    files.key.write_bytes(pem_of(key))
    return files


def pem_of(key: ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path / "tls")


@pytest.fixture
def box(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that speaks TLS; its own client here trusts the authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    server = Server(tmp_path / "data", "--tls-cert", str(files.cert), "--tls-key", str(files.key), "--hsts-days", "30")
    yield server
    server.stop()


def test_the_server_speaks_tls_and_says_so(box: Server) -> None:
    assert box.url.startswith("https://127.0.0.1:")
    answer = box.http.get("/api/v1/whoami")
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=2592000"
    assert box.http.post("/api/v1/experiments", json={"name": "e"}, headers={"Origin": box.url}).status_code == 201
    plain = box.url.replace("https:", "http:")
    assert box.http.post("/api/v1/experiments", json={"name": "e"}, headers={"Origin": plain}).status_code == 403


def test_the_session_s_cookie_never_leaves_tls(box: Server) -> None:
    answer = box.http.post("/login", data={"token": box.token})
    assert answer.status_code == 303
    assert "secure" in answer.headers["set-cookie"].lower()


def test_old_protocols_and_plain_http_get_no_answer(box: Server) -> None:
    url = httpx.URL(box.url)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((url.host, url.port or 0), timeout=60) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw)
    with pytest.raises(httpx.TransportError):
        httpx.get(box.url.replace("https:", "http:"))


def test_the_client_trusts_the_authority_that_it_is_told_of(
    box: Server, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Client(box.url, box.token) as client, pytest.raises(Unavailable, match="MLBOX_CA"):
        client.get("/api/v1/whoami", Principal)
    monkeypatch.setenv(context.CA, str(files.ca))
    with Client(box.url, box.token) as client:
        assert client.get("/api/v1/whoami", Principal).name == "admin"
    monkeypatch.setenv(context.CA, str(make_files(tmp_path / "other").ca))
    with Client(box.url, box.token) as client, pytest.raises(Unavailable, match="MLBOX_CA"):
        client.get("/api/v1/whoami", Principal)


def test_who_asks_without_tls_is_told_of_it(box: Server) -> None:
    plain = box.url.replace("https:", "http:")
    with Client(plain, box.token) as client, pytest.raises(Unavailable, match="its address begins with https"):
        client.get("/api/v1/whoami", Principal)


def test_login_stores_the_authority_with_the_box(box: Server, files: Files, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLBOX_")} | {"XDG_CONFIG_HOME": str(tmp_path / "c")}
    login = ["login", box.url, "--token", box.token]
    refused = zygote.run(login, env=env, cwd=tmp_path)
    assert refused.returncode == 1
    assert "--ca" in refused.stderr
    zygote.run([*login, "--ca", str(files.ca)], env=env, cwd=tmp_path).check_returncode()
    status = zygote.run(["status", "-o", "json"], env=env, cwd=tmp_path)
    assert status.returncode == 0, status.stderr
    assert "admin" in status.stdout


def test_jobs_have_a_plain_port_on_loopback(box: Server) -> None:
    """They know no name that the certificate is for; the port is seen by this machine only."""
    listening = [
        int(row[1].rpartition(":")[2], 16)
        for row in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if row[3] == "0A" and row[9] in sockets_of(box.process.pid)
    ]
    (plain,) = [port for port in listening if port != httpx.URL(box.url).port]
    answer = httpx.get(f"http://127.0.0.1:{plain}/api/v1/whoami", headers=dict(box.http.headers))
    assert answer.json()["name"] == "admin"
    assert "strict-transport-security" not in answer.headers


def test_the_port_for_jobs_is_the_same_after_a_restart() -> None:
    assert [port_for_jobs(port) for port in (8265, 0, 65535)] == [8266, 0, 0]


def test_no_job_reads_the_servers_key(box: Server, files: Files, tmp_path: Path) -> None:
    """It runs as the server's own user, so the file's mode would not keep it from that."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "t.py").write_text(f"print(open({str(files.cert)!r}).read(5)); open({str(files.key)!r})")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(tmp_path / "code", arcname=".")
    snapshot = box.http.post("/api/v1/snapshots", content=content.getvalue()).json()["sha256"]
    sent = box.http.post("/api/v1/jobs", json={"command": ["python", "t.py"], "snapshot": snapshot})
    assert sent.status_code == 201, sent.text
    path = f"/api/v1/jobs/{sent.json()['id']}"
    job = wait_for(
        lambda: (j := box.http.get(path).json())["state"] in ("failed", "succeeded") and j, what="the job's end"
    )
    log = box.http.get(f"{path}/logs").text
    assert job["state"] == "failed", log
    assert "-----" in log
    assert "PermissionError" in log


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    links = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}


@pytest.mark.parametrize("broken", ["missing", "garbage", "empty"])
def test_an_authority_s_file_that_is_none_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    file = tmp_path / "ca.pem"
    if broken != "missing":
        file.write_text("garbage" if broken == "garbage" else "")
    monkeypatch.setenv(context.CA, str(file))
    with pytest.raises(InvalidInput, match="authority's file"):
        Client("https://box:1", "t")


# -- what is wrong with the files ---------------------------------------------------------------------------------------


def refusal(cert: Path | str, key: Path | str) -> str:
    with pytest.raises(StartupError) as caught:
        server_context(Settings(tls_cert=str(cert), tls_key=str(key)))
    assert caught.value.hint
    return str(caught.value)


def test_each_thing_that_is_wrong_with_the_files_is_said_plainly(files: Files, tmp_path: Path) -> None:
    other = make_files(tmp_path / "other")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    assert "no tls_key" in refusal(files.cert, "")
    assert "no tls_cert" in refusal("", files.key)
    assert "cannot be read" in refusal(tmp_path / "nothing", files.key)
    assert "cannot be read" in refusal(files.cert, tmp_path)
    assert "not a PEM certificate" in refusal(garbage, files.key)
    assert "not a PEM certificate" in refusal(files.key, files.key)
    assert "is not that of the certificate" in refusal(files.cert, other.key)
    assert "cannot be used" in refusal(files.cert, garbage)
    assert "passphrase" in refusal(files.cert, locked)
    assert "expired on" in refusal(*make_files(tmp_path / "old", start=-2 * DAY, end=-DAY)[1:])
    assert "not valid before" in refusal(*make_files(tmp_path / "new", start=DAY, end=2 * DAY)[1:])


def test_a_server_with_wrong_files_ends_in_one_line(files: Files, tmp_path: Path) -> None:
    flags = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--tls-cert", str(files.cert)]
    run = zygote.run(["serve", *flags], env=os.environ, cwd=tmp_path)
    assert run.returncode == 1
    assert "--tls-key" in run.stderr
    assert run.stderr.count("\n") == 1


def test_what_is_dangerous_is_said_at_the_start(files: Files) -> None:
    (open_wide,) = warnings_of(Settings(host="0.0.0.0"))
    assert "--tls-cert" in open_wide
    assert "--trusted-proxy" in open_wide
    assert warnings_of(Settings(host="0.0.0.0", trusted_proxy=("10.0.0.1",))) == []
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        assert warnings_of(Settings(host=host)) == []
    own = Settings(host="0.0.0.0", tls_cert=str(files.cert), tls_key=str(files.key))
    assert warnings_of(own) == []
    files.key.chmod(0o644)
    (readable,) = warnings_of(own)
    assert "chmod o-r" in readable


def test_a_real_server_prints_the_warning(make_server: Callable[..., Server]) -> None:
    server = make_server("--host", "0.0.0.0")
    assert "Warning: 0.0.0.0 is reached from other machines without TLS" in server.log
