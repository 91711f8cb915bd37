"""The check that lets a bundle serve, as a program of its own.

Started as ``python -m worker.examination FOLDER CACHE ENGINE PRECISION`` by ``worker/examiner.py``. A bundle comes from
outside, and an engine may die over it: nothing that answers photos must be in the same process. The verdict is one line
of JSON on stdout; a process that ends without one has given it too.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.bundle import Bundle, load_bundle
from shared.errors import BundleError
from worker.decoding.outcomes import Limits
from worker.decoding.picture import decode_picture
from worker.inference.answers import probabilities_of, temperature_of
from worker.inference.classifier import Classifier
from worker.inference.parity import BOUNDS
from worker.inference.preprocess import Quality, measure_quality, network_input
from worker.inference.weights import load_reference
from worker.known_answers import known_photo

_LIMITS: Final = Limits(max_bytes=16 << 20, max_pixels=1 << 24, copy_side=512)
_FEWEST: Final = 2


def main(arguments: list[str]) -> int:
    """Examine the bundle and print the verdict."""
    folder, cache, engine, precision = arguments
    _give_way()
    print(json.dumps(examine(Path(folder), Path(cache), engine=engine, precision=precision)), flush=True)
    return 0


def examine(folder: Path, cache: Path, *, engine: str, precision: str) -> dict[str, Any]:
    """Return the verdict on a bundle: ``passed``, and ``problem`` where it did not.

    1. Every file is what the card says (``load_bundle``).
    2. The engine of this machine repeats the bundle's reference (``Classifier.load``).
    3. The reference as photos, through the decoder and all that comes after, gives the known answers, alone and
       together.
    """
    began = time.monotonic()
    try:
        bundle = load_bundle(folder)
        classifier = Classifier.load(bundle, engine=engine, precision=precision, threads=1, cache=cache)
        strays, photos = _known_answers(bundle, classifier)
    except BundleError as error:
        return {"passed": False, "problem": str(error)}
    except Exception as error:  # noqa: BLE001  # the edge of a process: a bundle that breaks the engine is refused
        return {"passed": False, "problem": f"the engine breaks over it: {type(error).__name__}"}
    found = {
        "engine": classifier.engine.name,
        "precision": classifier.engine.precision,
        "known_answers": photos,
        "max_difference": float(f"{strays:.3g}"),
        "seconds": round(time.monotonic() - began, 2),
    }
    bound = BOUNDS[classifier.engine.precision]
    if photos < _FEWEST:
        return {"passed": False, "problem": f"it has {photos} photos with known answers; {_FEWEST} are the least"}
    if not strays <= bound:
        problem = (
            f"its photos with known answers come out otherwise, by {strays:.2g} of a probability ({bound:g} allowed)"
        )
        return {"passed": False, "problem": problem, **found}
    return {"passed": True, **found}


def _known_answers(bundle: Bundle, classifier: Classifier) -> tuple[float, int]:
    """Return how far any probability strays from the known ones, and how many photos were looked at."""
    reference = load_reference(bundle)
    expected = probabilities_of(reference.logits, temperature_of(bundle, classifier.engine.precision))
    seen = [_through_the_decoder(known_photo(pixels)) for pixels in reference.photos]
    together = classifier.classify(np.stack([pixels for pixels, _ in seen]), [quality for _, quality in seen])
    strays = 0.0
    for (pixels, quality), answer, known in zip(seen, together, expected, strict=True):
        [alone] = classifier.classify(pixels[None], [quality])
        for said in (answer, alone):
            found = np.array([said.probabilities[label] for label in bundle.labels])
            strays = max(strays, float(np.abs(found - known).max()))
            if said.label != bundle.labels[int(known.argmax())]:
                return float("inf"), len(expected)
    return strays, len(expected)


def _through_the_decoder(photo: bytes) -> tuple[NDArray[np.uint8], Quality]:
    picture = decode_picture(photo, _LIMITS)
    quality = measure_quality(picture.image, shorter_side=min(picture.width, picture.height))
    return network_input(picture.image), quality


def _give_way() -> None:
    """Take only what nobody else wants of the processor."""
    os.nice(19)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
