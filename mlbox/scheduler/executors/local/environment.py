"""What a job finds in its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from mlbox.scheduler.executors.base import Launch

INHERITED = ("HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "XDG_CACHE_HOME", "SSL_CERT_FILE")
"""What a job gets of the server's environment: nothing that could hold a secret."""


def inherited() -> dict[str, str]:
    """What of the server's environment its jobs get."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def environment(launch: Launch, inherited: Mapping[str, str], folder: Mapping[str, str]) -> dict[str, str]:
    """A small clean one, what its user asked for, and what is ours, which no user overrides; `folder` names its folders."""
    programs = f"{launch.environment}/bin" if launch.environment else os.path.dirname(sys.executable)
    path = os.pathsep.join([programs, "/usr/local/bin", "/usr/bin", "/bin"])
    user = {name: value for name, value in launch.spec.env.items() if not name.startswith("MLBOX_")}
    if "PYTHONPATH" in folder and "PYTHONPATH" in user:
        folder = {**folder, "PYTHONPATH": os.pathsep.join([user["PYTHONPATH"], folder["PYTHONPATH"]])}
    return {
        **inherited,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        **user,
        **launch.env,
        **folder,
        **({"VIRTUAL_ENV": str(launch.environment)} if launch.environment else {}),
        "MLBOX_ATTEMPT": str(launch.ref.number),
        "MLBOX_JOB_ID": launch.ref.job_id,
        "CUDA_VISIBLE_DEVICES": ",".join(launch.devices),
        **launch.private,
    }
