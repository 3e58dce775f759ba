"""The dashboard: one module per page, each with its handlers."""

from __future__ import annotations

from typing import Any

from mlbox.web.pages import (
    account,
    admin,
    adoption,
    alerts,
    api_docs,
    approvals,
    audit,
    crons,
    datasets,
    deleted,
    endpoints,
    features,
    inside,
    jobs,
    labels,
    models,
    monitoring,
    overview,
    policies,
    predictions,
    run_compare,
    runs,
    search,
    secrets,
    signin,
    static,
    submitting,
    teams,
    timeline,
)

PAGES = (
    *(
        signin,
        static,
        overview,
        features,
        datasets,
        deleted,
        labels,
        submitting,
        jobs,
        timeline,
        crons,
        run_compare,
        runs,
        secrets,
    ),
    *(
        models,
        policies,
        approvals,
        endpoints,
        predictions,
        monitoring,
        alerts,
        audit,
        teams,
        account,
        admin,
        inside,
        adoption,
    ),
    *(api_docs, search),
)
handlers: list[Any] = [handler for page in PAGES for handler in page.handlers]
