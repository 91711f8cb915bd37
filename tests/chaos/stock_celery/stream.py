"""The long contrast: a stream of photos while workers are killed, through stock Celery and through our ledger.

``python -m tests.chaos.stock_celery.stream --kills 12``. Exit code 0 where ours lost and doubled nothing and stock
Celery did lose photos, so that the harness is known to see it; 1 where ours did; 2 where no loss was seen at all.
"""

import argparse
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psycopg2

from cli.embedded.postgres import EmbeddedPostgres
from cli.migrate import LOGINS, migrate
from shared.database import new_id
from shared.logs import configure
from tests.chaos.stock_celery.sides import Count, Ours, Side, Stock, broker_that_syncs, until
from tests.chaos.stock_celery.stock import VISIBILITY

PHOTOS_PER_SECOND = 40
SECONDS_A_PHOTO = 0.002
SECONDS_BETWEEN_KILLS = (0.5, 1.2)
AFTER_A_KILL = 3
LONG_PHOTO = 8.0
_DRAIN_SECONDS = 120.0
_NEWEST = 5  # photos
_QUIET_SECONDS = VISIBILITY + 3.0


def stream(side: Side, kills: int, chance: random.Random) -> Count:
    """Send photos steadily and kill the worker again and again; then let a last one finish, and count.

    A worker is killed 0.5 to 1.2 s after it has caught up with the stream: most workers wait for work most of the
    time. Right after the kill some photos more are sent: the dead worker's BRPOP still stands in the broker.
    """
    over, flowing = threading.Event(), threading.Event()
    sending = threading.Thread(target=_send, args=(side, over, flowing))
    worker = side.start()
    sending.start()
    try:
        for _ in range(kills):
            flowing.set()
            until(lambda: _has_caught_up(side), "the worker has caught up")
            time.sleep(chance.uniform(*SECONDS_BETWEEN_KILLS))
            flowing.clear()
            worker.kill()
            for _ in range(AFTER_A_KILL):
                side.accept(SECONDS_A_PHOTO)
            worker.bury()
            worker = side.start()
        _finish(side)
    finally:
        over.set()
        flowing.set()
        sending.join()
        worker.kill()
        worker.bury()
    return side.count()


def _has_caught_up(side: Side) -> bool:
    """Whether one of the newest photos is under way; an older one may be lost, and never will be."""
    begun = side.begun()
    return any(begun[photo] for photo in side.accepted[-_NEWEST:])


def long_photos(side: Side, photos: int = 2) -> Count:
    """Answer photos that take longer than an unacknowledged message hides, with two healthy workers."""
    workers = [side.start(), side.start()]
    try:
        for _ in range(photos):
            side.accept(LONG_PHOTO)
        _finish(side)
    finally:
        for worker in workers:
            worker.kill()
            worker.bury()
    return side.count()


def _send(side: Side, over: threading.Event, flowing: threading.Event) -> None:
    """Send steadily while the stream flows."""
    while flowing.wait() and not over.is_set():
        side.accept(SECONDS_A_PHOTO)
        over.wait(1 / PHOTOS_PER_SECOND)


def _finish(side: Side) -> None:
    """Wait until nothing is left and, for longer than a message can hide, nothing happened."""
    until(side.is_over, f"{side.name} has drained", _DRAIN_SECONDS)
    seen, since = side.begun(), time.monotonic()
    while time.monotonic() - since < _QUIET_SECONDS:
        time.sleep(0.2)
        if side.begun() != seen:
            seen, since = side.begun(), time.monotonic()


@contextmanager
def _sides(pool: str, part: str) -> Iterator[tuple[Stock, Ours]]:
    """Both sides, on services of their own."""
    folder = Path(tempfile.mkdtemp(prefix="poxvisio-contrast-"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "postgres")
    passwords = {login: secrets.token_hex(16) for login in LOGINS}
    try:
        owner_url = postgres.start()
        migrate(owner_url, passwords)
        with broker_that_syncs(folder / "valkey") as broker_url:
            ours = make_ours(folder, broker_url, pool, owner_url, passwords)
            with ours.swept():
                yield Stock(folder, broker_url, pool), ours
            ours.close()
    except BaseException:
        print(f"{part}: the logs stay in {folder}", file=sys.stderr)
        postgres.stop()
        raise
    postgres.stop()
    shutil.rmtree(folder)


def make_ours(folder: Path, broker_url: str, pool: str, owner_url: str, passwords: dict[str, str]) -> Ours:
    """Return our side with a tenant of its own on that database."""
    tenant = new_id()
    connection = psycopg2.connect(owner_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO tenant (id, name) VALUES (%s, %s)", (str(tenant), tenant.hex))
    connection.close()
    common = {
        "REDIS_URL": broker_url,
        "STORAGE_URL": (folder / "photos").as_uri(),
        "SECRET_KEY": "only-for-the-contrast-with-stock-celery",
        "POXVISIO_LOG_LEVEL": "error",
    }

    def environment(login: str) -> dict[str, str]:
        parts = psycopg2.extensions.parse_dsn(owner_url)
        address = f"{parts['host']}:{parts['port']}" if "port" in parts else parts["host"]
        return {**common, "DATABASE_URL": f"postgresql://{login}:{passwords[login]}@{address}/{parts['dbname']}"}

    return Ours(
        folder,
        broker_url,
        pool,
        worker=environment("poxvisio_worker_login"),
        web=environment("poxvisio_web_login"),
        owner_url=owner_url,
        tenant=tenant,
    )


def _line(name: str, count: Count, kills: int) -> str:
    each = f" ({count.lost / kills:.2f} a kill)" if kills else ""
    return (
        f"{name}: {count.accepted} accepted, {count.answered} answered, {count.lost} lost{each}, "
        f"{count.doubled} answered more than once, {count.again} begun more than once"
    )


def main(arguments: list[str]) -> int:
    """Run both sides through the same kills and print what became of every photo."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.stock_celery.stream", description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--pool", choices=("prefork", "solo"), default="prefork")
    parser.add_argument("--long", action="store_true", help="also photos that take longer than a message hides")
    asked = parser.parse_args(arguments)
    print(
        f"celery {version('celery')}, kombu {version('kombu')}, {asked.pool}: acks late, reject on worker lost, "
        f"prefetch 1, visibility timeout {VISIBILITY} s, append-only file synced at every write; seed {asked.seed}",
        flush=True,
    )
    configure("error")
    counts: dict[str, Count] = {}
    with _sides(asked.pool, "stream") as sides:
        for side in sides:
            counts[side.name] = stream(side, asked.kills, random.Random(asked.seed))
            print(_line(f"{side.name}, {asked.kills} kills", counts[side.name], asked.kills), flush=True)
    if asked.long:
        with _sides(asked.pool, "long photos") as sides:
            for side in sides:
                found = counts[f"{side.name} long"] = long_photos(side)
                print(_line(f"{side.name}, photos of {LONG_PHOTO:.0f} s, no kill", found, 0), flush=True)
    if any(count.lost or count.doubled for name, count in counts.items() if name.startswith("ours")):
        return 1
    return 0 if counts["stock"].lost else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
