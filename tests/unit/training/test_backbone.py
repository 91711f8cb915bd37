"""What training begins with is what was meant, comes whence Keras gets it, and is never replaced by something else."""

import hashlib
import socket
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from shared.bundle import load_bundle
from shared.errors import TrainingRefused, Unavailable
from tests.unit.training.published_weights import host, publish
from training.backbone import NONE, Published, Start, find_start, load_start
from training.config import Network, Recipe
from training.member import MemberTraining
from training.publish import rounded, widened
from training.splits import Split
from training.trunk import build, trunk_of
from worker.inference.tensorflow_engine import load_by_name
from worker.inference.weights import load_reference, load_weights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras against numpy 2
DEMO = Path(__file__).parents[3] / "models" / "demo"
IMAGENET = Network(id="tiny", weights="imagenet")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Published]:
    folder = tmp_path_factory.mktemp("host")
    return folder, publish(folder)


def test_imagenet_weights_come_from_their_host_once_and_are_loaded_as_they_are(
    published: tuple[Path, Published], tmp_path: Path
) -> None:
    import keras

    folder, weights = published
    with host(folder) as address:
        here = replace(weights, url=address + weights.url)
        start = find_start(IMAGENET, cache=tmp_path / "keras", imagenet=here)
    assert start.transfers
    assert start.path == tmp_path / "keras" / "models" / "imagenet.h5"
    # The host is gone: what was fetched is kept.
    assert find_start(IMAGENET, cache=tmp_path / "keras", imagenet=here) == start
    trunk = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(None, None, 3), pooling="avg")
    load_start(trunk, start)
    with h5py.File(folder / "imagenet.h5") as file:
        for name in ("conv1_conv", "conv5_block3_3_conv"):
            kernel = file[name][file[name].attrs["weight_names"][0]][()]
            assert np.array_equal(trunk.get_layer(name).kernel.numpy(), kernel)


def test_what_is_not_the_file_that_keras_names_is_refused(published: tuple[Path, Published], tmp_path: Path) -> None:
    folder, weights = published
    with host(folder) as address, pytest.raises(Unavailable, match="cannot be had"):
        find_start(IMAGENET, cache=tmp_path, imagenet=Published(address + weights.url, "0" * 32))


def test_a_host_out_of_reach_says_where_to_get_the_file_and_how_to_pass_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/imagenet.h5"
    with pytest.raises(Unavailable) as refused:
        find_start(IMAGENET, cache=tmp_path, imagenet=Published(url, "4d473c1dd8becc155b73f8504c6f6626"))
    for told in (url, "4d473c1dd8becc155b73f8504c6f6626", "file:PATH", "weights_sha256", "bundle:models/demo"):
        assert told in str(refused.value)


def test_a_file_is_taken_by_its_sha256_alone_and_scratch_is_never_a_way_out(
    published: tuple[Path, Published], tmp_path: Path
) -> None:
    file = published[0] / "imagenet.h5"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    start = find_start(Network(id="tiny", weights=f"file:{file}", weights_sha256=digest))
    assert (start.kind, start.sha256, start.path) == ("file", digest, file)
    with pytest.raises(TrainingRefused, match="another file"):
        find_start(Network(id="tiny", weights=f"file:{file}", weights_sha256="0" * 64))
    with pytest.raises(TrainingRefused, match="there is no file"):
        find_start(Network(id="tiny", weights=f"file:{tmp_path / 'none.h5'}", weights_sha256=digest))
    scratch = find_start(Network(id="tiny", weights="scratch"))
    assert (scratch.path, scratch.sha256, scratch.transfers) == (None, NONE, False)


def test_the_network_that_training_begins_with_computes_what_its_bundle_serves() -> None:
    bundle = load_bundle(DEMO)
    start = find_start(Network(id="tiny", weights=f"bundle:{DEMO}"))
    network = build(2, start, 7, dropout=0.2, precision="float32")
    network.get_layer("head").set_weights([load_weights(bundle)[f"head/{name}"] for name in ("kernel", "bias")])
    reference = load_reference(bundle)
    found = np.asarray(network(reference.photos[:2], training=False))
    assert found == pytest.approx(reference.logits[:2], abs=1e-3)


def test_what_is_stored_of_a_network_computes_what_it_did_though_batchnorm_is_folded_away() -> None:
    """A network that begins with ImageNet has BatchNorm of its own; what begins with a bundle has none left to fold."""
    import keras

    network = build(2, find_start(Network(id="tiny", weights=f"bundle:{DEMO}")), 7, dropout=0.3, precision="float32")
    draws = np.random.default_rng(5)
    norms = [layer for layer in trunk_of(network).layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights(
            [gamma * draws.uniform(0.9, 1.1, gamma.shape), beta + draws.normal(0, 0.1, beta.shape),
             mean + draws.normal(0, 0.2, mean.shape), variance * draws.uniform(0.8, 1.25, variance.shape)]
        )  # fmt: skip
    photos = load_reference(load_bundle(DEMO)).photos[:4, ::2, ::2]
    exact = np.asarray(network(photos, training=False))
    assert np.abs(exact).max() < 100
    stored = widened(rounded(network))
    load_by_name(trunk_of(network), stored)
    assert all(not np.any(layer.moving_mean.numpy()) and np.all(layer.gamma.numpy() == 1) for layer in norms)
    found = np.asarray(network(photos, training=False))
    assert np.abs(found - exact).max() < 0.02 * np.ptp(exact)


def test_a_training_that_meets_no_number_is_refused_and_not_passed_off_as_trained(tmp_path: Path) -> None:
    import keras

    photo = keras.Input((None, None, 3), dtype="uint8")
    inside = keras.Input((None, None, 3))
    trunk = keras.Model(inside, keras.layers.GlobalAveragePooling2D()(inside), name="resnet50")
    head = keras.layers.Dense(2, name="head")
    model = keras.Model(photo, head(trunk(keras.ops.cast(photo, "float32"))))
    head.kernel.assign(np.full((3, 2), np.nan))
    pixels = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    split = Split(np.arange(4), np.arange(4, 8), np.arange(0))
    training = MemberTraining(model, Recipe(side=32, batch=4, tune_epochs=1), Start("scratch", NONE, None), tmp_path)
    with pytest.raises(TrainingRefused, match="nothing was learnt"):
        training.run(pixels, np.arange(8) % 2, split, 7)
