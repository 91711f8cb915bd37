"""The one way out to strangers' servers: the address that is dialled is checked, at every connect, and fails closed.

Checks of a name lose to DNS that changes its mind, to redirects and to mixed records. So three gates stand one behind
another: the URL (``webhooks.check_url``), the answers of the resolver (a single address that is not public denies the
whole name), and the socket address just before the dial. Redirects are returned, not followed; there are no proxies,
no cookies and no decompression; and the deadline is a wall clock over everything, so that a server that sends a byte
now and then gains nothing by it.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shared import addresses
from shared.webhooks import UrlRefused, check_url, is_loopback_pair

READ_LIMIT: Final = 65_536
NOT_ALLOWED: Final = "address not allowed"
TIMED_OUT: Final = "timeout"
TOO_LARGE: Final = "too large"
# What getaddrinfo returns and a socket is made of: family, type, protocol, canonical name, address.
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]
Lookup = Callable[[str, int], list[AddressInfo]]

_CONNECT_SECONDS: Final = 5.0
# Once the status has come the attempt is decided; the rest is for the log and not worth waiting long for.
_BODY_SECONDS: Final = 3.0
_LOOKUP_THREADS: Final = 128


class DeniedError(OSError):
    """The address may not be reached on a stranger's behalf. Tried again on schedule: a name may be mended."""

    def __init__(self) -> None:
        super().__init__(errno.EPERM, NOT_ALLOWED)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a status, or the class of error that stood in its way."""

    status: int | None
    error: str | None
    body: bytes
    retry_after: float | None
    instruction: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of fetching: the status and no error where all of the body has come, else the class of error."""

    status: int | None
    error: str | None
    retry_after: float | None = None


