"""Parts of a benchmark that need a process of their own: started here and asked over pipes, one question at a time."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Took:
    """What a question cost the asked process, in seconds, all its threads together, and what it answered."""

    cpu: float
    wall: float
    value: Any


class Apart:
    """A process that makes ``target`` (``module:name``) out of ``setup`` and calls it with each question."""

    def __init__(self, target: str, **setup: Any) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.apart", target, json.dumps(setup)],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        self.pid = self._process.pid

    def tell(self, **question: Any) -> None:
        """Send a question; ``hear`` waits for its answer."""
        assert self._process.stdin  # noqa: S101  # it was asked for
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Took:
        """Return the answer to the oldest open question; raises ``RuntimeError`` with what a broken process said."""
        assert self._process.stdout  # noqa: S101  # it was asked for
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise RuntimeError(self._said.read()[-4000:].decode(errors="replace"))
        return Took(**json.loads(line))

    def ask(self, **question: Any) -> Took:
        """Send a question and wait for its answer."""
        self.tell(**question)
        return self.hear()

    def close(self) -> None:
        """End the process in its own way: it has no more questions to read."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ask_all(parts: Sequence[Apart], **question: Any) -> list[Took]:
    """Ask several processes at the same time."""
    for part in parts:
        part.tell(**question)
    return [part.hear() for part in parts]


def main(target: str, setup: str) -> None:
    """Answer until there are no more questions."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    module, name = target.split(":")
    made: Callable[..., Any] = getattr(importlib.import_module(module), name)(**json.loads(setup))
    for line in sys.stdin.buffer:
        cpu, wall = time.process_time(), time.perf_counter()
        value = made(**json.loads(line))
        took = Took(time.process_time() - cpu, time.perf_counter() - wall, value)
        answers.write(json.dumps({"cpu": took.cpu, "wall": took.wall, "value": took.value}).encode() + b"\n")
        answers.flush()
    close = getattr(made, "close", None)
    if close:
        close()


if __name__ == "__main__":
    main(*sys.argv[1:])
