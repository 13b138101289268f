"""Kernels of a real Jupyter server, which somebody else uses, restarts and ends as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from a_jupyter import TOKEN, Jupyter
from execution.desk import Desk, open_desk, settings_of, shown
from mcp_server_jupyter.backends.jupyter import process as process_module
from mcp_server_jupyter.backends.jupyter.client import Client
from mcp_server_jupyter.backends.jupyter.kernel import JupyterKernel
from mcp_server_jupyter.backends.jupyter.kernels import JupyterKernels
from mcp_server_jupyter.errors import JupyterMcpError, KernelDead, Unauthorized, Unavailable
from mcp_server_jupyter.execution.execution import Execution
from mcp_server_jupyter.operations import Answer
from mcp_server_jupyter.ports import Channel, Kernel
from mcp_server_jupyter.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("jupyter")]
PATIENCE = 60.0
# Jupyter interrupts a kernel before it ends it.
STUBBORN = "import time\nwhile True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("jupyter"))
    try:
        yield server.start()
    finally:
        server.close()


def settings_for(jupyter: Jupyter, folder: Path) -> Settings:
    folder.mkdir(exist_ok=True)
    return settings_of(folder, contents="files", kernels="jupyter", jupyter_url=jupyter.url, jupyter_token=TOKEN)


@pytest.fixture
async def api(jupyter: Jupyter) -> AsyncIterator[Client]:
    """Somebody else at the same Jupyter. What is left there is ended."""
    async with Client(jupyter.url, TOKEN) as client:
        yield client
        for session in await client.get("api/sessions"):
            await client.call("DELETE", f"api/sessions/{session['id']}")
        for kernel in await client.get("api/kernels"):
            await client.call("DELETE", f"api/kernels/{kernel['id']}")


@pytest.fixture
async def desk(jupyter: Jupyter, api: Client, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(settings_for(jupyter, tmp_path)) as opened:
        yield opened


async def opened_in_jupyterlab(api: Client, path: str = "a.ipynb", name: str = "a.ipynb") -> dict[str, Any]:
    body = {"path": path, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
    session: dict[str, Any] = await api.call("POST", "api/sessions", body, seconds=PATIENCE)
    return session


@asynccontextmanager
async def person(jupyter: Jupyter, folder: Path) -> AsyncIterator[Kernel]:
    """The kernel of a.ipynb as somebody else has it."""
    async with JupyterKernels(replace(settings_for(jupyter, folder), notebook=None)) as kernels:
        kernel = await kernels.of_notebook("a.ipynb")
        assert kernel is not None
        yield kernel


async def run(kernel: Kernel, code: str, until: str = "") -> None:
    """Run code as somebody else, to its end or until it publishes a message of that type."""
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
    with anyio.fail_after(PATIENCE):
        async for message in kernel.request("execute_request", content):
            if until and message.msg_type == until:
                return


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(PATIENCE):
        # What Jupyter and its kernels do cannot be waited for.
        while not await true():  # noqa: ASYNC110
            await anyio.sleep(0.05)


async def code(desk: Desk, source: str) -> Answer:
    answer = await desk.call("append_execute_code_cell", cell_source=source)
    if answer.data["status"] in ("running", "queued"):
        answer = await finished(desk, answer)
    return answer


async def finished(desk: Desk, answer: Answer) -> Answer:
    execution = desk.execution(answer)
    await execution.wait_finished(PATIENCE)
    return await desk.call("get_execution", execution_id=execution.id)


def quick(desk: Desk) -> None:
    """Answers come at once, whatever still runs."""
    desk.services.settings = replace(desk.services.settings, wait_seconds=0.0)


# ------------------------------------------------------------------ one kernel for a notebook


@pytest.mark.parametrize("path", ["a.ipynb", "RTC:a.ipynb", "5f2c6f3e-made-up-by-jupyterlab"])
async def test_a_notebook_that_has_a_kernel_gets_no_second_one(
    desk: Desk, api: Client, jupyter: Jupyter, tmp_path: Path, path: str
) -> None:
    session = await opened_in_jupyterlab(api, path)
    info = await desk.call("get_notebook_info")
    async with person(jupyter, tmp_path / "other") as theirs:
        await run(theirs, "x = 20")
        answer = await code(desk, "x + 1")

    assert info.data["kernel_id"] == session["kernel"]["id"]
    assert "21" in answer.text
    assert [kernel["id"] for kernel in await api.get("api/kernels")] == [session["kernel"]["id"]]


async def test_a_kernel_that_we_start_is_the_notebooks_for_everybody(desk: Desk, api: Client) -> None:
    await code(desk, "x = 1")

    [session] = await api.get("api/sessions")
    assert (session["path"], session["name"], session["type"]) == ("a.ipynb", "a.ipynb", "notebook")
    assert session["kernel"]["id"] == (await desk.call("get_notebook_info")).data["kernel_id"]


async def test_two_starts_at_once_make_one_kernel(jupyter: Jupyter, api: Client, tmp_path: Path) -> None:
    async with JupyterKernels(settings_for(jupyter, tmp_path)) as kernels, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: kernels.start("python3", notebook="a.ipynb"))

    assert len(await api.get("api/kernels")) == 1


async def test_only_kernels_without_a_notebook_end_with_us(
    desk: Desk, api: Client, jupyter: Jupyter, tmp_path: Path
) -> None:
    settings = settings_for(jupyter, tmp_path / "other")
    async with JupyterKernels(settings) as kernels:
        await kernels.start("python3")
        kept = await kernels.start("python3", notebook="b.ipynb")

    assert [kernel["id"] for kernel in await api.get("api/kernels")] == [kept.id]


# ------------------------------------------------------------------ somebody else's code


async def test_a_cell_waits_for_somebody_elses_and_says_so(
    desk: Desk, api: Client, jupyter: Jupyter, tmp_path: Path
) -> None:
    await code(desk, "1")
    quick(desk)
    async with person(jupyter, tmp_path / "other") as theirs:
        await run(theirs, "while True: pass", until="execute_input")
        answer = await desk.call("append_execute_code_cell", cell_source="6 * 7")
        await until(lambda: says(desk, answer, "somebody else runs"))
        await desk.call("interrupt_kernel")
        told = await finished(desk, answer)

    assert told.data["status"] == "interrupted"


async def says(desk: Desk, answer: Answer, text: str) -> bool:
    told = await desk.call("get_execution", execution_id=answer.data["execution_id"])
    return text in told.text


async def test_cancelling_a_cell_never_interrupts_somebody_elses(
    desk: Desk, api: Client, jupyter: Jupyter, tmp_path: Path
) -> None:
    await code(desk, "1")
    quick(desk)
    go = tmp_path / "go"
    theirs_code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nended = 'by itself'"
    async with person(jupyter, tmp_path / "other") as theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, theirs, theirs_code)
            await until(lambda: is_foreign(desk))
            answer = await desk.call("append_execute_code_cell", cell_source="never = True")
            await desk.services.executions.interrupt(desk.execution(answer))
            told = await finished(desk, answer)
            go.touch()
        answer = await desk.call("append_execute_code_cell", cell_source="ended, 'never' in globals()")
        shown_then = await finished(desk, answer)

    assert told.data["status"] == "interrupted"
    assert "('by itself', False)" in shown_then.text


async def has_begun(execution: Execution) -> bool:
    return execution.reducer.execution_count is not None


async def is_away(kernel: Kernel) -> bool:
    return kernel.unreachable_since is not None


async def is_foreign(desk: Desk) -> bool:
    session = desk.services.sessions.find("a.ipynb")
    return session is not None and session.kernel.foreign_since is not None


async def test_interrupting_the_kernel_says_whose_code_that_was(
    desk: Desk, api: Client, jupyter: Jupyter, tmp_path: Path
) -> None:
    await code(desk, "1")
    async with person(jupyter, tmp_path / "other") as theirs:
        await run(theirs, "while True: pass", until="execute_input")
        await until(lambda: is_foreign(desk))
        answer = await desk.call("interrupt_kernel")

    assert "somebody else" in answer.text


# ------------------------------------------------------------------ restarts and deaths that are not ours


async def test_a_restart_by_somebody_else_ends_what_waits_and_is_told_once(desk: Desk, api: Client) -> None:
    await code(desk, "x = 1")
    quick(desk)
    answer = await desk.call("append_execute_code_cell", cell_source=STUBBORN)
    execution = desk.execution(answer)
    await until(lambda: has_begun(execution))
    await api.call("POST", f"api/kernels/{execution.kernel.id}/restart", seconds=PATIENCE)
    told = await finished(desk, answer)
    again = await code(desk, "x")
    last = await code(desk, "'quiet'")

    assert "restarted by somebody else" in told.text
    assert told.data["status"] == "interrupted"
    assert again.data["kernel_epoch"] == 2
    assert "NameError" in again.text
    assert "restarted" not in last.text


async def test_a_process_that_was_replaced_unheard_is_found_out_while_a_cell_runs(
    desk: Desk, api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await code(desk, "1")
    quick(desk)
    answer = await desk.call("append_execute_code_cell", cell_source=STUBBORN)
    execution = desk.execution(answer)
    await until(lambda: has_begun(execution))
    # All that the new process published by itself came before Jupyter listened to it.
    monkeypatch.setattr(JupyterKernel, "received", deaf_to_iopub(JupyterKernel.received))
    await api.call("POST", f"api/kernels/{execution.kernel.id}/restart", seconds=PATIENCE)
    told = await finished(desk, answer)

    assert "restarted by somebody else" in told.text


def deaf_to_iopub(received: Callable[[JupyterKernel, Channel, list[bytes]], None]) -> Any:
    def hears(kernel: JupyterKernel, channel: Channel, frames: list[bytes]) -> None:
        if channel != "iopub":
            received(kernel, channel, frames)

    return hears


async def test_a_kernel_that_dies_is_said_to_have_been_restarted_by_jupyter(desk: Desk) -> None:
    answer = await code(desk, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")

    assert "restarted by Jupyter, because it had died" in answer.text
    assert "2" in (await code(desk, "1 + 1")).text


async def test_a_kernel_that_somebody_shuts_down_is_dead(desk: Desk, api: Client) -> None:
    await code(desk, "1")
    session = desk.services.sessions.find("a.ipynb")
    assert session is not None
    quick(desk)
    answer = await desk.call("append_execute_code_cell", cell_source=STUBBORN)
    await until(lambda: has_begun(desk.execution(answer)))
    [theirs] = await api.get("api/sessions")
    await api.call("DELETE", f"api/sessions/{theirs['id']}", seconds=PATIENCE)
    told = await finished(desk, answer)

    assert told.data["status"] == "died"
    assert "shut down" in told.text


# ------------------------------------------------------------------ output


async def test_output_that_jupyter_drops_is_said_to_be_lost(desk: Desk) -> None:
    answer = await code(desk, "import sys\nfor _ in range(60):\n    print('x' * 100_000, flush=True)")

    assert answer.data["status"] == "ok"
    assert "Jupyter dropped a part of this cell's output" in answer.text


# ------------------------------------------------------------------ a server that crashed


async def crashed(jupyter: Jupyter, folder: Path, source: str, shown_first: str) -> str:
    """A server that ends without a word while its cell runs; the id of the execution."""
    settings = settings_for(jupyter, folder)
    kernels = JupyterKernels(settings)
    async with open_desk(settings, kernels=kernels) as desk:
        await code(desk, "1")
        quick(desk)
        answer = await desk.call("append_execute_code_cell", cell_source=source)
        execution = desk.execution(answer)
        with anyio.fail_after(PATIENCE):
            while shown_first not in "".join(str(output.get("text", "")) for output in execution.outputs()):
                await execution.news(execution.version)
        return execution.id


async def test_a_cell_goes_on_for_the_next_server_and_is_lost_where_nobody_knows_what_is_missing(
    jupyter: Jupyter, api: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    source = (
        f"import os, time\nprint('begins', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "print('ends', flush=True)"
    )
    execution_id = await crashed(jupyter, tmp_path, source, "begins\n")
    go.touch()
    async with open_desk(settings_for(jupyter, tmp_path)) as desk:
        execution = desk.services.executions.get(execution_id)
        assert execution is not None
        await execution.wait_finished(PATIENCE)
        told = await desk.call("get_execution", execution_id=execution_id)
        cells = await desk.cells()
        counted = await code(desk, "1 + 1")

    assert told.data["status"] == "lost"
    assert "look at its effects" in told.text
    assert shown(cells[-1]) == "begins\nends\n"
    assert "In[3]" in counted.text, "the code was sent twice"


async def test_what_waits_behind_a_cell_is_sent_by_the_next_server_and_whole(
    jupyter: Jupyter, api: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    settings = settings_for(jupyter, tmp_path)
    async with open_desk(settings) as desk:
        await code(desk, "1")
        quick(desk)
        await desk.call(
            "append_execute_code_cell",
            cell_source=f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)",
        )
        waits = (await desk.call("append_execute_code_cell", cell_source="print(6 * 7)")).data["execution_id"]
    go.touch()
    async with open_desk(settings) as desk:
        execution = desk.services.executions.get(waits)
        assert execution is not None
        await execution.wait_finished(PATIENCE)
        told = await desk.call("get_execution", execution_id=waits)

    assert told.data["status"] == "ok"
    assert "42" in told.text


# ------------------------------------------------------------------ a Jupyter that is away


@pytest.mark.long
async def test_we_run_without_jupyter_and_nothing_is_given_up(tmp_path: Path) -> None:
    jupyter = Jupyter(tmp_path / "jupyter")
    try:
        async with open_desk(settings_for(jupyter, tmp_path)) as desk:
            with pytest.raises(Unavailable):
                await desk.call("execute_code", code="1", notebook_path="a.ipynb")
            await anyio.to_thread.run_sync(jupyter.start)
            assert "2" in (await code(desk, "1 + 1")).text
            session = desk.services.sessions.find("a.ipynb")
            assert session is not None
            jupyter.kill()
            await until(lambda: is_away(session.kernel))
            with pytest.raises(Unavailable):
                await desk.call("execute_code", code="1", notebook_path="a.ipynb")
            await anyio.to_thread.run_sync(jupyter.start)
            with anyio.fail_after(PATIENCE):
                death = await session.kernel.wait_dead()
            assert "Jupyter was started anew" in death.reason
            await desk.call("shutdown_kernel")
            assert "3" in (await code(desk, "1 + 2")).text
    finally:
        jupyter.close()


async def test_a_kernel_that_cannot_be_shut_down_is_its_notebooks_still_with_all_that_waits(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lost way to Jupyter is made up here: the very client of ours refuses to ask."""
    await code(desk, "x = 6")
    quick(desk)
    running = await desk.call("append_execute_code_cell", cell_source=STUBBORN)
    await until(lambda: has_begun(desk.execution(running)))
    waiting = await desk.call("append_execute_code_cell", cell_source="x")
    session = desk.services.sessions.find("a.ipynb")
    with monkeypatch.context() as away:
        away.setattr(Client, "call", unanswered)
        with pytest.raises(Unavailable):
            await desk.call("shutdown_kernel")

    assert session is not None
    assert desk.services.sessions.find("a.ipynb") is session
    assert desk.execution(waiting) in desk.services.executions.waiting(session)
    assert desk.services.executions.running(session) is desk.execution(running)
    await desk.call("shutdown_kernel")
    assert desk.services.sessions.find("a.ipynb") is None


