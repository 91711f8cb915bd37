"""What metrics say of the service: every gauge there is, and the reading of all of them with one statement.

Figures have no names in them: labels are lanes, states and outcomes, all of which are known beforehand, so that a
series is there before the first photo is. Tenants, file names and addresses are in none.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import sqlalchemy as sa
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.database import Database
from shared.errors import DatabaseAway
from shared.logs import logger
from shared.vocabulary import LANES, OUTCOMES

# Scrapes come in pairs and from several places; the database is asked once for all of them.
_FRESH_SECONDS: Final = 5.0
# However many jobs there are, reading takes a twentieth of one core at most.
_SHARE: Final = 0.05
_STATES: Final = ("waiting", "ready", "leased")
_JOB_STATES: Final = ("receiving", "queued", "running", "completed", "stopped", "cancelled", "expired")

log = logger(__name__)

_READ: Final = sa.text("SELECT name, first, second, value FROM gauge")

Figures = dict[tuple[str, str | None, str | None], float]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A gauge ``poxvisio_<name>``; ``labels`` are its labels, each with all values that it may have.

    ``always`` says that none in the database means 0; the others have no sample then.
    """

    name: str
    meaning: str
    labels: Sequence[tuple[str, Sequence[str]]] = ()
    always: bool = True

    def family(self, figures: Figures) -> GaugeMetricFamily:
        """Return the gauge with its samples."""
        family = GaugeMetricFamily(f"poxvisio_{self.name}", self.meaning, labels=[name for name, _ in self.labels])
        for values in product(*(values for _, values in self.labels)):
            first, second = (*values, None, None)[:2]
            value = figures.get((self.name, first, second), 0.0 if self.always else None)
            if value is not None:
                family.add_metric(list(values), value)
        return family


GAUGES: Final = (
    Gauge("photos", "Photos without an answer", (("lane", LANES), ("state", _STATES))),
    Gauge("oldest_ready_seconds", "How long the photo waits that waits longest for a worker", (("lane", LANES),)),
    Gauge("leases", "Units that workers hold"),
    Gauge("leases_overdue", "Units whose lease ran out and was not taken back: the sweep does not run"),
    Gauge("intakes", "Archives and lists of addresses that are being taken in", (("state", _STATES),)),
    Gauge("jobs", "Jobs, deleted ones too", (("state", _JOB_STATES),)),
    Gauge("results", "Photos by their outcome; a retry takes failed ones back", (("outcome", OUTCOMES),)),
    Gauge("workers", "Workers that reported within 30 s", (("state", ("starting", "ready", "busy", "setup failed")),)),
    Gauge("photos_per_second", "What the living workers say they can answer"),
    Gauge("deliveries", "Webhook deliveries that are owed, under way, or given up", (
        ("state", ("waiting", "leased", "dead")),
    )),
    Gauge("oldest_delivery_seconds", "How long the delivery is due that is due longest"),
    Gauge("endpoints", "Webhook endpoints", (("state", ("enabled", "disabled")),)),
    Gauge("known_answers", "Rounds of known answers of the last hour", (
        ("state", ("waiting", "good", "moved", "late", "failed")),
    )),
    Gauge("jobs_to_purge", "Deleted jobs whose photos may still lie in the storage"),
    Gauge("counted_seconds_ago", "When the sweep last counted what waits", always=False),
    Gauge("unit_dead_rows", "Dead rows of the queue's table, as PostgreSQL estimates them"),
)  # fmt: skip


class Reading(Collector):
    """Reads the figures when it is asked, and not more often than every few seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        self._tried_at = float("-inf")
        self._took = 0.0
        self._figures: Figures | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge; while the database is away, that it is and nothing of what it would say."""
        with self._lock:
            if self._clock() - self._tried_at >= max(_FRESH_SECONDS, self._took / _SHARE):
                self._read()
            figures, age, took = self._figures, self._clock() - self._tried_at, self._took
        up = GaugeMetricFamily("poxvisio_database_up", "1 where the database answered when it was last asked")
        up.add_metric([], 0.0 if figures is None else 1.0)
        yield up
        yield GaugeMetricFamily("poxvisio_asked_seconds_ago", "When the database was last asked", value=age)
        yield GaugeMetricFamily("poxvisio_asking_seconds", "How long that took", value=took)
        if figures is not None:
            for gauge in GAUGES:
                yield gauge.family(figures)

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: to be registered asks nobody."""
        yield from ()

    def _read(self) -> None:
        began = self._clock()
        was_up = self._figures is not None
        try:
            with self._database.transaction() as session:
                rows = session.execute(_READ).all()
        except DatabaseAway as error:
            if was_up:
                log.warning("database_away", error=str(error))
            self._figures = None
        else:
            self._figures = {(row.name, row.first, row.second): row.value for row in rows if row.value is not None}
        self._tried_at = self._clock()
        self._took = self._tried_at - began
