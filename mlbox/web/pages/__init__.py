"""The dashboard: one module per page, each with its handlers."""

from __future__ import annotations

from typing import Any

from mlbox.web.pages import (
    admin,
    api_docs,
    approvals,
    audit,
    datasets,
    endpoints,
    features,
    jobs,
    labels,
    models,
    monitoring,
    overview,
    runs,
    signin,
    static,
)

PAGES = (
    *(signin, static, overview, features, datasets, labels, jobs, runs),
    *(models, approvals, endpoints, monitoring, audit, admin, api_docs),
)
handlers: list[Any] = [handler for page in PAGES for handler in page.handlers]