async def unanswered(*_: Any, **__: Any) -> Any:
    raise Unavailable("Jupyter does not answer.")


async def test_an_idle_kernel_that_cannot_be_shut_down_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lost way to Jupyter is made up here, as above."""
    await code(desk, "x = 6")
    with monkeypatch.context() as away:
        away.setattr(Client, "call", unanswered)
        with pytest.raises(Unavailable):
            await desk.call("shutdown_kernel")

    assert "42" in (await code(desk, "x * 7")).text


# ------------------------------------------------------------------ a Jupyter that is left alone


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels without work are left after a moment."""
    monkeypatch.setattr(process_module, "_REST_SECONDS", 0.0)
    monkeypatch.setattr(process_module, "_LOOK_SECONDS", 0.05)


async def nobody_is_connected(api: Client) -> bool:
    return all(not model["connections"] for model in await api.get("api/kernels"))


async def test_a_kernel_without_work_is_left_alone_and_connected_again_for_the_next_cell(
    desk: Desk, api: Client, hasty: None
) -> None:
    await code(desk, "x = 6")
    await until(lambda: nobody_is_connected(api))
    session = desk.services.sessions.find("a.ipynb")
    assert session is not None
    assert session.kernel.unreachable_since is None
    assert session.kernel.state == "idle"

    answer = await code(desk, "x * 7")

    assert answer.data["status"] == "ok"
    assert "42" in answer.text
    assert "lost" not in answer.text


