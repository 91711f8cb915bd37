"""Owns the three ways to tell how unlike the training photos a photo is; a bundle's gate is one of them.

Which one it is follows from the arrays that the bundle stores; `training.novelty` chooses it by measurement, since none
of them is best on every network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import BundleAltered

Distances = NDArray[np.float64]


class Gate(Protocol):
    """How far features lie from those of the training photos; each photo's distance depends on itself alone."""

    def distances(self, features: NDArray[np.float32]) -> Distances:
        """Distance [n] of features [n, 2048], larger for the more unlike; unit and scale are the gate's own."""
        ...


@dataclass(frozen=True)
class Residual:
    """Distance from the subspace that training features span: mean [2048], orthonormal components [k, 2048]."""

    mean: NDArray[np.floating[Any]]
    components: NDArray[np.floating[Any]]

    def distances(self, features: NDArray[np.float32]) -> Distances:
        """What is left of features once their part in the subspace is taken away; summed photo by photo."""
        basis, away = np.asarray(self.components, np.float64), np.empty(len(features))
        for at, row in enumerate(features.astype(np.float64)):
            centred = row - self.mean
            away[at] = np.linalg.norm(centred - basis.T @ (basis @ centred))
        return away


@dataclass(frozen=True)
class Mahalanobis:
    """Distance from the nearest class mean under one covariance (Lee et al. 2018).

    whitening [k, 2048] takes features to coordinates of that covariance, centres [classes, k] are the means there.
    """

    whitening: NDArray[np.floating[Any]]
    centres: NDArray[np.floating[Any]]

    def distances(self, features: NDArray[np.float32]) -> Distances:
        """Distance to the nearest of the centres."""
        whitening, centres = (np.asarray(one, np.float64) for one in (self.whitening, self.centres))
        rows = features.astype(np.float64)
        return np.array([float(np.linalg.norm(centres - whitening @ row, axis=1).min()) for row in rows])


@dataclass(frozen=True)
class Neighbours:
    """Distance to the k-th nearest training photo, features scaled to length one (Sun et al. 2022): bank [m, 2048]."""

    bank: NDArray[np.float32]
    nearest: int

    def distances(self, features: NDArray[np.float32]) -> Distances:
        """Distance to the k-th nearest of the bank."""
        bank, away = self.bank.astype(np.float64), []
        lengths = (bank**2).sum(axis=1)
        for row in features.astype(np.float64):
            one = row / max(float(np.linalg.norm(row)), 1e-12)
            squares = np.maximum(lengths - 2.0 * (bank @ one) + one @ one, 0.0)
            away.append(float(np.sqrt(np.partition(squares, self.nearest - 1)[self.nearest - 1])))
        return np.array(away)


def gate_of(stored: Mapping[str, NDArray[Any]]) -> Gate:
    """The gate whose arrays these are. Raises BundleAltered where they are those of none.

    Small arrays are widened here, once, and not for each photo.
    """
    match set(stored):
        case names if names == {"mean", "components"}:
            return Residual(*(stored[name].astype(np.float64) for name in ("mean", "components")))
        case names if names == {"whitening", "centres"}:
            return Mahalanobis(*(stored[name].astype(np.float64) for name in ("whitening", "centres")))
        case names if names == {"bank", "nearest"}:
            return Neighbours(stored["bank"], int(stored["nearest"][0]))
    raise BundleAltered(f"The gate of the bundle holds {', '.join(sorted(stored))}, which this program does not know.")
