"""The Frechet distance between two sets of features, taken as Gaussians. It is called FID with Inception's alone."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] (divided by N - 1) of N features, float64."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def moments(features: np.ndarray) -> Moments:
    """Of features [N, D].

    Raises:
      ValueError: for another shape, fewer than two rows, or values that are not finite.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"features: expected [N, D] with at least 2 rows, found shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"features: expected finite numbers, found {int((~np.isfinite(x)).sum())} that are not")
    return Moments(x.mean(0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]), len(x))


def distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al., arXiv 1706.08500), A and B the covariances.

    The trace of the root is that of (A^(1/2) B A^(1/2))^(1/2), of which all eigenvalues are real: nothing is added to
    the diagonals. Both sets should have as many rows as they have in what they are compared with: the distance of
    few is larger.

    Raises:
      ValueError: when the features have other widths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features: expected one width, found {a.mean.size} and {b.mean.size}")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(inner, 0)).sum()
    return float(np.square(a.mean - b.mean).sum() + max(trace, 0.0))
