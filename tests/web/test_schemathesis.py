"""The OpenAPI schema against a real server: whatever the schema allows, and some of what it does not, is no fault of the server.

Cases are made from the schema by schemathesis (MIT, https://schemathesis.io), the same ones in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.control import SkipTest
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.web.served import Site, is_told, open_site

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of its own libraries, which are no part of ours
EXAMPLES = 30
WITHOUT_END = ("/api/v1/events",)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    found = open_site(tmp_path_factory.mktemp("schemathesis") / "data")
    yield found
    found.server.stop()


def operations(site: Site, mode: schemathesis.GenerationMode) -> list[Any]:
    document = site.http.get("/api/v1/schema/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.generation.modes = [mode]  # so that one about which nothing can be wrong is skipped at its first case
    found = [result.ok() for result in schema.get_all_operations()]
    assert len(found) > 60
    return [operation for operation in found if operation.path not in WITHOUT_END]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=str)
def test_no_case_of_the_schema_is_a_fault_of_the_server(site: Site, mode: schemathesis.GenerationMode) -> None:
    failures: dict[str, str] = {}
    asked = 0
    for operation in operations(site, mode):

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            answer = case.call(base_url=site.server.url, headers=dict(site.http.headers))
            checks = [content_type_conformance, response_schema_conformance]  # what is refused has a schema, too
            if not is_told(answer):
                checks.append(not_a_server_error)
            case.validate_response(answer, checks=checks)

        try:
            ask()
        except (SkipTest, Unsatisfiable):  # nothing can be wrong about a request without parameters
            continue
        except Exception as err:
            failures[operation.label] = str(err)[:1500]
    assert failures == {}, "\n\n".join(f"{label}: {text}" for label, text in failures.items())
    assert asked > 1000
    assert "Traceback" not in site.server.log
