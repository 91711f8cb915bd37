"""Owns what training begins with: ImageNet weights from Keras' host or a file, a bundle's network, or nothing."""

# ruff: noqa: PLC0415 - TensorFlow takes seconds to import
from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.bundle import load_bundle, sha256_of
from shared.errors import TrainingRefused, Unavailable
from training.config import Network
from worker.inference.tensorflow_engine import load_by_name
from worker.inference.weights import load_weights

_SECONDS: Final = 60.0
NONE: Final = "0" * 64


@dataclass(frozen=True)
class Published:
    """A file of weights on the host that publishes it, with the MD5 that Keras names for it."""

    url: str
    md5: str


IMAGENET: Final = Published(
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "4d473c1dd8becc155b73f8504c6f6626",
)


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


def find_start(network: Network, *, cache: Path | None = None, imagenet: Published = IMAGENET) -> Start:
    """Finds and verifies the weights before anything is trained. Raises TrainingRefused, Unavailable, BundleError.

    ImageNet's are kept where Keras keeps them: in `cache`, by default `KERAS_HOME` or `~/.keras`.
    """
    if network.weights == "scratch":
        return Start("scratch", NONE, None)
    kind, _, place = network.weights.partition(":")
    if kind == "bundle":
        bundle = load_bundle(Path(place))
        return Start(f"bundle {bundle.id}", bundle.digest, Path(place))
    file = _fetched(imagenet, cache) if kind == "imagenet" else Path(place)
    if not file.is_file():
        raise TrainingRefused(f"network.weights: there is no file {file}")
    found = sha256_of(file)
    if network.weights_sha256 is not None and found != network.weights_sha256:
        raise TrainingRefused(f"{file} has the SHA-256 {found}, not {network.weights_sha256}: it is another file")
    return Start("ImageNet" if kind == "imagenet" else "file", found, file)


def _fetched(published: Published, cache: Path | None) -> Path:
    import keras

    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)  # Keras would go to a folder of everybody's instead
    try:
        with _impatient(), contextlib.redirect_stdout(sys.stderr):
            return Path(
                keras.utils.get_file(
                    origin=published.url, file_hash=published.md5, hash_algorithm="md5", cache_subdir="models",
                    cache_dir=None if cache is None else str(cache),
                )
            )  # fmt: skip
    except Exception as error:  # Keras raises nothing more special for a host out of reach
        raise Unavailable(
            f"the ImageNet weights cannot be had ({str(error) or type(error).__name__}). Get {published.url} on a "
            f'machine that reaches it (its MD5 is {published.md5}), copy it here, and say weights = "file:PATH" with '
            'weights_sha256 = "..." of what `sha256sum PATH` prints; or begin with weights = "bundle:models/demo"'
        ) from error


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """A host that accepts and says nothing ends in an error: Keras sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


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