class Egress:
    """A client for strangers' servers; use it as an async context manager.

    ``seconds`` is the wall clock for a request in all. ``loopback`` are the exact ``host:port`` pairs on loopback that
    tests and the demo may reach; nothing else that is not public ever is.
    """

    def __init__(
        self,
        *,
        seconds: float,
        loopback: Collection[str] = (),
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._seconds = seconds
        self._loopback = frozenset(pair.lower() for pair in loopback)
        self._lookup: Lookup = lookup or _lookup
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        # A name with dead DNS holds a thread for long; it must hold none that the database needs.
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(self._lookup, self._loopback, self._threads),
                socket_factory=self._checked_socket,
                use_dns_cache=False,
                force_close=True,
                limit=0,
                ssl=self._tls or True,
            ),
            timeout=aiohttp.ClientTimeout(total=self._seconds, sock_connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": "PoxVisio-Webhooks/1", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send these very bytes once; whatever goes wrong on the way is part of the answer, not an exception.

        The status line and headers decide: a body that then stalls or breaks off is cut, and the status stands.
        """
        started = time.perf_counter()
        try:
            check_url(url, self._loopback)
            if self._session is None:
                raise RuntimeError("the egress is used outside its context")
            async with self._session.post(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                received = await _read(response)
                return Answer(
                    status=response.status,
                    error=None,
                    body=received,
                    retry_after=_seconds_of(response.headers.get("Retry-After"), datetime.now(UTC)),
                    instruction=response.headers.get("webhook-delivery"),
                    seconds=time.perf_counter() - started,
                )
        except (UrlRefused, TimeoutError, aiohttp.ClientError, UnicodeError, OSError) as error:
            return Answer(None, _name(error), b"", None, None, time.perf_counter() - started)

    async def fetch(self, url: str, take: Callable[[bytes], object], limit: int) -> Fetched:
        """Fetch a body of at most ``limit`` bytes, piece by piece into ``take``; for a status of 200 and no other.

        The wall clock is over all of it. Faults on the way are part of the answer; what ``take`` raises is not.
        """
        try:
            check_url(url, self._loopback)
            if self._session is None:
                raise RuntimeError("the egress is used outside its context")
            async with self._session.get(
                URL(url, encoded=True), headers={"User-Agent": "PoxVisio-Fetch/1"}, allow_redirects=False
            ) as response:
                after = _seconds_of(response.headers.get("Retry-After"), datetime.now(UTC))
                error = await _take(response, take, limit) if response.status == HTTPStatus.OK else None
                response.close()
                return Fetched(response.status, error, after)
        except (UrlRefused, TimeoutError, aiohttp.ClientError, UnicodeError, OSError) as error:
            return Fetched(None, _name(error))

    def _checked_socket(self, info: AddressInfo) -> socket.socket:
        """Make the socket for the very address about to be dialled; ``DeniedError`` where it may not be."""
        host, port = str(info[4][0]), int(info[4][1])
        if addresses.is_public(host):
            allowed = port in addresses.PORTS
        else:
            allowed = addresses.is_loopback(host) and (
                is_loopback_pair(host, port, self._loopback) or is_loopback_pair("localhost", port, self._loopback)
            )
        if not allowed:
            raise DeniedError
        return socket.socket(*info[:3])


class _Resolver(AbstractResolver):
    """Names to addresses; one address that is not public among the answers denies the name.

    A look-up cannot be cancelled, and one of a name with dead DNS holds its thread for long. So a name is looked up
    once at a time, whoever asks meanwhile: such names take a thread each and leave the rest to the others.
    """

    def __init__(self, lookup: Lookup, loopback: Collection[str], threads: ThreadPoolExecutor) -> None:
        self._lookup = lookup
        self._loopback = loopback
        self._threads = threads
        self._asked: dict[tuple[str, int], asyncio.Future[list[AddressInfo]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name for aiohttp; ``DeniedError`` where any of its addresses is not allowed."""
        found = await asyncio.shield(self._ask(host, port))
        allowed = addresses.is_loopback if is_loopback_pair(host, port, self._loopback) else addresses.is_public
        if not all(allowed(str(info[4][0])) for info in found):
            raise DeniedError
        return [
            ResolveResult(
                hostname=host,
                host=str(info[4][0]),
                port=port,
                family=info[0],
                proto=info[2],
                flags=socket.AI_NUMERICHOST,
            )
            for info in found
            if family in (socket.AF_UNSPEC, info[0])
        ]

    def _ask(self, host: str, port: int) -> "asyncio.Future[list[AddressInfo]]":
        asked = self._asked.get((host, port))
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
            asked.add_done_callback(lambda answered: self._answered(host, port, answered))
            self._asked[host, port] = asked
        return asked

    def _answered(self, host: str, port: int, answered: "asyncio.Future[list[AddressInfo]]") -> None:
        del self._asked[host, port]
        # Where nobody waits any more the error is nobody's; asking for it keeps asyncio from complaining.
        if not answered.cancelled():
            answered.exception()

    async def close(self) -> None:
        """Nothing is kept open."""


def _lookup(host: str, port: int) -> list[AddressInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return at most the first 64 KiB of the body, and as much as came where it stalls or breaks off."""
    received = bytearray()
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) >= READ_LIMIT:
                    break
    response.close()
    return bytes(received[:READ_LIMIT])


async def _take(response: aiohttp.ClientResponse, take: Callable[[bytes], object], limit: int) -> str | None:
    """Hand a body on as it comes; return ``TOO_LARGE`` as soon as it is."""
    size = response.content_length or 0
    if size > limit:
        return TOO_LARGE
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            return TOO_LARGE
        take(chunk)
    return None


def _seconds_of(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After header, in seconds or as an HTTP date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


# The first class that fits gives the name.
_NAMES: Final = (
    (TimeoutError, TIMED_OUT),
    (aiohttp.ClientConnectorDNSError, "name not found"),
    ((aiohttp.ClientSSLError, ssl.SSLError), "TLS failed"),
    (aiohttp.ClientConnectorError, "connection failed"),
    ((aiohttp.InvalidURL, UnicodeError), NOT_ALLOWED),
    (aiohttp.ClientResponseError, "no valid HTTP answer"),
)


def _name(error: Exception) -> str:
    """Return the class of an error, as its owner may read it: never an address."""
    inner = getattr(error, "os_error", error)
    if isinstance(inner, DeniedError | UrlRefused):
        return NOT_ALLOWED
    if isinstance(inner, ConnectionRefusedError):
        return "connection refused"
    return next((name for kinds, name in _NAMES if isinstance(error, kinds)), "connection lost")
