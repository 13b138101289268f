"""What no phrase says, for a model: Anthropic's Messages API with our operations as its tools.

Source: Anthropic's API reference, "Messages" and "Tool use".
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

from ..errors import JupyterMcpError, Unavailable
from .server import Answer, Server

KEY, ADDRESS, MODEL = "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL"
_ADDRESS, _MODEL = "https://api.anthropic.com", "claude-sonnet-4-5"
_VERSION = "2023-06-01"
_TOKENS = 4096
_TURNS = 25
_SECONDS = 300.0
AGENT = "%%mcp"
_SYSTEM = (
    "You work for a person in a Jupyter notebook, through the tools of the server it lives on. Calls that name no "
    "notebook mean the person's. Its kernel is busy with this request: code cannot run in it and its variables cannot "
    "be looked at; cells can be read, added and edited. Answer in short plain text."
)

Say = Callable[[str], None]


def ask_model(text: str, server: Server, environ: Mapping[str, str], say: Say) -> None:
    """Let a model answer, with as many calls as it takes; each is told before it is made.

    Args:
        environ: holds the key, and may hold another address or model.

    Raises:
        Unavailable: the model's service refuses or does not answer.
    """
    model = environ.get(MODEL) or _MODEL
    tools = [
        {"name": each["name"], "description": each.get("description", ""), "input_schema": each["inputSchema"]}
        for each in server.operations()
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    request = {"model": model, "max_tokens": _TOKENS, "system": _SYSTEM, "tools": tools, "messages": messages}
    say(f"[answered by {model}]")
    for _ in range(_TURNS):
        reply = _post(environ, request)
        for block in reply["content"]:
            if block["type"] == "text":
                say(block["text"])
        uses = [block for block in reply["content"] if block["type"] == "tool_use"]
        if not uses:
            if reply.get("stop_reason") == "max_tokens":
                say(f"[cut at {_TOKENS} tokens]")
            return
        messages.append({"role": "assistant", "content": reply["content"]})
        messages.append({"role": "user", "content": [_result(server, use, say) for use in uses]})
    say(f"[ended after {_TURNS} turns; ask again to go on]")


def _result(server: Server, use: Mapping[str, Any], say: Say) -> dict[str, Any]:
    say(f"[{use['name']} {json.dumps(use['input'], ensure_ascii=False)}]")
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": use["id"]}
    try:
        answer: Answer = server.call(use["name"], use["input"], agent=AGENT)
    except JupyterMcpError as error:
        return {**result, "content": str(error), "is_error": True}
    return {**result, "content": answer.text}


def _post(environ: Mapping[str, str], body: Mapping[str, Any]) -> Any:
    address = (environ.get(ADDRESS) or _ADDRESS).rstrip("/")
    headers = {"content-type": "application/json", "anthropic-version": _VERSION, "x-api-key": environ[KEY]}
    request = urllib.request.Request(f"{address}/v1/messages", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:300]
        raise Unavailable(f"The model's service answered {error.code}: {said}", hint=f"See to {KEY}.") from error
    except (OSError, HTTPException) as error:
        raise Unavailable(f"The model's service does not answer ({error}).", hint="Try again.") from error
