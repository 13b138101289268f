"""Why a run came to nothing: the types a caller can tell apart, and the HTTP status of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import JupyterMcpError

FailureType = Literal[
    "papermill_execution_error",
    "missing_dependencies",
    "execution_timeout",
    "kernel_died",
    "kernel_startup",
    "invalid_kernel",
    "invalid_notebook",
    "invalid_parameters",
    "payload_too_large",
    "queue_full",
    "idempotency_key_reused",
    "cancelled",
    "not_found",
    "changed_before_failure",
    "kernel_gone",
    "not_resumable",
    "internal",
]

STATUS: dict[FailureType, int] = {
    "papermill_execution_error": 422,
    "missing_dependencies": 422,
    "execution_timeout": 504,
    "kernel_died": 500,
    "kernel_startup": 500,
    "invalid_kernel": 400,
    "invalid_notebook": 400,
    "invalid_parameters": 400,
    "payload_too_large": 413,
    "queue_full": 503,
    "idempotency_key_reused": 422,
    "cancelled": 409,
    "not_found": 404,
    "changed_before_failure": 409,
    "kernel_gone": 410,
    "not_resumable": 409,
    "internal": 500,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What a caller is told. `details` stand beside `error_type` and `message`."""

    error_type: FailureType
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def http_status(self) -> int:
        return STATUS[self.error_type]

    def body(self) -> dict[str, Any]:
        """The JSON object of it."""
        return {"error_type": self.error_type, "message": self.message, **self.details}

    @classmethod
    def of(cls, body: dict[str, Any]) -> Failure:
        """The reverse of `body`."""
        details = {key: value for key, value in body.items() if key not in ("error_type", "message")}
        return cls(body["error_type"], body["message"], details)


class Refused(JupyterMcpError):
    """A request that makes no run, or changes none."""

    code = "refused"
    http_status = 400

    def __init__(self, failure: Failure, *, retry_after: int | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry_after = retry_after


def refuse(error_type: FailureType, message: str, **details: Any) -> Refused:
    """The error to raise for a request that is refused."""
    return Refused(Failure(error_type, message, details))
