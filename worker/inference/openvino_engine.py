"""Owns the OpenVINO engine: ResNet50 built straight from the stored weights, so that no TensorFlow is needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from shared.errors import EngineRefused
from shared.priority import stand_back
from shared.processors import processors
from worker.inference.engine import OUTPUTS, Outputs
from worker.inference.openvino_graph import first_planes, resnet50, resnet50_for_bf16, usual_of, with_plane_of_ones
from worker.inference.openvino_int8 import Rounding, resnet50_int8, with_means_around
from worker.inference.weights import Weights

# Photos at once: the first block's output is 3 MB a photo, and larger batches gain nothing on a CPU. Each further size
# is compiled when it is first met and keeps its memory, so there are few.
_SIZES = (16, 8, 4, 2, 1)
_PRECISIONS = ("f32", "bf16", "int8")


def bf16_here() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def int8_here() -> bool:
    """Whether this CPU has instructions for int8."""
    return "INT8" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def halves_here() -> tuple[str, ...]:
    """The half precisions in which this CPU is faster than in float32, best first."""
    return ("bf16",) if bf16_here() else ()


class OpenVinoEngine:
    """A compiled ResNet50 on the CPU; bit-identical whatever the batch, the place in it and the threads.

    A photo alone has all threads. A batch is cut into parts that have one thread each: threads that share a layer wait
    busily for one another wherever a decoding child takes a core from one of them. These stand back behind the threads
    of a photo alone, which somebody may wait for.

    seen: photos [n, 224, 224, 3] like those that will come, the bundle's reference; bf16 centres its first planes on
    them. rounding: where and how int8 rounds. Raises EngineRefused for a precision that OpenVINO does not have here,
    and for int8 without it.
    """

    name = "openvino"
    # Alone, and in parts of one: whoever first meets a size takes memory for it, and these two would be met late.
    first_met = (1, 2)

    def __init__(
        self,
        weights: Weights,
        *,
        seen: NDArray[np.uint8],
        precision: str,
        threads: int,
        cache: Path,
        rounding: Rounding | None = None,
    ) -> None:
        if precision not in _PRECISIONS:
            raise EngineRefused(f"OpenVINO computes in {' or '.join(_PRECISIONS)} here, not in {precision}.")
        self.precision = precision
        self.measured: Mapping[str, object] = {}
        core = ov.Core()
        settings: dict[str, Any] = {
            # With pinning two one-thread processes share the first core and halve.
            "ENABLE_CPU_PINNING": False,
            "CACHE_DIR": str(cache),
            "INFERENCE_NUM_THREADS": threads or processors(),
        }

        def compiled(model: ov.Model, arithmetic: str, streams: int = 1) -> Any:
            # OpenVINO's own default is bf16 where the CPU has it: say which, always.
            return core.compile_model(
                model, "CPU", {**settings, "NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": arithmetic}
            )

        if precision == "f32":
            model = resnet50(weights)
        elif precision == "int8":
            if rounding is None:
                raise EngineRefused("int8 needs the ranges of a quantised bundle.")
            model = resnet50_int8(weights, rounding)
        else:
            planes = compiled(first_planes(weights), "f32")([seen])[0]
            model = resnet50_for_bf16(weights, usual_of(planes))
        count = threads or processors()
        # What is not rounded to int8 is computed in bfloat16 where the processor has it, which is as close.
        rest = ("bf16" if bf16_here() else "f32") if precision == "int8" else precision
        # First: threads that OpenVINO shares among all it computes are started by it, and must not stand back.
        self._alone = compiled(model, rest).create_infer_request() if count > 1 else None
        with ThreadPoolExecutor(1, initializer=stand_back) as aside:
            streams = aside.submit(compiled, model, rest, count).result()
        self._streams = count
        # Requests at rest: whoever has a part to compute takes one, so that calls may overlap and no thread waits.
        # There is a second one a thread: what is begun there waits inside OpenVINO, which begins it the moment that any
        # thread is free. A part that waited here for the part before it would leave the other threads without work.
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(2 * count):
            self._idle.put(streams.create_infer_request())
        self._lock = threading.Lock()

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Outputs of RGB photos [n, 224, 224, 3], any n >= 1. Calls of several threads overlap."""
        if len(batch) == 1 and self._alone is not None:
            with self._lock:
                self._begin(self._alone, batch)
                parts = [_outputs(self._alone)]
        else:
            parts = self._in_parts(batch)
        logits, evidence, features = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Outputs(logits, evidence, features)

    def _in_parts(self, batch: NDArray[np.uint8]) -> list[list[NDArray[np.float32]]]:
        running: deque[Any] = deque()
        parts: list[list[NDArray[np.float32]]] = []
        try:
            for part in _parts(batch, self._streams):
                request = self._at_rest(running, parts)
                running.append(request)
                self._begin(request, part)
            while running:
                self._collect(running, parts)
        finally:
            for request in running:  # after a failure: others need them at rest
                request.wait()
                self._idle.put(request)
        return parts

    def _at_rest(self, running: deque[Any], parts: list[list[NDArray[np.float32]]]) -> Any:
        """Take a request; a call that holds some ends these first, or two calls would wait for each other for ever."""
        while True:
            try:
                return self._idle.get(block=not running)
            except Empty:
                self._collect(running, parts)

    def _begin(self, request: Any, part: NDArray[np.uint8]) -> None:
        read = {"bf16": with_plane_of_ones, "int8": with_means_around}.get(self.precision, np.ascontiguousarray)
        request.set_input_tensor(ov.Tensor(read(part)))
        request.start_async()

    def _collect(self, running: deque[Any], parts: list[list[NDArray[np.float32]]]) -> None:
        parts.append(_outputs(running[0]))
        self._idle.put(running.popleft())


def _parts(batch: NDArray[np.uint8], among: int) -> Iterator[NDArray[np.uint8]]:
    """The batch in order, in parts of the sizes there are, none larger than a fair share of what is there."""
    share = -(-len(batch) // among)
    at = 0
    while at < len(batch):
        size = next(size for size in _SIZES if size <= min(share, len(batch) - at))
        yield batch[at : at + size]
        at += size


def _outputs(request: Any) -> list[NDArray[np.float32]]:
    request.wait()
    return [np.array(request.get_tensor(name).data, dtype=np.float32) for name in OUTPUTS]
