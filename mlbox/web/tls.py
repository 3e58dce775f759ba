"""TLS with one's own certificate: checked before the server listens, so that nobody finds out from a browser."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from mlbox.errors import StartupError
from mlbox.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What the server's sockets speak, TLS 1.2 or later; None without a certificate. Raises StartupError in words."""
    if not settings.tls_cert and not settings.tls_key:
        return None
    if not settings.tls_cert or not settings.tls_key:
        given, missing = ("tls_cert", "tls_key") if settings.tls_cert else ("tls_key", "tls_cert")
        raise StartupError(
            f"There is a {given}, but no {missing}.",
            hint="Give both: --tls-cert FILE --tls-key FILE.",
            field=missing,
        )
    cert, key = Path(settings.tls_cert), Path(settings.tls_key)
    _check_dates(cert, _read(cert, "tls_cert"))
    _read(key, "tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as err:
        raise _not_usable(cert, key, err) from err
    return context


def is_open_to_others(key: Path) -> bool:
    """True when others than the key's owner and group may read it."""
    return bool(key.stat().st_mode & 0o004)


def _no_passphrase() -> str:
    raise StartupError(
        "The file tls_key has a passphrase, and nobody is there to type it.",
        hint="Take it off: openssl pkey -in KEY -out NEW-KEY.",
        field="tls_key",
    )


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise StartupError(
            f"The file {setting} cannot be read: {path}: {err.strerror}.",
            hint=f"Give a PEM file that the server may read with --{setting.replace('_', '-')}.",
            field=setting,
        ) from err


def _check_dates(path: Path, content: bytes) -> None:
    try:
        first = x509.load_pem_x509_certificates(content)[0]
    except (ValueError, IndexError) as err:
        raise StartupError(
            f"The file tls_cert is not a PEM certificate: {path}.",
            hint="It begins with -----BEGIN CERTIFICATE-----, the server's own first, then its chain.",
            field="tls_cert",
        ) from err
    now = datetime.now(UTC)
    if now > first.not_valid_after_utc:
        raise StartupError(
            f"The certificate {path} expired on {first.not_valid_after_utc:%Y-%m-%d}.",
            hint="Renew it.",
            field="tls_cert",
        )
    if now < first.not_valid_before_utc:
        raise StartupError(
            f"The certificate {path} is not valid before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC.",
            hint="Is this machine's clock right?",
            field="tls_cert",
        )


def _not_usable(cert: Path, key: Path, err: ssl.SSLError) -> StartupError:
    if "MISMATCH" in (err.reason or ""):
        return StartupError(
            f"The key {key} is not that of the certificate {cert}.", hint="Give the pair.", field="tls_key"
        )
    return StartupError(
        f"The certificate {cert} and the key {key} cannot be used: {err.reason or err}.",
        hint="Both are PEM files; the key begins with -----BEGIN PRIVATE KEY-----.",
        field="tls_key",
    )
