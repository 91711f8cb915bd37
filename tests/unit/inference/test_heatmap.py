"""The evidence layer: size, transparency, and the strongest place where the strongest cell is."""

import io

import numpy as np
import pytest
from PIL import Image

from shared.heatmap import heatmap_png


def layer(evidence: list[float], width: int, height: int) -> np.ndarray:
    with Image.open(io.BytesIO(heatmap_png(evidence, width, height))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (width, height))
        return np.asarray(picture)


def one_cell(row: int, column: int, value: float = 8.0) -> list[float]:
    cells = np.zeros((7, 7))
    cells[row, column] = value
    return [float(cell) for cell in cells.reshape(-1)]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 3), (1, 5), (6, 2)])
def test_the_peak_lies_over_its_cell(row: int, column: int) -> None:
    width, height = 350, 280
    alpha = layer(one_cell(row, column), width, height)[..., 3]
    down, across = np.unravel_index(alpha.argmax(), alpha.shape)
    assert int(down * 7 / height) == row
    assert int(across * 7 / width) == column


def test_alpha_grows_with_the_evidence_and_is_nothing_where_there_is_none() -> None:
    alpha = layer(one_cell(1, 1), 140, 140)[..., 3]
    assert alpha.max() > 150
    assert alpha.max() < 255  # the photo stays visible beneath
    assert alpha[100:, 100:].max() == 0
    assert layer([0.0] * 49, 50, 40)[..., 3].max() == 0


def test_weak_evidence_stays_faint() -> None:
    strong, weak = (layer(one_cell(3, 3, value), 70, 70)[..., 3].max() for value in (8.0, 0.4))
    assert weak < 0.2 * strong


def test_evidence_for_and_against_have_different_colours() -> None:
    cells = one_cell(3, 1)
    cells[3 * 7 + 5] = -8.0
    drawn = layer(cells, 210, 210)
    towards, against = drawn[105, 45], drawn[105, 165]
    assert towards[0] > towards[2]
    assert against[2] > against[0]
    assert towards[3] == against[3]


def test_the_same_evidence_gives_the_same_bytes() -> None:
    assert heatmap_png(one_cell(2, 2), 64, 48) == heatmap_png(one_cell(2, 2), 64, 48)


@pytest.mark.parametrize(
    ("evidence", "width", "height"),
    [
        ([0.0] * 48, 10, 10),
        ([0.0] * 49, 0, 10),
        ([0.0] * 49, 10, -1),
        ([0.0] * 49, 5000, 5000),
        ([float("nan")] * 49, 9, 9),
    ],
)
def test_impossible_maps_are_refused(evidence: list[float], width: int, height: int) -> None:
    with pytest.raises(ValueError, match=r"49 finite numbers|4096"):
        heatmap_png(evidence, width, height)
