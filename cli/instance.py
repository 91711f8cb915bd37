"""What a data directory holds: the secrets, the administrator's key, the folders, and the lock."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from cli.embedded.processes import wait_until
from cli.migrate import LOGINS
from shared import accounts
from shared.database import Database
from shared.errors import NotFound, Refused

_TENANT = "default"
_KEY_NAME = "administrator"
# The guard of a killed predecessor takes no longer than that to end what was left.
_GUARD_SECONDS = 40.0


class Instance:
    """One installation on one machine, below ``folder``, readable by its owner alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.photos = self.folder / "photos"
        self.logs = self.folder / "logs"
        self.cache = self.folder / "cache"
        self.key_file = self.folder / "admin.key"

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None]) -> Iterator[int]:
        """Hold the directory, and yield the descriptor that holds it.

        A killed predecessor's guard holds the lock until all it left has ended: that is waited for. Raises ``Refused``
        where a living one runs, or where the directory cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = (self.folder / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise Refused(f"cannot use the data directory {self.folder}: {error.strerror}") from error
        with file:
            if not _locked(file.fileno()):
                owner = _owner(self.folder / "lock")
                if owner:
                    raise Refused(f"PoxVisio runs in {self.folder} already, as process {owner}")
                say(f"waiting for what was left running in {self.folder} to end")
                if not wait_until(lambda: _locked(file.fileno()), _GUARD_SECONDS):
                    raise Refused(f"{self.folder} is locked by another process")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for folder in (self.photos, self.logs, self.cache):
                folder.mkdir(exist_ok=True, mode=0o700)
            yield file.fileno()

    def secrets(self) -> dict[str, str]:
        """Return ``SECRET_KEY`` and the password of each login, made once and kept."""
        path = self.folder / "secrets.json"
        kept: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        missing = {"SECRET_KEY", *LOGINS} - kept.keys()
        if missing:
            kept |= {name: secrets.token_urlsafe(32) for name in missing}
            write_private(path, json.dumps(kept, indent=2))
        return kept

    def administrator_key(self, database: Database) -> str:
        """Return the first administrator's key; the first time, make the tenant and the key and keep it.

        The database is opened as its owner. One that was made anew gets a new key.
        """
        with database.transaction() as session:
            try:
                tenant = accounts.tenant_named(session, _TENANT)
            except NotFound:
                tenant = accounts.create_tenant(session, _TENANT)
            else:
                if self.key_file.exists():
                    return self.key_file.read_text(encoding="ascii").strip()
            token = accounts.create_key(session, tenant.id, _KEY_NAME, accounts.SCOPES)
        write_private(self.key_file, token + "\n")
        return token


def write_private(path: Path, text: str) -> None:
    """Write a whole file at once, for its owner alone (mode 0600)."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.touch(0o600)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: Path) -> int | None:
    """Who wrote itself into the lock, if that process still lives."""
    try:
        pid = int(lock.read_text(encoding="ascii"))
        return pid if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else None
    except (ValueError, psutil.NoSuchProcess):
        return None
