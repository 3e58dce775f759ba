"""DVC's HTTP remote over kept files: `web/dvc` only translates."""

from __future__ import annotations

from typing import Any

from mlbox.web.dvc import objects

handlers: list[Any] = [*objects.handlers]
"""Everything that DVC asks of a remote, under /dvc for everyone and under /dvc/TEAM for a team."""
