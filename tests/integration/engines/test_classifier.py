"""The classifier on the shipped bundle: what it accepts, what it says of the sample photos, what it must not import."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.bundle import Bundle
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality

Load = Callable[[str, str], Classifier]
Samples = tuple[NDArray[np.uint8], list[Quality], list[dict[str, object]]]
WORKERS = 2
FIT = Quality(blur=500.0, exposure=0.5, size=400, flat=30.0)


@pytest.mark.parametrize(
    ("pixels", "qualities"),
    [
        (np.zeros((1, 224, 224, 3), dtype=np.float32), 1),
        (np.zeros((1, 3, 224, 224), dtype=np.uint8), 1),
        (np.zeros((224, 224, 3), dtype=np.uint8), 224),
        (np.zeros((1, 225, 224, 3), dtype=np.uint8), 1),
        (np.zeros((2, 224, 224, 3), dtype=np.uint8), 1),
    ],
)
def test_anything_but_photos_of_224_pixels_with_their_qualities_is_refused(
    classifier: Load, pixels: NDArray[np.uint8], qualities: int
) -> None:
    with pytest.raises(ValueError, match=r"photos (are|came)"):
        classifier("openvino", "f32").classify(pixels, [FIT] * qualities)


def test_no_photos_get_no_answers(classifier: Load) -> None:
    assert classifier("openvino", "f32").classify(np.zeros((0, 224, 224, 3), dtype=np.uint8), []) == []


def test_an_unknown_engine_or_precision_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    for engine, precision in (("abacus", "auto"), ("auto", "int3")):
        with pytest.raises(ValueError, match="one of"):
            Classifier.load(bundle, engine=engine, precision=precision, cache=tmp_path)


def test_most_sample_photos_are_classified_rightly_and_the_scene_is_not_judged(
    classifier: Load, samples: Samples
) -> None:
    pixels, qualities, truths = samples
    answers = classifier("auto", "auto").classify(pixels, qualities)
    skin = [(a, t["truth"]) for a, t in zip(answers, truths, strict=True) if t["truth"] != "no skin"]
    classified = [(a, truth) for a, truth in skin if a.outcome == "classified"]
    assert len(classified) >= 14  # of 24
    assert sum(a.label == truth for a, truth in classified) >= len(classified) - 2
    assert {truth for _, truth in classified} == {"mpox (synthetic)", "other (synthetic)"}
    scenes = [a for a, t in zip(answers, truths, strict=True) if t["truth"] == "no skin"]
    assert [a.outcome for a in scenes] == ["abstained"]
    assert all(a.reasons for a in answers if a.outcome == "abstained")


def test_black_white_and_noise_are_never_classified(classifier: Load) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    frames = np.concatenate([np.zeros((1, 224, 224, 3), np.uint8), np.full((1, 224, 224, 3), 255, np.uint8), noise])
    answers = classifier("auto", "auto").classify(frames, [FIT] * 4)
    assert [a.outcome for a in answers] == ["abstained"] * 4


FRESH = """
import sys
from pathlib import Path
from PIL import Image
from shared.bundle import load_bundle
from worker.inference.classifier import Classifier
from worker.inference.preprocess import measure_quality, network_input
picture = Image.open(Path(sys.argv[1]) / "photos" / "photo-01.jpg")
loaded = Classifier.load(load_bundle(Path(sys.argv[1])), engine="openvino", cache=Path(sys.argv[2]))
answers = loaded.classify(network_input(picture)[None], [measure_quality(picture, shorter_side=224)])
found = {"tensorflow", "keras", "celery", "sqlalchemy", "boto3", "flask"} & set(sys.modules)
print(len(answers), sorted(found))
"""


def test_workers_may_compile_into_one_cache_at_once_and_classifying_imports_no_tensorflow(
    bundle: Bundle, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FRESH, str(bundle.path), str(tmp_path / "cache")]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(WORKERS)
    ]
    for worker in workers:
        answered, said = worker.communicate(timeout=120)
        assert worker.returncode == 0, said
        assert answered.split("\n")[-2] == "1 []"
