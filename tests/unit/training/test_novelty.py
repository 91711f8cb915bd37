"""Each kind of gate keeps what is like the training photos and turns away what is not; the best is chosen."""

import numpy as np
import pytest

from shared.errors import BundleAltered
from training.novelty import FITS, best_of, compare, limit_of
from worker.inference.gate import gate_of

DRAWS = np.random.default_rng(6)
AXES = DRAWS.normal(size=(64, 300))
INSIDE = (DRAWS.normal(size=(500, 64)) @ AXES + 0.1 * DRAWS.normal(size=(500, 300))).astype(np.float32)
KINDS = np.arange(500) % 2
OUTSIDE = (INSIDE[:50] + 30.0 * DRAWS.normal(size=(50, 300))).astype(np.float32)


@pytest.mark.parametrize("kind", list(FITS))
def test_a_gate_keeps_its_share_of_held_out_photos(kind: str) -> None:
    arrays = FITS[kind](INSIDE[:300], KINDS[:300])
    limit = limit_of(arrays, INSIDE[300:])
    assert np.mean(gate_of(arrays).distances(INSIDE[300:]) <= limit) == pytest.approx(0.95, abs=0.006)


def test_the_residual_turns_away_what_leaves_the_subspace_and_is_chosen_there() -> None:
    compared = compare(INSIDE[:300], KINDS[:300], INSIDE[300:], OUTSIDE)
    assert compared["residual"] == {"auroc": 1.0, "rejected": 1.0}
    assert best_of(compared) == "residual"


def test_mahalanobis_is_chosen_where_probes_leave_the_classes_within_their_subspace() -> None:
    far = (INSIDE[300:350] * 6.0).astype(np.float32)
    compared = compare(INSIDE[:300], KINDS[:300], INSIDE[300:], far)
    assert compared["mahalanobis"]["rejected"] > 0.95
    assert compared["neighbours"]["rejected"] < 0.5  # features of length one do not tell how far
    assert best_of(compared) in ("mahalanobis", "residual")


@pytest.mark.parametrize("kind", list(FITS))
def test_a_photo_s_distance_does_not_depend_on_its_neighbours(kind: str) -> None:
    gate = gate_of(FITS[kind](INSIDE[:300], KINDS[:300]))
    alone = [gate.distances(row[None])[0] for row in INSIDE[:8]]
    assert gate.distances(INSIDE[:8]).tolist() == alone


def test_a_tiny_training_set_still_leaves_a_distance() -> None:
    for kind in FITS:
        arrays = FITS[kind](INSIDE[:6], KINDS[:6])
        assert gate_of(arrays).distances(OUTSIDE).min() > 0


def test_the_choice_goes_by_rejection_then_area() -> None:
    rows = {"residual": (0.8, 0.9), "mahalanobis": (0.8, 0.95), "neighbours": (0.7, 0.99)}
    compared = {name: {"rejected": a, "auroc": b} for name, (a, b) in rows.items()}
    assert best_of(compared) == "mahalanobis"


def test_arrays_of_no_known_gate_are_refused() -> None:
    with pytest.raises(BundleAltered, match="does not know"):
        gate_of({"threshold": np.zeros(1)})
