"""Structured logs: JSON lines in UTC, a fixed event name plus fields; never tokens, file names or EXIF."""

import logging
import re
import sys
from typing import TextIO

import structlog

_ROWS = re.compile(r"^(DETAIL|CONTEXT|HINT):.*\n?", re.MULTILINE)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (standard error) as one JSON object.

    Lines of libraries go through the standard library's logging and come out in the same form.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    chain: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*chain, structlog.processors.format_exc_info, _without_rows, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=chain,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _without_rows,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


def _without_rows(
    _logger: structlog.typing.WrappedLogger, _name: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Take out of a traceback what PostgreSQL says of the row: its values are file names and the like."""
    if "exception" in line:
        line["exception"] = _ROWS.sub("", line["exception"])
    return line


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return log
