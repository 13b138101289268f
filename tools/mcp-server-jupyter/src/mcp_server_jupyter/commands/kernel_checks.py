"""What `doctor` finds out about kernelspecs by starting each, and about environments without running any."""

from __future__ import annotations

import ast
import os
import re
import time
from collections.abc import Sequence

import anyio

from ..errors import JupyterMcpError
from ..operations import Call, Caller
from ..operations.interpreter import choose
from ..ports import Environment, Finding, Interpreters, Kernel, Kernels, Kernelspec
from ..services import Services

SECONDS = 30.0
"""How long a kernel may take to answer."""

_AT_ONCE = 2
_ASKED = "[__import__('sys').executable, __import__('sys').prefix, __import__('platform').python_version()]"
_PYTHON = re.compile(r"Python (3\.\d+)")


async def check_interpreters(services: Services) -> list[Finding]:
    """Which Python a notebook of the root would run on, what is wrong with kernelspecs, and what environments lack."""
    kernels = services.kernels
    if not isinstance(kernels, Interpreters):
        return []
    try:
        choice = await choose(Call(services, Caller("doctor")), "")
        first = [Finding(True, f"A notebook at the top of the root would run on {choice}")]
    except JupyterMcpError as error:
        first = [
            Finding(False, f"A notebook at the top of the root would run on nothing: {error.message}", error.hint or "")
        ]
    environments = [_environment(each) for each in await kernels.environments()]
    return [*first, *(await kernels.flaws()).values(), *filter(None, environments)]


def _environment(environment: Environment) -> Finding | None:
    name = f"Environment {environment.prefix} ({environment.kind})"
    if environment.problem:
        return Finding(True, f"{name} cannot be used: {environment.problem}", "Make it anew, or remove it.")
    if not environment.has_ipykernel:
        return Finding(True, f"{name} runs no kernel yet: it has no ipykernel", environment.adding_ipykernel)
    return None


async def check_kernelspecs(kernels: Kernels, specs: Sequence[Kernelspec], seconds: float = SECONDS) -> list[Finding]:
    """Start each of these, two at a time, and ask those of Python which one they are."""
    limit = anyio.CapacityLimiter(_AT_ONCE)
    findings: dict[str, Finding] = {}

    async def check(spec: Kernelspec) -> None:
        async with limit:
            findings[spec.name] = await _check(kernels, spec, seconds)

    async with anyio.create_task_group() as tasks:
        for spec in specs:
            tasks.start_soon(check, spec)
    return [findings[spec.name] for spec in specs]


async def _check(kernels: Kernels, spec: Kernelspec, seconds: float) -> Finding:
    name, started = f"Kernelspec {spec.name}", time.perf_counter()
    try:
        with anyio.move_on_after(seconds) as waiting:
            kernel = await kernels.start(spec.name)
            try:
                ready = time.perf_counter() - started
                wrong = await _wrong_python(kernel, spec) if spec.language == "python" else ""
            finally:
                with anyio.CancelScope(shield=True):
                    await kernel.shutdown()
            if wrong:
                return Finding(False, f"{name} {wrong}", "Install it again with the Python that is meant.")
            return Finding(True, f"{name} starts in {ready:.2f} s")
    except JupyterMcpError as error:
        return Finding(False, f"{name} does not start: {error.message}", error.hint or "")
    assert waiting.cancelled_caught
    return Finding(
        False, f"{name} has not answered in {seconds:g} s", f"Start it by hand to see why: {' '.join(spec.argv)}"
    )


async def _wrong_python(kernel: Kernel, spec: Kernelspec) -> str:
    """How the Python that runs differs from the one that the kernelspec promises; "" if it does not, as far as told."""
    asked = {"code": "", "silent": True, "store_history": False, "user_expressions": {"python": _ASKED}}
    answer = ""
    async for message in kernel.request("execute_request", asked):
        if message.msg_type == "execute_reply":
            expressions = message.content.get("user_expressions") or {}
            answer = expressions.get("python", {}).get("data", {}).get("text/plain", "")
    try:
        executable, prefix, version = ast.literal_eval(answer)
    except (ValueError, SyntaxError):
        return ""
    return _differs(spec, executable, prefix, version)


def _differs(spec: Kernelspec, executable: str, prefix: str, version: str) -> str:
    program = spec.argv[0]
    if os.path.isabs(program) and os.path.basename(program).startswith("python"):
        meant = os.path.dirname(os.path.dirname(program))
        is_same = os.path.realpath(meant) == os.path.realpath(prefix)
        if not is_same and os.path.realpath(program) != os.path.realpath(executable):
            return f"runs {executable}, not {program}"
    promised = _PYTHON.search(spec.display_name)
    if promised and not version.startswith(f"{promised[1]}."):
        return f"is called {spec.display_name!r} and runs Python {version}"
    return ""
