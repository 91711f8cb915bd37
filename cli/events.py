"""``poxvisio events``: what happened, numbered without a gap, and on request what happens from now on."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from cli.listing import line
from cli.options import example, service_options
from cli.progress import tell
from cli.service import Service
from cli.transport import ServiceAway

_PAUSES: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
_TRIES_UNREACHED: Final = 2
_TOLD_FROM: Final = 2.0
_WIDTHS: Final = (8, 19, 16)


@click.command(epilog=example("poxvisio events --after 120", "poxvisio events --follow --json >> events.ndjson"))
@service_options
@click.option("--after", type=click.IntRange(0), metavar="N", help="Only those behind N; else all that are kept.")
@click.option("--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
def events(url: str, key: str, after: int | None, follow: bool, as_json: bool) -> None:
    """Print the events of the tenant in the order of their numbers.

    The feed has no gap: whoever keeps the last number it has seen and comes back with --after misses nothing and hears
    nothing twice. Whoever comes back after longer than events are kept hears which is the oldest there is. Following
    survives restarts of the service.
    """
    with Service(url, key) as service:
        for event in followed(service, after) if follow else service.events(after):
            click.echo(json.dumps(event, ensure_ascii=False) if as_json else event_line(event))


def event_line(event: Mapping[str, Any]) -> str:
    """Return an event in one line: number, time, type, and what it is about."""
    data = event["data"]
    about = next((str(data[name]) for name in ("job", "endpoint", "model") if name in data), "")
    return line((str(data["sequence"]), str(event["timestamp"])[:19], str(event["type"]), about), _WIDTHS)


def followed(service: Service, after: int | None) -> Iterator[dict[str, Any]]:
    """Yield every event behind this number once and in order, and those to come, however often the line breaks.

    Raises ``ServiceRefused``, and ``ServiceAway`` for a service that was never there.
    """
    failures, reached = 0, False
    while True:
        pause = _PAUSES[0]
        try:
            with service.event_stream(after) as told:
                failures, reached = 0, True
                for event in told:
                    number = int(event["data"]["sequence"])
                    if after is None or number > after:
                        after = number
                        yield event
        except ServiceAway as error:
            failures += 1
            if not reached and error.after is None and failures > _TRIES_UNREACHED:
                raise
            pause = error.after or _PAUSES[min(failures, len(_PAUSES)) - 1]
            if pause >= _TOLD_FROM:
                tell(f"{str(error).rstrip('.')}; coming back in {pause:.0f} s for what follows {after or 0}")
        time.sleep(pause * random.uniform(1.0, 1.2))  # noqa: S311 - jitter
