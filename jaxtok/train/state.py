"""What training carries from step to step, and the names of its leaves."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Tree = Any


@struct.dataclass
class TrainState:
    """One pytree, donated to each step.

    Attributes:
      step: int32 scalar, steps done.
      bad: int32 scalar, the first step whose loss or gradient was not finite, -1 while all is well. From that step
        on nothing moves, so that the state stays the last good one.
      params: nested dict of trainable arrays.
      ema: running mean of ``params`` (same tree), or ``{}`` when off.
      opt: optimizer state by player.
      state: the task's own state (EMA codebooks, balancers); ``{}`` when there is none.
    """

    step: jax.Array
    bad: jax.Array
    params: Tree
    ema: Tree
    opt: Mapping[str, Tree]
    state: Tree


def path_name(path: tuple[Any, ...]) -> str:
    """``"a/b/kernel"`` for a key path of ``jax.tree_util``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Tree) -> dict[str, Any]:
    """Leaves by path, ``{"a/b/kernel": leaf}``, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from ``{"a/b/kernel": leaf}``."""
    nested: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *outer, last = path.split("/")
        inner = nested
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = leaf
    return nested


def count(tree: Tree) -> int:
    """Number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@jax.jit
def _bit_sums(leaves: list[jax.Array]) -> list[jax.Array]:
    def bits(x):
        x = x.astype(jnp.int8) if x.dtype == bool else x
        words = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
        word = jax.lax.bitcast_convert_type(x, words)
        flat = word.ravel().astype(jnp.uint32)
        return jnp.sum(flat * (2 * jnp.arange(flat.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return [bits(leaf) for leaf in leaves]


def fingerprint(tree: Tree) -> dict[str, int]:
    """A 32-bit number per leaf that names its contents: integer sums, hence the same on every mesh."""
    leaves = flatten(tree)
    sums = _bit_sums(list(leaves.values())) if leaves else []
    return {path: int(value) for path, value in zip(leaves, jax.device_get(sums))}
