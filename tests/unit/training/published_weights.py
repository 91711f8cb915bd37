"""Weights of a ResNet50 as Keras' host publishes them, drawn by lot, and a host on loopback that has them."""

import contextlib
import hashlib
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py

from training.backbone import Published


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing about it."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def publish(folder: Path) -> Published:
    """Writes `imagenet.h5` in the old form of `keras.applications`, without top; its address is relative."""
    # Every process that runs tests reads this file, and few of them train: TensorFlow takes seconds to load.
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    keras.utils.set_random_seed(5)
    network = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(None, None, 3), pooling="avg")
    with h5py.File(folder / "imagenet.h5", "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Keras against numpy 2
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    md5 = hashlib.md5((folder / "imagenet.h5").read_bytes(), usedforsecurity=False).hexdigest()
    return Published("/imagenet.h5", md5)


@contextlib.contextmanager
def host(folder: Path) -> Iterator[str]:
    """The address of a host that serves the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
