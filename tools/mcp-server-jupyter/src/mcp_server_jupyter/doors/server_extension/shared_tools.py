"""Our tools for jupyter-server-mcp, which serves those of every package in one MCP server of a Jupyter's.

It takes functions by their names, "module:function" (its README, "Entry points"): each is made when it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from ...errors import JupyterMcpError, Unavailable

if TYPE_CHECKING:
    from ...operations import Operation
    from .mount import Mount

PREFIX = "nb_"
"""What all names begin with: others' tools are listed beside them."""


def names() -> list[str]:
    """What the entry point of the group `jupyter_server_mcp.tools` answers."""
    return [f"{__name__}:{PREFIX}{name}" for name in _operations()]


def __getattr__(name: str) -> Callable[..., Any]:
    operation = _operations().get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if operation is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _function(operation)


def _operations() -> dict[str, Operation]:
    from ...operations import OPERATIONS  # noqa: PLC0415 - a Jupyter's start is spared what it may not need

    return OPERATIONS


def _function(operation: Operation) -> Callable[..., Any]:
    """One operation as a plain function: its schema is read from the signature."""

    async def call(**arguments: Any) -> Any:
        given = {name: value for name, value in arguments.items() if value is not None}
        result: Any = await (await _mount().mcp()).call_tool(operation.name, given)
        if result.is_error:
            # Whatever is raised is told as the tool's error.
            raise JupyterMcpError("\n".join(getattr(block, "text", "") for block in result.content))
        return result.content

    hints = get_type_hints(operation.run)
    taken = list(inspect.signature(operation.run).parameters.values())[1:]
    kept = [each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY) for each in taken]
    call.__name__ = call.__qualname__ = f"{PREFIX}{operation.name}"
    call.__doc__ = inspect.getdoc(operation.run)
    call.__annotations__ = {each.name: each.annotation for each in kept}
    call.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
    return call


def _mount() -> Mount:
    """What the Jupyter of this very process has loaded.

    Raises:
        Unavailable: it has not.
    """
    from jupyter_server.serverapp import ServerApp  # noqa: PLC0415 - there is one wherever this is called

    apps = ServerApp.instance().extension_manager.extension_apps if ServerApp.initialized() else {}
    for app in apps.get("mcp_server_jupyter", ()):
        mount: Mount = app.mount
        return mount
    raise Unavailable(
        "The extension mcp_server_jupyter is not loaded here.",
        hint="jupyter server extension enable mcp_server_jupyter, then start Jupyter again.",
    )
