"""The long run, ``make chaos``: a thousand random kills under load, and what became of every photo.

``python -m tests.chaos --kills 1000 --seed 7``. The same seed draws the same kills; which process of a kind it meets is
the moment's business.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.chaos import promise
from tests.chaos.kills import Killer
from tests.chaos.load import Load
from tests.chaos.promise import Reference, Sampler, undisturbed
from tests.chaos.receivers import Receivers
from tests.chaos.report import Report
from tests.chaos.running import ROOT, Service, Up, running
from tests.chaos.samples import JPEGS, SAMPLES
from tests.chaos.senders import Senders
from tests.chaos.telling import Telling, subscribe
from tests.chaos.victims import Draw, schedule

DRAIN_SECONDS = 240.0
_HOOKS = ("good", "recovers", "resets-without-answer")


def main() -> int:
    """Run, write the report, and return 1 where something was lost, doubled or otherwise broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds between two kills")
    parser.add_argument("--minutes", type=float, default=60.0, help="kill no longer than this")
    parser.add_argument("--report", type=Path, default=ROOT / "build")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="poxvisio-chaos-") as folder:
        report = chaos(Path(folder), seed=asked.seed, kills=asked.kills, pause=asked.pause, minutes=asked.minutes)
        if report.broken:
            print(f"the service's logs are in {_keep(Path(folder), asked.report)}")
    files = report.write(asked.report)
    print(report.verdict())
    print("\n".join(report.broken[:20]))
    print(f"seed {asked.seed}; report in {files[1]}")
    return 1 if report.broken else 0


def chaos(folder: Path, *, seed: int, kills: int, pause: float, minutes: float) -> Report:
    """Run a service under load, kill along the seed's schedule, wait for quiet, and look at everything."""
    began, started = datetime.now(UTC), time.monotonic()
    with Receivers() as receivers, Senders(JPEGS) as senders:
        settings = {
            "POXVISIO_WEBHOOK_LOOPBACK": f"{receivers.address},{senders.address}",
            "POXVISIO_WEBHOOK_SCHEDULE": ",".join(["0.2"] * 30),
        }
        with running(folder, settings=settings) as service:
            reference = undisturbed(service)
            for behaviour in _HOOKS:
                subscribe(service, receivers.url(behaviour))
            with (
                Sampler(lambda: str(service.facts["database_url"])) as sampler,
                Telling(service, receivers) as telling,
            ):
                started = time.monotonic()
                with Load(service, SAMPLES, seed, lambda: sampler.results, senders=senders) as load:
                    killer = _kill(
                        service,
                        schedule(seed, pause),
                        (kills, 60 * minutes),
                        lambda what: len(load.jobs) if what == "accepted" else sampler.results,
                    )
                killed = time.monotonic()
                promise.await_closed(service, load.jobs, DRAIN_SECONDS)
                drained = time.monotonic()
                missing, owed = _await_messages(service, receivers)
                telling.await_all(DRAIN_SECONDS)
            missing += telling.differences(DRAIN_SECONDS)
            broken = [*sampler.broken, *load.broken, *missing, *found(service, load, reference)]
            return Report(
                seed=seed,
                command=f"python -m tests.chaos --kills {kills} --seed {seed} --minutes {minutes:g}",
                began=began.isoformat(timespec="seconds"),
                seconds=round(killed - started, 1),
                drained_seconds=round(drained - killed, 1),
                kills=killer.kills,
                by_kind=killer.by_kind,
                jobs=len(load.jobs),
                cancelled_jobs=sum(sent.cancelled for sent in load.jobs.values()),
                photos=load.photos,
                answers=dict(load.answers),
                messages=owed * len(_HOOKS),
                messages_came=sum(len(receivers.ids(hook)) for hook in _HOOKS),
                messages_repeated=sum(times > 1 for times in receivers.ids("good").values()),
                samples=sampler.samples,
                samples_missed=sampler.away,
                broken=broken,
                **_counts(service, load),
            )


def found(service: Service, load: Load, reference: Reference) -> list[str]:
    """Return everything that is wrong after a run, now that all is quiet."""
    wrong = promise.books(service.rows) + promise.deliveries(service.rows)
    for job, sent in load.jobs.items():
        also = {"cancelled"} if sent.cancelled else set()
        wrong += promise.answers(service.rows, job, sent.photos, reference, also)
    return wrong + promise.receipts(service, load.jobs)


def _kill(service: Up, draws: Iterator[Draw], bound: tuple[int, float], progress: Callable[[str], int]) -> Killer:
    # Carriage returns in a log would be one line of ten thousand characters.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(), disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("kills", total=bound[0])
        killer = Killer(service, draws, progress, told=lambda kill: bar.update(task, advance=1, description=kill.what))
        killer.run(*bound)
    return killer


def _await_messages(service: Service, receivers: Receivers) -> tuple[list[str], int]:
    """Wait until every event has reached every receiver; return what has not, and how many events there were."""
    rows = service.rows("SELECT id FROM event e WHERE created_at > (SELECT max(created_at) FROM endpoint)")
    wanted = {f"evt_{UUID(row[0]).hex}" for row in rows}
    missing = []
    for behaviour in _HOOKS:
        missing += [f"{it} never came to {behaviour}" for it in receivers.await_ids(behaviour, wanted, DRAIN_SECONDS)]
    end = time.monotonic() + DRAIN_SECONDS
    while promise.deliveries(service.rows) and time.monotonic() < end:
        time.sleep(0.2)
    return missing, len(wanted)


def _counts(service: Service, load: Load) -> dict[str, int]:
    """Return what became of photos and units; lost and doubled ones are counted from what the clients know."""
    ids = [str(job) for job in load.jobs]
    [(jobs, images, results)] = service.rows(
        "SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM image WHERE job_id = ANY (%s::uuid[])),"
        " (SELECT count(*) FROM result WHERE job_id = ANY (%s::uuid[]))",
        ids,
        ids,
    )
    [(quarantined, photos_rerun)] = service.rows(
        "SELECT count(*) FILTER (WHERE reasons = '{quarantined}'), count(*) FILTER (WHERE attempts > 1) FROM result"
    )
    [(units_rerun,)] = service.rows("SELECT count(*) FROM unit WHERE crashes > 0 AND state <> 'split'")
    return {
        "results": results,
        "lost": load.photos - results,
        "doubled": images - load.photos + (jobs - len(load.jobs) - 1),  # one is the undisturbed
        "quarantined": quarantined,
        "units_rerun": units_rerun,
        "photos_rerun": photos_rerun,
    }


def _keep(folder: Path, report: Path) -> Path:
    kept = report / "chaos-logs"
    kept.mkdir(parents=True, exist_ok=True)
    for log in [folder / "up.log", *(folder / "data" / "logs").glob("*.log")]:
        (kept / log.name).write_bytes(log.read_bytes())
    return kept


if __name__ == "__main__":
    sys.exit(main())
