"""Looking at a kernel's variables without running a cell: nothing is added to its history or namespace."""

from __future__ import annotations

import ast
import json
from typing import Annotated, Any

import anyio

from ..errors import InvalidRequest, KernelError, NotFound, Unsupported
from ..execution.session import Session, require_alive
from .call import Answer, Call, Param
from .kernels import find_session, unreachable
from .probe import PROBE
from .render import numbered

ANSWER_SECONDS = 10.0
LONGEST_NAME = 1_000
USUAL_BYTES = 2_000
"""How long an answer on one variable is unless more is asked for."""
HEAD_BYTES = 300


async def list_variables(call: Call, notebook_path: str = "", kernel_id: str = "") -> Answer:
    """The user's variables: name, type, shape or length, a short value."""
    session = await find_session(call, notebook_path, kernel_id)
    found = await _ask(call, session, {"what": "list"})
    variables, more = found["variables"], found["more"]
    lines = [f"{v['name']}: {v['type']} {v['size']} {v['value']}".rstrip() for v in variables]
    if more:
        lines.append(f"{more} more variables, not looked at")
    text = numbered(lines, call.answers.max_chars, "inspect_variable(name=...) shows one.")
    return Answer(text or "No variables.", {"variables": variables, "kernel_epoch": session.kernel.epoch})


async def inspect_variable(
    call: Call,
    name: str,
    notebook_path: str = "",
    kernel_id: str = "",
    max_chars: Annotated[int, Param(ge=200)] | None = None,
) -> Answer:
    """One variable, or a dotted or indexed part of it.

    Of frames and arrays the shape, the types, what is null or NaN, minimum, maximum and head; of classes an outline.

    Args:
        max_chars: how long the answer may be (default 2,000), in bytes, up to the setting of that name.

    Raises:
        NotFound: no such variable; the message names similar ones.
    """
    if not _is_reference(name):
        raise InvalidRequest(
            f"{name[:100]!r} is not a variable, attribute or item.", hint="execute_code evaluates other expressions."
        )
    session = await find_session(call, notebook_path, kernel_id)
    most = min(max_chars or USUAL_BYTES, call.answers.max_chars)
    found = await _ask(call, session, {"what": "inspect", "name": name, "limit": max(100, most - 200)})
    if "failed" in found:
        raise KernelError(f"{name!r} could not be looked at: {found['failed']}.", hint="execute_code can try.")
    if "missing" in found:
        raise NotFound(f"No variable {name!r}: {found['missing']}.", hint="list_variables shows what there is.")
    text = f"{name}: {found['type']} {found['size']}\n{found['text']}"
    if "…" in found["text"] and most < call.answers.max_chars:
        more = f"\n(max_chars={call.answers.max_chars} shows more)"
        return Answer(_within(text, most - len(more)) + more, found)
    return Answer(_within(text, most), found)


def _within(text: str, most: int) -> str:
    """As much of a text as takes up to `most` bytes of UTF-8."""
    return text if len(text) * 4 <= most else text.encode(errors="replace")[:most].decode(errors="ignore")


def _is_reference(name: str) -> bool:
    """A name with attributes and constant items, nothing that calls."""
    if len(name) > LONGEST_NAME:
        return False
    try:
        node: Any = ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    while True:
        constant_item = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant | ast.UnaryOp)
        if not (isinstance(node, ast.Attribute) or constant_item):
            return isinstance(node, ast.Name)
        node = node.value


async def _ask(call: Call, session: Session, question: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the probe as a user expression of a silent request (Jupyter messaging, "execute")."""
    require_alive(session)
    if session.kernel.language.lower() != "python":
        raise Unsupported(f"Variables of {session.kernel.language} kernels cannot be listed.", hint="Use execute_code.")
    running = call.services.executions.running(session)
    if running is not None:
        raise InvalidRequest(
            f"The kernel is busy with execution {running.id}.",
            hint="Wait for it with get_execution, or interrupt_kernel.",
        )
    expression = f"(lambda n: (exec({PROBE!r}, n), n['answer'])[1])({{'user': globals(), 'question': {question!r}}})"
    content = {
        "code": "",
        "silent": True,
        "store_history": False,
        "user_expressions": {"answer": expression},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    try:
        with anyio.move_on_after(ANSWER_SECONDS):
            async for message in session.kernel.request("execute_request", content):
                if message.channel == "shell":
                    return _parse(message.content)
    finally:
        session.touch()
    raise KernelError(
        f"The kernel did not answer within {ANSWER_SECONDS:.0f} s{unreachable(session.kernel)}.",
        hint="Is something else running in it?",
    )


def _parse(reply: dict[str, Any]) -> dict[str, Any]:
    result = reply.get("user_expressions", {}).get("answer", {})
    if result.get("status") != "ok":
        raise KernelError(f"The variables could not be read: {result.get('ename')}: {result.get('evalue')}.")
    parsed: dict[str, Any] = json.loads(ast.literal_eval(result["data"]["text/plain"]))
    return parsed