async def test_a_cell_that_shows_nothing_for_long_is_work(
    desk: Desk, hasty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await code(desk, "1")
    go = tmp_path / "go"
    quick(desk)
    source = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('all of it')"
    answer = await desk.call("append_execute_code_cell", cell_source=source)
    await until(lambda: has_begun(desk.execution(answer)))
    kernel = desk.execution(answer).kernel
    assert isinstance(kernel, JupyterKernel)
    looked: list[bool] = []
    judge = kernel._rest_if_unused
    monkeypatch.setattr(kernel, "_rest_if_unused", lambda: looked.append((judge(), kernel.is_reached)[1]))
    await until(lambda: seen(looked, 3))
    go.touch()
    told = await finished(desk, answer)

    assert looked[:3] == [True, True, True]
    assert told.data["status"] == "ok"
    assert "all of it" in told.text


async def seen(what: list[bool], times: int) -> bool:
    return len(what) >= times


async def test_what_became_of_a_kernel_that_was_left_alone_is_told_before_anything_runs(
    desk: Desk, api: Client, hasty: None
) -> None:
    await code(desk, "x = 6")
    await until(lambda: nobody_is_connected(api))
    [session] = await api.get("api/sessions")
    await api.call("DELETE", f"api/sessions/{session['id']}", seconds=PATIENCE)

    with pytest.raises(KernelDead):
        await desk.call("append_execute_code_cell", cell_source="x")


async def test_a_restart_behind_our_back_is_told(desk: Desk, api: Client, hasty: None) -> None:
    await code(desk, "x = 6")
    await until(lambda: nobody_is_connected(api))
    [kernel] = await api.get("api/kernels")
    await api.call("POST", f"api/kernels/{kernel['id']}/restart", seconds=PATIENCE)
    first = await code(desk, "x")

    assert "restarted by somebody else" in first.text
    assert (await code(desk, "1 + 1")).data["kernel_epoch"] == 2


async def test_a_wrong_token_is_told_as_such_and_never_shown(jupyter: Jupyter, tmp_path: Path) -> None:
    settings = replace(settings_for(jupyter, tmp_path), jupyter_token="wrong-secret")
    async with JupyterKernels(settings) as kernels:
        with pytest.raises(Unauthorized) as caught:
            await kernels.of_notebook("a.ipynb")

    assert "wrong-secret" not in str(caught.value)


async def test_what_is_no_jupyter_is_unavailable(tmp_path: Path) -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with Client(f"http://127.0.0.1:{port}", None) as client:
            with pytest.raises(JupyterMcpError):
                await client.get("api/kernels")
        tasks.cancel_scope.cancel()
