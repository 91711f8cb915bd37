"""Owns the bundle of a finished run: rounded first, then gate chosen, calibrated, proved and described."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from shared.bundle import RESEARCH_USE, WEIGHTS
from training import novelty
from training.calibration import calibrate
from training.publish import widened, write_bundle
from training.runs import TEST, TRAIN, VALIDATION, Member
from training.served import run
from training.strangers import CHOOSING, pictures
from worker.inference.answers import probabilities_of
from worker.inference.engine import Engine
from worker.inference.openvino_engine import OpenVinoEngine, bf16_here
from worker.inference.parity import BOUNDS, largest_difference
from worker.inference.preprocess import Quality
from worker.inference.tensorflow_engine import TensorFlowEngine

PROBES: Final = 12
REFERENCES: Final = 8
CHOSEN_ON: Final = "the validation photos of the network that is served"
_TIMED: Final = 40
_CLEAR: Final = 0.3  # between the two likeliest; bf16 moves a probability by a hundredth at most


def choose_gate(member: Member, kinds: NDArray[np.int64], engine: Engine) -> dict[str, Any]:
    """The kind of gate that rejects most probes at equal acceptance, and what all three measured.

    Measured on the member's validation photos: its test photos are left to those who report what the gate does.
    """
    pixels, _, _ = pictures(CHOOSING, PROBES)
    train, held_out = member.rows(TRAIN), member.rows(VALIDATION)
    compared = novelty.compare(
        member.features[train], kinds[train], member.features[held_out], run(engine, pixels).features
    )
    return {"kind": novelty.best_of(compared), "measured": compared, "chosen_on": CHOSEN_ON}


def ship(
    out: Path, identity: Mapping[str, Any], stored: Mapping[str, NDArray[Any]], member: Member, *,
    kinds: NDArray[np.int64], pixels: NDArray[np.uint8], qualities: Sequence[Quality], gate_kind: str,
    card: Mapping[str, Any],
) -> None:  # fmt: skip
    """Writes the bundle of a member, calibrated on its out-of-fold photos: neither training nor stopping saw them."""
    held, train = member.rows(TEST), member.rows(TRAIN)
    calibration, gate = calibrate(
        identity["labels"], member.logits[held], kinds[held], train_features=member.features[train],
        train_kinds=kinds[train], features=member.features[held], seen=[qualities[row] for row in held],
        gate_kind=gate_kind,
    )  # fmt: skip
    clear = references(member.logits[held], calibration["temperature"])
    exact = TensorFlowEngine(widened(stored), precision="f32", threads=0).infer(pixels[held[clear]])
    parity: dict[str, NDArray[Any]] = {
        "photos": pixels[held[clear]],
        "logits": exact.logits,
        "evidence": exact.evidence,
    }
    proved = precisions(widened(stored), parity["photos"], pixels[held], member.logits[held],
                        calibration["temperature"])  # fmt: skip
    calibration["precisions"] = [name for name, found in proved.items() if found["proved"]]
    write_bundle(out, weights=stored, calibration={**identity, **calibration}, gate=gate, parity=parity,
                 card={**identity, **card, "statement": RESEARCH_USE, "engines": proved})  # fmt: skip


def references(logits: NDArray[np.float32], temperature: float) -> NDArray[np.intp]:
    """Eight photos whose label no half precision flips, the classes they are called in turn.

    Of each class from the least clear to the clearest: where all are certain, an engine may stray far unseen. Where too
    few are clear, as of a network that has learnt nothing, the clearest of the others follow.
    """
    p = np.sort(probabilities_of(logits, temperature), axis=1)
    gap, said = p[:, -1] - p[:, -2], logits.argmax(axis=1)
    order = np.argsort(gap, kind="stable")
    clear = order[gap[order] > _CLEAR]
    labels = np.unique(said[clear])
    turns: list[tuple[int, int]] = []
    for label in labels:
        own = clear[said[clear] == label]
        places = np.linspace(0, len(own) - 1, -(-REFERENCES // len(labels))).astype(int)
        turns += [(turn, int(own[place])) for turn, place in enumerate(np.unique(places))]
    chosen = [at for _, at in sorted(turns, key=lambda turn: turn[0])][:REFERENCES]
    others = [int(at) for at in order[::-1] if at not in chosen]
    return np.array([*chosen, *others[: REFERENCES - len(chosen)]], dtype=np.intp)


def precisions(
    weights: Any, seen: NDArray[np.uint8], pixels: NDArray[np.uint8], logits: NDArray[np.float32], temperature: float
) -> dict[str, dict[str, Any]]:
    """Which precisions stay within their bound over the out-of-fold photos, without another label."""
    found = {}
    for precision in ("f32", "bf16") if bf16_here() else ("f32",):
        with tempfile.TemporaryDirectory() as cache:
            engine = OpenVinoEngine(weights, seen=seen, precision=precision, threads=0, cache=Path(cache))
            given = run(engine, pixels).logits
        strays = largest_difference(given, logits, temperature)
        flipped = int((given.argmax(1) != logits.argmax(1)).sum())
        found[precision] = {
            "proved": strays <= BOUNDS[precision] and not flipped,
            "max_probability_difference": float(f"{strays:.3g}"),
            "flipped_labels": flipped,
        }
    return found


def operations(engine: Engine, photo: NDArray[np.uint8], bundle: Path, machine: str) -> dict[str, Any]:
    """Seconds a photo alone, memory of this process and size of the weights; measured once and kept."""
    engine.infer(photo[None])
    seconds = []
    for _ in range(_TIMED):
        began = time.perf_counter()
        engine.infer(photo[None])
        seconds.append(1000.0 * (time.perf_counter() - began))
    p50, p95, p99 = (round(float(v), 2) for v in np.percentile(seconds, [50, 95, 99]))
    memory = psutil.Process(os.getpid()).memory_info().rss / 2**20
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "memory_mib": round(memory, 1),
        "size_mb": round((bundle / WEIGHTS).stat().st_size / 1e6, 2),
        "machine": machine,
        "measured_with": f"{_TIMED} single photos, OpenVINO in float32; memory of the process that trained",
    }
