"""The network behind BentoML, with adaptive batching as its guide has it: ``bentoml serve``."""

# mypy: disable-error-code="import-not-found,untyped-decorator"
# Its packages are in an environment of its own.

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.network import MOST, Network


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 256})
class Peer:
    """One worker, which holds the network: a second one would halve the batches and double the memory."""

    def __init__(self) -> None:
        self._network = Network()

    @bentoml.api(batchable=True, max_batch_size=MOST, max_latency_ms=60_000)
    def classify(self, photo: list[Path]) -> list[dict[str, Any]]:
        """Answer a batch of photos, which come as files of a form."""
        return self._network.answer([path.read_bytes() for path in photo])
