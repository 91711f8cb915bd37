"""Five hundred clients that wait, more than there are places for, cost those who send photos next to nothing."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
import psycopg2
import pytest

from cli.programs import WEB
from shared.database import Database
from tests.conftest import make_tenant
from tests.integration.web.conftest import JPEG, Server, make_key, serve

#: Of each of two tenants: streams, polls for events, polls for a job. There are places for 256 streams and 256 polls.
STREAMS, FEED_POLLS, JOB_POLLS = 140, 70, 70
PLACES = 256
UPLOADS = 60
#: How often uploads are timed at most. The machine does other work too, which makes one measurement dearer, not each;
#: a thread or a connection that somebody who waits keeps does.
TRIES = 3
#: How much more of the web's CPU an upload may cost with the crowd (1.1 was measured), and of time, which means less.
MOST_CPU, MOST_TIME = 1.7, 3.0
#: Share of a processor that a crowd may cost while nothing happens; 0.11 was measured.
MOST_IDLE = 0.3


@pytest.fixture
def served(environment: dict[str, str], owner_db: Database, tmp_path: Path) -> Iterator[Server]:
    """Return a server with as many threads as there are in life, without a bound on how often anybody asks."""
    threads = int(WEB[WEB.index("--blocking-threads") + 1])
    unbounded = {"POXVISIO_KEY_RATE": "0", "POXVISIO_TENANT_RATE": "0", "POXVISIO_ADDRESS_RATE": "0"}
    with serve({**environment, **unbounded}, tmp_path, threads) as server:
        yield server


@dataclass
class Crowd:
    """Clients that wait as long as the block runs; each does as it is told by ``Retry-After``."""

    http: aiohttp.ClientSession
    url: str
    streams: int = 0
    polls: int = 0
    told: Counter[str] = field(default_factory=Counter)

    async def stream(self, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
        while True:
            async with self.http.get(f"{self.url}/v1/events", headers=headers) as answer:
                self.told[f"stream {answer.status}"] += 1
                if answer.status == 200:
                    self.streams += 1
                    async for _ in answer.content:
                        self.told["lines"] += 1
                    self.streams -= 1
            await asyncio.sleep(float(answer.headers.get("Retry-After", 0)))

    async def poll(self, key: str, path: str) -> None:
        headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=60"}
        while True:
            self.polls += 1
            async with self.http.get(f"{self.url}{path}", headers=headers) as answer:
                await answer.read()
            self.polls -= 1
            self.told[f"poll {answer.status}, {'waited' if 'Preference-Applied' in answer.headers else 'at once'}"] += 1
            await asyncio.sleep(float(answer.headers.get("Retry-After", 0)))


@asynccontextmanager
async def waiting(server: Server, members: Sequence[tuple[str, str]]) -> AsyncIterator[Crowd]:
    """Have two tenants' clients wait: given are their keys, each with the path of an open job of theirs."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        crowd = Crowd(http, f"http://127.0.0.1:{server.port}")
        tasks = []
        for key, job in members:
            tasks += [crowd.stream(key) for _ in range(STREAMS)]
            tasks += [crowd.poll(key, "/v1/events?after=1") for _ in range(FEED_POLLS)]
            tasks += [crowd.poll(key, job) for _ in range(JOB_POLLS)]
        running = [asyncio.create_task(task) for task in tasks]
        try:
            yield crowd
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def cpu(process: psutil.Process) -> float:
    """Return the seconds of CPU that the server has used, its children included."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


class Cost(NamedTuple):
    """What an upload took: seconds of the server's CPU on average, and of time in the middle of all."""

    cpu: float
    wall: float

    def least(self, other: "Cost") -> "Cost":
        return Cost(min(self.cpu, other.cpu), min(self.wall, other.wall))


