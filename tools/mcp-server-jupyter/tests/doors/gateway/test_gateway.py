"""The gateway's routes, over kernels in memory: what each answers, and what is left of a run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateways import RESULTS, Gateway, code, notebook, open_gateway
from mcp_server_jupyter.doors.gateway.openapi import document
from mcp_server_jupyter.runs.failures import STATUS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(tmp_path, workers=2) as gateway:
        yield gateway


async def kernels_gone(gateway: Gateway) -> None:
    with anyio.fail_after(30):
        while gateway.kernels:  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)


async def begun(gateway: Gateway, run_id: str) -> None:
    with anyio.fail_after(30):
        while not any("cell" in event or event["status"] == "running" for _, event in gateway.runs.events(run_id, 0)):
            await gateway.runs.news(run_id)
        while not gateway.runs.services.executions.active():  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)


# --------------------------------------------------------------------------- results


async def test_a_notebook_is_run_and_its_tagged_result_given(gateway: Gateway) -> None:
    status, answer = await gateway.run({"notebook": notebook("x = 6", code("{'message': x * 7}", **RESULTS))})
    assert (status, answer["results"]) == (200, {"message": 42})
    assert set(answer) == {"results", "run_id", "seconds", "warnings"}
    await kernels_gone(gateway)


async def test_every_run_has_a_kernel_and_a_folder_of_its_own(gateway: Gateway) -> None:
    await gateway.run(notebook("x = 1"))
    status, answer = await gateway.run(notebook("x"))
    assert (status, answer["ename"]) == (422, "NameError")


async def test_parameters_are_injected_and_unknown_ones_told_of(gateway: Gateway) -> None:
    cells = [code("a = 1", metadata={"tags": ["parameters"]}), code("a", **RESULTS)]
    _, answer = await gateway.run({"notebook": notebook(*cells), "parameters": {"a": 5, "b": None}})
    assert answer["results"] == {"result": 5}
    assert ["'b'" in warning for warning in answer["warnings"]] == [True]


async def test_the_executed_notebook_can_be_had(gateway: Gateway) -> None:
    _, answer = await gateway.run(notebook("40 + 2"))
    got = await gateway.client.get(f"/runs/{answer['run_id']}/notebook")
    assert got.headers["content-type"].startswith("application/x-ipynb+json")
    assert got.json()["cells"][0]["outputs"][0]["data"]["text/plain"] == ["42"]


# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("parameters", [{}, {"p": 1}])
async def test_an_error_names_the_cell_as_it_was_sent(gateway: Gateway, parameters: dict[str, Any]) -> None:
    sent = notebook("1", "2", "print(undefined_variable)", "3")
    status, answer = await gateway.run({"notebook": sent, "parameters": parameters})
    assert status == 422
    assert (answer["error_type"], answer["cell"]) == ("papermill_execution_error", 2)
    assert (answer["ename"], answer["cell_source"]) == ("NameError", "print(undefined_variable)")
    assert answer["evalue"] == "name 'undefined_variable' is not defined"
    assert answer["traceback"]
    assert not any("\x1b" in line for line in answer["traceback"])
    assert json.loads(await anyio.Path(answer["output_nb"]).read_text())["cells"]


async def test_a_cell_that_may_raise_does_not_end_the_run(gateway: Gateway) -> None:
    cells = [code("1/0", metadata={"tags": ["raises-exception"]}), code("'went on'", **RESULTS)]
    status, answer = await gateway.run(notebook(*cells))
    assert (status, answer["results"]) == (200, {"result": "went on"})


async def test_a_cell_that_asks_for_input_fails_at_once(gateway: Gateway) -> None:
    status, answer = await gateway.run(notebook("input('name?')"))
    assert (status, answer["cell"]) == (422, 0)


async def test_missing_modules_are_told_before_a_kernel_starts(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, kernels="local") as gateway:
        started: list[Any] = []
        stop = gateway.runs.services.events.listen(lambda event: started.append(event.kind))
        status, answer = await gateway.run(notebook("import tensorflow_of_nobody, os", "import cv2_of_nobody"))
        stop()
    assert (status, answer["error_type"]) == (422, "missing_dependencies")
    assert answer["missing_modules"] == ["tensorflow_of_nobody", "cv2_of_nobody"]
    assert not [kind for kind in started if kind.startswith("kernel.")]


@pytest.mark.parametrize(
    ("body", "status", "error_type"),
    [
        (notebook("1", metadata={"kernelspec": {"name": "bash"}}), 400, "invalid_kernel"),
        ({"notebook": 5}, 400, "invalid_notebook"),
        ([], 400, "invalid_notebook"),
        ({"notebook": notebook("1"), "parameters": 7}, 400, "invalid_parameters"),
        (notebook("#" * (1 << 20)), 413, "payload_too_large"),
    ],
)
async def test_what_cannot_be_run_is_refused_and_leaves_nothing(
    tmp_path: Path, body: Any, status: int, error_type: str
) -> None:
    async with open_gateway(tmp_path, max_notebook_size_mb=1) as gateway:
        found, answer = await gateway.run(body)
        assert (found, answer["error_type"]) == (status, error_type)
        assert (await gateway.get("/runs"))["runs"] == []
    assert not [each for each in (tmp_path / "gateway").iterdir() if each.is_dir()]


async def test_a_body_that_is_no_json_is_refused(gateway: Gateway) -> None:
    answer = await gateway.client.post("/run", content=b'{"cells": [')
    assert (answer.status_code, answer.json()["error_type"]) == (400, "invalid_notebook")


async def test_one_limit_of_time_holds_for_the_whole_notebook(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, execution_timeout=1.0) as gateway:
        status, answer = await gateway.run(notebook(*["sleep(0.6)"] * 5, "sleep(600)"))
        assert (status, answer["error_type"]) == (504, "execution_timeout")
        await kernels_gone(gateway)


async def test_a_kernel_that_does_not_come_up_in_time_is_given_up(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, kernel_start_timeout=0.2) as gateway:

        async def never(progress: Any) -> None:
            await anyio.sleep_forever()

        gateway.runs.services.kernels.before_start = never  # type: ignore[attr-defined]
        status, answer = await gateway.run(notebook("1"))
        assert (status, answer["error_type"]) == (500, "kernel_startup")
        assert gateway.kernels == 0
        assert not gateway.runs.services.sessions.starts.all()


# --------------------------------------------------------------------------- runs that are not waited for


async def test_a_run_can_be_accepted_watched_and_read_later(gateway: Gateway) -> None:
    run_id = await gateway.later(notebook("sleep(0.05)", code("7", **RESULTS)))
    with anyio.fail_after(30):
        text = (await gateway.client.get(f"/runs/{run_id}/events")).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [event["status"] for event in events] == ["queued", "running", "running", "running", "done"]
    assert [event["done"] for event in events if "done" in event] == [1, 2]
    shown = await gateway.get(f"/runs/{run_id}")
    assert (shown["status"], shown["cells"], shown["results"]) == ("done", {"done": 2, "total": 2}, {"result": 7})
    assert run_id in [run["run_id"] for run in (await gateway.get("/runs"))["runs"]]


async def test_a_stream_of_events_goes_on_where_it_was_cut(gateway: Gateway) -> None:
    _, answer = await gateway.run(notebook("1"))
    path = f"/runs/{answer['run_id']}/events"
    whole = (await gateway.client.get(path)).text
    rest = (await gateway.client.get(path, headers={"last-event-id": "2"})).text
    assert "id: 1" in whole
    assert "id: 1" not in rest
    assert "id: 2" not in rest
    assert whole.endswith(rest.partition("\n\n")[2])


async def test_a_run_that_is_cancelled_ends_with_its_kernel(gateway: Gateway) -> None:
    run_id = await gateway.later(notebook("sleep(600)"))
    await begun(gateway, run_id)
    shown = (await gateway.client.delete(f"/runs/{run_id}")).json()
    assert shown["status"] == "cancelled"
    assert (await gateway.get(f"/runs/{run_id}"))["error_type"] == "cancelled"
    await kernels_gone(gateway)


async def test_a_run_that_waits_can_be_cancelled_before_it_begins(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, workers=1) as gateway:
        first, second = await gateway.later(notebook("sleep(600)")), await gateway.later(notebook("1"))
        await begun(gateway, first)
        assert (await gateway.client.delete(f"/runs/{second}")).json()["status"] == "cancelled"
        assert (await gateway.client.delete(f"/runs/{first}")).json()["status"] == "cancelled"


async def test_more_than_may_wait_are_refused_with_a_time_to_come_back(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, workers=1, queue=1) as gateway:
        first = await gateway.later(notebook("sleep(600)"))
        second = await gateway.later(notebook("1"))
        answer = await gateway.client.post("/run", json=notebook("2"))
        assert (answer.status_code, answer.json()["error_type"]) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        for run_id in (first, second):
            await gateway.client.delete(f"/runs/{run_id}")


async def test_of_many_that_come_at_once_no_more_are_accepted_than_may_wait(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, workers=1, queue=2) as gateway:
        found: list[tuple[int, Any]] = []
        async with anyio.create_task_group() as tasks:

            async def one() -> None:
                found.append(await gateway.run(notebook("sleep(600)"), prefer="respond-async"))

            for _ in range(8):
                tasks.start_soon(one)
        accepted = [answer["run_id"] for status, answer in found if status == 202]
        assert 2 <= len(accepted) <= 3
        assert len(list(gateway.runs.folders.root.glob("*/sent.ipynb"))) == len(accepted)
        for run_id in reversed(accepted):
            await gateway.client.delete(f"/runs/{run_id}")


async def test_as_many_run_at_once_as_there_are_workers(gateway: Gateway) -> None:
    found = []
    async with anyio.create_task_group() as tasks:

        async def one(number: int) -> None:
            found.append((await gateway.run(notebook(code(f"sleep(0.02); {number}", **RESULTS))))[1]["results"])

        for number in range(20):
            tasks.start_soon(one, number)
    assert sorted(each["result"] for each in found) == list(range(20))
    await kernels_gone(gateway)


async def test_an_unknown_run_is_not_found(gateway: Gateway) -> None:
    for path in ("/runs/none", "/runs/none/notebook", "/runs/none/events"):
        answer = await gateway.client.get(path)
        assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")
    assert (await gateway.client.delete("/runs/none")).status_code == 404
    assert (await gateway.client.post("/runs/none/resume")).status_code == 404


# --------------------------------------------------------------------------- idempotency


async def test_the_same_key_and_body_are_one_run(gateway: Gateway) -> None:
    body = {"notebook": notebook(code("1", **RESULTS)), "parameters": {"a": 1}}
    found = []
    async with anyio.create_task_group() as tasks:

        async def one() -> None:
            found.append((await gateway.run(body, **{"idempotency-key": "k"}))[1]["run_id"])

        for _ in range(5):
            tasks.start_soon(one)
    found.append((await gateway.run(body, **{"idempotency-key": "k"}))[1]["run_id"])
    assert len(set(found)) == 1
    assert len((await gateway.get("/runs"))["runs"]) == 1
    assert len(list(gateway.runs.folders.root.glob("*/sent.ipynb"))) == 1


async def test_the_same_key_for_another_body_is_refused(gateway: Gateway) -> None:
    await gateway.run(notebook("1"), **{"idempotency-key": "k"})
    status, answer = await gateway.run(notebook("2"), **{"idempotency-key": "k"})
    assert (status, answer["error_type"]) == (422, "idempotency_key_reused")


# --------------------------------------------------------------------------- going on after a failure


async def test_a_failed_run_goes_on_from_the_failed_cell_in_its_kernel(gateway: Gateway) -> None:
    cells = ["x = 1", "ran = []", "ran.append(x); undefined", code("ran", **RESULTS)]
    _, failed = await gateway.run({"notebook": notebook(*cells), "parameters": {"p": 9}})
    cells[2] = "ran.append(x + p)"
    answer = await gateway.client.post(f"/runs/{failed['run_id']}/resume", json={"notebook": notebook(*cells)})
    assert (answer.status_code, answer.json()["results"]) == (200, {"result": [1, 10]})
    assert (await gateway.get(f"/runs/{failed['run_id']}"))["attempt"] == 2
    await kernels_gone(gateway)


async def test_a_run_that_fails_again_can_go_on_again(gateway: Gateway) -> None:
    _, failed = await gateway.run(notebook("n = 0", "n += 1; n / (n - 3 if n < 3 else 1) if n > 2 else undefined"))
    path = f"/runs/{failed['run_id']}/resume"
    assert (await gateway.client.post(path)).status_code == 422
    assert (await gateway.client.post(path)).status_code == 200


async def test_of_two_that_let_a_run_go_on_at_once_one_is_refused(gateway: Gateway) -> None:
    _, failed = await gateway.run(notebook("ran = []", "ran.append(1); undefined if len(ran) < 2 else ran"))
    statuses = []
    async with anyio.create_task_group() as tasks:

        async def one() -> None:
            answer = await gateway.client.post(f"/runs/{failed['run_id']}/resume")
            statuses.append(answer.status_code)

        for _ in range(3):
            tasks.start_soon(one)
    assert sorted(statuses) == [200, 409, 409]
    assert (await gateway.get(f"/runs/{failed['run_id']}"))["attempt"] == 2


async def test_going_on_is_refused_when_an_earlier_cell_has_changed(gateway: Gateway) -> None:
    _, failed = await gateway.run(notebook("x = 1", "undefined"))
    path = f"/runs/{failed['run_id']}/resume"
    answer = await gateway.client.post(path, json={"notebook": notebook("x = 2", "x")})
    assert (answer.status_code, answer.json()["error_type"]) == (409, "changed_before_failure")
    # Nothing has changed by that.
    answer = await gateway.client.post(path, json={"notebook": notebook("x = 1", "x")})
    assert answer.status_code == 200


async def test_going_on_is_refused_once_the_kernel_is_gone(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, keep_failed_seconds=0.1) as gateway:
        _, failed = await gateway.run(notebook("undefined"))
        await kernels_gone(gateway)
        answer = await gateway.client.post(f"/runs/{failed['run_id']}/resume")
        assert (answer.status_code, answer.json()["error_type"]) == (410, "kernel_gone")


async def test_no_more_kernels_of_failed_runs_are_kept_than_there_are_workers(gateway: Gateway) -> None:
    for _ in range(4):
        await gateway.run(notebook("undefined"))
    with anyio.fail_after(30):
        while gateway.kernels > 2:  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)


# --------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("limit", ["run_keep_hours", "run_keep_megabytes"])
async def test_runs_are_forgotten_when_they_are_old_or_too_big(tmp_path: Path, limit: str) -> None:
    async with open_gateway(tmp_path, **{limit: 0}) as gateway:
        _, first = await gateway.run(notebook("1"))
        _, second = await gateway.run(notebook("2"))
        with anyio.fail_after(30):
            while (await gateway.client.get(f"/runs/{first['run_id']}")).status_code != 404:  # noqa: ASYNC110 - nothing tells of it
                await anyio.sleep(0.01)
        assert first["run_id"] != second["run_id"]
        assert not gateway.runs.folders.of(first["run_id"]).exists()


async def test_a_folder_of_no_run_is_removed_by_the_next_gateway(tmp_path: Path) -> None:
    async with open_gateway(tmp_path) as gateway:
        _, answer = await gateway.run(notebook("1"))
        stray = gateway.runs.folders.of("0123456789a-0123456789ab")
        stray.mkdir()
        other = gateway.runs.folders.of("of somebody else")
        other.mkdir()
    async with open_gateway(tmp_path) as gateway:
        assert not stray.exists()
        assert other.exists()
        assert (await gateway.get(f"/runs/{answer['run_id']}"))["status"] == "done"


# --------------------------------------------------------------------------- the rest


async def test_metrics_are_json_and_prometheus_where_asked(gateway: Gateway) -> None:
    await gateway.run(notebook("1"))
    facts = await gateway.get("/metrics")
    assert facts["service"] == "papermill-gateway"
    assert {type(facts[name]) for name in ("uptime", "memory_usage_mb", "cpu_percent")} == {float}
    assert facts["config"] == {
        "max_notebook_size_mb": 5,
        "execution_timeout": 300,
        "use_scrapbook": True,
        "allowed_kernels": ["python3", "python"],
    }
    assert facts["runs"]["finished"] == {"done": 1}
    text = (await gateway.client.get("/metrics", headers={"accept": "text/plain"})).text
    assert 'gateway_runs_ended_total{outcome="done"} 1.0' in text


async def test_only_health_is_open_to_those_without_a_token(gateway: Gateway) -> None:
    for path in ("/", "/health"):
        answer = await gateway.client.get(path, headers={"authorization": ""})
        assert answer.status_code == 200
    for method, path in (("POST", "/run"), ("GET", "/runs"), ("GET", "/metrics"), ("GET", "/openapi.json")):
        answer = await gateway.client.request(method, path, headers={"authorization": ""})
        assert answer.status_code == 401, path
    foreign = await gateway.client.get("/health", headers={"host": "elsewhere.example"})
    assert foreign.status_code == 421


async def test_every_route_and_error_is_described(gateway: Gateway) -> None:
    described = await gateway.get("/openapi.json")
    assert described == document(gateway.runs.settings)
    app = gateway.client._transport.app  # type: ignore[attr-defined]
    for route in app.routes:
        for method in route.methods - {"HEAD"}:
            assert method.lower() in described["paths"][route.path], (method, route.path)
    told = json.dumps(described["paths"])
    for error_type, status in STATUS.items():
        assert error_type in told
        assert f'"{status}"' in told
