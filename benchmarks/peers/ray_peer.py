"""The network behind Ray Serve, with its batching: ``python -m benchmarks.peers.ray_peer PORT``."""

# mypy: disable-error-code="import-not-found"
# Its packages are in an environment of its own.

import signal
import sys
import threading

import ray
from ray import serve

from benchmarks.peers.ray_app import app
from shared.processors import processors

if __name__ == "__main__":
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    ray.init(
        include_dashboard=False,
        num_cpus=max(2, processors()),
        object_store_memory=256 << 20,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(app)
    over.wait()
    serve.shutdown()
    ray.shutdown()
