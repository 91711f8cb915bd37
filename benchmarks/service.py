"""Benchmark of the whole service, HTTP in to answer or webhook out, against the ceiling of decoding and network.

The ceiling is that of the benchmark ``pipeline``: cores / (CPU of decoding with the working copy + CPU of the network).
As there, what other programs take of the cores is not the service's doing, and the client is another program: a clinic
sends from a machine of its own.
"""

import http.client
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import decoding, pipeline
from benchmarks.apart import Apart, ask_all
from benchmarks.machine import Span
from benchmarks.pictures import SMALL, photos
from benchmarks.report import Row
from benchmarks.services import Services, running
from benchmarks.whole import Whole, whole_service
from cli.embedded.ports import HOST
from cli.receiver import Receiver
from shared.processors import processors

_DIFFERENT = 8
_BOUNDARY = "benchmark-of-the-whole"
_WEBHOOK_SECONDS = 600.0
_CLIENTS = 32


class OneByOne:
    """Decoding and network in one process, one photo after the other: nothing that waits for its answer is faster."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._network = pipeline.Network(environment, batch=1)
        self._photos = photos(SMALL, _DIFFERENT)

    def __call__(self, count: int) -> None:
        """Answer so many photos."""
        for turn in range(count):
            decoding.ours(self._photos[turn % _DIFFERENT])
            self._network(1)


class Ceiling:
    """What decoding and network cost on this machine at this hour; asked between the rounds."""

    def __init__(self, services: Services) -> None:
        environment = services.environment("poxvisio_worker_login", "ceiling")
        self._network = Apart("benchmarks.pipeline:Network", environment=environment, batch=4)
        kind = {"kind": SMALL.name, "different": _DIFFERENT}
        self._decoders = [Apart("benchmarks.decoding:Decoding", **kind) for _ in range(processors())]
        environment = services.environment("poxvisio_worker_login", "one-by-one")
        self.one_by_one = Apart("benchmarks.service:OneByOne", environment=environment)
        for part in (self._network, self.one_by_one, *self._decoders):
            part.ask(count=1)

    def ask(self, count: int) -> tuple[float, float]:
        """Return the CPU seconds of a photo's decoding and of its network, all cores at work."""
        decoded = statistics.mean(one.cpu for one in ask_all(self._decoders, count=count)) / count
        return decoded, self._network.ask(count=4 * count).cpu / (4 * count)

    def close(self) -> None:
        """End the processes."""
        for part in (self._network, self.one_by_one, *self._decoders):
            part.close()


def run(*, quick: bool) -> Iterator[Row]:
    """Measure one large job to its webhook, one client alone, and many clients at once."""
    with Receiver() as receiver, running() as services:
        ceiling = Ceiling(services)
        try:
            with whole_service({"POXVISIO_WEBHOOK_LOOPBACK": receiver.address}) as whole:
                clients = clients_of(whole)
                try:
                    clients.ask(clients=1, photos=4)
                    yield _alone(ceiling, clients, count=8 if quick else 60, rounds=1 if quick else 5)
                    yield _many(whole, ceiling, clients, count=64 if quick else 480, rounds=1 if quick else 3)
                finally:
                    clients.close()
                yield _job(whole, ceiling, receiver, count=64 if quick else 2_000)
        finally:
            ceiling.close()


def clients_of(whole: Whole) -> Apart:
    """Return clients that speak to the service."""
    setup = {"dialect": "poxvisio", "kind": SMALL.name, "different": _DIFFERENT, "key": whole.facts["api_key"]}
    return Apart("benchmarks.clients:Clients", port=whole.port, **setup)


def _alone(ceiling: Ceiling, clients: Apart, count: int, rounds: int) -> Row:
    """One client, one photo after the other; both sides by the clock."""
    ours, bare, medians = [], [], []
    for _ in range(rounds):
        bare.append(count / ceiling.one_by_one.ask(count=count).wall)
        found = _asked(clients, clients=1, photos=count)
        ours.append(count / found["seconds"])
        medians.append(1000 * statistics.median(found["answered"]))
    ratio = statistics.median(mine / best for mine, best in zip(ours, bare, strict=True))
    note = f"a photo takes {statistics.median(medians):.1f} ms from the first byte sent to its answer, in the median"
    rate, best = statistics.median(ours), statistics.median(bare)
    what = "service, one client, one photo after the other, 1 MP"
    return Row(what, rate, "photos/s", "decoding and network alone, photos/s", best, ratio, at_least=0.85, note=note)


