"""The error tree. Every error a caller can meet is one of these, and says what to do next.

JupyterMcpError
├── InvalidRequest            an argument that cannot be right (400)
│   ├── OutsideRoot           a path that leaves the root folder (403)
│   └── TooLarge              a body, a cell or an output over its limit (413)
├── Unauthorized              no token, or a wrong one (401)
├── NotAllowed                what a person does not let agents do (403)
├── NotFound                  a notebook, cell, kernel, kernelspec or execution that is not there (404)
├── AlreadyExists             a notebook or a file that would be overwritten (409)
├── Conflict                  the same cell was changed twice; carries a diff (409)
│   └── Stale                what an editor says of a notebook that the server knows otherwise (409)
├── InvalidNotebook           a file that is not a notebook we can edit without damage (422)
├── Unsupported               the backend cannot do this (501)
├── Unavailable               a backend that does not answer (503)
│   └── ServerNotRunning      a user's server at a JupyterHub that is stopped (424)
└── KernelError
    ├── KernelStarting        the kernel is not up yet; the call changed nothing and may be repeated (503)
    ├── KernelStartFailed     the kernel did not come up; carries the end of its log (502)
    └── KernelDead            the kernel ended; carries the exit code and the reason (410)

A cell that raises is a result, never one of these.
"""

from __future__ import annotations

from typing import ClassVar


class JupyterMcpError(Exception):
    """Root of the tree. `message` is one sentence for the caller, `hint` says what to do next."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidRequest(JupyterMcpError):
    """An argument that cannot be right."""

    code = "invalid_request"
    http_status = 400


class OutsideRoot(InvalidRequest):
    """A path that leaves the root folder, directly or through a symbolic link."""

    code = "outside_root"
    http_status = 403


class TooLarge(InvalidRequest):
    """A body, a cell or a file over its limit."""

    code = "too_large"
    http_status = 413


class Unauthorized(JupyterMcpError):
    """No token, or a wrong one."""

    code = "unauthorized"
    http_status = 401


class NotAllowed(JupyterMcpError):
    """What a person does not let agents do now."""

    code = "not_allowed"
    http_status = 403


class NotFound(JupyterMcpError):
    """A notebook, cell, kernel, kernelspec or execution that is not there."""

    code = "not_found"
    http_status = 404


class AlreadyExists(JupyterMcpError):
    """Something that would have been overwritten."""

    code = "already_exists"
    http_status = 409


class Conflict(JupyterMcpError):
    """The same cell was changed twice. `diff` is a unified diff from what is there to what was asked for."""

    code = "conflict"
    http_status = 409

    def __init__(self, message: str, *, diff: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.diff = diff

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n{self.diff}" if self.diff else text


class Stale(Conflict):
    """What an editor says does not fit what the server knows of its notebook: the editor opens it again."""

    code = "stale"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="Open the notebook again, with what the editor has.")


class InvalidNotebook(JupyterMcpError):
    """A file that is not a notebook we can edit without damage."""

    code = "invalid_notebook"
    http_status = 422


class Unsupported(JupyterMcpError):
    """The backend cannot do this."""

    code = "unsupported"
    http_status = 501


class Unavailable(JupyterMcpError):
    """A backend that does not answer. `retry_after` is in how many seconds it may, None where nobody knows."""

    code = "unavailable"
    http_status = 503

    def __init__(self, message: str, *, hint: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ServerNotRunning(Unavailable):
    """A user's server at a JupyterHub that is stopped (424, as the hub itself answers)."""

    code = "server_not_running"
    http_status = 424


class KernelError(JupyterMcpError):
    """Anything about the kernel itself, as opposed to the code it ran."""

    code = "kernel_error"
    http_status = 502


class KernelStarting(KernelError):
    """The kernel is not up yet. Its start goes on; the call changed nothing and may be repeated."""

    code = "kernel_starting"
    http_status = 503


class KernelStartFailed(KernelError):
    """The kernel did not come up. `log` is the end of what it printed."""

    code = "kernel_start_failed"

    def __init__(self, message: str, *, log: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.log = log

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n{self.log}" if self.log else text


class KernelDead(KernelError):
    """The kernel ended. `exit_code` is negative for a signal (subprocess convention), None when unknown."""

    code = "kernel_dead"
    http_status = 410

    def __init__(
        self, message: str, *, exit_code: int | None = None, reason: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.reason = reason
