"""What the way through the service costs: figures, printed and never judged. Run by `make e2e-hub-full`."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import httpx2

from hub import SECONDS, Hub

CALLS, WARMING = 200, 20
READ = ("read_cell", {"notebook_path": "figures.ipynb", "cell_index": 0})
RUN = ("execute_code", {"notebook_path": "figures.ipynb", "code": "6 * 7"})


def test_a_call_through_the_service_and_one_straight_to_the_extension(hub: Hub) -> None:
    hub.run("dora")
    token = hub.token("dora")
    hub.call(token, "/mcp", "create_notebook", notebook_path="figures.ipynb")
    hub.call(token, "/mcp", "append_execute_code_cell", notebook_path="figures.ipynb", cell_source="x = 1")
    ways = {"straight": f"{hub.url}/user/dora/api/mcp", "service": f"{hub.service}/user/dora/mcp"}
    cores, load = os.cpu_count(), os.getloadavg()[0]
    with httpx2.Client(headers={"Authorization": f"token {token}"}, timeout=SECONDS) as client:
        for tool, arguments in (READ, RUN):
            medians = {name: median(client, url, tool, arguments) for name, url in ways.items()}
            shown = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in medians.items())
            ratio = medians["service"] / medians["straight"]
            print(f"\n{tool}, median of {CALLS}: {shown}: {ratio:.1f} times; {cores} cores, load {load:.1f}")  # noqa: T201


def median(client: httpx2.Client, url: str, tool: str, arguments: dict[str, Any]) -> float:
    body = {"method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    taken = []
    for _ in range(WARMING + CALLS):
        began = time.perf_counter()
        answer = client.post(url, json=body)
        taken.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
        assert not answer.json()["result"].get("isError"), answer.text
    return statistics.median(taken[WARMING:])
