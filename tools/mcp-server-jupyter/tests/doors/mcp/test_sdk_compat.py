"""Each private touch of the SDK, so that a new version that moves it is noticed here."""

from __future__ import annotations

import gc
import subprocess
import sys

from mcp import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from mcp_server_jupyter.doors.mcp.sdk_compat import connection_of, discover_result, lowlevel, quick_import


def test_a_quick_import_leaves_pydantic_and_the_collector_as_they_were() -> None:
    from pydantic import BaseModel

    before = dict(BaseModel.model_config)
    try:
        with quick_import():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert BaseModel.model_config == before
    finally:
        gc.unfreeze()


def test_a_model_imported_quickly_works_at_first_use() -> None:
    code = (
        "from mcp_server_jupyter.doors.mcp.sdk_compat import quick_import\n"
        "with quick_import():\n    import mcp.types as T\n"
        "assert T.Tool.__pydantic_complete__ is False\n"
        "print(T.Tool(name='n', input_schema={'type': 'object'}).model_dump_json(by_alias=True, exclude_none=True))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout == '{"name":"n","inputSchema":{"type":"object"}}\n'


def test_the_protocol_server_below_is_reached() -> None:
    server = MCPServer("name", log_level="ERROR")
    assert lowlevel(server).name == "name"
    assert callable(lowlevel(server).run)


def test_discovery_names_the_server_and_its_versions() -> None:
    result = discover_result(MCPServer("name", version="7", instructions="Do.", log_level="ERROR"))
    assert "2026-07-28" in result["supportedVersions"]
    assert result["instructions"] == "Do."
    assert "name" in str(result["_meta"])


async def test_the_connection_outlives_its_requests() -> None:
    seen = []
    server = MCPServer("name", log_level="ERROR")

    @server.tool()
    async def look(ctx: Context) -> str:
        seen.append(connection_of(ctx.request_context))
        return "seen"

    async with Client(server, mode="legacy") as client:
        await client.call_tool("look", {})
        await client.call_tool("look", {})
    assert seen[0] is seen[1]
    assert seen[0].has_standalone_channel