async def send(crowd: aiohttp.ClientSession, server: Server, key: str, count: int, mark: str) -> Cost:
    """Send photos one after the other; return what each took."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    before, walls = cpu(server.process), []
    for number in range(count):
        body, began = JPEG + f"{mark} {number}".encode(), time.monotonic()
        async with crowd.post(f"http://127.0.0.1:{server.port}/v1/jobs", headers=headers, data=body) as answer:
            assert answer.status == 202, await answer.text()
        walls.append(time.monotonic() - began)
    return Cost((cpu(server.process) - before) / count, statistics.median(walls))


async def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, what()
        await asyncio.sleep(0.05)


def dear(crowded: Cost, alone: Cost, idle: float) -> bool:
    """Say whether uploads cost too much beside what the crowd costs where nobody uploads, which has its own bound."""
    more_cpu = crowded.cpu - idle * crowded.wall >= MOST_CPU * alone.cpu
    return more_cpu or crowded.wall >= MOST_TIME * alone.wall


class Connections(NamedTuple):
    """The web's connections to the database: the most there were, and how many were in use on average."""

    most: int
    busy: float


async def connections(server: Server, url: str, seconds: float) -> Connections:
    """Look at the server's connections for so long; those that were there before it are of other tests' servers."""
    asked = """
        SELECT count(*), count(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity
        WHERE application_name = %s AND backend_start > to_timestamp(%s)
    """
    connection, found = psycopg2.connect(url), []
    connection.autocommit = True
    end = time.monotonic() + seconds
    with connection.cursor() as cursor:
        while time.monotonic() < end:
            cursor.execute(asked, ("poxvisio_app", server.process.create_time()))
            found += cursor.fetchall()
            await asyncio.sleep(0.02)
    connection.close()
    return Connections(max(total for total, _ in found), sum(busy for _, busy in found) / len(found))


def test_a_crowd_that_waits_does_not_slow_uploads_down_nor_hold_connections(
    served: Server, owner_db: Database, owner_url: str
) -> None:
    asyncio.run(_with_a_crowd(served, owner_db, owner_url))


async def _with_a_crowd(served: Server, owner_db: Database, owner_url: str) -> None:
    honest, *keys = (make_key(owner_db, make_tenant(owner_db, name)) for name in ("honest", "first", "second"))
    async with aiohttp.ClientSession() as http:
        members = []
        for key in keys:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
            async with http.post(f"http://127.0.0.1:{served.port}/v1/jobs", headers=headers, data=JPEG) as answer:
                members.append((key, f"/v1/jobs/{(await answer.json())['id']}"))
        await send(http, served, honest, 10, "warm")
        alone = await send(http, served, honest, UPLOADS, "alone")
        async with waiting(served, members) as crowd:
            refused = len(members) * (STREAMS + FEED_POLLS + JOB_POLLS) - 2 * PLACES
            await until(
                lambda: (
                    crowd.streams == PLACES and crowd.told["stream 503"] + crowd.told["poll 200, at once"] >= refused
                ),
                lambda: f"the crowd waits: {crowd.streams} streams, {crowd.polls} polls, {crowd.told}",
            )
            before, began = cpu(served.process), time.monotonic()
            held = await connections(served, owner_url, 4)
            idle = (cpu(served.process) - before) / (time.monotonic() - began)
            crowded = await send(http, served, honest, UPLOADS, "crowded 1")
            for again in range(1, TRIES):
                if dear(crowded, alone, idle):
                    crowded = crowded.least(await send(http, served, honest, UPLOADS, f"crowded {again + 1}"))
            told = crowd.told["lines"]
            # One of theirs: each of the tenant's streams hears of it.
            await send(http, served, keys[0], 1, "news")
            await until(lambda: crowd.told["lines"] >= told + 4 * PLACES // 2, lambda: f"news comes: {crowd.told}")
    figures = f"alone {alone}, with a crowd {crowded}, idle {idle:.3f}, {held}, {crowd.told}"
    print(figures)
    assert 1 <= held.most <= 8, figures
    assert held.busy < 1, figures
    assert not dear(crowded, alone, idle), figures
    assert idle < MOST_IDLE, figures
