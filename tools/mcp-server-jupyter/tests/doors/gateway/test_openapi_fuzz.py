"""What the OpenAPI document promises, held against random requests that schemathesis makes from it.

Its notebooks are random code: the gateway has kernels in memory, and a folder of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateways import RESULTS, Process, code, notebook

pytestmark = pytest.mark.long

EXAMPLES = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
OPERATIONS = [
    "GET /",
    "GET /health",
    "GET /metrics",
    "POST /run",
    "GET /runs",
    "GET /runs/{run_id}",
    "GET /runs/{run_id}/notebook",
    "GET /runs/{run_id}/events",
    "POST /runs/{run_id}/resume",
    "DELETE /runs/{run_id}",
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    gateway = Process(tmp_path_factory.mktemp("gateway"), "--kernels=memory", "--queue=1000", "--rate-limit=0")
    yield gateway.start()
    gateway.stop()


@pytest.fixture(scope="module")
def operations(gateway: Process) -> dict[str, Any]:
    import schemathesis  # a second that whoever only collects these tests is spared

    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def test_every_operation_but_the_document_is_tried(operations: dict[str, Any]) -> None:
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_random_requests_are_answered_as_described(gateway: Process, operations: dict[str, Any], label: str) -> None:
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as conformance

    promised = [
        checks.not_a_server_error,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_headers_conformance,
        conformance.response_schema_conformance,
    ]
    _, done = gateway.ask("POST", "/run", notebook(code("1", **RESULTS)))
    _, failed = gateway.ask("POST", "/run", notebook("1", "1 / 0"))
    known = st.sampled_from([None, done["run_id"], failed["run_id"]])
    answers: Counter[int] = Counter()

    @EXAMPLES
    @given(case=operations[label].as_strategy(), run_id=known)
    def check(case: Any, run_id: str | None) -> None:
        if run_id is not None and "run_id" in (case.path_parameters or {}):
            case.path_parameters["run_id"] = run_id
        response = case.call()
        answers[response.status_code] += 1
        case.validate_response(response, checks=promised)

    check()
    # Otherwise nothing would have been tried but refusals.
    assert any(status < 300 for status in answers) or label.endswith("/resume"), answers
    assert gateway.ask("GET", "/health")[0] == 200
