"""What a client asks of the server itself."""

from __future__ import annotations

from typing import Any

from litestar import Request

from mlbox.records import Principal
from mlbox.web.mlflow.wire import get, paths


@get(paths("server-info", "3.0"), action="experiment.find")
async def server_info(request: Request[Any, Any, Any], principal: Principal) -> dict[str, Any]:
    """What the server can do: artifacts go through it, in one piece."""
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
        "presigned_upload_run_id_supported": False,
        "presigned_upload_model_id_supported": False,
        "features_enabled": {"gateway": False},
    }


handlers: list[Any] = [server_info]
