"""The network behind LitServe, with its batching: ``python -m benchmarks.peers.litserve_peer PORT``."""

# mypy: disable-error-code="import-not-found,misc"
# Its packages are in an environment of its own.

import sys
from collections.abc import Sequence
from typing import Any

import litserve
from fastapi import Request

from benchmarks.peers.network import MOST, WAIT_SECONDS, Network


class Peer(litserve.LitAPI):
    """One worker, which holds the network; a request is a form with a photo."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the name is LitServe's
        """Load the network, once in the worker."""
        self._network = Network()

    def decode_request(self, request: Request) -> bytes:
        """Return the photo's bytes; LitServe hands the parsed form over."""
        return request["photo"].file.read()  # type: ignore[no-any-return]

    def batch(self, inputs: Sequence[bytes]) -> Sequence[bytes]:
        """Keep the photos as they are."""
        return inputs

    def predict(self, x: Sequence[bytes]) -> list[dict[str, Any]]:
        """Answer a batch of photos."""
        return self._network.answer(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give each photo its answer."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Answer as JSON."""
        return output


if __name__ == "__main__":
    api = Peer(max_batch_size=MOST, batch_timeout=WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", timeout=60, restart_workers=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
