"""Structured logs, to standard error and nowhere else: standard output belongs to the protocol.

Code here logs through `logging`, with its facts in `extra`; structlog makes one event of each record. It is imported
with the first record, for it costs as much as a fifth of a start on stdio.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from .settings import Settings

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: Settings) -> None:
    """Send this process's records to standard error: ours from `log_level` on, the libraries' from warnings on."""
    level = _LEVELS[settings.log_level]
    handler = _Structured(as_json=settings.log_json)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger(__package__).setLevel(level)


class _Structured(logging.Handler):
    """Renders records as structlog events."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._logger: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._logger is None:
            self._logger = _logger(as_json=self._as_json)
        facts = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if not record.name.startswith(__package__ or ""):
            facts["logger"] = record.name
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        self._logger.log(record.levelno, record.getMessage(), **facts)


def _logger(*, as_json: bool) -> Any:
    import structlog  # noqa: PLC0415 - see the module's docstring

    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        processors += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        processors.append(console)
    return structlog.wrap_logger(
        structlog.PrintLogger(file=sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
