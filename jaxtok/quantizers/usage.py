"""How a codebook is used, counted exactly over a whole evaluation set."""

import numpy as np


def histogram(codes: np.ndarray, size: int, mask: np.ndarray | None = None) -> np.ndarray:
    """Counts of each code, int64 [size], of codes int [...] where ``mask`` bool [...] is True.

    Raises:
      ValueError: for a code outside [0, size).
    """
    flat = np.asarray(codes).reshape(-1) if mask is None else np.asarray(codes)[np.asarray(mask)].reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= size):
        raise ValueError(f"codes must lie in [0, {size}), found {flat.min()} to {flat.max()}")
    return np.bincount(flat, minlength=size)


def summary(counts: np.ndarray) -> dict[str, float]:
    """``used`` codes, ``usage`` (share of the codebook), ``entropy`` in bits, ``perplexity``, ``tokens`` counted."""
    total = counts.sum()
    p = counts[counts > 0] / max(total, 1)
    entropy = float(-(p * np.log2(p)).sum())
    return {
        "tokens": int(total),
        "used": int((counts > 0).sum()),
        "usage": float((counts > 0).mean()),
        "entropy": entropy,
        "perplexity": float(2.0**entropy) if total else 0.0,
    }


def uniform_usage(size: int, tokens: int) -> float:
    """The share of ``size`` codes that ``tokens`` uniform draws are expected to touch: 1 - (1 - 1/size)^tokens."""
    return float(-np.expm1(tokens * np.log1p(-1.0 / size)))
