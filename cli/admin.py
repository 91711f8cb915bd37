"""``poxvisio admin`` and ``poxvisio migrate``: what only the owner of the database may do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import psycopg2
import sqlalchemy as sa

from cli.listing import line
from cli.migrate import LOGINS, migrate
from cli.options import Command, example, json_option, print_json
from shared import accounts, ids
from shared.database import Database
from shared.errors import DatabaseAway, Refused
from shared.tables import ApiKey

_OWNER = "poxvisio_owner"
_MOMENT = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"))
_FORM = "postgresql://user:password@host:port/name"


class SecretOption(click.Option):
    """An option that is a secret: from the environment's ``NAME``, or from the file that ``NAME_FILE`` names."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return what the environment says."""
        value = super().resolve_envvar_value(ctx)
        if value is not None:
            return value
        file = click.Option(["--file"], envvar=f"{self.envvar}_FILE").resolve_envvar_value(ctx)
        if file is None:
            return None
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise click.UsageError(f"{self.envvar}_FILE names a file that cannot be read: {error.strerror}") from error


def _address(_: click.Context, __: click.Parameter, given: str) -> str:
    """Return the address of a database as it was given; what is wrong with it is told without its password."""
    if not given.startswith(("postgresql://", "postgres://")):
        raise click.UsageError(f"DATABASE_URL or --database-url must have the form {_FORM}")
    try:
        url = sa.make_url(given).set(drivername="postgresql+psycopg2")
        url.get_dialect()().create_connect_args(url)
        psycopg2.extensions.parse_dsn(given)
    except (sa.exc.ArgumentError, ValueError, psycopg2.ProgrammingError) as error:
        raise click.UsageError(f"DATABASE_URL or --database-url cannot be read; its form is {_FORM}") from error
    return given


def _secret(name: str, envvar: str, told: str) -> Callable[[Command], Command]:
    told = f"{told}; better given as {envvar} or {envvar}_FILE."
    return click.option(name, cls=SecretOption, envvar=envvar, metavar="SECRET", help=told)


def _database_url(told: str) -> Callable[[Command], Command]:
    told = f"{told}; better given as DATABASE_URL or DATABASE_URL_FILE."
    return click.option(
        "--database-url",
        cls=SecretOption,
        envvar="DATABASE_URL",
        metavar="SECRET",
        required=True,
        callback=_address,
        help=told,
    )


_database_option = _database_url("PostgreSQL, as its owner")


@contextmanager
def _database(url: str) -> Iterator[Database]:
    database = Database(url, role=_OWNER, pool_size=1)
    try:
        yield database
    except DatabaseAway as error:
        # The owner may know what the outside of the service is not told.
        raise _away(error.__cause__ or error) from error
    finally:
        database.close()


