"""Which box to talk to: MLBOX_URL and MLBOX_TOKEN, else the current context of a file that only its owner may read.

MLBOX_CA names the file of the authority that signed the box's certificate; `mlbox login --ca FILE` stores it with the box.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from mlbox.errors import InvalidInput, NotAuthenticated, NotFound

URL, TOKEN, CA = "MLBOX_URL", "MLBOX_TOKEN", "MLBOX_CA"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A box and a token for it."""

    name: str
    url: str
    token: str
    ca: str = ""
    """File of the authority that signed the box's certificate, where it is none that every machine knows."""
    current: bool = False


def path() -> Path:
    """The context file."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "mlbox" / "context.toml"


def load() -> list[Context]:
    """All contexts by name; none where there is no file."""
    try:
        content = tomllib.loads(path().read_text())
    except FileNotFoundError:
        return []
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise InvalidInput(f"The context file {path()} cannot be read: {err}.", hint="Mend or remove it.") from err
    current = content.get("current")
    try:
        return [
            Context(name=name, url=found["url"], token=found["token"], ca=found.get("ca", ""), current=name == current)
            for name, found in sorted(content.get("contexts", {}).items())
        ]
    except (KeyError, TypeError, AttributeError) as err:
        raise InvalidInput(f"The context file {path()} is not one of ours.", hint="Mend or remove it.") from err


def save(url: str, token: str, *, name: str | None = None, ca: str = "") -> Context:
    """Keep a box under a name (its host and port by default) and make it the current one."""
    chosen = name or urlsplit(url).netloc or url
    others = [c for c in load() if c.name != chosen]
    _write([*others, Context(name=chosen, url=url, token=token, ca=ca)], chosen)
    return Context(name=chosen, url=url, token=token, ca=ca, current=True)


def use(name: str) -> Context:
    """Make a known context the current one; raises NotFound."""
    known = load()
    for found in known:
        if found.name == name:
            _write(known, name)
            return msgspec.structs.replace(found, current=True)
    raise NotFound(
        f"There is no context {name!r}.", hint=f"There is {', '.join(c.name for c in known) or 'none'}.", field="name"
    )


def resolve(url: str | None = None, token: str | None = None) -> tuple[str, str]:
    """URL and token of a box: as given, else of the environment, else of a context; raises NotAuthenticated.

    A token goes only to the box that it is for: the environment's to MLBOX_URL, a stored one to the box that it was stored
    for, never to another that a caller or a variable names.
    """
    named, secret = os.environ.get(URL) or None, os.environ.get(TOKEN) or None
    if url is None or named is None or _same(url, named):
        url, token = url or named, token or secret
    if url and token:
        return url, token
    chosen = next((c for c in load() if (_same(c.url, url) if url else c.current)), None)
    if chosen is None:
        said = f"No token for {url} is known." if url else "No box is known."
        raise NotAuthenticated(said, hint=f"Run `mlbox login URL`, or set {URL} and {TOKEN}.")
    return chosen.url, token or chosen.token


def ca_of(url: str) -> str:
    """The file of the authority to trust for a box: the environment's, else the one stored with it; empty for the usual ones."""
    return os.environ.get(CA) or next((c.ca for c in load() if _same(c.url, url)), "")


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _write(contexts: list[Context], current: str) -> None:
    lines = [f"current = {_text(current)}"]
    for c in contexts:
        lines += ["", f"[contexts.{_text(c.name)}]", f"url = {_text(c.url)}", f"token = {_text(c.token)}"]
        lines += [f"ca = {_text(c.ca)}"] if c.ca else []
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write("\n".join(lines) + "\n")
    temporary.replace(target)


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's."""
    return msgspec.json.encode(value).decode()
