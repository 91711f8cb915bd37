"""Options that several commands share: which service, with which key, output for programs, examples."""

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click

Command = TypeVar("Command", bound=Callable[..., Any])

# As `shared/accounts.py` makes them; a test holds the two against each other, since that module loads the database.
_KEY: Final = re.compile(r"pxv_[0-9a-f]{32}_[0-9a-f]{48}")


class _Share(click.FloatRange):
    """A share of one, above 0."""

    def __init__(self) -> None:
        super().__init__(0, 1, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share; what is no number is in every range."""
        share = float(super().convert(value, param, ctx))
        if math.isnan(share):
            self.fail(f"{value!r} is no share", param, ctx)
        return share


SHARE: Final = _Share()


def example(*lines: str) -> str:
    """Return the end of a command's help: how it is typed."""
    return "\b\n" + "\n".join(["Example:", *(f"  {line}" for line in lines)])


def service_options(command: Command) -> Command:
    """Add ``--url`` and ``--key``."""
    key = click.option(
        "--key",
        envvar="POXVISIO_KEY",
        default="",
        metavar="KEY",
        callback=_well_formed,
        help="API key; better given as POXVISIO_KEY.",
    )
    return url_option(default="http://127.0.0.1:8000")(key(command))


def url_option(default: str | None) -> Callable[[Command], Command]:
    """Add ``--url`` alone."""
    return click.option(
        "--url",
        envvar="POXVISIO_URL",
        default=default,
        show_default=default is not None,
        callback=_checked,
        help="Address of the service; also POXVISIO_URL.",
    )


def json_option(what: str) -> Callable[[Command], Command]:
    """Add ``--json``, with what is printed then."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


def print_json(value: Any) -> None:
    """Print a document for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _well_formed(_: click.Context, __: click.Parameter, key: str) -> str:
    key = key.strip()
    if not key:
        raise click.UsageError("give --key or POXVISIO_KEY")
    if not _KEY.fullmatch(key):
        # Not the key itself: what stands there may be half of a real one.
        raise click.UsageError("--key or POXVISIO_KEY is no API key: pxv_, 32 hex digits, _, 48 hex digits")
    return key


def _checked(_: click.Context, __: click.Parameter, url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter("an address begins with http:// or https://")
    return url.rstrip("/")
