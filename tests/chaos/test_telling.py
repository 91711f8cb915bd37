"""Feed, stream and webhooks tell the same events, each once and without a gap, whoever is killed meanwhile."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.chaos import promise
from tests.chaos.kills import Killer
from tests.chaos.load import Load
from tests.chaos.promise import Sampler
from tests.chaos.receivers import Receivers
from tests.chaos.running import SEED, Up
from tests.chaos.samples import SAMPLES
from tests.chaos.telling import Heard, Telling, compare
from tests.chaos.victims import Draw, schedule

#: Who tells, and who has something to tell.
KINDS: Final = ("web", "web child", "worker", "pool child", "deliverer", "postgres", "backend")
KILLS: Final = 6
SECONDS: Final = 10.0


def draws() -> Iterator[Draw]:
    for draw in schedule(SEED, 0.5):
        yield replace(draw, age=min(draw.age, 2.0), wanted=tuple(it for it in draw.wanted if it[0] in KINDS))


def test_feed_stream_and_webhooks_tell_the_same_events_under_random_kills(
    service: Up, receivers: Receivers, watched: Sampler
) -> None:
    with Telling(service, receivers) as telling:
        with Load(
            service, SAMPLES[:8], SEED, lambda: watched.results, clients=2, most_photos=2, most_waiting=12
        ) as load:
            killer = Killer(service, draws(), lambda what: len(load.jobs) if what == "accepted" else watched.results)
            killer.run(KILLS, SECONDS)
        promise.await_closed(service, load.jobs, 60)
        telling.await_all(60)
    context = f"seed {SEED}, killed {killer.by_kind}"
    assert telling.differences(60) == [], context
    assert load.broken == []
    assert len(telling.stream.numbers) >= 2 * len(load.jobs) > 0, context
    assert killer.kills, "nobody was killed"
    assert telling.stream.breaks, "no stream ever broke off"
    assert max(receivers.ids("told").values()) > 1, "no webhook ever came twice"


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "job.completed", "data": {"id": f"evt_{number}", "sequence": number, **more}}


def heard(*numbers: int) -> Heard:
    found = Heard()
    for number in numbers:
        found.hear(json.dumps(event(number)))
    return found


def bodies(*numbers: int) -> dict[str, list[bytes]]:
    return {f"evt_{n}": [json.dumps(event(n, previous_id=f"evt_{n - 1}" if n > 3 else None)).encode()] for n in numbers}


def test_three_that_tell_the_same_are_found_alike() -> None:
    assert compare(2, heard(3, 4, 5), heard(3, 4, 5), bodies(3, 4, 5)) == []


@pytest.mark.parametrize(
    ("feed", "stream", "webhooks", "found"),
    [
        ((3, 5), (3, 4, 5), (3, 5), "the feed told event 5 instead of 4"),
        ((3, 4), (3, 3, 4), (3, 4), "the stream told event 3 instead of 4"),
        ((3, 4, 5), (3, 4), (3, 4, 5), "the feed told 3 events, the stream 2"),
        ((4, 5), (4, 5), (4, 5), "the feed told event 4 instead of 3"),
        ((3, 4), (3, 4), (3, 4, 9), "evt_9 came as a webhook and is in no feed"),
        ((3, 4, 5), (3, 4, 5), (3, 5), "evt_5 names evt_4 as the one before it, not evt_3"),
    ],
)
def test_a_gap_a_double_and_what_nobody_else_told_are_found_out(
    feed: tuple[int, ...], stream: tuple[int, ...], webhooks: tuple[int, ...], found: str
) -> None:
    assert found in compare(2, heard(*feed), heard(*stream), bodies(*webhooks))


def test_another_text_is_found_out() -> None:
    other = heard(3, 4)
    other.texts[1] = json.dumps(event(4, job="job_1"))
    assert any(line.startswith("feed and stream differ") for line in compare(2, heard(3, 4), other, bodies(3, 4)))
    said = bodies(3, 4)
    said["evt_3"].append(b"{}")
    assert "evt_3 came with 2 bodies" in compare(2, heard(3, 4), heard(3, 4), said)
    said = {**bodies(3), "evt_4": [other.texts[1].encode()]}
    assert any(line.startswith("webhook and feed differ") for line in compare(2, heard(3, 4), heard(3, 4), said))
