"""The network as a Ray Serve deployment; imported by the replica, and by whoever starts it."""

# mypy: disable-error-code="import-not-found,untyped-decorator"
# Its packages are in an environment of its own.

import asyncio
from typing import Any

from ray import serve
from ray.serve._private import replica
from starlette.requests import Request

from benchmarks.peers.network import MOST, WAIT_SECONDS, Network

# A replica listens on all interfaces, and no setting says otherwise; nothing of a benchmark is for others to reach.
_add_port = replica.add_port_to_grpc_server
replica.add_port_to_grpc_server = lambda server, address: _add_port(server, address.replace("[::]", "127.0.0.1"))


class Answering:
    """One replica, which holds the network; the body of a request is a photo."""

    def __init__(self) -> None:
        self._network = Network()

    @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=WAIT_SECONDS)
    async def answer(self, photos: list[bytes]) -> list[dict[str, Any]]:
        """Answer a batch in a thread, so that the next one can gather meanwhile."""
        return await asyncio.to_thread(self._network.answer, photos)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one photo."""
        answered: dict[str, Any] = await self.answer(await request.body())
        return answered


app = serve.deployment(Answering, num_replicas=1, max_ongoing_requests=64).bind()
