"""What outlives the death of a server, of a kernel, and of both."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from mcp_server_jupyter.journal import new_execution_id, open_journal
from support import Refused, Server, eventually, outputs_text

COUNT = "import time\nfor i in range(60):\n    print('line', i, flush=True)\n    time.sleep(0.05)\n'done'"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path).start()
    yield server
    if server.process is not None and server.process.poll() is not None:
        server.start()
    assert server.stop() == 0, server.log.read_text()[-3000:]
    eventually(lambda: not server.kernel_pids(), 60, "the end of every kernel and recorder")


def finished(server: Server, execution_id: str, seconds: float = 45) -> dict[str, Any]:
    answer = server.call("get_execution", execution_id=execution_id, wait_seconds=seconds)
    assert answer["data"]["status"] not in ("queued", "running"), answer
    return answer


def test_a_running_cell_completes_with_all_its_output_after_the_server_is_killed(server: Server) -> None:
    server.call("create_notebook", notebook_path="a")
    server.call("execute_code", code="x = 41", notebook_path="a.ipynb")
    started = server.call("append_execute_code_cell", cell_source="x += 1", notebook_path="a.ipynb")
    assert started["data"]["status"] == "ok"
    server.call("insert_cell", cell_index=-1, cell_type="code", cell_source=COUNT, notebook_path="a.ipynb")
    running = server.call("execute_cell_with_progress", cell_index=1, notebook_path="a.ipynb", timeout_seconds=0.5)
    assert running["data"]["status"] == "running"
    server.kill()
    time.sleep(0.7)
    server.start()
    answer = finished(server, running["data"]["execution_id"])
    assert answer["data"]["status"] == "ok"
    expected = "".join(f"line {i}\n" for i in range(60)) + "'done'"
    eventually(
        lambda: outputs_text(server.notebook("a.ipynb")["cells"][1]) == expected, 5, "the cell's outputs on disk"
    )
    assert "42" in server.call("execute_code", code="x", notebook_path="a.ipynb")["text"]


def test_cells_queued_behind_a_killed_server_still_run_once(server: Server) -> None:
    server.call("create_notebook", notebook_path="q")
    for source in ("n = 0", "import time; time.sleep(1.5); n += 1", "n += 10", "n += 100; print(n)"):
        server.call("insert_cell", cell_index=-1, cell_type="code", cell_source=source, notebook_path="q.ipynb")
    batch = server.call("run_all_cells", notebook_path="q.ipynb", timeout_seconds=1.0)
    server.kill()
    server.start()
    answer = finished(server, batch["data"]["execution_id"])
    assert "111" in answer["text"]


def test_a_cell_that_may_raise_does_not_stop_the_run_after_a_kill_either(server: Server) -> None:
    cells = [
        {"id": "c0", "source": "import time; time.sleep(1.5); 1/0", "metadata": {"tags": ["raises-exception"]}},
        {"id": "c1", "source": "print('went on')", "metadata": {}},
    ]
    common = {"cell_type": "code", "outputs": [], "execution_count": None}
    notebook = {"cells": [common | cell for cell in cells], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (server.root / "tags.ipynb").write_text(json.dumps(notebook))
    batch = server.call("run_all_cells", notebook_path="tags.ipynb", timeout_seconds=0.7)
    server.kill()
    server.start()
    assert "went on" in finished(server, batch["data"]["execution_id"])["text"]


def test_inserted_cells_are_neither_lost_nor_doubled_when_the_server_is_killed_at_random(server: Server) -> None:
    server.call("create_notebook", notebook_path="r")
    server.call("execute_code", code="1", notebook_path="r.ipynb")
    rng = random.Random(7)
    acknowledged: list[int] = []
    sent: list[int] = []

    def work(first: int) -> None:
        for number in range(first, first + 400):
            sent.append(number)
            try:
                server.call(
                    "append_execute_code_cell", cell_source=f"print('marker-{number}-')", notebook_path="r.ipynb"
                )
            except (OSError, HTTPException, Refused):
                return
            acknowledged.append(number)

    for round_ in range(5):
        worker = threading.Thread(target=work, args=(round_ * 1000,))
        worker.start()
        time.sleep(rng.uniform(0.05, 0.5))
        server.kill()
        worker.join()
        server.start()
    text = [json.dumps(cell["source"]) for cell in server.notebook("r.ipynb")["cells"]]
    for number in acknowledged:
        assert sum(f"marker-{number}-" in source for source in text) == 1, number
    for number in set(sent) - set(acknowledged):
        assert sum(f"marker-{number}-" in source for source in text) <= 1, number
    assert acknowledged


def test_a_killed_kernel_is_answered_at_once_and_not_replaced(server: Server) -> None:
    server.call("create_notebook", notebook_path="k")
    pid = int(
        server.call("execute_code", code="import os; print(os.getpid())", notebook_path="k.ipynb")["text"].split("\n")[
            -1
        ]
    )
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    answer = server.call(
        "append_execute_code_cell", cell_source="import time; time.sleep(300)", notebook_path="k.ipynb"
    )
    assert answer["data"]["status"] == "died"
    assert "signal 9" in answer["text"]
    with pytest.raises(Refused, match="restart_kernel"):
        server.call("execute_code", code="1", notebook_path="k.ipynb")
    restarted = server.call("restart_kernel", notebook_path="k.ipynb")
    assert restarted["data"]["kernel_epoch"] == 2
    assert server.call("execute_code", code="40 + 2", notebook_path="k.ipynb")["data"]["kernel_epoch"] == 2


def test_a_cell_whose_kernel_died_with_the_server_is_told_with_the_cause_and_what_it_had_shown(server: Server) -> None:
    server.call("create_notebook", notebook_path="b")
    pid = int(
        server.call("execute_code", code="import os; print(os.getpid())", notebook_path="b.ipynb")["text"].split("\n")[
            -1
        ]
    )
    source = "print('before', flush=True); import time; time.sleep(30)"
    server.call("insert_cell", notebook_path="b.ipynb", cell_index=-1, cell_type="code", cell_source=source)
    running = server.call("execute_cell_with_progress", notebook_path="b.ipynb", cell_index=0, timeout_seconds=0.1)
    eventually(lambda: "before" in outputs_text(server.notebook("b.ipynb")["cells"][0]), 60, "the streamed output")
    server.kill()
    os.kill(pid, signal.SIGKILL)
    server.start()
    answer = finished(server, running["data"]["execution_id"])
    assert answer["data"]["status"] == "died"
    assert "The kernel was killed by signal 9" in answer["text"]
    assert "before" in answer["text"]
    info = server.call("get_notebook_info", notebook_path="b.ipynb")
    assert info["data"]["kernel_state"] == "dead"
    eventually(
        lambda: (
            [output["output_type"] for output in server.notebook("b.ipynb")["cells"][0]["outputs"]]
            == ["stream", "error"]
        ),
        60,
        "what it had shown and its end on disk",
    )


def test_a_cell_that_was_written_down_but_never_sent_is_run_by_the_next_server(server: Server) -> None:
    server.call("create_notebook", notebook_path="s")
    done = server.call("append_execute_code_cell", cell_source="n = 1", notebook_path="s.ipynb")
    server.kill()
    with open_journal(server.root_state / "journal.sqlite3") as journal:
        row = journal.execution(done["data"]["execution_id"])
        assert row is not None
        unsent = replace(row, id=new_execution_id(), msg_id="0" * 32, code="n += 1; print('n is', n)", status="running")
        journal.add_execution(replace(unsent, finished_at=None, outputs=None, on_disk=False))
    server.start()
    assert "n is 2" in finished(server, unsent.id)["text"]


def test_kept_kernels_are_adopted_by_the_next_server_with_their_variables(tmp_path: Path) -> None:
    server = Server(tmp_path, "--keep-kernels").start()
    server.call("create_notebook", notebook_path="a")
    server.call("execute_code", code="kept = 'yes'", notebook_path="a.ipynb")
    assert server.stop() == 0
    assert server.kernel_pids()
    server.options = ()
    server.start()
    assert "yes" in server.call("execute_code", code="kept", notebook_path="a.ipynb")["text"]
    assert server.stop() == 0
    eventually(lambda: not server.kernel_pids(), 60, "the end of every kernel")


def test_a_client_that_goes_away_loses_nothing(server: Server) -> None:
    server.call("create_notebook", notebook_path="c")
    server.call("execute_code", notebook_path="c.ipynb", code="'the kernel is there'")
    with pytest.raises(OSError, match="timed out"):
        server.call(
            "append_execute_code_cell",
            timeout=1.0,
            cell_source="import time; time.sleep(2); print('finished')",
            notebook_path="c.ipynb",
        )
    eventually(
        lambda: any("finished" in outputs_text(cell) for cell in server.notebook("c.ipynb")["cells"]),
        60,
        "the cell's output",
    )


def test_sigterm_lets_a_running_cell_finish_within_the_grace_time(server: Server) -> None:
    server.call("create_notebook", notebook_path="g")
    started = threading.Thread(
        target=lambda: server.call(
            "append_execute_code_cell",
            cell_source="import time; time.sleep(2); print('finished')",
            notebook_path="g.ipynb",
        )
    )
    started.start()
    eventually(lambda: len(server.notebook("g.ipynb")["cells"]) == 1, 60, "the cell on disk")
    assert server.stop() == 0
    started.join()
    assert "finished" in outputs_text(server.notebook("g.ipynb")["cells"][0])
