"""Who has published bundles examined: takes a check under its fence, runs the program, and writes the verdict.

One bundle at a time, in a thread beside the work. What says nothing about the bundle, a storage that is away or a
program that cannot be started, puts the check back.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shared.bundle import Bundle
from shared.database import Database
from shared.errors import BundleError, StorageAway, Unavailable
from shared.logs import logger
from shared.registry import bundles, records
from shared.registry.records import LEASE_SECONDS, Check
from shared.settings import Settings
from shared.storage import Storage

log = logger(__name__)

_ROOT: Final = Path(__file__).parents[1]
# Shorter than the lease by what fetching a bundle may take.
_SECONDS: Final = LEASE_SECONDS - 60
_AGAIN_SECONDS: Final = 5.0


class Examiner:
    """Examines published bundles on this machine's engine."""

    def __init__(self, settings: Settings, database: Database, storage: Storage) -> None:
        self._settings, self._database, self._storage = settings, database, storage
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._running: subprocess.Popen[bytes] | None = None
        self._closing = False

    def begin(self) -> None:
        """Examine what waits, in a thread; does nothing where one is at it."""
        with self._lock:
            if self._closing or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="examiner", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End what runs; its check is taken up again when its lease has run out."""
        with self._lock:
            self._closing = True
            if self._running is not None:
                self._running.kill()
            thread = self._thread
        if thread is not None:
            thread.join()

    def work_once(self) -> bool:
        """Examine one bundle; return whether there was one."""
        with self._database.transaction() as session:
            check = records.take_check(session)
        if check is None:
            return False
        try:
            verdict = self._verdict(check)
        except Unavailable as error:
            log.warning("check_put_back", model=check.id, why=str(error))
            with self._database.transaction() as session:
                records.put_back(session, check, _AGAIN_SECONDS)
            return True
        with self._database.transaction() as session:
            is_ours = records.decide(session, check, verdict)
        log.info(
            "model_checked", model=check.id, passed=verdict["passed"], ours=is_ours, problem=verdict.get("problem")
        )
        return True

    def _run(self) -> None:
        try:
            while not self._closing and self.work_once():
                pass
        except Unavailable as error:
            log.warning("examination_interrupted", error=str(error))
        except Exception:  # the edge of a thread; the lease runs out, and another worker tries
            log.exception("examination_failed")

    def _verdict(self, check: Check) -> Mapping[str, Any]:
        try:
            bundle = bundles.fetch(self._storage, check.digest, self._settings.cache_dir)
        except BundleError as error:
            return {"passed": False, "problem": str(error)}
        return self._examined(bundle)

    def _examined(self, bundle: Bundle) -> Mapping[str, Any]:
        settings = self._settings
        asked = [str(bundle.path.resolve()), str(settings.cache_dir.resolve()), settings.engine, settings.precision]
        # Nothing of the worker's own environment: it holds secrets.
        environment = {"PYTHONPATH": str(_ROOT), "LC_ALL": "C.UTF-8", "HOME": str(Path.home())}
        with self._lock:
            if self._closing:
                raise StorageAway("this worker stops")
            try:
                program = self._running = subprocess.Popen(
                    [sys.executable, "-P", "-m", "worker.examination", *asked],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=environment,
                )
            except OSError as error:
                raise StorageAway(f"the examination cannot be started: {error.strerror}") from error
        try:
            said, _ = program.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            program.communicate()
            return {"passed": False, "problem": f"its examination took longer than {_SECONDS} seconds"}
        finally:
            self._running = None
        if self._closing:
            raise StorageAway("this worker stops")
        return _read(said, program.returncode)


def _read(said: bytes, ended: int) -> Mapping[str, Any]:
    try:
        verdict = json.loads(said)
        if isinstance(verdict.get("passed"), bool):
            return dict(verdict)
    except (ValueError, AttributeError):
        pass
    return {"passed": False, "problem": f"the engine died over it (ended with {ended})"}
