"""Messages by apprise, the extra `mlbox[apprise]`: each in a process of its own, which ends with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from mlbox.errors import Unavailable

if TYPE_CHECKING:
    from mlbox.serve.alerts.apprise_worker import Told

SECONDS = 60.0
INSTALL = "Install the extra, `pip install 'mlbox[apprise]'`, and start the server again."


def is_there() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("apprise") is not None


def send(url: str, text: str, allow: Sequence[str], *, seconds: float = SECONDS) -> Told:
    """Send a text, whose first line is its title; raises Unavailable without the extra, and where it takes too long."""
    if not is_there():
        raise Unavailable("This server does not have apprise.", hint=INSTALL)
    from mlbox.serve.alerts.apprise_worker import (
        Task,
        Told,
    )  # imported late: it loads httpx, which an idle server does without

    title, _, rest = text.partition("\n")
    task = Task(url, f"[mlbox] {title[:200]}", rest or title, "warning" if "firing" in title else "info", tuple(allow))
    # Nothing of the server's surroundings: a proxy there would be asked, and its secrets are nobody's.
    env = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "VIRTUAL_ENV") if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mlbox.serve.alerts.apprise_worker"],
            input=msgspec.json.encode(task),
            capture_output=True,
            timeout=seconds,
            check=False,
            cwd="/",
            env={**env, "HOME": "/nonexistent"},
        )
    except subprocess.TimeoutExpired as err:
        raise Unavailable(f"apprise was not done after {seconds:g} seconds.", hint="It is tried again.") from err
    try:
        return msgspec.json.decode(done.stdout, type=Told)
    except msgspec.MsgspecError as err:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
        kind = last[0].partition(":")[0][:60]  # no more of it, because the address may stand there
        raise Unavailable(f"apprise ended with {done.returncode} ({kind}).", hint="It is tried again.") from err
