"""The one resize and the quality figures."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.synthetic import patient, render
from worker.inference.preprocess import SIDE, measure_quality, network_input


def skin(side: int = 448) -> Image.Image:
    return Image.fromarray(render(patient(7, 0, 3), 0, side=side))


def test_the_whole_picture_is_squashed_to_the_square() -> None:
    wide = Image.new("RGB", (900, 300), (200, 0, 0))
    wide.paste((0, 0, 200), (450, 0, 900, 300))
    seen = network_input(wide)
    assert seen.shape == (SIDE, SIDE, 3)
    assert seen.dtype == np.uint8
    assert seen[112, 20].tolist() == [200, 0, 0]
    assert seen[112, 203].tolist() == [0, 0, 200]


def test_a_picture_of_224_is_taken_as_it_is() -> None:
    pixels = render(patient(7, 1, 2), 0, side=SIDE)
    assert np.array_equal(network_input(Image.fromarray(pixels)), pixels)


def test_fine_detail_is_averaged_not_picked() -> None:
    checker = (np.indices((1792, 1792)).sum(axis=0) % 2 * 255).astype(np.uint8)
    seen = network_input(Image.fromarray(checker)).astype(int)
    assert np.abs(seen - 127).max() <= 3


def test_grey_and_transparent_pictures_are_read_as_rgb() -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert network_input(skin(96).convert(mode)).shape == (SIDE, SIDE, 3)


def test_quality_does_not_depend_on_the_resolution_that_was_decoded() -> None:
    picture = skin(896)
    full, half = (
        measure_quality(p, shorter_side=896) for p in (picture, picture.resize((448, 448), Image.Resampling.BOX))
    )
    assert full.exposure == pytest.approx(half.exposure, abs=0.005)
    assert full.flat == pytest.approx(half.flat, rel=0.03)
    assert full.blur == pytest.approx(half.blur, rel=0.25)
    assert full.size == half.size == 896


def test_blur_exposure_and_flatness_tell_bad_photos_from_good_ones() -> None:
    good = measure_quality(skin(), shorter_side=448)
    soft = measure_quality(skin().filter(ImageFilter.GaussianBlur(9)), shorter_side=448)
    dark = measure_quality(skin().point(lambda v: v * 0.1), shorter_side=448)
    blank = measure_quality(Image.new("RGB", (448, 448), (180, 140, 120)), shorter_side=448)
    assert soft.blur < 0.05 * good.blur
    assert dark.exposure < 0.12 * good.exposure
    assert (blank.flat, blank.blur) == (0.0, 0.0)


def test_noise_alone_does_not_make_a_frame_full() -> None:
    noise = np.clip(np.random.default_rng(1).normal(128, 12, (448, 448)), 0, 255).astype(np.uint8)
    assert measure_quality(Image.fromarray(noise), shorter_side=448).flat < 2.0


def test_a_jpeg_decoded_at_half_scale_gives_nearly_the_same_input() -> None:
    out = io.BytesIO()
    skin(1200).save(out, "JPEG", quality=90)
    with Image.open(out) as full, Image.open(out) as draft:
        draft.draft("RGB", (600, 600))
        assert draft.size == (600, 600)
        difference = np.abs(network_input(full).astype(int) - network_input(draft).astype(int))
    assert difference.mean() < 0.8


def test_quality_is_what_plain_arithmetic_makes_of_the_grey_picture() -> None:
    rng = np.random.default_rng(11)
    for spread in (0, 3, 255):
        grey = (rng.integers(0, 256 - spread) + rng.integers(0, spread + 1, (192, 192))).astype(np.uint8)
        levels = grey.astype(np.float64)
        middle = levels[1:-1, 1:-1]
        laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:] - 4.0 * middle
        seen = measure_quality(Image.fromarray(grey), shorter_side=192)
        assert seen.blur == round(float(laplacian.var()), 3)
        assert seen.exposure == round(float(levels.mean()) / 255, 4)
        assert seen.flat == round(float(levels.reshape(24, 8, 24, 8).mean(axis=(1, 3)).std()), 3)
