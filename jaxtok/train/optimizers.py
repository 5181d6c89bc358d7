"""Optimizers that a config names: ``dict(target="jaxtok.train.optimizers:adamw", schedule=dict(target=...), ...)``.

Each function returns an ``optax.GradientTransformation`` over a nested dict of parameters.
"""

import re
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as optax_muon

from jaxtok.train.schedules import Schedule
from jaxtok.train.state import path_name

# Kernels with several output axes: how many axes, after the layer axis, are inputs. Attention projects one width to
# (heads, head width), fused projections to several of them; the way back has the last axis alone, as most kernels do.
INPUTS = ((r"(.*/)?(query|key|value|q|k|v|qkv|key_value|gate_up|norm_scales|(.*_)?modulation)/kernel", 1),)


def adamw(
    schedule: Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decay: str = r"(.*/)?kernel",
    moment_dtype: str = "float32",
) -> optax.GradientTransformation:
    """AdamW; weight decay (times the learning rate) acts on the parameters whose path fullmatches ``decay``.

    The mask goes by path and not by rank: under ``nn.scan`` biases and scales have two axes too.
    """
    return optax.adamw(
        schedule, b1, b2, eps, weight_decay=weight_decay, mask=decay_mask(decay), mu_dtype=moment_dtype
    )  # fmt: skip


def sgd(schedule: Schedule, *, momentum: float = 0.0, nesterov: bool = False) -> optax.GradientTransformation:
    """Gradient descent, with momentum where it is not 0."""
    return optax.sgd(schedule, momentum or None, nesterov)


def muon(
    schedule: Schedule,
    *,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    decay: str = r"(.*/)?kernel",
    stacked: str = r"(.*/)?(blocks|layers)/.*",
    inputs: tuple[tuple[str, int], ...] = INPUTS,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    rms: float = 0.2,
) -> optax.GradientTransformation:
    """Muon for kernels, AdamW for everything else (Jordan 2024; update RMS matched to Adam's by Liu et al. 2025).

    Args:
      schedule: the learning rate of both.
      beta: decay of the momentum.
      weight_decay: decay of the parameters whose path fullmatches ``decay``.
      decay: see ``weight_decay``.
      stacked: paths whose first axis counts layers (``nn.scan``); each layer is orthogonalised by itself.
      inputs: ``(pattern, n)``: kernels whose first n axes (after the layer axis) are inputs and whose others are
        outputs, orthogonalised as one matrix; kernels that match none have one output axis, the last.
      adam_b1: decay of Adam's first moment.
      adam_b2: decay of Adam's second moment.
      rms: scale to Adam's update size, so that one learning rate serves both; 0 keeps Muon's own width scaling.
    """

    def dimension_numbers(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: muon_dimensions(path_name(path), leaf.ndim, stacked=stacked, inputs=inputs), params
        )

    return optax_muon(
        schedule,
        beta=beta,
        weight_decay=weight_decay,
        weight_decay_mask=decay_mask(decay),
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=dimension_numbers,
        consistent_rms=rms or None,
    )


def muon_dimensions(
    path: str, ndim: int, *, stacked: str = r"(.*/)?(blocks|layers)/.*", inputs: tuple = INPUTS
) -> MuonDimensionNumbers | None:
    """Which axes of a kernel are inputs and outputs; ``None`` for a parameter that is no matrix (Adam takes it).

    Examples: ``blocks/mlp/up/kernel`` (L, in, out) -> 1 | 2; ``query/kernel`` (d, heads, width) -> 0 | 1, 2; ``qkv``
    (d, 3, heads, width) -> 0 | 1, 2, 3; ``out/kernel`` (heads, width, d) -> 0, 1 | 2; a convolution (k, k, in, out) ->
    0, 1, 2 | 3.
    """
    if path.rpartition("/")[2] != "kernel":
        return None
    first = 1 if re.fullmatch(stacked, path) else 0
    axes = ndim - first
    if axes < 2:
        return None
    split = next((n for pattern, n in inputs if re.fullmatch(pattern, path)), axes - 1)
    split = min(max(split, 1), axes - 1)
    return MuonDimensionNumbers(tuple(range(first, first + split)), tuple(range(first + split, ndim)))


def decay_mask(pattern: str) -> Any:
    """A function from parameters to a tree of booleans: whose path fullmatches ``pattern``."""

    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: re.fullmatch(pattern, path_name(path)) is not None, params
        )

    return mask
