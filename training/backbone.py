"""Owns what training begins with: ImageNet weights from Keras' host or a file, a bundle's network, or nothing."""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.bundle import load_bundle, sha256_of
from shared.errors import TrainingRefused
from training.config import Network
from training.runs import replace_file
from worker.inference.tensorflow_engine import load_by_name
from worker.inference.weights import load_weights

IMAGENET: Final = (
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_MD5: Final = "4d473c1dd8becc155b73f8504c6f6626"  # as keras.applications has it
_SECONDS: Final = 60
NONE: Final = "0" * 64


@dataclass(frozen=True)
class Start:
    """A backbone's source: its kind in words, the SHA-256 of what was loaded, and the file or folder."""

    kind: str
    sha256: str
    path: Path | None

    @property
    def transfers(self) -> bool:
        """Whether there is anything to keep frozen at first."""
        return self.path is not None


def find_start(network: Network, cache: Path) -> Start:
    """Finds and verifies the weights before anything is trained. Raises TrainingRefused, BundleError."""
    if network.weights == "scratch":
        return Start("scratch", NONE, None)
    kind, _, place = network.weights.partition(":")
    if kind == "bundle":
        bundle = load_bundle(Path(place))
        return Start(f"bundle {bundle.id}", bundle.digest, Path(place))
    file = _imagenet(cache) if kind == "imagenet" else Path(place)
    if not file.is_file():
        raise TrainingRefused(f"network.weights: there is no file {file}")
    found = sha256_of(file)
    if network.weights_sha256 is not None and found != network.weights_sha256:
        raise TrainingRefused(f"{file} has the SHA-256 {found}, not {network.weights_sha256}: it is another file")
    return Start("ImageNet" if kind == "imagenet" else "file", found, file)


def _imagenet(cache: Path) -> Path:
    file = cache / IMAGENET.rpartition("/")[2]
    if file.is_file():
        return file
    try:
        with urllib.request.urlopen(IMAGENET, timeout=_SECONDS) as answer:
            content = answer.read()
    except OSError as error:
        raise TrainingRefused(
            f"the ImageNet weights cannot be fetched ({error}). Get {IMAGENET} on a machine that reaches it, copy it "
            'here, and say weights = "file:PATH" with weights_sha256; or begin with weights = "bundle:models/demo"'
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _MD5:
        raise TrainingRefused(f"what {IMAGENET} sent is not the file that Keras names: try again, or give a file")
    replace_file(file, content)
    return file


def load_start(base: Any, start: Start) -> None:
    """Sets a Keras ResNet50 to what training begins with; leaves it as drawn from scratch. Raises TrainingRefused."""
    if start.path is None:
        return
    if start.path.is_dir():
        load_by_name(base, load_weights(load_bundle(start.path)))
        return
    try:
        base.load_weights(start.path)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingRefused(f"{start.path} holds no weights of a ResNet50 without top: {error}") from error
