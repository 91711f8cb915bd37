"""Whether this process lives, and whether the service can do its work."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa
from flask import Blueprint, Response, current_app
from pydantic import Field

from shared import history
from shared.errors import BundleAltered, PoxVisioError
from shared.logs import logger
from shared.registry import records, serving
from shared.tables import WorkerNode
from web.operations import Answer, operation
from web.schema import known_revision
from web.services import Services, services
from web.wire import Shape, respond

health = Blueprint("health", __name__)

_FRESH_SECONDS: Final = 1.0
_TAG: Final = "health"

log = logger(__name__)


class Part(Shape):
    """One thing the service needs."""

    status: Literal["ok", "degraded", "down"]
    problem: str | None = None


class BundlePart(Part):
    """The model that is live, and how many workers hold it: `degraded` while there are workers and none does."""

    id: str | None = None
    digest: str | None = None
    synthetic: bool | None = None
    held_by: int = Field(default=0, description="Workers of the last 30 seconds that answer with it")


class MigrationsPart(Part):
    """The database's schema against the one this program knows."""

    database: str | None = None
    program: str | None = None


class Readiness(Shape):
    """Everything the service needs, and how it is."""

    status: Literal["ready", "degraded", "unready"]
    database: Part
    storage: Part
    broker: Part = Field(description="Degraded at most: without it work begins up to a sweep later")
    bundle: BundlePart
    migrations: MigrationsPart
    workers: int = Field(description="Workers that reported themselves within 30 seconds")


class Life(Shape):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Examiner:
    """Looks at every part at most once a second, however often it is asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._last: Readiness | None = None

    def look(self, here: Services) -> Readiness:
        """Return how the parts are now, or were a moment ago."""
        with self._lock:
            if self._last is None or time.monotonic() - self._looked >= _FRESH_SECONDS:
                self._last = _examine(here)
                self._looked = time.monotonic()
            return self._last


@health.get("/livez")
@operation("Is the process alive", {200: Answer("It is.", {"application/json": Life})}, tag=_TAG, is_probe=True)
def livez() -> Response:
    """Answer, and ask nobody else."""
    return respond(Life())


@health.get("/readyz")
@operation(
    "Can the service do its work",
    {
        200: Answer("It can, if perhaps with delay.", {"application/json": Readiness}),
        503: Answer("It cannot; the parts say why.", {"application/json": Readiness}),
    },
    tag=_TAG,
    is_probe=True,
)
def readyz() -> Response:
    """Look at database, storage, broker, bundle, migrations and workers."""
    examiner: Examiner = current_app.extensions["poxvisio.examiner"]
    found = examiner.look(services())
    return respond(found, 503 if found.status == "unready" else 200)


def _examine(here: Services) -> Readiness:
    database = Part(**_tried("the database", here.database.check))
    storage = Part(**_tried("the storage", here.storage.check))
    broker = Part(**_tried("the broker", here.broker.check, bad="degraded"))
    migrations, workers = MigrationsPart(status="down", problem="the database is out of reach"), []
    if database.status == "ok":
        migrations, workers = _schema(here), _workers(here)
    bundle = _held(_live(here, is_known=migrations.status == "ok"), workers)
    needed = (database, storage, bundle, migrations)
    status: Literal["ready", "degraded", "unready"] = "ready"
    if any(part.status == "down" for part in needed):
        status = "unready"
    elif broker.status != "ok" or bundle.status != "ok" or not workers:
        status = "degraded"
    return Readiness(
        status=status,
        database=database,
        storage=storage,
        broker=broker,
        bundle=bundle,
        migrations=migrations,
        workers=len(workers),
    )


def _tried(what: str, check: Callable[[], Any], bad: Literal["degraded", "down"] = "down") -> dict[str, Any]:
    """Return how a part is. Anybody may ask, so that addresses and folders stand in the log alone."""
    try:
        check()
    except PoxVisioError as error:
        log.warning("part_away", part=what, problem=str(error))
        return {"status": bad, "problem": f"{what} is out of reach"}
    return {"status": "ok"}


def _live(here: Services, *, is_known: bool) -> BundlePart:
    """Return the model that is live: one of the register where the database says so, else what MODEL names."""
    if is_known:
        try:
            with here.database.transaction() as session:
                digest = serving.read(session).live
                row = None if digest is None else records.by_digest(session, digest)
        except PoxVisioError:
            row = None
        if row is not None:
            return BundlePart(status="ok", id=row.id, digest=row.digest, synthetic=row.synthetic)
    return _default(here)


def _held(part: BundlePart, workers: Sequence[WorkerNode]) -> BundlePart:
    """Say how many workers answer with it."""
    held_by = sum(worker.bundle_digest == part.digest for worker in workers) if part.digest else 0
    if part.status == "ok" and workers and not held_by:
        return part.model_copy(update={"status": "degraded", "problem": "no worker has loaded the live model yet"})
    return part.model_copy(update={"held_by": held_by})


def _default(here: Services) -> BundlePart:
    try:
        bundle = here.model.bundle()
    except PoxVisioError as error:
        log.warning("part_away", part="the bundle", problem=str(error))
        altered = isinstance(error, BundleAltered)
        problem = "the bundle is not what its card says" if altered else "there is no whole bundle where MODEL says"
        return BundlePart(status="down", problem=problem)
    return BundlePart(status="ok", id=bundle.id, digest=bundle.digest, synthetic=bundle.synthetic)


def _schema(here: Services) -> MigrationsPart:
    program = known_revision()
    try:
        with here.database.transaction() as session:
            present = session.scalar(sa.text("SELECT version_num FROM alembic_version"))
    except (PoxVisioError, sa.exc.ProgrammingError):
        return MigrationsPart(status="down", problem="the database was never migrated", program=program)
    if program is not None and present != program:
        return MigrationsPart(
            status="down", problem="the database has another schema: migrate it", database=present, program=program
        )
    return MigrationsPart(status="ok", database=present, program=program)


def _workers(here: Services) -> list[WorkerNode]:
    try:
        with here.database.transaction() as session:
            return history.workers(session)
    except PoxVisioError:
        return []
