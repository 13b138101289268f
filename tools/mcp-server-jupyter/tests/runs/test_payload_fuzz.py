"""Whatever is sent is refused with a reason, or is a notebook that can be written, told from others and searched."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server_jupyter.runs import Refused, read_payload
from mcp_server_jupyter.runs.modules import imported
from mcp_server_jupyter.runs.parameters import undeclared
from mcp_server_jupyter.runs.payload import check_kernel

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def near(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects that are nearly right: any field may be absent, or anything."""
    return st.fixed_dictionaries({}, optional={name: st.one_of(given, given, JSON) for name, given in fields.items()})


SOURCES = st.sampled_from(
    ["1", "import os, nothing.of.it", "%pip install x", "x = ", "%%bash\nls", "a\udcff", "", "\0"]
)
METADATA = near(
    tags=st.lists(st.sampled_from(["parameters", "results", "injected-parameters", "skip-execution"])),
    kernelspec=near(name=st.sampled_from(["python3", "bash"]), language=st.just("python")),
    language_info=near(name=st.sampled_from(["python", "R"])),
)
CELL = near(
    cell_type=st.sampled_from(["code", "markdown", "raw"]),
    source=SOURCES | st.lists(SOURCES),
    metadata=METADATA,
    id=st.sampled_from(["a", "a", "not an id!", ""]),
    outputs=st.just([]),
    execution_count=st.just(1),
    attachments=st.just({}),
)
NOTEBOOK = near(
    cells=st.lists(CELL | JSON, max_size=3), metadata=METADATA, nbformat=st.just(4), nbformat_minor=st.integers(0, 9)
)
BODY = st.one_of(
    JSON,
    NOTEBOOK,
    near(notebook=NOTEBOOK, parameters=st.dictionaries(st.sampled_from(["x", "class", "not a name"]), JSON)),
    near(json=near(notebook=NOTEBOOK)),
    st.lists(near(notebook=NOTEBOOK), max_size=2),
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(body=BODY)
def test_random_bodies_are_refused_or_made_whole(body: Any) -> None:
    try:
        sent = read_payload(body)
        check_kernel(sent.notebook, "python3", ["python3"], ["python"])
    except Refused as refused:
        failure = refused.failure
    else:
        failure = None
    if failure is not None:
        assert failure.http_status == 400
        assert failure.message
        return
    cells = sent.notebook.cells
    assert all(isinstance(cell["source"], str) and isinstance(cell["metadata"], dict) for cell in cells)
    assert len({cell["id"] for cell in cells}) == len(cells)
    json.dumps(sent.notebook, ensure_ascii=True).encode()
    assert len(sent.digest) == 64
    imported(cells)
    undeclared(sent.notebook, sent.parameters)