def _many(whole: Whole, ceiling: Ceiling, clients: Apart, count: int, rounds: int) -> Row:
    """Many clients at once, each one photo after the other."""
    spans, costs, took = [], [], []
    for _ in range(rounds):
        costs.append(ceiling.ask(max(8, count // 12)))
        with Span(whole.pids, whole.parts) as span:
            found = _asked(clients, clients=_CLIENTS, photos=count)
        spans.append(span)
        took += found["answered"]
    slow = statistics.quantiles(took, n=20)[-1]
    extra = f"a photo takes {statistics.median(took):.2f} s in the median and {slow:.2f} s at the 95th percentile; "
    return _against(f"service, {_CLIENTS} clients, 1 MP", count, spans, costs, at_least=0.95, extra=extra)


def _job(whole: Whole, ceiling: Ceiling, receiver: Receiver, count: int) -> Row:
    """One job of many photos, from the first byte sent to the webhook that says it is completed."""
    secret = _endpoint(whole, receiver)
    before = ceiling.ask(40)
    with Span(whole.pids, whole.parts) as span:
        began = time.monotonic()
        job = send_job(whole, count)
        sent = time.monotonic() - began
        message = receiver.wait_for("job.completed", job, secret, _WEBHOOK_SECONDS)
    after = ceiling.ask(40)
    if message is None:
        raise RuntimeError(f"no webhook about {job}")
    counts = message["data"]["counts"]
    if counts["classified"] + counts["abstained"] != count:
        raise RuntimeError(f"{count} photos came to {counts}")
    decoded, network = (statistics.mean(pair) for pair in zip(before, after, strict=True))
    what = f"service, {count:,} photos of 1 MP in one job, HTTP in to webhook out"
    extra = f"{span.wall:.1f} s, of which {sent:.1f} s are the sending; "
    return _against(what, count, [span], [(decoded, network)], at_least=0.9, extra=extra)


def _against(
    what: str, count: int, spans: Sequence[Span], costs: Sequence[tuple[float, float]], *, at_least: float, extra: str
) -> Row:
    rates = [count / span.wall for span in spans]
    ceilings = [span.available / span.wall / sum(cost) for span, cost in zip(spans, costs, strict=True)]
    reached = statistics.median(rate / ceiling for rate, ceiling in zip(rates, ceilings, strict=True))
    used = 1000 * statistics.median(span.ours / count for span in spans)
    idle = 100 * statistics.median((span.available - span.ours) / span.available for span in spans)
    others = statistics.median(span.others / span.wall for span in spans)
    decoded, network = (1000 * statistics.median(column) for column in zip(*costs, strict=True))
    each = {name: 1000 * statistics.median(s.of_parts[name] / count for s in spans) for name in spans[0].of_parts}
    shares = ", ".join(f"{name} {spent:.1f}" for name, spent in each.items())
    note = (
        f"{extra}{used:.1f} ms CPU a photo, everything of ours included ({shares}); the ceiling is {decoded:.1f} ms of "
        f"decoding and {network:.1f} ms of network on the {processors() - others:.2f} of {processors()} cores that the "
        f"client and other programs left; {idle:.0f} % of these stayed idle"
    )
    rate, ceiling = statistics.median(rates), statistics.median(ceilings)
    return Row(what, rate, "photos/s", "ceiling, photos/s", ceiling, reached, at_least=at_least, note=note)


def _asked(asked: Apart, **question: Any) -> dict[str, Any]:
    found: dict[str, Any] = asked.ask(**question).value
    if found["unanswered"]:
        raise RuntimeError(f"{found['unanswered']} photos were not answered: {found['why']}")
    return found


def _endpoint(whole: Whole, receiver: Receiver) -> str:
    body = json.dumps({"url": receiver.url, "events": ["job.completed"]}).encode()
    made = _post(whole, "/v1/webhooks", [body], len(body), "application/json")
    return str(made["secret"])


def send_job(whole: Whole, count: int) -> str:
    """Send one job of so many photos and return its id."""
    seen = photos(SMALL, _DIFFERENT)
    parts = []
    for number in range(count):
        name = f'Content-Disposition: form-data; name="photos"; filename="{number}.jpg"'
        parts += [f"--{_BOUNDARY}\r\n{name}\r\n\r\n".encode(), seen[number % _DIFFERENT], b"\r\n"]
    parts.append(f"--{_BOUNDARY}--\r\n".encode())
    kind = f"multipart/form-data; boundary={_BOUNDARY}"
    return str(_post(whole, "/v1/jobs", parts, sum(map(len, parts)), kind)["id"])


def _post(whole: Whole, path: str, parts: Sequence[bytes], length: int, kind: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(HOST, whole.port, timeout=120)
    headers = {
        "Authorization": f"Bearer {whole.facts['api_key']}",
        "Content-Type": kind,
        "Content-Length": str(length),
    }
    connection.request("POST", path, iter(parts), headers)
    answer = connection.getresponse()
    said: dict[str, Any] = json.loads(answer.read())
    connection.close()
    if answer.status >= http.client.BAD_REQUEST:
        raise RuntimeError(f"{answer.status}: {said}")
    return said