def _away(error: BaseException) -> DatabaseAway:
    return DatabaseAway(f"the database is out of reach: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


@click.group(
    epilog=example("poxvisio admin tenant create 'North clinic'", "poxvisio admin key list --tenant 'North clinic'")
)
def admin() -> None:
    """Make tenants and API keys. Needs the database as its owner."""


@admin.group(epilog=example("poxvisio admin tenant create 'North clinic'"))
def tenant() -> None:
    """Make tenants."""


@tenant.command("create", epilog=example("poxvisio admin tenant create 'North clinic'"))
@click.argument("name")
@click.option("--keep-originals", is_flag=True, help="Keep the photos as sent after a job has closed.")
@_database_option
@json_option("the tenant")
def create_tenant(name: str, keep_originals: bool, database_url: str, as_json: bool) -> None:
    """Make a tenant: a clinic or an integrator."""
    with _database(database_url) as database, database.transaction() as session:
        made = accounts.create_tenant(session, name, keep_originals=keep_originals)
        told = {"id": str(made.id), "name": made.name}
    print_json(told) if as_json else click.echo(told["id"])


@admin.group(epilog=example("poxvisio admin key create --tenant 'North clinic' --name laptop"))
def key() -> None:
    """Make, list, rotate and revoke API keys."""


@key.command(
    "create",
    epilog=example(
        "poxvisio admin key create --tenant 'North clinic' --name laptop",
        "poxvisio admin key create --tenant 'North clinic' --name hooks --scopes webhooks",
    ),
)
@click.option("--tenant", "tenant_name", required=True, help="Name of the tenant.")
@click.option("--name", default="key", show_default=True, help="What the key is for.")
@click.option(
    "--scopes",
    default="jobs:read,jobs:write",
    show_default=True,
    help=f"What the key allows, separated by commas: {', '.join(accounts.SCOPES)}.",
)
@click.option("--expires", type=_MOMENT, metavar="TIME", help="When the key ends by itself; local time.")
@_database_option
@json_option("the key")
def create_key(  # noqa: PLR0917 - one parameter an option
    tenant_name: str, name: str, scopes: str, expires: datetime | None, database_url: str, as_json: bool
) -> None:
    """Make an API key and print it: it is shown this once."""
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    with _database(database_url) as database, database.transaction() as session:
        owner = accounts.tenant_named(session, tenant_name)
        token = accounts.create_key(session, owner.id, name, wanted, _future(expires))
    print_json({"key": token, "scopes": wanted}) if as_json else click.echo(token)


@key.command("list", epilog=example("poxvisio admin key list --tenant 'North clinic'"))
@click.option("--tenant", "tenant_name", required=True, help="Name of the tenant.")
@_database_option
@json_option("the keys")
def list_keys(tenant_name: str, database_url: str, as_json: bool) -> None:
    """List a tenant's keys, oldest first; their secrets are not kept."""
    with _database(database_url) as database, database.transaction() as session:
        owner = accounts.tenant_named(session, tenant_name)
        found = accounts.keys(session, owner.id)
        states = [_state(each) for each in found]
        told = [_told(each) for each in found]
    if as_json:
        print_json(told)
        return
    for state, each in zip(states, told, strict=True):
        click.echo(line((each["id"], state, each["name"], " ".join(each["scopes"])), (36, 7, 24)))


def _state(each: ApiKey) -> str:
    if each.revoked_at:
        return "revoked"
    return "expired" if each.expires_at and each.expires_at <= datetime.now(UTC) else "valid"


def _told(each: ApiKey) -> dict[str, Any]:
    moments = ("created_at", "last_used_at", "expires_at", "revoked_at", "previous_until")
    times = {name: getattr(each, name) for name in moments}
    return {
        "id": ids.text("key", each.id),
        "name": each.name,
        "scopes": list(each.scopes),
        **{name: moment.isoformat(timespec="seconds") if moment else None for name, moment in times.items()},
    }


@key.command("revoke", epilog=example("poxvisio admin key revoke key_0192f0c1e5a07bd2a3c4d5e6f708192a --tenant Clinic"))
@click.argument("key_id", metavar="ID")
@click.option("--tenant", "tenant_name", required=True, help="Name of the tenant.")
@_database_option
def revoke_key(key_id: str, tenant_name: str, database_url: str) -> None:
    """End a key at once."""
    with _database(database_url) as database, database.transaction() as session:
        owner = accounts.tenant_named(session, tenant_name)
        accounts.revoke_key(session, owner.id, ids.parse("key", key_id))
    click.echo(f"{key_id} is revoked")


@key.command(
    "rotate",
    epilog=example(
        "poxvisio admin key rotate key_0192f0c1e5a07bd2a3c4d5e6f708192a --tenant Clinic --grace-hours 48",
        "poxvisio admin key rotate key_0192f0c1e5a07bd2a3c4d5e6f708192a --tenant Clinic --grace-hours 0",
    ),
)
@click.argument("key_id", metavar="ID")
@click.option("--tenant", "tenant_name", required=True, help="Name of the tenant.")
@click.option(
    "--grace-hours",
    type=click.FloatRange(0, 720),
    default=24,
    show_default=True,
    help="How long the secret of now is good beside the new one.",
)
@click.option("--expires", type=_MOMENT, metavar="TIME", help="When the key ends from now on; local time.")
@_database_option
@json_option("the key")
def rotate_key(  # noqa: PLR0917 - one parameter an option
    key_id: str, tenant_name: str, grace_hours: float, expires: datetime | None, database_url: str, as_json: bool
) -> None:
    """Give a key another secret and print it: it is shown this once."""
    with _database(database_url) as database, database.transaction() as session:
        owner = accounts.tenant_named(session, tenant_name)
        found = ids.parse("key", key_id)
        token = accounts.rotate_key(session, owner.id, found, timedelta(hours=grace_hours), _future(expires))
        until = accounts.key_of(session, owner.id, found).previous_until
    told = until.isoformat(timespec="seconds") if until else None
    print_json({"key": token, "previous_until": told}) if as_json else click.echo(token)


def _future(expires: datetime | None) -> datetime | None:
    """Return the moment in UTC; raises where it has passed."""
    if expires is None:
        return None
    moment = expires.astimezone(UTC)
    if moment <= datetime.now(UTC):
        raise click.UsageError("--expires has passed already")
    return moment


@click.command("migrate", epilog=example("DATABASE_URL=postgresql://postgres:...@db/poxvisio poxvisio migrate"))
@_database_url("PostgreSQL, as a user that may create roles")
@_secret("--web-password", "POXVISIO_WEB_PASSWORD", "Password to give the login of web processes")
@_secret("--worker-password", "POXVISIO_WORKER_PASSWORD", "Password to give the login of workers")
@_secret("--reader-password", "POXVISIO_READER_PASSWORD", "Password to give the login that reads figures")
def migrate_command(
    database_url: str, web_password: str | None, worker_password: str | None, reader_password: str | None
) -> None:
    """Bring the database to the present schema and make the logins of the processes.

    A login whose password is not given is left as it is. Running it twice changes nothing.
    """
    given = (web_password, worker_password, reader_password)
    passwords = {login: password for login, password in zip(LOGINS, given, strict=True) if password}
    try:
        migrate(database_url, passwords)
    except (psycopg2.OperationalError, sa.exc.OperationalError) as error:
        raise _away(error) from error
    except (psycopg2.ProgrammingError, sa.exc.ProgrammingError) as error:
        if not isinstance(getattr(error, "orig", error), psycopg2.errors.InsufficientPrivilege):
            raise
        raise Refused(f"the login of DATABASE_URL may not do this: {_first_line(error)}") from error
    click.echo("the database is at the present schema" + (f"; logins: {', '.join(passwords)}" if passwords else ""))
