"""One engine of the network in a process of its own, for ``poxvisio models bench``: told a batch size, it measures.

Started as ``python -m cli.engine_timing FOLDER ENGINE PRECISION THREADS CACHE``. It prints one line of JSON when it is
ready or cannot be, then one for each line ``SIZE PHOTOS`` on stdin, until stdin ends.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shared.bundle import load_bundle
from shared.errors import PoxVisioError
from worker.inference.classifier import Classifier
from worker.inference.engine import Engine
from worker.inference.preprocess import SIDE


def main(arguments: list[str]) -> int:
    """Load the engine, then measure what is asked for."""
    folder, engine, precision, threads, cache = arguments
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # engines print what they like
    began = time.monotonic()
    try:
        loaded = Classifier.load(
            load_bundle(Path(folder)), engine=engine, precision=precision, threads=int(threads), cache=Path(cache)
        ).engine
    except (PoxVisioError, ImportError) as error:
        print(json.dumps({"refused": str(error)}), file=said, flush=True)
        return 0
    ready = {"load_seconds": round(time.monotonic() - began, 2), "gpu": loaded.measured.get("device")}
    print(json.dumps(ready), file=said, flush=True)
    for line in sys.stdin:
        size, photos = map(int, line.split())
        print(json.dumps(measured(loaded, size, photos)), file=said, flush=True)
    return 0


def measured(engine: Engine, size: int, photos: int) -> dict[str, Any]:
    """Return wall and CPU seconds of about so many photos in batches of ``size``, after one batch that warms up."""
    batch = np.random.default_rng(size).integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8)
    engine.infer(batch)
    batches = max(1, -(-photos // size))
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(batches):
        engine.infer(batch)
    return {
        "photos": batches * size,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
