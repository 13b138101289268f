"""A kernel that the system ends for want of memory, in a real memory control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mcp_server_jupyter.errors import KernelDead
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings

LIMITS = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 200 MB."""
    for parent, limit in LIMITS.items():
        group = parent / f"mcp-server-jupyter-test-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            (group / limit).write_text(str(200 * 2**20))
            yield group
            group.rmdir()
            return
    pytest.skip("making a control group with a memory limit needs root and a writable /sys/fs/cgroup")


# Apart from the tests that ask how a kernel was killed: the count of such ends is the whole system's.
@pytest.mark.long
@pytest.mark.anyio
async def test_a_kernel_out_of_memory_is_named_as_such(small_group: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    settings = Settings.load({"root": tmp_path / "root", "state_dir": tmp_path / "state", "notebook": "a.ipynb"}, {})
    async with open_services(settings) as services:
        first = await invoke(
            services, "execute_code", {"code": "import os; print(os.getpid())"}, caller=Caller("tester")
        )
        (small_group / "cgroup.procs").write_text(first.text.split()[-1])
        code = "kept = [bytearray(b'1' * 10**7) for _ in range(100)]"
        answer = await invoke(services, "append_execute_code_cell", {"cell_source": code}, caller=Caller("tester"))
        assert answer.data["status"] == "died"
        assert "signal 9 (out of memory)" in answer.text
        with pytest.raises(KernelDead, match=r"out of memory.*restart_kernel"):
            await invoke(services, "execute_code", {"code": "1"}, caller=Caller("tester"))
