"""What a line of the log holds, and what it must not."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared import logs

SECRET = "Jane Doe 1980 arm.jpg"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Return the log of this test."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    logs.configure("info", stream)
    yield stream
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_error_of_the_database_is_told_without_the_row_it_is_about(lines: io.StringIO) -> None:
    error = ValueError(f'duplicate key value violates "uq_image"\nDETAIL:  Key (client_name)=({SECRET}) exists.\n')
    logs.logger("test").error("request_failed", exc_info=error)
    told = json.loads(lines.getvalue())
    assert "duplicate key value" in told["exception"]
    assert SECRET not in lines.getvalue()
