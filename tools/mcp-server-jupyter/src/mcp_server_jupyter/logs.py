"""Structured logs, to standard error and nowhere else: standard output belongs to the protocol.

Code here logs through `logging`, with its facts in `extra`; structlog makes one event of each record. It is imported
with the first record, for it costs as much as a fifth of a start on stdio.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import Any

from .settings import Settings

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MAX_CHARS = 8_000
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
        """Write one event. Whoever logs must not fail by it: without a descriptor or a disk it becomes a bare line."""
        try:
            if self._logger is None:
                self._logger = _logger(as_json=self._as_json)
            self._logger.log(record.levelno, _bounded(record.getMessage()), **_facts(record))
        except (OSError, ImportError):
            with suppress(OSError):
                sys.stderr.write(f"{record.levelname} {_bounded(record.getMessage())}\n")


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts = {name: value for name, value in vars(record).items() if name not in _PLAIN}
    if not record.name.startswith(__package__ or ""):
        facts["logger"] = record.name
    if record.exc_info:
        # As text and without the frames' variables: they hold people's data, and made lines of megabytes.
        facts["exception"] = _bounded("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return facts


def _bounded(text: str) -> str:
    """A text of at most `MAX_CHARS` characters: its beginning and, where an exception says what it is, its end."""
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters …\n{text[-half:]}"


def _logger(*, as_json: bool) -> Any:
    import structlog  # noqa: PLC0415 - see the module's docstring

    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        processors.append(structlog.processors.JSONRenderer(default=str))
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    return structlog.wrap_logger(
        structlog.PrintLogger(file=sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
