"""Recomputation of activations in the backward pass, by name."""

from typing import Any

import flax.linen as nn
import jax

POLICIES = (
    "nothing_saveable", "everything_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable",
    "checkpoint_dots", "checkpoint_dots_with_no_batch_dims",
)  # fmt: skip


def remat(block: Any, name: str, *, scanned: bool = False) -> Any:
    """The module class ``block``, whose activations are recomputed but for what the policy ``name`` keeps.

    Args:
      block: a Linen module class.
      name: of ``POLICIES``, which are those of ``jax.checkpoint_policies``; "" keeps all activations.
      scanned: whether the block is the body of a scan, where no common subexpression needs to be prevented.

    Raises:
      ValueError: for another name.
    """
    if not name:
        return block
    if name not in POLICIES:
        raise ValueError(f"remat must be '' or one of {POLICIES}, found {name!r}")
    return nn.remat(block, prevent_cse=not scanned, policy=getattr(jax.checkpoint_policies, name))
