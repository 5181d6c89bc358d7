"""Windows of grids: images, videos and latents cut into equal boxes, and put together again.

A grid is [B, *S, C] with one, two, three or more axes of space or time ``S``; windows and positions within a window run
row by row, the last axis of space the fastest.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def partition(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Cuts a grid into windows: [B, *S, C] -> [B, windows, positions, C].

    Args:
      x: [B, *S, C].
      window: the size of a window along each axis of S; it divides S.

    Raises:
      ValueError: when it does not.
    """
    counts = _counts(x.shape[1:-1], window)
    split = [n for pair in zip(counts, window) for n in pair]
    x = x.reshape(x.shape[0], *split, x.shape[-1])
    axes = len(window)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return x.transpose(order).reshape(x.shape[0], math.prod(counts), math.prod(window), x.shape[-1])


def merge(windows: jax.Array, window: Sequence[int], size: Sequence[int]) -> jax.Array:
    """The inverse of :func:`partition`: [B, windows, positions, C] -> [B, *size, C].

    Raises:
      ValueError: when there are not as many windows or positions as ``window`` and ``size`` say.
    """
    counts = _counts(size, window)
    if windows.shape[1:-1] != (math.prod(counts), math.prod(window)):
        raise ValueError(
            f"windows: expected [B, {math.prod(counts)}, {math.prod(window)}, C] for windows of {tuple(window)} in a "
            f"grid of {tuple(size)}, found shape {windows.shape}"
        )
    axes = len(window)
    x = windows.reshape(windows.shape[0], *counts, *window, windows.shape[-1])
    order = (0, *(i for pair in zip(range(1, axes + 1), range(axes + 1, 2 * axes + 1)) for i in pair), 2 * axes + 1)
    return x.transpose(order).reshape(windows.shape[0], *size, windows.shape[-1])


def shift(x: jax.Array, by: Sequence[int]) -> jax.Array:
    """Moves a grid [B, *S, C] by so many positions towards the origin, around the edge (Swin, arXiv 2103.14030).

    ``shift(shift(x, by), [-n for n in by])`` is x.
    """
    return jnp.roll(x, [-n for n in by], axis=range(1, 1 + len(by)))


def shifted_mask(size: Sequence[int], window: Sequence[int], by: Sequence[int]) -> np.ndarray:
    """Who may look at whom within the windows of a shifted grid: bool [windows, positions, positions].

    Positions that the shift brought from the other edge are seen by their like only.

    Args:
      size: of the grid, S.
      window: see :func:`partition`.
      by: see :func:`shift`.
    """
    labels = np.zeros(size, np.int32)
    for axis, n in enumerate(by):
        moved = (np.arange(size[axis]) + n) // size[axis]  # 1 (or -1) where a position went around the edge
        shape = [1] * len(size)
        shape[axis] = -1
        labels = labels * 3 + moved.reshape(shape)
    counts = _counts(size, window)
    split = labels.reshape([n for pair in zip(counts, window) for n in pair])
    axes = len(window)
    labels = split.transpose(*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)).reshape(-1, math.prod(window))
    return labels[:, :, None] == labels[:, None, :]


def patchify(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/p * W/p, p * p * C]; a patch holds rows, columns, channels, the last the fastest.

    Raises:
      ValueError: when ``patch`` does not divide height and width.
    """
    windows = partition(x, (patch, patch))
    return windows.reshape(*windows.shape[:2], -1)


def unpatchify(tokens: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """The inverse of :func:`patchify`, [B, T, p * p * C] -> [B, height, width, C]."""
    return merge(tokens.reshape(*tokens.shape[:2], patch * patch, -1), (patch, patch), (height, width))


def _counts(size: Sequence[int], window: Sequence[int]) -> list[int]:
    if len(size) != len(window) or any(w < 1 or s % w for s, w in zip(size, window)):
        raise ValueError(f"window: {tuple(window)} must divide the grid {tuple(size)} along each axis")
    return [s // w for s, w in zip(size, window)]
