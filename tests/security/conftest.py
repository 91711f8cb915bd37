"""What the tests of the HTTP API share with those of ``tests/integration/web``: an application and its callers."""

from tests.integration.web.conftest import app, clinic, nothing_half_done, objects, rows, server, stranger

__all__ = ["app", "clinic", "nothing_half_done", "objects", "rows", "server", "stranger"]
